"""Run the tests with each Python that is here: `python -m interop.pythons [VERSION...] [-- PATH...]`.

Besides those of PATH and pyenv, interpreters may be named in PYTHONS, by paths with spaces between.
"""

import platform
import sys

from .environments import WHOLE, make, pythons, run_tests


def main(arguments: list[str]) -> int:
    """Run them; the number of Pythons with which tests fail is the exit code."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    wanted, paths = arguments[:cut], arguments[cut + 1 :] or WHOLE
    here = pythons()
    missing = [version for version in wanted if version not in here]
    chosen = {version: here[version] for version in wanted or here if version in here}
    failed = []
    for version, python in chosen.items():
        print(f"--- Python {version}", flush=True)
        if not run_tests(make(f"python{version}", python, "--editable", ".[test]"), paths):
            failed.append(version)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} Pythons pass on {platform.platform(terse=True)}", end="")
    print(f"; failed: {', '.join(failed)}" if failed else "", f"; not here: {', '.join(missing)}" if missing else "")
    return len(failed) + len(missing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run tests with the lowest versions that pyproject.toml allows: `python -m interop.lowest [PATH...]`.

Those of the run-time dependencies and of the extras that users install; what the tests themselves need is the newest
that goes with them.
"""

import re
import subprocess
import sys
import tomllib

from .environments import FAST, ROOT, make, run_tests

USED = ("cli", "emulator", "otel")
MORE = (
    "tests/test_pool.py",
    "tests/test_pool_journal.py",
    "tests/test_streams.py",
    "tests/test_wire.py",
    "tests/test_spool.py",
    "tests/test_loopback.py",
    "tests/test_thread.py",
    "tests/test_tokens.py",
    "tests/test_transports.py",
    "tests/test_webhook_app.py",
    "tests/cli",
    "tests/progress",
    "tests/fuzz",
    "tests/security",
    "tests/resources",
)


def lowest() -> list[str]:
    """Give each requirement as its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for extra in USED for one in project["optional-dependencies"][extra]]
    return [_pinned(requirement) for requirement in (*project["dependencies"], *extras)]


def _pinned(requirement: str) -> str:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[.*\])?\s*>=\s*([0-9a-z.]+)", requirement)
    if match is None:
        raise ValueError(f"{requirement} has no single lower bound")
    return f"{match[1]}=={match[2]}"


def main(paths: list[str]) -> int:
    """Run them; 0 where they pass."""
    pins = lowest()
    python = make("lowest", sys.executable, *pins, "--editable", ".[test]")
    names = "|".join(pin.partition("==")[0] for pin in pins)
    listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    print(*re.findall(rf"(?m)^(?:{names})==\S+", listed), sep="\n", flush=True)
    return 0 if run_tests(python, paths or [*FAST, *MORE]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

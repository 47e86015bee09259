"""Run the drop-in tests, each client in an environment of its own: `python tests/dropin/environments.py [NAME...]`.

Environments are made under `.environments/` and kept; `--fresh` makes them anew, with the newest versions. What the
tests showed is written to docs/reference/clients.md.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".environments"
PAGE = ROOT / "docs" / "reference" / "clients.md"
COMMON = ("pytest>=9.0", "pytest-timeout>=2.4", "trio>=0.31", "uvloop>=0.22")


class Environment(NamedTuple):
    """Name the packages that a client needs, and the file that tests it."""

    tests: str
    packages: tuple[str, ...]


ENVIRONMENTS = {
    "openai": Environment("test_dropin_openai.py", ("openai[realtime]>=3", "httpx>=0.28")),
    "openai2": Environment("test_dropin_openai.py", ("openai[realtime]<3",)),
    "langchain": Environment("test_dropin_langchain.py", ("langchain-openai",)),
    "instructor": Environment("test_dropin_instructor.py", ("instructor",)),
    "pydantic-ai": Environment("test_dropin_pydantic_ai.py", ("pydantic-ai-slim[openai]", "websockets")),
    "litellm": Environment("test_dropin_litellm.py", ("litellm",)),
    "inspect": Environment("test_dropin_inspect.py", ("inspect-ai", "openai")),
    "groq": Environment("test_dropin_groq.py", ("groq",)),
    "others": Environment("test_dropin_others.py", ("anthropic", "google-genai", "mistralai")),
}


def main(arguments: list[str]) -> int:
    """Run what is named, or everything; the number of environments whose tests failed is the exit code."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    names = [argument for argument in arguments if not argument.startswith("-")] or list(ENVIRONMENTS)
    failed = [name for name in names if not run(name, fresh="--fresh" in arguments)]
    reports = [
        {**json.loads(path.read_text()), "tests": environment.tests}
        for name, environment in ENVIRONMENTS.items()
        if (path := report_of(name)).exists()
    ]
    PAGE.write_text(f"{page(reports)}\n")
    print(f"{len(names) - len(failed)} of {len(names)} clients pass{': not ' if failed else ''}{', '.join(failed)}")
    return len(failed)


def run(name: str, *, fresh: bool) -> bool:
    """Run one client's tests; tell whether they pass."""
    environment = ENVIRONMENTS[name]
    python = make(name, environment, fresh=fresh)
    report_of(name).unlink(missing_ok=True)
    print(f"--- {name}", flush=True)
    command = [str(python), "-m", "pytest", "-q", "--show-capture=no", f"tests/dropin/{environment.tests}"]
    variables = {**os.environ, "CARPOOL_DROPIN_REPORT": str(report_of(name))}
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode == 0


def make(name: str, environment: Environment, *, fresh: bool) -> Path:
    """Make an environment where there is none of these packages, and give its interpreter."""
    folder = FOLDER / name
    wanted = "\n".join((*environment.packages, *COMMON))
    stamp = folder / "made-of"
    if fresh or not stamp.exists() or stamp.read_text() != wanted:
        print(f"--- making {folder.relative_to(ROOT)}", flush=True)
        if folder.exists():
            shutil.rmtree(folder)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *environment.packages, *COMMON, "--editable", f"{ROOT}[emulator]"], check=True)
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def report_of(name: str) -> Path:
    """Name the file that a run's report is in."""
    return FOLDER / f"{name}.json"


# --- the page


def page(reports: list[dict[str, Any]]) -> str:
    """Write the page from the reports."""
    return "\n".join([_HEAD, *map(_row, reports), _NOTES, *map(_section, reports)])


_COLUMNS = ("one batch", "threads", "structured", "timeouts", "after the exit", "refused", "failed row")

_HEAD = f"""# The clients

`make dropin` writes this page: each client runs in an environment of its own, against [the emulator](emulator.md).

| client | version | passed in | {" | ".join(_COLUMNS)} | tests |
|---|---|---|{"---|" * len(_COLUMNS)}---|"""

_NOTES = """
- *one batch*: 50 calls made at once ride in one file, and each caller has its own answer.
- *threads*: so do calls made by a blocking client, or from event loops in threads.
- *structured*: what the client parses by a schema (pydantic models) comes out as such.
- *timeouts* of the client do not fire while a call rides, though set to a second or less.
- *after the exit* of the pool nothing goes out: calls fail, and `carpool.error_of` gives `PoolClosed`.
- *refused*: what cannot ride (streams; audio and files where tried) fails with a message that says why.
- *failed row*: it is the client's own error with its usual attributes, and is not sent again.

Not one request reached an endpoint at full price in any of these tests: the emulator's books are looked at after each.
A dash is what was not tried, or what there is not."""


def _row(report: dict[str, Any]) -> str:
    cells = [_cell(report, column) for column in _COLUMNS]
    outcomes = list(report["outcomes"].values())
    versions = ", ".join(report["versions"][name] for name in report["packages"])
    tests = f"{outcomes.count('passed')} of {len(outcomes) - outcomes.count('skipped')}"
    return f"| {report['name']} | {versions} | {report['passed_in']} | {' | '.join(cells)} | {tests} |"


def _cell(report: dict[str, Any], column: str) -> str:
    outcomes = {report["outcomes"].get(test, "failed") for test in report["columns"].get(column, [])} - {"skipped"}
    return "**no**" if "failed" in outcomes else "yes" if outcomes else "-"


def _section(report: dict[str, Any]) -> str:
    names = [f"{name} {number}" for name, number in report["versions"].items()]
    shown, failed = (_sentences(report, outcome) for outcome in ("passed", "failed"))
    return "\n".join(
        [
            f"\n## {' and '.join(names[: len(report['packages'])])}",
            f"\n<!-- shown by: tests/dropin/{report['tests']} -->\n```python\n{report['code']}\n```\n",
            *(_wrapped(f"- {catch}") for catch in report["catches"]),
            *(_wrapped(f"- Not tried: {what}.") for what in ["; ".join(report["not_tried"])] if what),
            _wrapped(f"\nShown with {', '.join(names)}, on Python {report['python']}: {shown}."),
            *([_wrapped(f"\n**Failed**: {failed}.")] if failed else []),
        ]
    )


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text.strip(), 120, break_long_words=False, break_on_hyphens=False)
    indent = "\n  " if text.startswith("- ") else "\n"
    return ("\n" if text.startswith("\n") else "") + indent.join(lines)


def _sentences(report: dict[str, Any], outcome: str) -> str:
    names = [name.partition("[")[0] for name, found in report["outcomes"].items() if found == outcome]
    return "; ".join(name.removeprefix("test_").replace("_", " ") for name in dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What is kept of a run: a JSON file for each benchmark, one page of tables made of them, pictures."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .records import Judged

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ("src", "benchmarks", "pyproject.toml", ":(exclude)benchmarks/results", ":(exclude)*.md")
PACKAGES = ("carpool", "anyio", "httpx2", "msgspec", "openai", "starlette", "tiktoken", "uvicorn", "uvloop")
HEAD = """# Results

Written by `make bench`, or a part of it by `python -m benchmarks run NAME`. Absolute figures are those of the machine
and the hour: what carries over are ratios. What each benchmark measures, and how, stands at the head of its module.
"""


def about() -> dict[str, Any]:
    """Tell of the machine, the versions and the commit, where there is a checkout; no name of it, and no path."""
    machine = {"cores": os.cpu_count(), "system": platform.system(), "processor": platform.machine()}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {**machine, "python": f"{platform.python_implementation()} {platform.python_version()}"},
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        **({"commit": found} if (found := commit()) else {}),
    }


def commit(root: Path = ROOT) -> str | None:
    """Name the commit of a checkout, and say when what is measured is not as committed; None where there is none."""
    if not (root / ".git").exists():  # a folder within another's checkout is none
        return None
    name = _git(root, "rev-parse", "--short", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *MEASURED)
    return f"{name}, dirty" if name and changes else name


def _git(root: Path, *words: str) -> str | None:
    try:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout that it does not trust
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def plain(record: Judged) -> dict[str, Any]:
    """Make a record, a dataclass, into what JSON can hold; its bars tell whether they are kept."""
    return {**asdict(record), "bars": [{**asdict(bar), "kept": bar.kept} for bar in record.bars]}


def write(
    folder: Path, name: str, summary: str, records: Iterable[Judged], table: str, pictures: Sequence[Path], quick: bool
) -> None:
    """Keep the results of a benchmark in place of earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"name": name, "summary": summary, "quick": quick, **about(), "records": [plain(each) for each in records]}
    kept |= {"table": table.splitlines(), "pictures": [picture.name for picture in pictures]}
    text = json.dumps(kept, indent=1, default=float)
    (folder / f"{name}.json").write_text(f"{text}\n")


def page(folder: Path, names: Iterable[str]) -> str:
    """Make one page of all results that are kept, in the order of the names."""
    parts = [HEAD]
    for name in names:
        path = folder / f"{name}.json"
        if path.exists():
            parts.append(_part(json.loads(path.read_text())))
    return "\n".join(parts)


def _part(kept: Mapping[str, Any]) -> str:
    machine = kept["machine"]
    line = f"{kept['date']}, {machine['cores']} cores, {machine['system']}, {machine['python']}"
    line += f", commit {kept['commit']}" if "commit" in kept else ""
    lines = [f"## {kept['name']}", "", kept["summary"], "", *kept["table"], ""]
    lines += [line + ("; the quick form, which shows little" if kept["quick"] else "") + ".", ""]
    for record in kept["records"]:
        lines += [f"Missed: {record['case']}: {missed}.\n" for missed in _missed(record.get("bars", ()))]
    lines += [f"![{kept['name']}]({picture})\n" for picture in kept["pictures"]]
    return "\n".join(lines)


def _missed(bars: Iterable[Mapping[str, Any]]) -> list[str]:
    missed = []
    for bar in bars:
        if not bar["kept"]:
            bound = f"at most {bar['most']:g}" if bar["most"] is not None else f"at least {bar['least']:g}"
            missed.append(f"{bar['name']} {bar['value']:.3g}, {bound}")
    return missed

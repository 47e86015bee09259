"""Environments of other Pythons and packages, under `.environments/`, kept until what they are made of changes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".environments"
FAST = ("tests/engine", "tests/providers", "tests/journal", "tests/contracts", "tests/observe", "tests/testing")
WHOLE = ("tests",)
_REQUIREMENTS = ROOT / "pyproject.toml"


def make(name: str, python: str, *words: str) -> Path:
    """Make an environment by `pip install WORDS`, where there is none of these, and give its interpreter."""
    folder = prepared(name)
    stamp, wanted = folder / "made-of", "\n".join((_told(python), python, *words, _REQUIREMENTS.read_text()))
    interpreter = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"--- making {folder.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *words], cwd=ROOT, check=True)
        stamp.write_text(wanted)
    return interpreter


def prepared(name: str) -> Path:
    """Name an environment's folder, in one that exists and that version control does not see."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    return FOLDER / name


def pythons() -> dict[str, str]:
    """Find the Pythons from 3.11 on that this machine has, by version: those of PYTHONS, of PATH, of pyenv."""
    found: dict[tuple[int, ...], str] = {}
    for candidate in _candidates():
        told = _version(candidate)
        if told is not None and told >= (3, 11):
            found.setdefault(told, candidate)
    return {f"{major}.{minor}": path for (major, minor), path in sorted(found.items())}


def _candidates() -> Iterator[str]:
    yield from os.environ.get("PYTHONS", "").split()
    yield sys.executable
    for minor in range(11, 20):
        if path := shutil.which(f"python3.{minor}"):
            yield path
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(root.glob("versions/3.*/bin/python")))


def _told(python: str) -> str:
    return subprocess.run([python, "-VV"], capture_output=True, text=True, check=True).stdout


def _version(python: str) -> tuple[int, ...] | None:
    command = [python, "-c", "import ensurepip, sqlite3, ssl, sys; print(*sys.version_info[:2])"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(map(int, told.stdout.split()))


def run_tests(python: Path, paths: Sequence[str], *more: str) -> bool:
    """Run tests in an environment; tell whether they pass."""
    command = [str(python), "-m", "pytest", "-q", *more, *paths]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0

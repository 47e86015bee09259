"""The programs, and the environments of those that need one of their own, made in `.environments/` and kept there."""

import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".environments"


class Program(NamedTuple):
    """Name a program of `programs/`, and the package it measures.

    `pins` are what is installed in an environment of its own, that package first; none: the environment of the
    benchmark. `cases` are those it is run in, none for all; `note` is what a reader must know of its figures.
    """

    name: str
    package: str
    pins: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    note: str = ""

    @property
    def module(self) -> str:
        """Give the module that runs it."""
        return f"benchmarks.peers.programs.{self.name.replace('-', '_')}"

    @property
    def version(self) -> str:
        """Give the version of the package it measures."""
        return self.pins[0].partition("==")[2] if self.pins else version(self.package)


PROGRAMS = (
    Program("floor", "carpool", cases=("no limits",), note="the straight line, which knows no limit and no failure"),
    Program("carpool", "carpool", note="`pool.request`; told no limit, it finds it"),
    Program(
        "carpool-openai",
        "carpool",
        cases=("no limits",),
        note="through `batched(AsyncOpenAI())`: nearly all of it is the official client's own cost of a call",
    ),
    Program(
        "autobatcher",
        "autobatcher",
        ("autobatcher==0.12.0", "openai==2.54.0", "pydantic==2.14.4"),
        note="it takes the place of the official client, whose types its callers get; sends every batch at once",
    ),
    Program(
        "batchling",
        "batchling",
        ("batchling==0.1.0a3", "httpx==0.28.1", "aiohttp==3.14.5"),
        note="under httpx; sends every batch at once. Patched: it takes no base URL, and fails every batch on Python "
        "3.11",
    ),
    Program(
        "batchling-aiohttp",
        "batchling",
        ("batchling==0.1.0a3", "httpx==0.28.1", "aiohttp==3.14.5"),
        cases=("no limits",),
        note="the same under aiohttp, which no official client uses",
    ),
    Program(
        "inspect-ai",
        "inspect-ai",
        ("inspect-ai==0.3.285", "openai==3.57.0", "pydantic==2.14.4"),
        note="through `model.generate`; told how many calls fit below the limit, it has one batch of those at a time. "
        "Where a batch fails, it writes out one traceback for each caller, longer each time",
    ),
    Program(
        "curator",
        "bespokelabs-curator",
        ("bespokelabs-curator==0.1.31", "openai==2.30.0", "datasets==3.6.0", "litellm==1.83.7"),
        note="patched: its uploads have no name, and the emulator takes `*.jsonl` alone. One blocking call for a data "
        "set; it writes every request and answer to disk and prices each by counting its tokens",
    ),
)


def make(program: Program) -> Path:
    """Make a program's environment, unless it is there, and give its interpreter."""
    if not program.pins:
        return Path(sys.executable)
    folder = FOLDER / program.pins[0].replace("==", "-")
    stamp = folder / "made-of"
    wanted = "\n".join((sys.version, *program.pins))
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *program.pins], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return folder / "bin" / "python"

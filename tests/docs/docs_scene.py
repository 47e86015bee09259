"""Run the blocks of a page as a reader would: one after the other, in one folder, before one provider, an emulator."""

import ast
import asyncio
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import msgspec
import pytest
from docs_kit import Block, program
from typer.testing import CliRunner

import carpool
from carpool.cli.app import app
from carpool.testing import Emulator

INSTALLS = ("git clone ", "pip ", "python3 -m venv ", "make ")  # the workflows of continuous integration do these
SERVED = re.compile(r"http://(?:127\.0\.0\.1|localhost):8000/v1")
UPSTREAM = "http://localhost:11434/v1"
SHELL = re.compile(r"[|<>&;$*]")
NAMES = ("Python", "carpool", "httpx2", "openai", "tiktoken", "anyio")  # whose releases doctor names, of any form
VARIES = {  # from run to run, and from machine to machine: pages show what it may look like
    "MOMENT": re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"),
    "SERVER": re.compile(r"\b127\.0\.0\.1:\d+"),
    "POOL": re.compile(r"\b[0-9a-f]{12}\b"),
    "SPAN": re.compile(r"\b\d+ (?:h|min|s)\b(?: \d+ (?:min|s)\b)?"),
    "SIZE": re.compile(r"\b\d[\d.]* [kMG]?B\b"),
    "RELEASE": re.compile(rf"(?:{'|'.join(f'(?<={name} )' for name in NAMES)})\d[\w.+]*(?<!\.)"),
    "VERSION": re.compile(r"\b\d+\.\d+\.\d+\b"),
    "SYSTEM": re.compile(r"(?<= on )\w+ \w+(?=,)"),
    "LOCAL": re.compile(r"(?<=is local )\(\w+\)"),
}


class Scene:
    """Hold what the blocks of one page share: the folder, the environment, the provider, and what was printed last."""

    def __init__(self, emulator: Emulator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._emulator = emulator
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._served: list[subprocess.Popen[str]] = []
        self._url = emulator.url
        self._printed = ""
        self.unused: set[str] = set()  # files that no command was given

    def run(self, block: Block) -> None:
        """Run a block, or check what is only shown; fails the test where it does not do what the page says."""
        source = block.included
        text = block.text if source is None else source.read_text()
        if block.title is not None:
            (self._folder / block.title).write_text(self._here(text))
            self.unused.add(block.title)
        elif source is None:
            self._run(block)
        elif source.suffix == ".py":
            compile(text, source, "exec")  # examples have tests of their own

    def _run(self, block: Block) -> None:
        match block.language:
            case "python":
                self._printed = self._python(program(block), block)
            case "console":
                self._console(block)
            case "json":
                _check_json(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "text":
                assert "prints" in block.marks, f"{block.place}: whose output is this?"
                self._compare(block.text, self._printed, block)
            case other:
                raise AssertionError(f"{block.place}: no block may be of the language {other!r}")

    def close(self) -> None:
        """End what serves."""
        for process in self._served:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=20)
            assert process.returncode == 0, said

    def _here(self, text: str) -> str:
        return SERVED.sub(self._url, text).replace(UPSTREAM, self._emulator.url)

    # --- Python

    def _python(self, text: str, block: Block) -> str:
        code = compile(self._here(text), block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        names: dict[str, Any] = {"__name__": "__main__", "emulator": self._emulator, "monkeypatch": self._monkeypatch}
        if "import " not in block.text:  # a fragment: whoever reads it has imported carpool
            names["carpool"] = carpool
        with redirect_stdout(io.StringIO()) as printed:
            result = eval(code, names)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        return printed.getvalue()

    # --- commands

    def _console(self, block: Block) -> None:
        if "given" in block.marks:
            self._python(block.marks["given"], block)
        for command, shown in commands_of(block.text):
            code, self._printed = self._command(self._here(command))
            assert code == 0, f"{block.place}: {command} ended with {code}: {self._printed}"
            if shown:
                self._compare(shown, self._printed, block)

    def _command(self, command: str) -> tuple[int, str]:
        words = shlex.split(command, comments=True)
        self.unused -= set(words)
        if command.startswith(INSTALLS):
            return 0, ""
        if words[0] == "export":
            for assignment in words[1:]:
                self._monkeypatch.setenv(*assignment.split("=", 1))
            return 0, ""
        if words[:2] == ["carpool", "emulate"] and "--help" not in words:
            return 0, self._serve(words[1:])
        if words[0] == "carpool" and not SHELL.search(command.partition(" #")[0]):
            result = CliRunner().invoke(app, words[1:], prog_name="carpool")
            return result.exit_code, result.output
        return self._shell(command)

    def _serve(self, arguments: list[str]) -> str:
        """Run the emulator, on a port that is free, until the end of the page; pages say 8000."""
        free = ["0" if word == "8000" else word for word in arguments]
        carpool_ = Path(sys.executable).with_name("carpool")
        process = subprocess.Popen(
            [carpool_, *free], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self._folder
        )
        self._served.append(process)
        assert process.stdout is not None
        first = process.stdout.readline()
        served = re.search(r"http://\S+/v1", first)
        assert served, first
        self._url = served[0]
        return first

    def _shell(self, command: str) -> tuple[int, str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            cwd=self._folder,
            env={**os.environ, "PATH": path},
        )
        return result.returncode, result.stdout

    def _compare(self, shown: str, printed: str, block: Block) -> None:
        wanted, got = steady(self._here(shown)), steady(printed)
        same = OutputChecker().check_output(wanted, got, ELLIPSIS | NORMALIZE_WHITESPACE)
        assert same, f"{block.place} shows\n{shown}\nand what is printed is\n{printed}"


def steady(text: str) -> str:
    """Name what varies instead of showing it."""
    for name, pattern in VARIES.items():
        text = pattern.sub(name, text)
    return text


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Give each command of a session, and what the page shows of its output."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:[^\n]*\\\n)*[^\n]*\n?", part)
        assert command
        yield command[0].strip(), part[command.end() :]


def _check_json(text: str) -> None:
    """Decode a text as one value, or each of its lines as one."""
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        for line in text.splitlines():
            msgspec.json.decode(line)

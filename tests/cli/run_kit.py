"""Runs of the command: in this process, or in one of their own that can be stopped in every way."""

import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import run_child
from typer.testing import CliRunner, Result

from carpool.cli.app import app
from carpool.testing import Emulator, Refused, digest

KEY = "sk-secret-0123456789"
CHAT, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/embeddings", "/v1/responses"
LANES = ((CHAT, "gpt-5-mini"), (CHAT, "gpt-4o"), (EMBEDDINGS, "text-embedding-3-small"), (RESPONSES, "gpt-5-mini"))
REFUSED = "refuse this"

Row = dict[str, Any]
Command = list[str | Path]


def body_of(endpoint: str, model: str, text: str) -> Row:
    """Make a body that asks for a text."""
    if endpoint == CHAT:
        return {"model": model, "messages": [{"role": "user", "content": text}]}
    return {"model": model, "input": text}


def row_of(number: int, text: str | None = None, lane: tuple[str, str] | None = None) -> Row:
    """Make a row of INPUT, of one lane after the other."""
    endpoint, model = lane or LANES[number % len(LANES)]
    body = body_of(endpoint, model, f"text {number} \N{LINE SEPARATOR}" if text is None else text)
    return {"custom_id": f"mine-{number}", "method": "POST", "url": endpoint, "body": body}


def rows_of(count: int, lane: tuple[str, str] | None = None) -> list[Row]:
    """Make so many rows."""
    return [row_of(number, lane=lane) for number in range(count)]


def text_of(body: Mapping[str, Any]) -> str:
    """Give what a body asks for."""
    return str(body["input"] if "input" in body else body["messages"][-1]["content"])


def answer(endpoint: str, body: Row) -> Row:
    """Say a text again, in the form of the endpoint."""
    text = text_of(body)
    if text.startswith(REFUSED):
        raise Refused(400, "No answer to this.", code="no_answer")
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    if endpoint == RESPONSES:
        return {"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}], "usage": usage}
    if endpoint == EMBEDDINGS:
        return {"data": [], "said": text, "usage": usage}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def write(path: Path, rows: Iterable[Row | bytes]) -> Path:
    """Write INPUT; what is bytes is a line as it is."""
    lines = (row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read(path: Path) -> list[Any]:
    """Read OUTPUT."""
    *lines, last = path.read_bytes().split(b"\n")
    assert last == b""
    return [json.loads(line) for line in lines]


def check(rows: Iterable[Row], asked: Iterable[Row]) -> None:
    """Make sure that each row asked for has its own answer, in order."""
    for number, (row, one) in enumerate(zip(rows, asked, strict=True), 1):
        assert row.keys() == {"id", "custom_id", "response", "error"}
        assert row["id"].startswith(f"row_{number}_")
        assert row["custom_id"] == one["custom_id"]
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"] == answer(one["url"], one["body"])


def check_paid_once(emulator: Emulator, asked: Iterable[Row]) -> None:
    """Make sure that each row was run once, and nothing else."""
    books = emulator.books()
    assert books.bodies == Counter(digest(row["body"]) for row in asked)
    assert books.live == 0


def run(emulator: Emulator | None, *arguments: str | Path) -> Result:
    """Run the command in this process; None stands for no server at all."""
    url = "http://127.0.0.1:9/v1" if emulator is None else emulator.url
    return CliRunner(env={"OPENAI_BASE_URL": url}).invoke(app, ["run", *map(str, arguments)])


FORKS = multiprocessing.get_context("forkserver")  # which has imported everything already


def prepare_forks() -> None:
    """Start what children are forked from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        FORKS.set_forkserver_preload(["__main__", "run_child"])
        forkserver.ensure_running()


class Child:
    """Run the command in a process of its own, which reads from `pipe`; files may grow to `room` bytes."""

    def __init__(
        self,
        emulator: Emulator,
        *arguments: str | Path,
        pipe: Path | None = None,
        room: int | None = None,
        key: str = KEY,
    ) -> None:
        environment = {"OPENAI_BASE_URL": emulator.url, "OPENAI_API_KEY": key}
        descriptor, self._said = tempfile.mkstemp()
        os.close(descriptor)
        given = [*map(str, arguments)], environment, str(pipe or os.devnull), self._said, room
        self.process = FORKS.Process(target=run_child.main, args=given)
        self.process.start()

    def when(self, condition: Callable[[], bool], do: Callable[[], object] = lambda: None) -> "Child":
        """Do something as soon as a condition holds, unless it ends before."""
        until = time.monotonic() + 30
        while self.process.is_alive() and not condition():
            assert time.monotonic() < until, "that never came"
            time.sleep(0.001)
        if self.process.is_alive():
            do()
        return self

    def send(self, *signals: int) -> "Child":
        """Send signals."""
        for number in signals:
            os.kill(self.process.pid or 0, number)
        return self

    def end(self) -> tuple[int | None, str]:
        """Wait for its end, and give its code and what it said."""
        self.process.join(60)
        code = self.process.exitcode
        self.process.close()
        said = Path(self._said).read_text()
        os.unlink(self._said)
        return code, said

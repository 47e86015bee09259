"""An account to look at: batches and files put on an emulator, commands run against it, and terminals of any width."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import httpx2
import pytest
import typer
from typer.testing import CliRunner, Result

from carpool.engine.events import Created, Done, Event, Packed, Uploaded
from carpool.journal.sqlite import Sqlite
from carpool.models import BatchStatus, Lane, Leftovers
from carpool.naming import client_key
from carpool.testing import Emulator

KEY = "sk-secret-0123456789"
CHAT = "/v1/chat/completions"
POOL = "0123456789ab"  # of the form that pools have
NOWHERE = "http://127.0.0.1:9/v1"  # the port of a service that nobody runs
ENDED = ("completed", "failed", "expired", "cancelled")


def lines_of(rows: int, model: str = "gpt-4o") -> bytes:
    """Make an input file."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    rows_ = ({"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": body} for n in range(rows))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows_)


class Account:
    """Put batches and files on an emulator's account."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.http = httpx2.Client(base_url=emulator.url, headers={"authorization": f"Bearer {KEY}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def upload(self, name: str = "in.jsonl", content: bytes | None = None) -> str:
        """Upload a file."""
        files = {"file": (name, lines_of(3) if content is None else content)}
        return str(self.http.post("/files", files=files, data={"purpose": "batch"}).json()["id"])

    def create(self, file_id: str, key: str | None = None) -> str:
        """Create a batch, as carpool does or, without a key, as others do."""
        more = {} if key is None else {"metadata": {"carpool": key, "carpool_tokens": "77"}}
        given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **more}
        return str(self.http.post("/batches", json=given).json()["id"])

    def put(self, key: str | None = None, rows: int = 3, model: str = "gpt-4o") -> str:
        """Create a batch with a file, and wait until it runs, or has run."""
        batch_id = self.create(self.upload(f"{key or 'in'}.jsonl", lines_of(rows, model)), key)
        return self.wait(batch_id, *ENDED, "in_progress")

    def run(self, key: str | None = None, rows: int = 3, model: str = "gpt-4o") -> str:
        """Create a batch with a file, and wait until it is over."""
        return self.wait(self.put(key, rows, model), *ENDED)

    def wait(self, batch_id: str, *statuses: str) -> str:
        """Wait until a batch stands so."""
        while self.batch(batch_id)["status"] not in statuses:
            pass
        return batch_id

    def batch(self, batch_id: str) -> Any:
        """Give the batch object."""
        return self.http.get(f"/batches/{batch_id}").json()

    def content(self, file_id: str) -> bytes:
        """Give the content of a file."""
        return bytes(self.http.get(f"/files/{file_id}/content").content)

    def files(self) -> set[str]:
        """Name the files that are there."""
        return {file["id"] for file in self.http.get("/files").json()["data"]}


def journal_of(
    folder: Path, account: str, *, on_disk: Sequence[str] = (), awaited: Sequence[tuple[str, str]] = ()
) -> None:
    """Make a journal that has these files on disk, and awaits these batches and input files."""

    async def fill() -> None:
        journal = await Sqlite.open(folder, account, 1e9, anyio.to_thread.run_sync)
        lane = Lane(CHAT, "gpt-4o")
        facts: list[Event] = [Packed(journal.numbered + 1, lane, ())]
        facts.append(Done(client_key(journal.pool, journal.numbered + 1), "batch_over", Leftovers(tuple(on_disk))))
        for number, (batch_id, file_id) in enumerate(awaited, journal.numbered + 2):
            key = client_key(journal.pool, number)
            created = Created(key, BatchStatus(batch_id, key, "validating", file_id))
            facts += [Packed(number, lane, ()), Uploaded(key, file_id), created]
        await journal.record(*((time.time(), fact) for fact in facts))
        await journal.aclose()

    anyio.run(fill)


def run(command: Callable[..., None], url: Emulator | str, *arguments: str, key: str = KEY) -> Result:
    """Run a command; whatever it says holds no key, and no traceback."""
    app = typer.Typer()
    app.command()(command)
    base = url if isinstance(url, str) else url.url
    result = CliRunner().invoke(app, ["--base-url", base, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert key not in result.output
    return result


@contextmanager
def scripted(answers: Mapping[str, object], status: int = 200, *, ahead: float = 0.0) -> Iterator[str]:
    """Serve these answers, each to all calls whose path ends so, and else 404; the clock is so many seconds ahead.

    An answer may be a function that is given the connection to write to.
    """

    class Script(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            content = next((answers[name] for name in answers if path.endswith(name)), None)
            if callable(content):
                content(self)
                return
            body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
            self.send_response(404 if content is None else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_DELETE(self) -> None:
            self.do_GET()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int((timestamp or time.time()) + ahead))

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that those that serve are waited for

    with Server(("127.0.0.1", 0), Script) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def on_a_screen(columns: int, command: Callable[..., None], url: Emulator | str, *arguments: str) -> str:
    """Give what a screen of so many columns would show, without the colours."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("COLUMNS", str(columns)), ("FORCE_COLOR", "1"), ("TERM", "xterm")):
            patch.setenv(name, value)
        shown = run(command, url, *arguments).stdout
    assert "\x1b[" in shown
    return _plain(shown)


def fields(line: str) -> list[str]:
    """Cut a line of a table into its cells."""
    return re.split(r"\s{2,}", line.strip())


def on_a_terminal(columns: int, *arguments: str) -> str:
    """Give what a terminal of so many columns shows of a real process, without the colours."""
    ours, theirs = pty.openpty()
    shown = b""
    try:
        given = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
        command = [sys.executable, "-c", "from carpool.cli import main; main()", *arguments]
        with subprocess.Popen(command, env=given, stdin=theirs, stdout=theirs, stderr=theirs):
            os.close(theirs)
            while chunk := _read(ours):
                shown += chunk
    finally:
        os.close(ours)
    return _plain(shown.decode())


def _plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # how Linux tells the end of a terminal
        return b""

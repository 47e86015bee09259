"""The program that is killed: it awaits a few hundred answers from a pool with a journal, and counts instants.

It is forked from a process that reads orders from its standard input: see `serve`. An instant is a point between two
things that outlive the process: a commit, a file operation, a step of an HTTP exchange. At the one that the orders name
it kills itself; at 0 it lives.
"""

import asyncio
import faulthandler
import gc
import os
import random
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anyio
import httpx2
import msgspec

import carpool
from carpool.settings import Ports

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
BAD = "bad"  # what begins so is answered by an error
TIGHT = 20  # enqueued tokens of the models "limited", which the pool is told of, and "learning", which it is not
TOKENS = 10  # of each request
# The exit codes of a child: calls ended with errors that should not, a fault of its own, it was left by an exception,
# or, whatever else came, some call had the answer of another.
FAILED, FAULTY, LEFT, WRONG = 1, 2, 3, 4


class Orders(msgspec.Struct, kw_only=True):
    """Say what a child is to do; `die_at` counts instants from 1."""

    url: str
    folder: str
    die_at: int = 0
    power: bool = False  # what was not synced is lost, too
    interrupt: Literal["", "cancel", "int", "exit"] = ""  # what comes at that instant instead of death
    every: int = 1  # ask for one request in so many
    lookup: float = 0.5
    wait: float = 60.0  # seconds after which a child that hangs is ended


class Report(msgspec.Struct):
    """Tell how a child ended: its exit code, or the signal that killed it, negative; and what it said."""

    code: int
    said: str

    @property
    def place(self) -> str:
        """Name the instant at which it died."""
        return next((line for line in self.said.splitlines() if line.startswith("instant ")), "")


class Asked(NamedTuple):
    """Name a request."""

    wave: int
    endpoint: str
    model: str
    text: str

    @property
    def body(self) -> dict[str, Any]:
        """Make its body."""
        if self.endpoint == RESPONSES:
            return {"model": self.model, "input": self.text}
        return {"model": self.model, "messages": [{"role": "user", "content": self.text}]}


def program(size: int = 10) -> list[Asked]:
    """Name all requests: some that travel together, as many tens as the size says, and some that wait for room."""
    asked: list[Asked] = []
    for wave in range(2):
        asked += [Asked(wave, CHAT, "free", f"chat {wave} {number}") for number in range(7 * size)]
        asked += [Asked(wave, RESPONSES, "free", f"response {wave} {number}") for number in range(3 * size)]
        asked += [Asked(wave, CHAT, "free", f"{BAD} {wave} {number}") for number in range(2)]
        asked += [Asked(wave, CHAT, "limited", f"limited {wave} {number}") for number in range(2)]
        asked += [Asked(wave, CHAT, "learning", f"learning {wave} {number}") for number in range(3 - wave)]
    return asked


def count(_endpoint: str, _model: str, _body: bytes) -> int:
    """Count the tokens of a body."""
    return TOKENS


class Bomb:
    """Count instants, from any thread, and end the process at one of them."""

    def __init__(self, orders: Orders) -> None:
        self._lock = threading.RLock()
        self._orders = orders
        self.disk = Disk()
        self.instants = 0

    def __call__(self, what: str) -> None:
        with self._lock:
            self.instants += 1
            if self.instants == self._orders.die_at:
                self._end(what)

    def _end(self, what: str) -> None:
        os.write(2, f"instant {self.instants}: {what}\n".encode())
        if self._orders.interrupt:
            os.kill(os.getpid(), signal.SIGINT if self._orders.interrupt == "int" else signal.SIGTERM)
            return
        if self._orders.power:
            self.disk.lose()
        os.kill(os.getpid(), signal.SIGKILL)


class Disk:
    """Know what of the spool's files would survive a crash of the machine."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}  # by descriptor
        self._synced: dict[str, int] = {}  # bytes
        self._named: set[str] = set()

    def opened(self, descriptor: int, path: str) -> None:
        self._paths[descriptor] = path
        if os.path.basename(path).startswith(("segment-", "download-")):
            self._synced.setdefault(path, 0)

    def synced(self, descriptor: int) -> None:
        path = self._paths[descriptor]
        if path in self._synced:
            self._synced[path] = os.fstat(descriptor).st_size
        else:
            self._named.update(known for known in self._synced if os.path.dirname(known) == path)

    def lose(self) -> None:
        for path, size in self._synced.items():
            if path not in self._named:
                Path(path).unlink(missing_ok=True)
            elif os.path.exists(path):
                os.truncate(path, size)


def watch_files(bomb: Bomb) -> None:
    """Make instants before and after each file operation, and amid each write."""
    real_open, real_pwrite, real_fsync = os.open, os.pwrite, os.fsync

    def spy_open(path: str | os.PathLike[str], flags: int, *args: Any, **more: Any) -> int:
        if not flags & os.O_CREAT:
            descriptor = real_open(path, flags, *args, **more)
        else:
            name = os.path.basename(path)
            bomb(f"before open {name}")
            descriptor = real_open(path, flags, *args, **more)
            bomb(f"after open {name}")
        bomb.disk.opened(descriptor, os.path.normpath(path))
        return descriptor

    def spy_pwrite(descriptor: int, content: Any, offset: int) -> int:
        bomb("before pwrite")
        half = len(content) // 2
        written = real_pwrite(descriptor, content[:half], offset)
        bomb("amid pwrite")
        written += real_pwrite(descriptor, content[half:], offset + half)
        bomb("after pwrite")
        return written

    def spy_fsync(descriptor: int) -> None:
        bomb("before fsync")
        real_fsync(descriptor)
        bomb.disk.synced(descriptor)
        bomb("after fsync")

    spies: dict[str, Callable[..., Any]] = {"open": spy_open, "pwrite": spy_pwrite, "fsync": spy_fsync}
    for name in ("unlink", "remove", "rename", "replace", "truncate", "mkdir"):
        spies[name] = around(bomb, name, getattr(os, name))
    for name, spy in spies.items():
        setattr(os, name, spy)


def around(bomb: Bomb, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """Make an instant before and one after."""

    def spy(*args: Any, **more: Any) -> Any:
        where = os.path.basename(args[0]) if isinstance(args[0], str | os.PathLike) else ""
        bomb(f"before {what} {where}")
        result = real(*args, **more)
        bomb(f"after {what} {where}")
        return result

    return spy


def watch_database(bomb: Bomb) -> None:
    """Make instants before and after each commit, and whatever else writes outside of a transaction."""

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, /, *values: Any) -> sqlite3.Cursor:
            ends = statement == "COMMIT" or not (self.in_transaction or statement.startswith(("SELECT", "BEGIN")))
            if not ends:
                return super().execute(statement, *values)
            bomb(f"before {statement}")
            cursor = super().execute(statement, *values)
            bomb(f"after {statement}")
            return cursor

    real = sqlite3.connect

    def connect(path: Any, **more: Any) -> sqlite3.Connection:
        bomb("before connect")
        return real(path, factory=Connection, **more)

    for name, spy in {"connect": connect}.items():
        setattr(sqlite3, name, spy)


class Spy(httpx2.AsyncBaseTransport):
    """Make instants before a request, in its body, when the server has processed it, and when its reply is read."""

    def __init__(self, bomb: Bomb) -> None:
        self._inner = httpx2.AsyncHTTPTransport(
            verify=False, limits=httpx2.Limits(max_connections=20, max_keepalive_connections=10)
        )
        self._bomb = bomb

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        what = f"{request.method} {request.url.path}"
        self._bomb(f"before {what}")
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        request.stream = Chunks(request.stream, self._bomb, f"sent a part of {what}")
        response = await self._inner.handle_async_request(request)
        self._bomb(f"processed {what}")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = Chunks(response.stream, self._bomb, f"read a part of {what}")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Chunks(httpx2.AsyncByteStream):
    """Make an instant before each chunk but the first, and at the end."""

    def __init__(self, inner: httpx2.AsyncByteStream, bomb: Bomb, what: str) -> None:
        self._inner = inner
        self._bomb = bomb
        self._what = what

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk
            self._bomb(self._what)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Findings:
    """Hold what is wrong with the answers: those that are others' than asked for, and errors in their place."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.failed: list[str] = []

    def told(self, asked: Asked, answer: str) -> None:
        """Take an answer, in the words of the provider."""
        if answer != ("RequestRejected" if asked.text.startswith(BAD) else asked.text):
            self.wrong.append(f"{asked.text!r} was answered {answer!r}")

    def end(self, code: int) -> int:
        """Say what is wrong, and give the exit code of a child that would have ended with another."""
        print(*self.wrong[:5], *self.failed[:5], sep="\n", file=sys.stderr, flush=True)
        if self.wrong:
            return WRONG
        return code or (FAILED if self.failed else 0)


async def run(orders: Orders, bomb: Bomb, findings: Findings) -> None:
    """Await all answers, and find out which are wrong."""
    if orders.interrupt == "cancel":
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)

    async def ask(pool: carpool.Pool, asked: Asked) -> None:
        try:
            findings.told(asked, (await pool.request(asked.endpoint, asked.body)).text)
        except carpool.RequestRejected:
            findings.told(asked, "RequestRejected")
        except carpool.CarpoolError as exc:
            findings.failed.append(f"{asked.text!r} came to {exc!r}")

    timing = carpool.Timing(linger=0.02, max_linger=1, poll_min=0.02, poll_max=0.1, lookup=orders.lookup)
    async with (
        carpool.Pool(
            "sk-crash",
            orders.url,
            journal=orders.folder,
            timing=timing,
            limits={"limited": TIGHT},
            counter=count,
            _ports=Ports(transport=Spy(bomb)),
        ) as pool,
        anyio.create_task_group() as tasks,
    ):
        for wave in range(2):
            for asked in program()[:: orders.every]:
                if asked.wave == wave:
                    tasks.start_soon(ask, pool, asked)
            await anyio.sleep(0.06)


def live(orders: Orders) -> int:
    """Do as ordered, and say what was wrong."""
    signal.setitimer(signal.ITIMER_REAL, orders.wait)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born without
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # anywhere: also within asyncio's own code
    bomb = Bomb(orders)
    watch_files(bomb)
    watch_database(bomb)
    findings = Findings()
    try:
        anyio.run(run, orders, bomb, findings)
    except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
        return findings.end(LEFT)
    except BaseException:  # noqa: BLE001 - it is told
        traceback.print_exc()
        return findings.end(FAULTY)
    return findings.end(0)


def serve() -> None:
    """Fork a child for each line of orders: its imports cost more than its work."""
    anyio.run(anyio.sleep, 0)
    Spy(Bomb(Orders(url="", folder="")))  # what is imported at first use
    gc.freeze()
    for line in sys.stdin.buffer:
        orders = msgspec.json.decode(line, type=Orders)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = FAULTY
            try:
                os.dup2(writing, 2)
                random.seed()
                code = live(orders)
            except BaseException:  # noqa: BLE001 - it is told
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        with open(reading, encoding="utf-8", errors="replace") as output:
            said = output.read()
        _, status = os.waitpid(child, 0)
        os.write(1, msgspec.json.encode(Report(os.waitstatus_to_exitcode(status), said)) + b"\n")


if __name__ == "__main__":
    serve()

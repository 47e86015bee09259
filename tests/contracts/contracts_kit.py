"""What the tests of the contracts share: a pool on virtual time, and an emulator that is bent to what others do."""

import ast
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import httpx2
from virtual import CHAT, InMemory, World, body, run_here

import carpool
from carpool.settings import Ports
from carpool.testing import Emulator, Pace, digest
from carpool.testing.door import route_of

HOUR, DAY = 3_600.0, 86_400.0
PACED = Pace(validating=10, running=10, finalizing=10, cancelling=10)
WATCHFUL = carpool.Timing(linger=0.1, poll_min=1, poll_max=1)  # sees every status of a batch in that pace
UNHURRIED = carpool.Timing(poll_max=900)  # for what takes hours
CREATE, CHECK, CANCEL = "POST /v1/batches", "GET /v1/batches/{id}", "POST /v1/batches/{id}/cancel"
UPLOAD, DOWNLOAD, DELETE = "POST /v1/files", "GET /v1/files/{id}/content", "DELETE /v1/files/{id}"

EMPTY_FILE = "file-empty"  # the id of a file of no bytes, as Azure names one for a clean batch

Found = dict[str, Any]


@dataclass(kw_only=True)
class Bend:
    """Say what is changed on its way; `number` counts the calls of a route from 1.

    `batch` edits every batch object in a reply, `page` every listing, `file` the bytes of an "output" or an "error"
    file, `send` those of a request. `instead` replies in place of the emulator, `after` in place of what was replied;
    any of them may raise.
    """

    batch: Callable[[Found], None] | None = None
    page: Callable[[Found], Any] | None = None
    file: Callable[[str, bytes], bytes] | None = None
    send: Callable[[str, int, bytes], bytes] | None = None
    instead: Callable[[str, int], httpx2.Response | None] | None = None
    after: Callable[[httpx2.Request, httpx2.Response], httpx2.Response | None] | None = None


class Bent(InMemory):
    """Stand between a pool and the emulator, and bend what they say to each other."""

    def __init__(self, app: Any, bend: Bend) -> None:
        super().__init__(app)
        self._bend = bend
        self._kinds: dict[str, str] = {}
        self.routes = Counter[str]()
        self.statuses: list[str] = []  # of single batches, as the pool was told, without repetitions

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        route = route_of(request.method, request.url.path)
        self.routes[route] += 1
        reply = None if self._bend.instead is None else self._bend.instead(route, self.routes[route])
        if reply is None and request.url.path.endswith(f"/{EMPTY_FILE}/content"):
            reply = httpx2.Response(200, content=b"")
        if reply is None:
            reply = await self._rewritten(route, await self._ask(route, request))
        if self._bend.after is not None:
            reply = self._bend.after(request, reply) or reply
        return reply

    async def _ask(self, route: str, request: httpx2.Request) -> httpx2.Response:
        if self._bend.send is not None and request.method == "POST":
            assert isinstance(request.stream, httpx2.AsyncByteStream)
            content = b"".join([chunk async for chunk in request.stream])
            content = self._bend.send(route, self.routes[route], content)
            headers = {**request.headers, "content-length": str(len(content))}
            request = httpx2.Request(request.method, request.url, headers=headers, content=content)
        return await super().handle_async_request(request)

    async def _rewritten(self, route: str, reply: httpx2.Response) -> httpx2.Response:
        if reply.status_code != 200 or (not route.startswith("GET") and route != CREATE):
            return reply
        if route == DOWNLOAD:
            return await self._rewritten_file(reply)
        content = json.loads(await reply.aread())
        if content["object"] == "batch":
            self._edit(content)
            status = str(content.get("status"))
            if self.statuses[-1:] != [status]:
                self.statuses.append(status)
        elif "batches" in route:
            for batch in content["data"]:
                self._edit(batch)
        if self._bend.page is not None and content["object"] == "list":
            content = self._bend.page(content)
        return httpx2.Response(200, json=content)

    def _edit(self, batch: Found) -> None:
        for kind in ("output", "error"):
            if batch[f"{kind}_file_id"]:
                self._kinds[batch[f"{kind}_file_id"]] = kind
        if self._bend.batch is not None:
            self._bend.batch(batch)

    async def _rewritten_file(self, reply: httpx2.Response) -> httpx2.Response:
        if self._bend.file is None:
            return reply
        kind = self._kinds[self.requests[-1][1].split("/")[3]]
        return httpx2.Response(200, content=self._bend.file(kind, await reply.aread()))


class Scene(World):
    """Hold a pool, the emulator it talks to, what stands between them, and what the pool's owner is told."""

    def __init__(self, pool: carpool.Pool, emulator: Emulator, bent: Bent, notices: list[carpool.Event]) -> None:
        super().__init__(pool, emulator, bent)
        self.bent = bent
        self.notices = notices

    async def ask_all(self, texts: list[str]) -> None:
        """Await one call for each text; they are accepted in this order, on trio too."""
        outcomes = await self.pool.gather([body(text) for text in texts], endpoint=CHAT, return_exceptions=True)
        self.settled.update(zip(texts, outcomes, strict=True))

    def error(self, text: str) -> carpool.RequestFailed:
        """Give the error of a call."""
        error = self.settled[text]
        assert isinstance(error, carpool.RequestFailed), error
        return error

    def kinds(self) -> set[type[BaseException]]:
        """Give the types of all errors."""
        return {type(error) for error in self.errors().values()}

    def paid(self, text: str) -> int:
        """Say how often a call was billed."""
        return self.emulator.books().paid[digest(body(text))]

    def ends(self) -> list[str]:
        """Say how the batches stand, in the order of their creation."""
        return [batch.status for batch in self.emulator.books().batches]

    def asked(self, route: str) -> int:
        """Say how often a route was called."""
        return self.bent.routes[route]


@asynccontextmanager
async def scene(
    bend: Bend | None = None,
    *,
    within: float = 3 * DAY,
    equal: int = 1,
    pool: dict[str, Any] | None = None,
    **emulator: Any,
) -> AsyncIterator[Scene]:
    """Open a pool on an emulator that is bent; all is over `within` so many seconds, and nothing is paid twice.

    So many calls are `equal`. Answers that reached no file are paid for once more each.
    """
    async with Emulator(**emulator).inline() as served:
        bent = Bent(served.app, bend or Bend())
        notices: list[carpool.Event] = []
        ports = Ports(run_sync=run_here, transport=bent)

        def look(event: carpool.Event) -> None:
            if event.kind in ("held", "late", "strangers"):
                notices.append(event)

        settings = {"on_event": look, **(pool or {})}
        with anyio.fail_after(within):
            async with carpool.Pool("sk-key", "http://emulator/v1", _ports=ports, **settings) as opened:
                yield Scene(opened, served, bent, notices)
    books = served.books()
    assert not {name for name, times in books.paid.items() if times > equal + books.lost[name]}, "paid twice"


def texts(count: int) -> list[str]:
    """Make so many prompts."""
    return [f"text {number}" for number in range(count)]


def refused(status: int, message: str = "No.", **more: Any) -> httpx2.Response:
    """Make the reply that refuses a call."""
    return httpx2.Response(status, json={"error": {"message": message, "type": "invalid_request_error", **more}})


def rows(content: bytes) -> list[Found]:
    """Read a JSONL file."""
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def jsonl(found: list[Any]) -> bytes:
    """Write a JSONL file."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in found)


def sent(*edits: Callable[[bytes], bytes]) -> Callable[[str, int, bytes], bytes]:
    """Edit the first uploads: the line that holds the word "guilty", by one edit for each upload."""

    def send(route: str, number: int, content: bytes) -> bytes:
        if route != UPLOAD or number > len(edits):
            return content
        return b"\n".join(edits[number - 1](line) if b"guilty" in line else line for line in content.split(b"\n"))

    return send


async def cancel_elsewhere(w: Scene, batch_id: str) -> int:
    """Cancel a batch as somebody else would; gives the status of the reply."""
    async with httpx2.AsyncClient(transport=InMemory(w.emulator.app), base_url="http://emulator/v1") as client:
        return (await client.post(f"/batches/{batch_id}/cancel")).status_code


@cache
def names_of_tests(path: str) -> frozenset[str]:
    """Name the tests in a file below `tests`."""
    nodes = ast.walk(ast.parse((Path(__file__).parent.parent / path).read_text()))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(name for name in names if name.startswith("test_"))


def assert_told(told: dict[str, Any], wanted: set[str]) -> None:
    """Hold the names of tests in a module against the lines that must have one: `test_<line>` or `test_<line>_...`."""
    tests = [name for name in told if name.startswith("test_")]
    missing = {line for line in wanted if not any(f"{name}_".startswith(f"test_{line}_") for name in tests)}
    assert not missing, sorted(missing)

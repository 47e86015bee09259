"""What a pool goes through with a server that others wrote; each flow tells in a few words what was seen."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
import httpx2

import carpool
from carpool.settings import Ports

from .servers import Server

CHAT = "/v1/chat/completions"
QUICK = carpool.Timing(linger=0.1, poll_min=0.1, poll_max=0.5, lookup=3.0)
SELDOM = carpool.Timing(linger=0.1, poll_min=2.0, poll_max=2.0)
OUTCOME = "x-aimock-batch-outcome"
DISCONNECT = "x-aimock-chaos-disconnect"
MALFORMED = "x-aimock-chaos-malformed"


class Flow(NamedTuple):
    """Name a flow, its traps in the list of what goes wrong, and the servers that can show it."""

    name: str
    run: Callable[[Server], Awaitable[str]]
    servers: tuple[str, ...] = ("ogx", "aimock")


class Interrupted(Exception):
    """Leave a pool by an exception."""


class Odd(httpx2.AsyncHTTPTransport):
    """Add headers to each creation, or lose the reply to the first; `headers` are taken from the front."""

    def __init__(self, *headers: dict[str, str], everywhere: dict[str, str] | None = None, lose: bool = False) -> None:
        super().__init__()
        self._headers = list(headers)
        self._everywhere = everywhere or {}
        self._lose = lose

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass a request on."""
        creates = request.method == "POST" and request.url.path.endswith("/batches")
        request.headers.update(self._everywhere)
        if creates and self._headers:
            request.headers.update(self._headers.pop(0))
        response = await super().handle_async_request(request)
        if creates and self._lose:
            self._lose = False
            await response.aclose()
            raise httpx2.ReadError("the reply was lost")
        return response


def body(server: Server, text: str, model: int = 0) -> dict[str, Any]:
    """Make a chat body."""
    return {"model": server.models[model], "messages": [{"role": "user", "content": text}]}


@asynccontextmanager
async def pool(server: Server, **settings: Any) -> AsyncIterator[carpool.Pool]:
    """Open a pool on a server."""
    settings = {"timing": QUICK, "progress": False, **settings}
    async with carpool.Pool("any", server.url, **settings) as opened:
        yield opened


async def ask(opened: carpool.Pool, bodies: list[dict[str, Any]]) -> list[carpool.Response | BaseException]:
    """Give the answers, or what came in their stead."""
    with anyio.fail_after(90):
        return [*await opened.gather(bodies, endpoint=CHAT, return_exceptions=True)]


def texts(server: Server, got: list[carpool.Response | BaseException], number: int) -> str:
    """Make sure that each caller has its answer: the own one, where the server repeats what it is told."""
    failed = [answer for answer in got if not isinstance(answer, carpool.Response)]
    assert not failed, failed[0]
    assert len(got) == number
    told = [answer.text for answer in got if isinstance(answer, carpool.Response)]
    own = told == [f"text {n}" for n in range(number)]
    assert own or set(told) == {"Mock batch completion"}, told[:3]
    return f"{number} answers" + (", each to its caller" if own else ", all the same")


async def new_batches(server: Server, before: set[str]) -> list[dict[str, Any]]:
    """Give the batches that were not there before."""
    batches = await anyio.to_thread.run_sync(server.batches)
    return [batch for batch in batches if batch["id"] not in before]


async def known(server: Server) -> set[str]:
    """Name the batches that are there."""
    return {batch["id"] for batch in await anyio.to_thread.run_sync(server.batches)}


# --- the flows


async def one_batch(server: Server) -> str:
    """Upload, create, check, collect, delete."""
    before = await known(server)
    async with pool(server) as opened:
        seen = texts(server, await ask(opened, [body(server, f"text {n}") for n in range(20)]), 20)
    batches = await new_batches(server, before)
    assert len(batches) == 1, batches
    assert not await anyio.to_thread.run_sync(server.files)
    counts = batches[0]["request_counts"]
    empty = [name for name in ("output_file_id", "error_file_id") if name not in batches[0]]
    return f"{seen}; counts {counts}; no file left" + (f"; {', '.join(empty)} left out" if empty else "")


async def several_batches(server: Server) -> str:
    """Have several batches under way at once, which are asked for together."""
    async with pool(server) as opened:
        bodies = [body(server, f"text {n}", n % 3) for n in range(30)]
        return texts(server, await ask(opened, bodies), 30) + ", from three batches at once"


async def a_row_fails(server: Server) -> str:
    """Let one row be refused while it runs; traps 6 and 24."""
    async with pool(server) as opened:
        got = await ask(opened, [body(server, text) for text in ("text 0", "refuse", "text 1")])
    assert isinstance(got[1], carpool.RequestFailed), got[1]
    texts(server, [got[0], got[2]], 2)
    return f"{type(got[1]).__name__}: {got[1].message} (code {got[1].code}, {len(got[1].attempts)} attempts)"


async def a_line_is_condemned(server: Server) -> str:
    """Let the validation name one line; trap 4."""
    async with pool(server) as opened:
        bad = {"model": server.models[0], "messages": "not a list"}
        got = await ask(opened, [body(server, "text 0"), bad, body(server, "text 1")])
    assert isinstance(got[1], carpool.RequestRejected), got[1]
    texts(server, [got[0], got[2]], 2)
    return f"RequestRejected: {got[1].message} (code {got[1].code}); the others answered"


async def an_unknown_model(server: Server) -> str:
    """Let every line be condemned."""
    async with pool(server) as opened:
        got = await ask(opened, [{**body(server, "text"), "model": "no-such-model"}] * 3)
    assert all(isinstance(error, carpool.RequestRejected) for error in got), got
    return f"3 x {got[0]!r}"


async def a_creation_is_refused(server: Server) -> str:
    """Let a creation be a 400, and go on with the same connections; trap 17."""
    async with pool(server) as opened:
        with anyio.fail_after(60):
            try:
                await opened.request("/v1/responses", {"model": server.models[0], "input": "text"})
            except carpool.RequestFailed as exc:
                seen = f"{type(exc).__name__}: {exc.message}"
            else:
                raise AssertionError("not refused")
        return f"{seen[:90]}; then {texts(server, await ask(opened, [body(server, 'text 0')]), 1)}"


async def cancelled_elsewhere(server: Server) -> str:
    """Cancel a batch by hand while callers wait: what it did not answer is sent again; traps 7 and 25."""
    before = await known(server)
    async with pool(server, timing=SELDOM) as opened, asked(opened, server, "slow", 40) as got:
        batch = await running(server, before)
        await anyio.to_thread.run_sync(server.ask, "POST", f"/batches/{batch['id']}/cancel")
    kinds = {type(each).__name__ for each in got}
    assert kinds == {"Response"}, kinds
    batches = await new_batches(server, before)
    assert {batch["status"] for batch in batches} == {"cancelled", "completed"}, batches
    return f"{len(got)} answers, from {len(batches)} batches"


async def left_by_an_exception(server: Server) -> str:
    """Leave without a journal: the batch is cancelled, and the upload goes."""
    before = await known(server)
    await interrupted(server, before)
    with anyio.fail_after(10):
        final = await ended(server, before)
    assert final["status"] == "cancelled", final
    assert not await anyio.to_thread.run_sync(server.files)
    return "cancelled; no file left"


async def taken_up_again(server: Server) -> str:
    """Leave with a journal, and come back: nothing is submitted twice."""
    before = await known(server)
    with tempfile.TemporaryDirectory(prefix="interop-") as folder:
        await interrupted(server, before, journal=f"{folder}/journal")
        async with pool(server, journal=f"{folder}/journal") as opened:
            seen = texts(server, await ask(opened, [body(server, f"text {n}") for n in range(40)]), 40)
    batches = await new_batches(server, before)
    assert len(batches) == 1, batches
    return f"{seen}, from one batch"


async def a_reply_is_lost(server: Server) -> str:
    """Lose the reply to a creation: the batch is found by its metadata; trap 13."""
    before = await known(server)
    async with pool(server, _ports=Ports(transport=Odd(lose=True))) as opened:
        seen = texts(server, await ask(opened, [body(server, f"text {n}") for n in range(5)]), 5)
    batches = await new_batches(server, before)
    assert len(batches) == 1, batches
    return f"{seen}, from one batch, found in the listing"


async def a_batch_never_ends(server: Server) -> str:
    """Let the server die with a batch under way, which then is `in_progress` for ever; trap 15."""
    before = await known(server)
    async with pool(server, timeout=8.0) as opened, asked(opened, server, "slow", 40) as got:
        await running(server, before)
        server.process.kill()
    kinds = {type(each).__name__ for each in got}
    assert kinds == {"RequestExpired"}, kinds
    return f"{len(got)} x RequestExpired after their timeout"


def ends(outcome: str) -> Callable[[Server], Awaitable[str]]:
    """Let the first batch end so."""

    async def flow(server: Server) -> str:
        before = await known(server)
        async with pool(server, _ports=Ports(transport=Odd({OUTCOME: outcome}))) as opened:
            got = await ask(opened, [body(server, f"text {n}") for n in range(5)])
        batches = sorted(await new_batches(server, before), key=lambda batch: batch["status"] == "completed")
        first = {name: batches[0].get(name) for name in ("request_counts", "output_file_id", "error_file_id")}
        return f"{texts(server, got, 5)}, from {len(batches)} batches; the first told {first}"

    return flow


def hostile(name: str, rate: float) -> Callable[[Server], Awaitable[str]]:
    """Let a share of all requests come to grief; trap 17."""

    async def flow(server: Server) -> str:
        async with pool(server, _ports=Ports(transport=Odd(everywhere={name: f"{rate}"}))) as opened:
            seen = texts(server, await ask(opened, [body(server, f"text {n}") for n in range(40)]), 40)
        return f"{seen}, {rate:.0%} of the requests struck"

    return flow


async def ended(server: Server, before: set[str]) -> dict[str, Any]:
    """Wait until the new batch is at its end."""
    while (final := (await new_batches(server, before))[0])["status"] == "cancelling":  # noqa: ASYNC110 - polled
        await anyio.sleep(0.1)
    return final


async def running(server: Server, before: set[str]) -> dict[str, Any]:
    """Wait for a new batch; the listing tells, which makes nothing go on."""
    with anyio.fail_after(30):
        while True:
            listed = await anyio.to_thread.run_sync(server.ask, "GET", "/batches?limit=100")
            for batch in listed["data"]:
                if batch["id"] not in before and batch["status"] in ("validating", "in_progress"):
                    return dict(batch)
            await anyio.sleep(0.05)


@asynccontextmanager
async def asked(
    opened: carpool.Pool, server: Server, text: str, number: int
) -> AsyncIterator[list[carpool.Response | BaseException]]:
    """Ask for so many texts meanwhile; at the end the list is full."""
    got: list[carpool.Response | BaseException] = []

    async def wait() -> None:
        got.extend(await ask(opened, [body(server, f"{text} {n}") for n in range(number)]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        yield got


async def interrupted(server: Server, before: set[str], **settings: Any) -> None:
    """Leave a pool by an exception as soon as its batch runs."""
    with suppress(Interrupted):
        async with pool(server, timing=SELDOM, **settings) as opened:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_ask_in_vain, opened, [body(server, f"text {n}") for n in range(40)])
                await running(server, before)
                tasks.cancel_scope.cancel()
            raise Interrupted


async def _ask_in_vain(opened: carpool.Pool, bodies: list[dict[str, Any]]) -> None:
    with suppress(carpool.CarpoolError):
        await opened.gather(bodies, endpoint=CHAT)


FLOWS = (
    Flow("one batch, from upload to deletion", one_batch),
    Flow("three batches at once", several_batches),
    Flow("a row fails (6, 24)", a_row_fails, ("ogx",)),
    Flow("the validation names a line (4)", a_line_is_condemned, ("ogx",)),
    Flow("a model that is not there", an_unknown_model, ("ogx",)),
    Flow("a creation is refused (17)", a_creation_is_refused, ("ogx",)),
    Flow("cancelled by hand (7, 25)", cancelled_elsewhere),
    Flow("left by an exception", left_by_an_exception),
    Flow("left, and taken up again from the journal", taken_up_again),
    Flow("the reply to a creation is lost (13)", a_reply_is_lost),
    Flow("the first batch fails, with an error file", ends("failed"), ("aimock",)),
    Flow("the first batch expires, without a file (9)", ends("expired"), ("aimock",)),
    Flow("the batch is cancelled, without a file", ends("cancelled"), ("aimock",)),
    Flow("connections break (17)", hostile(DISCONNECT, 0.15), ("aimock",)),
    Flow("replies that are not JSON", hostile(MALFORMED, 0.15), ("aimock",)),
    Flow("the server dies with the batch (15)", a_batch_never_ends, ("ogx", "aimock")),
)

"""Webhooks and the whole pool on virtual time: how soon answers come, what is asked for, and what changes nothing."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx2
import pytest
from virtual import CHAT, Site, World, body, run_here, site
from webhooks_kit import SECRET, Post, delivery, signed

import carpool
from carpool.settings import Ports
from carpool.testing import Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "no_certificates")]

HOUR = Pace(validating=30, running=3_600, finalizing=10)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture(autouse=True)
def _same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the spread of checks, which comes of the names of batches, be the same each time."""
    monkeypatch.setattr("carpool.journal.sqlite.store.token_hex", lambda _: "abcdef")


class Course(NamedTuple):
    """Say how soon after the end of its batch an answer came, and when the batch was asked for."""

    latency: float
    asked_at: list[float]


class Clocked:
    """Note when batches are asked for."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    def __call__(self, request: httpx2.Request) -> None:
        if request.method == "GET" and request.url.path.startswith("/v1/batches"):
            self.asked_at.append(time.time())


def last_end(w: World | Site) -> float:
    """Give when the last batch ended."""
    return [line.at for line in w.emulator.books().queue if line.change == "released"][-1]


async def course(w: World, clocked: Clocked, text: str) -> Course:
    """Ask for something, and see it to its end."""
    already, began = len(clocked.asked_at), time.time()
    await w.ask(text)
    latency = time.time() - last_end(w)
    return Course(latency, [at - began for at in clocked.asked_at[already:]])


async def courses(folder: Path, post: Post, count: int, *, listening: bool = True, pace: Pace = HOUR) -> list[Course]:
    """See some calls to their ends, one after the other."""
    clocked = Clocked()
    async with site(folder, before=clocked, pace=pace, **post.settings) as s, s.open() as w:
        post.app = w.pool.webhooks(SECRET) if listening else None
        found = [await course(w, clocked, f"text {number}") for number in range(count)]
    assert len(w.answers()) == count
    return found


async def test_answers_come_at_once_and_little_is_asked_for(tmp_path: Path) -> None:
    without = (await courses(tmp_path / "without", Post(), 1, listening=False))[0]
    post = Post()
    first, second = await courses(tmp_path / "with", post, 2)
    assert post.statuses == [204, 204]
    # Before the first delivery nobody knows that there will be any.
    assert first.latency < 1 < without.latency < 64
    assert 0.9 < len(first.asked_at) / len(without.asked_at) < 1.1
    # Until it is admitted as before, then every quarter of an hour; and the last.
    assert second.latency < 1
    early = [at for at in without.asked_at if at < 40]
    assert len(second.asked_at) <= len(early) + 3_600 / 900 + 2
    assert len(second.asked_at) < len(without.asked_at) / 5


async def test_deliveries_that_do_not_come_cost_a_quarter_of_an_hour_once(tmp_path: Path) -> None:
    post, clocked, pace = Post(), Clocked(), Pace(validating=10, running=1_200)
    async with site(tmp_path, before=clocked, pace=pace, **post.settings) as s, s.open() as w:
        post.app = w.pool.webhooks(SECRET)
        await w.ask("told of")
        post.app = None
        missed, after = [await course(w, clocked, text) for text in ("missed", "as without")]
        post.app = w.pool.webhooks(SECRET)
        again, last = [await course(w, clocked, text) for text in ("told of again", "and the last")]
    assert 1 < missed.latency < 950
    assert after.latency < 64
    assert len(after.asked_at) > 4 * len(last.asked_at)
    assert max(again.latency, last.latency) < 1
    assert len(last.asked_at) < len(again.asked_at) / 4


# --- what changes nothing


def noise(batch_id: str) -> Iterable[tuple[Any, bytes, bool]]:
    """Give deliveries that are of no concern, and whether they are believed."""
    ours = delivery(batch_id)
    yield signed(delivery("batch_of_others")), delivery("batch_of_others"), True
    yield signed(ours, secret="whsec_" + "AAAA" * 8), ours, False
    yield signed(ours, at=time.time() - 400), ours, False
    yield signed(ours, at=time.time() + 400), ours, False
    yield {}, ours, False
    yield signed(delivery("x")), ours, False
    told_of = delivery(batch_id, "response.completed"), b"", b"[" * 9_000, b"\xff", b'{"type":"batch.completed"}'
    for told in told_of:
        yield signed(told), told, True


async def asked_with(folder: Path, *, noisy: bool) -> list[float]:
    """Run a batch, with or without deliveries that are of no concern; gives when anything was asked for."""
    asked: list[float] = []

    def before(request: httpx2.Request) -> None:
        asked.append(round(anyio.current_time() - began, 3))

    began = anyio.current_time()
    async with site(folder, before=before, pace=Pace(running=600)) as s:
        pool = s.pool()
        endpoint = pool.webhooks([SECRET])
        async with pool, anyio.create_task_group() as tasks:
            w = World(pool, s.emulator, s.transport)
            tasks.start_soon(w.ask, "text")
            await anyio.sleep(100)
            (batch,) = s.emulator.books().batches
            for headers, told, believed in noise(batch.id) if noisy else ():
                assert endpoint.handle(headers, told) is believed
    assert w.answers() == {"text": "text"}
    return asked


async def test_what_is_of_no_concern_changes_nothing(tmp_path: Path) -> None:
    quiet = await asked_with(tmp_path / "quiet", noisy=False)
    assert await asked_with(tmp_path / "noisy", noisy=True) == pytest.approx(quiet)


async def test_a_flood_of_one_delivery_has_the_batch_asked_for_a_few_times(tmp_path: Path) -> None:
    clocked = Clocked()
    async with site(tmp_path, before=clocked, pace=HOUR) as s, s.open() as w, anyio.create_task_group() as tasks:
        endpoint = w.pool.webhooks(SECRET)
        tasks.start_soon(w.ask, "text")
        await anyio.sleep(1_800)
        (batch,) = s.emulator.books().batches
        told = delivery(batch.id)
        before = len(clocked.asked_at)
        for _ in range(1_000):
            assert endpoint.handle(signed(told), told)
            await anyio.sleep(0.01)
        assert len(clocked.asked_at) - before <= 10 / 2 + 2


# --- races, and several processes


class LateReplies(httpx2.AsyncBaseTransport):
    """Let replies to creations come half a minute later."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await self._inner.handle_async_request(request)
        if (request.method, request.url.path) == ("POST", "/v1/batches"):
            await anyio.sleep(30)
        return reply


@pytest.mark.parametrize("journal", [True, False])
async def test_a_delivery_before_the_reply_to_the_creation_is_not_lost(tmp_path: Path, journal: bool) -> None:
    post = Post()
    async with site(tmp_path, pace=Pace(running=5), **post.settings) as s:
        pool = carpool.Pool(
            "sk-key",
            "http://emulator/v1",
            journal=s.folder if journal else None,
            timing=carpool.Timing(poll_min=20),
            progress=False,
            _ports=Ports(run_sync=run_here, transport=LateReplies(s.transport)),
        )
        post.app = pool.webhooks(SECRET)
        async with pool:
            began = time.time()
            assert (await pool.request(CHAT, body("text"))).text == "text"
            assert time.time() - began < 1 + 30 + 1 + 1  # linger, the reply, and hardly more


async def test_a_delivery_reaches_the_process_whose_batch_it_is(tmp_path: Path) -> None:
    post = Post()
    async with site(tmp_path, pace=HOUR, **post.settings) as s, s.open() as one, s.open() as other:
        post.app = one.pool.webhooks(SECRET)
        other.pool.webhooks(SECRET)  # as in the same program, though its endpoint is called by nobody
        for text in ("first", "second"):
            await other.ask(text)
            assert time.time() - last_end(s) < 3
    assert post.statuses == [204, 204]
    assert len(other.answers()) == 2


async def test_of_a_folder_what_belongs_to_nobody_is_not_kept(tmp_path: Path) -> None:
    async with site(tmp_path, pace=HOUR) as s, s.open() as w:
        endpoint = w.pool.webhooks(SECRET)
        told = delivery("batch_of_others")
        assert endpoint.handle(signed(told), told)
        await anyio.sleep(1)
        assert not s.holds(b"batch_of_others")


async def test_a_pool_takes_deliveries_while_it_is_open(tmp_path: Path) -> None:
    told = delivery("batch_1")
    async with site(tmp_path) as s:
        pool = s.pool()
        endpoint = pool.webhooks(SECRET)
        assert not endpoint.handle({}, told)
        with pytest.raises(carpool.PoolClosed):
            endpoint.handle(signed(told), told)
        async with pool:
            assert endpoint.handle(signed(told), told)
            await pool.request(CHAT, body())
        with pytest.raises(carpool.PoolClosed):
            endpoint.handle(signed(told), told)

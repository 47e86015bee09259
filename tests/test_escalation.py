"""Calls whose timeouts come near are sent live, each once: whole pools on virtual time, on both backends."""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import msgspec
import pytest
from virtual import CHAT, EMBEDDINGS, InMemory, Interrupted, Samples, Site, World, body, site, world

import carpool
from carpool.engine.events import Escalated
from carpool.journal.sqlite import Sqlite
from carpool.testing import Answer, Emulator, Faults, Pace, Troubles, echo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

RESPONSES = "/v1/responses"
SLOW = Pace(validating=5, running=600, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)
LIVE: dict[str, Any] = {"timeout": 100, "escalate": "live"}
NEAR = 75.0  # seconds after which a call that may take a hundred is sent live
WAITS: dict[str, Any] = {**LIVE, "timing": PATIENT}  # its calls are in no batch when they are sent live

Tamper = Callable[[httpx2.Request], Awaitable[httpx2.Response | None]]


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


class Tampering(InMemory):
    """Let `tamper` answer a request in the emulator's place, or look at it, or raise; keeps when live calls came."""

    def __init__(self, app: Any, tamper: Tamper) -> None:
        super().__init__(app)
        self._tamper = tamper
        self.live_at: list[float] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if is_live(request):
            self.live_at.append(anyio.current_time())
        return await self._tamper(request) or await super().handle_async_request(request)


def is_live(request: httpx2.Request) -> bool:
    return request.method == "POST" and request.url.path in (CHAT, RESPONSES, EMBEDDINGS)


@asynccontextmanager
async def tampered(tamper: Tamper, *, pool: dict[str, Any], **emulator: Any) -> AsyncIterator[World]:
    """Open an emulator, and a pool whose requests are tampered with."""
    async with Emulator(**emulator).inline() as served:
        transport = Tampering(served.app, tamper)
        opened = World(carpool.Pool("sk", "http://emulator/v1"), served, transport)
        async with carpool.Pool("sk", "http://emulator/v1", _ports=opened.ports, **pool) as opened.pool:
            yield opened


def to_live_calls(*replies: httpx2.Response | Exception | None) -> Tamper:
    """Answer live calls by these, one after another, the last of them for ever; None is the emulator's answer."""
    left = list(replies)

    async def tamper(request: httpx2.Request) -> httpx2.Response | None:
        if not is_live(request):
            return None
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply and httpx2.Response(reply.status_code, headers=reply.headers, content=reply.content)

    return tamper


def refusal(status: int, message: str = "no", code: str = "bad", **headers: str) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=names, json={"error": {"message": message, "code": code}})


class Model:
    """Take `seconds` over an answer, and count how many are under way."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.under_way = self.most = 0

    async def __call__(self, endpoint: str, given: dict[str, Any]) -> bytes:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await anyio.sleep(self.seconds)
            return echo(endpoint, given)
        finally:
            self.under_way -= 1


def live(w: World | Site) -> int:
    """Give how many live calls were run, none of them for a body that had one before."""
    counts = w.emulator.books().live_bodies
    assert max(counts.values(), default=1) == 1, counts
    return counts.total()


def sent(w: World) -> int:
    """Give how many live calls were tried."""
    assert isinstance(w.transport, Tampering)
    return len(w.transport.live_at)


async def took(call: Awaitable[Any]) -> float:
    start = anyio.current_time()
    await call
    return anyio.current_time() - start


# --- where a call waits


async def test_a_call_that_lingers_is_sent_live_and_never_in_a_batch() -> None:
    async with world(pool=WAITS) as w:
        assert await took(w.ask("text")) == pytest.approx(NEAR, abs=1e-3)
        response = w.settled["text"]
        assert isinstance(response, carpool.Response)
        assert (response.text, response.batch_id, response.status_code) == ("text", "", 200)
        assert response.custom_id
        (lane,) = w.pool.stats().lanes
        assert (lane.waiting, lane.submitted, lane.batches) == (0, 0, 0)
        await w.pool.flush()
        await anyio.sleep(100)
    assert live(w) == 1
    assert not w.emulator.books().uploads


async def test_without_escalate_nothing_is_sent_live() -> None:
    async with world(pool={"timeout": 100, "timing": PATIENT}) as w:
        assert await took(w.ask("text")) == pytest.approx(100, abs=1e-3)
    assert isinstance(w.settled["text"], carpool.RequestExpired)
    assert w.emulator.books().live == 0


async def test_a_call_without_a_timeout_is_never_sent_live() -> None:
    async with world(pool={"escalate": "live"}, pace=Pace(running=80_000)) as w:
        await w.ask("text")
    assert w.answers() == {"text": "text"}
    assert w.emulator.books().live == 0


async def test_calls_that_wait_for_room_leave_the_queue_and_those_that_were_submitted_ride_on() -> None:
    """Two run, two are uploaded and stand in line, the others wait."""
    settings = {**LIVE, "limits": {"*": 20}, "counter": lambda *_: 10}
    async with world(pool=settings, pace=SLOW) as w:
        await w.ask_all(texts(6))
        assert anyio.current_time() < 80
        assert len(w.answers()) == 6
        await anyio.sleep(2_000)
        assert [lane.waiting + lane.submitted for lane in w.pool.stats().lanes] == [0]
    books = w.emulator.books()
    assert live(w) == 6
    assert len(books.batches) == 1
    assert books.bodies.total() <= 2


async def test_a_row_that_leaves_a_batch_in_line_does_not_take_the_others_along() -> None:
    settings = {"escalate": "live", "limits": {"*": 20}, "counter": lambda *_: 10}
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        for text in texts(3):
            tasks.start_soon(w.ask, text)
        with carpool.options(timeout=100):
            tasks.start_soon(w.ask, "hurried")
    assert len(w.answers()) == 4
    books = w.emulator.books()
    assert live(w) == 1
    assert books.times(body("hurried")) == 0
    assert set(books.bodies.values()) == {1}
    assert books.files == ()


async def test_a_call_whose_batch_is_being_uploaded_is_answered_live() -> None:
    async def slowly(request: httpx2.Request) -> None:
        if request.url.path == "/v1/files":
            await anyio.sleep(200)

    async with tampered(slowly, pool=LIVE, pace=SLOW) as w:
        assert await took(w.ask("text")) == pytest.approx(NEAR, abs=1e-3)
        await anyio.sleep(2_000)
    assert w.answers() == {"text": "text"}
    assert live(w) == 1
    assert w.emulator.books().times(body("text")) <= 1


async def test_a_call_whose_creation_is_being_looked_for_is_answered_live() -> None:
    faults = Faults(lost_create=1.0, nth={1})
    pool = {**LIVE, "timing": carpool.Timing(lookup=90)}
    async with world(pool=pool, pace=SLOW, listing_lag=300, faults=faults) as w:
        assert await took(w.ask("text")) == pytest.approx(NEAR, abs=1e-3)
    assert live(w) == 1


@pytest.mark.parametrize(("running", "at", "of_a_batch", "calls"), [(60, 70, True, 0), (300, 75, False, 1)])
async def test_whoever_is_faster_answers(running: float, at: float, of_a_batch: bool, calls: int) -> None:
    async with world(pool=LIVE, pace=Pace(running=running)) as w:
        assert await took(w.ask("text")) == pytest.approx(at, abs=10)
        response = w.settled["text"]
        assert isinstance(response, carpool.Response)
        assert bool(response.batch_id) == of_a_batch
        await anyio.sleep(1_000)
        stats = w.pool.stats()
        assert (stats.accepted, stats.answered, stats.failed) == (1, 1, 0)
    assert live(w) == calls
    assert w.emulator.books().times(body("text")) <= 1


async def test_the_answer_of_the_batch_wins_while_the_live_call_is_under_way() -> None:
    async def slowly(request: httpx2.Request) -> None:
        if is_live(request):
            await anyio.sleep(20)

    async with tampered(slowly, pool=LIVE, pace=Pace(running=77)) as w:
        await w.ask("text")
        response = w.settled["text"]
        assert isinstance(response, carpool.Response)
        assert response.batch_id
        assert anyio.current_time() < 95
        await anyio.sleep(100)
        stats = w.pool.stats()
        assert (stats.accepted, stats.answered, stats.failed) == (1, 1, 0)
    assert live(w) == 1


async def test_a_row_that_was_answered_live_is_not_sent_again_when_its_batch_breaks_off() -> None:
    async with world(pool={"escalate": "live"}, pace=SLOW, troubles=Troubles(cancelled=1.0)) as w:
        async with anyio.create_task_group() as tasks:
            with carpool.options(timeout=100):
                tasks.start_soon(w.ask_all, texts(4))
            await anyio.sleep(3_000)
        stats = w.pool.stats()
        assert (stats.answered, stats.failed) == (4, 0)
    books = w.emulator.books()
    assert len(w.answers()) == live(w) == 4
    assert len(books.batches) == 1


@pytest.mark.parametrize(
    ("tier", "timeout", "near"),
    [("live", 4, 3), ("live", 100, 75), ("live", 10_000, 9_880), ("flex", 100, 50), ("flex", 10_000, 9_100)],
)
async def test_the_longer_the_timeout_the_longer_a_call_waits_for_its_batch(
    tier: str, timeout: float, near: float
) -> None:
    timing = carpool.Timing(linger=20_000, max_linger=20_000)
    async with world(pool={"timeout": timeout, "escalate": tier, "timing": timing}) as w:
        assert await took(w.ask("text")) == pytest.approx(near, abs=1e-3)
    assert live(w) == 1


async def test_each_call_has_a_time_of_its_own() -> None:
    async with world(pool={"escalate": "live"}, pace=Pace(running=800)) as w:
        ended: dict[int, float] = {}

        async def ask(timeout: int | None) -> None:
            response = await w.pool.request(carpool.Request(CHAT, body(f"{timeout}"), timeout=timeout))
            ended[timeout or 0] = anyio.current_time() if not response.batch_id else 0

        async with anyio.create_task_group() as tasks:
            for timeout in (None, 400, 40, 80, 200, None):
                tasks.start_soon(ask, timeout)
    assert ended == pytest.approx({0: 0, 40: 30, 80: 60, 200: 150, 400: 300}, abs=1e-3)
    assert live(w) == 4


# --- what becomes of a live call


LOST = httpx2.ReadError("connection reset")


async def test_one_that_is_refused_fails_for_its_caller_where_it_is_in_no_batch() -> None:
    async with tampered(to_live_calls(refusal(400, "Too long.", "context_length_exceeded")), pool=WAITS) as w:
        await w.ask("text")
        assert w.pool.stats().failed == 1
    error = w.errors()["text"]
    assert isinstance(error, carpool.RequestRejected)
    assert (error.status_code, error.code, error.message) == (400, "context_length_exceeded", "Too long.")
    assert error.batch_id is None
    assert sent(w) == 1
    assert w.transport.requests == []


@pytest.mark.parametrize("reply", [LOST, httpx2.ReadTimeout("slow"), refusal(500), refusal(503), refusal(408)])
async def test_one_that_came_to_nothing_is_not_repeated_where_it_is_in_no_batch(reply: Any) -> None:
    async with tampered(to_live_calls(reply), pool=WAITS) as w:
        await w.ask("text")
        await anyio.sleep(1_000)
    assert isinstance(w.errors()["text"], carpool.RequestExpired)
    assert sent(w) == 1
    assert w.transport.requests == []


@pytest.mark.parametrize("reply", [LOST, refusal(400), refusal(500), refusal(503)])
async def test_one_that_came_to_nothing_leaves_its_caller_to_its_batch(reply: Any) -> None:
    async with tampered(to_live_calls(reply), pool=LIVE, pace=Pace(running=85)) as w:
        await w.ask("text")
        assert w.pool.stats().failed == 0
    response = w.settled["text"]
    assert isinstance(response, carpool.Response)
    assert response.batch_id
    assert sent(w) == 1


async def test_one_that_came_to_nothing_leaves_its_caller_to_its_deadline() -> None:
    async with tampered(to_live_calls(LOST), pool=LIVE, pace=SLOW) as w:
        assert await took(w.ask("text")) == pytest.approx(100, abs=1e-3)
    assert isinstance(w.errors()["text"], carpool.RequestExpired)
    assert sent(w) == 1


async def test_a_call_that_was_sent_live_in_vain_is_not_sent_again_when_its_batch_breaks_off() -> None:
    async with tampered(to_live_calls(LOST), pool=LIVE, pace=Pace(running=170), troubles=Troubles(cancelled=1.0)) as w:
        await w.ask_all(["one", "two"])  # of which the batch runs one
        await anyio.sleep(3_000)
    assert [type(error) for error in w.errors().values()] == [carpool.RequestExpired]
    assert len(w.answers()) == len(w.emulator.books().batches) == 1
    assert sent(w) == 2


async def test_a_connection_that_was_never_made_is_tried_again() -> None:
    async with tampered(to_live_calls(*[httpx2.ConnectError("refused")] * 3, None), pool=WAITS) as w:
        await w.ask("text")
    assert w.answers() == {"text": "text"}
    assert live(w) == 1


async def test_a_key_that_is_refused_says_so() -> None:
    async with tampered(to_live_calls(refusal(401, "wrong key")), pool=WAITS) as w:
        await w.ask("text")
    assert isinstance(w.errors()["text"], carpool.AuthenticationFailed)


async def test_an_account_without_money_is_not_asked_again_and_again() -> None:
    poor = [refusal(429, "No money.", "insufficient_quota")] * 20
    async with tampered(to_live_calls(*poor, None), pool=WAITS) as w:
        await w.ask("text")
        assert sent(w) == 1
    assert isinstance(w.errors()["text"], carpool.BudgetExceeded)


@pytest.mark.parametrize("header", [{"retry_after": "5"}, {"retry_after_ms": "5000"}])
async def test_a_refusal_for_now_is_heeded_and_asked_again(header: dict[str, str]) -> None:
    async with tampered(to_live_calls(*[refusal(429, **header)] * 3, None), pool=WAITS) as w:
        assert await took(w.ask("text")) == pytest.approx(NEAR + 15, abs=0.1)
    assert w.answers() == {"text": "text"}
    assert live(w) == 1


async def test_refusals_for_now_without_a_word_are_asked_again() -> None:
    async with tampered(to_live_calls(*[refusal(429)] * 4, None), pool={**WAITS, "timeout": 400}) as w:
        await w.ask("text")
    assert w.answers() == {"text": "text"}
    assert live(w) == 1


@pytest.mark.parametrize("pause", ["7", "60", "300"])
async def test_a_refusal_that_lasts_ends_with_the_deadline_and_is_not_asked_after_it(pause: str) -> None:
    async with tampered(to_live_calls(refusal(429, retry_after=pause)), pool=WAITS) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(5))
            await anyio.sleep(3_000)
        assert isinstance(w.transport, Tampering)
        assert max(w.transport.live_at) <= 100
        start = anyio.current_time()
    assert anyio.current_time() - start < 1
    assert {type(error) for error in w.errors().values()} == {carpool.RequestExpired}
    assert len(w.errors()) == 5


async def test_a_pause_that_one_reply_asks_for_is_kept_by_all() -> None:
    async with tampered(to_live_calls(refusal(429, retry_after="10"), None), pool=WAITS) as w:
        await w.ask_all(texts(60))
        assert isinstance(w.transport, Tampering)
        first = w.transport.live_at[0]
        assert sum(first < at < first + 10 - 1e-3 for at in w.transport.live_at) == 0
    assert len(w.answers()) == live(w) == 60


async def test_the_rate_that_the_server_tells_of_is_kept() -> None:
    async with world(pool={**WAITS, "timeout": 1_000, "timing": PATIENT}, live_per_minute=10) as w:
        assert await took(w.ask_all(texts(20))) == pytest.approx(940, abs=1)
    books = w.emulator.books()
    assert len(w.answers()) == live(w) == 20
    assert books.live - 20 <= 20  # what was under way when the first was refused


async def test_what_remains_of_requests_or_tokens_is_heeded_before_a_refusal_comes() -> None:
    told = httpx2.Response(
        200,
        headers={"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6s"},
        content=echo(CHAT, body("text")),
    )
    async with tampered(to_live_calls(told), pool=WAITS) as w:
        await w.ask("first")
        start = anyio.current_time()
        with carpool.options(timeout=4):
            await w.ask("second")
        assert anyio.current_time() - start == pytest.approx(4, abs=1e-3)
    assert isinstance(w.errors()["second"], carpool.RequestExpired)
    assert sent(w) == 1


@pytest.mark.parametrize("way", ["live", "escalated"])
async def test_those_that_rest_keep_back_nobody_of_another_model(way: str) -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        return Answer(429) if given["model"] == "gpt-5-mini" else echo(endpoint, given)

    async with world(pool={"escalate": "flex"}, pace=SLOW, answer=answer) as w, anyio.create_task_group() as tasks:

        async def ask(text: str) -> None:
            with suppress(carpool.CarpoolError):
                await w.pool.request(carpool.Request(CHAT, body(text), timeout=400))

        for text in texts(25):
            tasks.start_soon(ask, text)
        await anyio.sleep(210)
        begin = anyio.current_time()
        other = {**body("other"), "model": "gpt-5"}
        if way == "live":
            with carpool.options(live=True):
                await w.pool.request(CHAT, other)
        else:
            await w.pool.request(carpool.Request(CHAT, other, timeout=20))
        assert anyio.current_time() - begin <= 15


async def test_answers_that_came_live_on_other_days_lie_in_other_files(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as s, s.open(escalate="live", timeout=100) as w:
        for day in range(3):
            await w.ask(f"day {day}")
            await w.ask(f"day {day} again")
            await anyio.sleep(86_400)
        files = s.files("download-*")
        assert len(files) == 3
        assert [s.holds(b"day 0 again"), len(w.answers())] == [True, 6]


@pytest.mark.parametrize("seconds", [30, 3_000])
async def test_a_live_call_that_is_too_slow_leaves_its_caller_to_its_deadline(seconds: float) -> None:
    async with world(pool=WAITS, answer=Model(seconds)) as w:
        assert await took(w.ask("text")) == pytest.approx(100, abs=1e-3)
    assert isinstance(w.errors()["text"], carpool.RequestExpired)
    assert live(w) == 1


async def test_a_fault_of_our_own_fails_the_calls_concerned_alone() -> None:
    broken = to_live_calls(RuntimeError("a bug"))
    async with tampered(broken, pool={"escalate": "live"}, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "patient")
        with carpool.options(timeout=100):
            tasks.start_soon(w.ask, "hurried")
    assert w.answers() == {"patient": "patient"}
    assert isinstance(w.errors()["hurried"], carpool.RequestFailed)


async def test_a_full_disk_fails_the_calls_concerned_alone() -> None:
    full = False

    async def run_sync(func: Any, /, *args: object) -> Any:
        await anyio.lowlevel.checkpoint()
        if full:
            raise OSError(28, "No space left on device")
        return func(*args)

    async with world(pace=SLOW) as outer:
        ports = outer.ports._replace(run_sync=run_sync)
        async with carpool.Pool("sk", "http://emulator/v1", _ports=ports, escalate="live") as pool:
            w = World(pool, outer.emulator, outer.transport)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask, "patient")
                await anyio.sleep(20)
                full = True
                with carpool.options(timeout=0.5):
                    await w.ask("hurried")
                await anyio.sleep(20)
                full = False
    assert w.answers() == {"patient": "patient"}
    assert isinstance(w.errors()["hurried"], carpool.JournalError)


# --- callers that go


async def test_a_caller_that_goes_while_its_call_waits_its_turn_costs_nothing() -> None:
    async with world(pool={**WAITS, "timeout": 400}, answer=Model(50)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(20))
        await anyio.sleep(1)
        with anyio.move_on_after(310):
            await w.ask("gone")
        await anyio.sleep(300)
        assert len(w.answers()) == live(w) == 20
    assert w.pool.stats().accepted == 21


async def test_a_caller_that_goes_while_its_call_is_under_way_harms_nobody() -> None:
    async with world(pool=WAITS, answer=Model(20)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "stays")
        with anyio.move_on_after(80):
            await w.ask("goes")
        await anyio.sleep(100)
        stats = w.pool.stats()
        assert (stats.accepted, stats.answered, stats.failed) == (2, 2, 0)
    assert w.answers() == {"stays": "stays"}
    assert live(w) == 2


async def test_calls_whose_deadlines_pass_while_they_wait_their_turn_are_not_sent() -> None:
    async with world(pool=WAITS, answer=Model(40)) as w:
        assert await took(w.ask_all(texts(60))) == pytest.approx(100, abs=1e-3)
        await anyio.sleep(500)
        (lane,) = w.pool.stats().lanes
        assert (lane.waiting, lane.submitted) == (0, 0)
    assert len(w.errors()) == 60
    assert live(w) == 20


async def test_calls_in_a_batch_whose_deadlines_pass_while_they_wait_their_turn_are_not_sent() -> None:
    async with world(pool=LIVE, pace=SLOW, answer=Model(40)) as w:
        await w.ask_all(texts(60))
        await anyio.sleep(2_000)
    assert live(w) == 20


# --- tiers and bodies


@pytest.mark.parametrize(
    ("endpoint", "given"),
    [
        (CHAT, body("one", temperature=0.1, stop=["\u2028", "ü"], seed=2**60)),
        (CHAT, body("two", service_tier="priority")),
        (RESPONSES, {"model": "m", "input": "three", "metadata": {"a": "b"}, "service_tier": None}),
    ],
)
async def test_flex_sets_the_service_tier_and_nothing_else(endpoint: str, given: dict[str, Any]) -> None:
    sent: list[dict[str, Any]] = []

    def answer(asked: str, seen: dict[str, Any]) -> bytes:
        sent.append(dict(seen))
        return echo(asked, seen)

    async with world(pool={**WAITS, "escalate": "flex"}, answer=answer) as w:
        assert await took(w.pool.request(endpoint, given)) == pytest.approx(50, abs=1e-3)
    assert sent == [{**given, "service_tier": "flex"}]
    assert w.emulator.books().live_tiers == {"flex": 1}


async def test_live_sends_the_body_as_it_is() -> None:
    sent: list[bytes] = []

    async def look(request: httpx2.Request) -> None:
        if is_live(request):
            sent.append(await request.aread())

    given = b'{"model":"m","messages":[{"role":"user","content":"1"}],"service_tier":"priority","seed":1.50}'
    async with tampered(look, pool=WAITS) as w:
        await w.pool.request(CHAT, given)
    assert sent == [given]
    assert w.emulator.books().live_tiers == {"priority": 1}


@pytest.mark.parametrize(("tier", "calls"), [("live", 1), ("flex", 0)])
async def test_embeddings_have_no_flex_tier(tier: str, calls: int) -> None:
    async with world(pool={**WAITS, "escalate": tier}) as w:
        (outcome,) = await w.pool.gather([{"model": "m", "input": "x"}], endpoint=EMBEDDINGS, return_exceptions=True)
    assert isinstance(outcome, carpool.Response if calls else carpool.RequestExpired)
    assert w.emulator.books().live == calls


async def test_flex_that_has_no_resources_leaves_the_caller_to_its_batch() -> None:
    unavailable = refusal(429, "Resource Unavailable", "resource_unavailable")
    async with tampered(
        to_live_calls(unavailable), pool={"timeout": 200, "escalate": "flex"}, pace=Pace(running=150)
    ) as w:
        await w.ask("text")
    response = w.settled["text"]
    assert isinstance(response, carpool.Response)
    assert response.batch_id


# --- many at once


@pytest.mark.parametrize("settings", [WAITS, LIVE], ids=["waiting", "in a batch"])
async def test_of_many_that_are_sent_at_once_twenty_are_under_way_at_a_time(settings: dict[str, Any]) -> None:
    count, model = 600, Model(0.2)
    async with world(pool=settings, pace=Pace(validating=900), answer=model) as w:
        outcomes = await w.pool.gather([body(text) for text in texts(count)], endpoint=CHAT)
        assert [response.text for response in outcomes] == texts(count)
        assert {response.batch_id for response in outcomes} == {""}
        assert model.most == 20
        assert anyio.current_time() == pytest.approx(NEAR + 0.2 * count / 20, abs=1)
    assert live(w) == count


async def test_live_calls_in_several_lanes_are_bounded_together() -> None:
    model = Model(1)
    async with world(pool=WAITS, answer=model) as w:
        await w.pool.gather([body(text, model=f"m{n % 5}") for n, text in enumerate(texts(200))], endpoint=CHAT)
    assert model.most == 20
    assert live(w) == 200


async def test_batches_go_on_while_many_are_sent_live() -> None:
    async def slowly(request: httpx2.Request) -> None:
        if is_live(request):
            await anyio.sleep(100)

    pace = Pace(running=20)
    async with tampered(slowly, pool={"escalate": "live"}, pace=pace) as w, anyio.create_task_group() as tasks:
        with carpool.options(timeout=30, priority=-1):
            for text in texts(200):
                tasks.start_soon(w.ask, text)
        await anyio.sleep(29)
        assert await took(w.ask("other")) < 30


async def test_equal_prompts_are_sent_live_each_and_stay_separate_samples() -> None:
    async with world(pool=WAITS, answer=Samples()) as w:
        responses = await w.pool.gather([body("same")] * 5, endpoint=CHAT)
    assert {response.text for response in responses} == {f"same #{number}" for number in range(1, 6)}
    assert len({response.custom_id for response in responses}) == 5
    assert w.emulator.books().live_bodies.total() == 5


# --- leaving, and a pool in a thread


async def test_leaving_waits_for_live_calls_that_somebody_awaits() -> None:
    async with anyio.create_task_group() as tasks, world(pool=WAITS, answer=Model(20)) as w:
        tasks.start_soon(w.ask_all, texts(30))
        await anyio.sleep(80)
    assert len(w.answers()) == 20
    assert len(w.errors()) == 10  # whose turn came too late


async def test_what_is_submitted_by_leaving_is_still_sent_live_in_time() -> None:
    async with anyio.create_task_group() as tasks, world(pool=WAITS, pace=SLOW) as w:
        tasks.start_soon(w.ask_all, texts(5))
        await anyio.sleep(10)
    assert anyio.current_time() < 100
    assert len(w.answers()) == live(w) == 5


async def test_leaving_does_not_wait_for_live_calls_that_are_refused_for_now_and_nobody_awaits() -> None:
    async with tampered(to_live_calls(refusal(429, retry_after="500")), pool=WAITS) as w:
        await w.ask("text")
        start = anyio.current_time()
    assert anyio.current_time() - start < 10


async def test_leaving_by_an_exception_is_prompt() -> None:
    start = 0.0
    async with anyio.create_task_group() as tasks:
        with suppress(Interrupted):
            async with world(pool=LIVE, pace=SLOW, answer=Model(500)) as w:
                tasks.start_soon(w.ask_all, texts(50))
                await anyio.sleep(80)
                start = anyio.current_time()
                raise Interrupted
        assert anyio.current_time() - start <= 6
    assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
    assert len(w.errors()) == 50


async def test_cancelling_everything_leaves_live_calls_to_their_answers() -> None:
    async with world(pool=LIVE, pace=SLOW, answer=Model(15)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(10))
        await anyio.sleep(80)
        await w.pool.cancel()
    assert len(w.answers()) == live(w) == 10


class TestOnRealTime:
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    async def test_a_pool_in_a_thread_of_its_own_sends_live_too(self, no_certificates: None) -> None:
        timing = carpool.Timing(linger=20, max_linger=20)
        async with (
            Emulator() as emulator,
            carpool.Pool("sk", emulator.url, thread=True, timing=timing, timeout=3, escalate="flex") as pool,
        ):
            responses = await pool.gather([body(text) for text in texts(10)], endpoint=CHAT)
            assert [response.text for response in responses] == texts(10)
            assert pool.stats().answered == 10
        assert emulator.books().live_bodies.total() == 10
        assert not emulator.books().uploads

    async def test_a_pool_in_the_mode_emulate_sends_live_too(self, no_certificates: None) -> None:
        timing = carpool.Timing(linger=20, max_linger=20)
        async with carpool.Pool(mode="emulate", timeout=3, escalate="flex", timing=timing) as pool:
            response = await pool.request(CHAT, body("text"))
        assert (response.text, response.batch_id) == ("text", "")


# --- with a journal


async def expire(w: World, text: str) -> None:
    await w.ask(text)
    assert isinstance(w.settled.pop(text), carpool.RequestExpired)


@pytest.mark.parametrize("settings", [WAITS, LIVE], ids=["waiting", "in a batch"])
async def test_an_answer_that_came_live_is_given_again_without_paying(tmp_path: Path, settings: Any) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        given: list[Any] = []
        for _ in range(3):
            async with at.open(**settings) as w:
                given.append(await w.pool.request(CHAT, body("ünï\u2028code")))
                await anyio.sleep(2_000)
        assert given[0] == given[1] == given[2]
        assert given[0].batch_id == ""
        assert at.files("segment*") == at.files("shard*") == set()
    books = at.emulator.books()
    assert live(at) == 1
    assert books.bodies.total() <= 1
    assert books.files == ()


async def test_many_answers_that_came_live_are_told_apart(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW, answer=Samples()) as at:
        for _ in range(2):
            async with at.open(**WAITS) as w:
                responses = await w.pool.gather([body(text) for text in texts(50)], endpoint=CHAT)
                assert [response.text for response in responses] == [f"{text} #1" for text in texts(50)]
    assert live(at) == 50


async def test_an_answer_that_came_too_late_is_there_for_an_equal_call(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Model(50)) as at:
        async with at.open(**WAITS) as w:
            await expire(w, "text")
            await anyio.sleep(100)
            assert await took(w.ask("text")) == 0
        async with at.open(**WAITS) as w:
            assert await took(w.ask("text")) == 0
    assert live(at) == 1
    assert at.emulator.books().bodies.total() == 0


@pytest.mark.parametrize("settings", [WAITS, LIVE], ids=["waiting", "in a batch"])
@pytest.mark.parametrize("goes_after", [80, 99, 100])
async def test_an_equal_call_that_comes_while_a_live_call_is_under_way_takes_its_answer(
    tmp_path: Path, settings: Any, goes_after: float
) -> None:
    async with site(tmp_path, answer=Model(50), pace=SLOW) as at, at.open(**settings) as w:
        with anyio.move_on_after(goes_after):
            await w.ask("text")
        await w.ask("text")
        assert w.answers() == {"text": "text"}
        assert anyio.current_time() < 130
    assert live(at) == 1
    assert at.emulator.books().bodies.total() <= 1


async def test_an_equal_call_does_not_have_a_row_sent_live_again_that_was_in_vain(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        at.transport = Tampering(at.emulator.app, to_live_calls(LOST))
        async with at.open(**LIVE) as w:
            await expire(w, "text")
            await expire(w, "text")
            with carpool.options(timeout=600):
                assert await took(w.ask("text")) > 300
        assert w.answers() == {"text": "text"}
        assert sent(w) == 1
    assert at.emulator.books().times(body("text")) == 1


async def test_a_refusal_of_a_live_call_is_not_reused(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        at.transport = Tampering(at.emulator.app, to_live_calls(refusal(400), None))
        async with at.open(**WAITS) as w:
            await w.ask("text")
        assert isinstance(w.errors()["text"], carpool.RequestRejected)
        async with at.open(**WAITS) as w:
            await w.ask("text")
        assert w.answers() == {"text": "text"}
        assert at.files("segment*") == at.files("shard*") == set()


@pytest.mark.parametrize("after", [76, 90], ids=["before most were sent", "before the answers"])
@pytest.mark.parametrize("settings", [WAITS, LIVE], ids=["waiting", "in a batch"])
async def test_what_was_to_be_sent_live_is_never_sent_live_by_the_next_process(
    tmp_path: Path, settings: Any, after: float
) -> None:
    """Twenty live calls are under way, of the others it is recorded that they shall be."""
    async with site(tmp_path, answer=Model(18), pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted(**settings) as w:
            tasks.start_soon(w.ask_all, texts(30))
            await anyio.sleep(after)
        assert live(at) == 20
        async with at.open(**{**settings, "timeout": 3_000}) as w:
            await w.ask_all(texts(30))
        rides = settings is LIVE
        assert len(w.answers()) == 30 * rides
        assert {type(error) for error in w.errors().values()} <= {carpool.RequestExpired}
        assert live(at) == 20
        assert at.emulator.books().bodies.total() == 30 * rides
        assert at.files("segment*") == at.files("shard*") == set()


async def test_what_was_sent_live_in_vain_may_be_asked_for_anew_once_its_caller_was_told(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        at.transport = Tampering(at.emulator.app, to_live_calls(LOST, None))
        async with at.open(**WAITS) as w:
            await expire(w, "text")
            await w.ask("text")
            assert w.answers() == {"text": "text"}


async def test_what_was_refused_live_is_over_though_its_caller_went(tmp_path: Path) -> None:
    """A refusal is not billed: an equal call is another."""

    async def slowly(request: httpx2.Request) -> httpx2.Response | None:
        if is_live(request):
            await anyio.sleep(10)
        return await answer(request)

    answer = to_live_calls(refusal(400), None)
    async with site(tmp_path) as at:
        at.transport = Tampering(at.emulator.app, slowly)
        async with at.open(**WAITS) as w:
            with anyio.move_on_after(80):
                await w.ask("text")
            await anyio.sleep(20)
            await w.ask("text")
            assert w.answers() == {"text": "text"}
            assert sent(w) == 2
        assert at.files("segment*") == set()


@pytest.mark.parametrize("again", ["at once", "in the next process"])
@pytest.mark.parametrize("reply", [LOST, refusal(500)], ids=["lost", "failed"])
async def test_who_went_before_a_live_call_failed_is_told_when_asking_again(
    tmp_path: Path, reply: Any, again: str
) -> None:
    """A reply that was lost may have been billed: an equal call that nobody told of it must not be sent."""

    async def slowly(request: httpx2.Request) -> httpx2.Response | None:
        if is_live(request):
            await anyio.sleep(10)
        return await answer(request)

    answer = to_live_calls(reply)
    async with site(tmp_path) as at:
        at.transport = Tampering(at.emulator.app, slowly)
        async with at.open(**WAITS) as w:
            with anyio.move_on_after(80):
                await w.ask("text")
            await anyio.sleep(20)
            if again == "at once":
                await w.ask("text")
                assert isinstance(w.errors()["text"], carpool.RequestFailed)
        if again != "at once":
            async with at.open(**WAITS) as w:
                await w.ask("text")
                assert isinstance(w.errors()["text"], carpool.RequestFailed)
        assert sent(w) == 1
        assert at.files("segment*") == set()


@pytest.mark.parametrize("again", ["at once", "in the next process"])
@pytest.mark.parametrize("batch", ["expires", "fails"])
async def test_who_went_is_told_too_where_the_batch_fails_after_the_live_call(
    tmp_path: Path, batch: str, again: str
) -> None:
    troubles = {"expires": Troubles(expiring=1), "fails": Troubles(failed_validation=1)}
    async with site(tmp_path, pace=Pace(validating=200, running=600, window=80_000), troubles=troubles[batch]) as at:
        at.transport = Tampering(at.emulator.app, to_live_calls(LOST))
        async with at.open(retry=carpool.Retry(max_attempts=1, max_expiries=1), **LIVE) as w:
            await expire(w, "text")
            w.settled.clear()
            await anyio.sleep(86_400)
            if again == "at once":
                await w.ask("text")
                assert isinstance(w.errors()["text"], carpool.CarpoolError)
        if again != "at once":
            async with at.open(**WAITS) as w:
                await w.ask("text")
                assert isinstance(w.errors()["text"], carpool.CarpoolError)
        assert sent(w) == 1


async def test_what_was_answered_live_beside_a_batch_that_runs_on_is_settled_once(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted(escalate="live") as w:
            tasks.start_soon(w.ask, "patient")
            with carpool.options(timeout=100):
                await w.ask("hurried")
        for _ in range(2):
            async with at.open() as w:
                await anyio.sleep(1_000)
                await w.ask_all(["patient", "hurried"])
                assert len(w.answers()) == 2
        assert at.files("segment*") == at.files("shard*") == set()
    books = at.emulator.books()
    assert live(at) == 1
    assert set(books.bodies.values()) == {1}
    assert books.files == ()


async def test_a_call_that_takes_a_row_of_an_earlier_process_is_sent_live_too(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted(timing=PATIENT) as w:
            tasks.start_soon(w.ask_all, texts(3))
            await anyio.sleep(10)
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask_all, texts(6)[3:])
            await anyio.sleep(30)
        async with at.open(**WAITS) as w:
            assert await took(w.ask_all(texts(6))) < 80
            assert len(w.answers()) == live(at) == 6
            await anyio.sleep(1_000)
    assert at.emulator.books().bodies.total() == 3


@pytest.mark.parametrize("settings", [WAITS, LIVE], ids=["waiting", "in a batch"])
async def test_a_call_is_sent_live_once_that_is_recorded(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Sqlite.record
    recorded: list[float] = []

    async def slowly(journal: Sqlite, *facts: Any) -> None:
        escalated = any(isinstance(fact, Escalated) for _, fact in facts)
        await anyio.sleep(9 * escalated)
        await record(journal, *facts)
        recorded.extend([anyio.current_time()] * escalated)

    monkeypatch.setattr(Sqlite, "record", slowly)
    async with site(tmp_path, pace=SLOW) as at:
        at.transport = Tampering(at.emulator.app, to_live_calls(None))
        async with at.open(**settings) as w:
            await w.ask_all(texts(3))
        assert len(w.answers()) == sent(w) == 3
        assert recorded == pytest.approx([NEAR + 9], abs=0.1)
        assert isinstance(w.transport, Tampering)
        assert min(w.transport.live_at) >= recorded[0]


async def test_a_journal_that_cannot_be_written_lets_nothing_be_sent_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, pace=Pace(running=150)) as at:
        async with at.open(**{**LIVE, "timeout": 300}) as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "submitted")
            await anyio.sleep(140)

            async def refuse(self: Sqlite, *facts: Any) -> None:
                raise carpool.JournalError("Free some room.")

            monkeypatch.setattr(Sqlite, "record", refuse)
            with carpool.options(timeout=2):
                await w.ask("waits")
        assert w.answers() == {"submitted": "submitted"}
        assert isinstance(w.errors()["waits"], carpool.CarpoolError)
    assert w.emulator.books().live == 0


async def test_a_call_whose_time_comes_near_while_it_is_looked_up_is_sent_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Sqlite.find

    async def slowly(journal: Sqlite, digests: Any) -> Any:
        await anyio.sleep(85)
        return await find(journal, digests)

    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask("something to be looked for")
        monkeypatch.setattr(Sqlite, "find", slowly)
        async with at.open(**WAITS) as w:
            assert await took(w.ask("text")) == pytest.approx(85, abs=1)
    assert w.answers() == {"text": "text"}
    assert live(at) == 1


# --- what it costs


async def test_live_answers_cost_the_live_price_and_flex_those_of_a_batch() -> None:
    prices = {"gpt-5-mini": {"input": 4e6, "output": 8e6}}
    paid: dict[str, float] = {}
    for tier in ("live", "flex"):
        async with world(pool={**WAITS, "escalate": tier, "prices": prices}) as w:
            await w.ask("four" * 4)
            cost = w.pool.stats().cost
            assert (cost.requests, cost.input_tokens, cost.output_tokens) == (1, 4, 4)
            paid[tier] = cost.paid
            assert cost.live == pytest.approx(48)
    assert paid == pytest.approx({"live": 48, "flex": 24})


async def test_what_is_answered_live_and_by_its_batch_is_paid_twice() -> None:
    """The emulator's books and the pool's agree on the tokens."""
    async with world(pool={"escalate": "live"}, pace=Pace(running=300)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(5))
        with carpool.options(timeout=100):
            tasks.start_soon(w.ask_all, ["hurried"] * 5)
        await anyio.sleep(1_000)
        cost = w.pool.stats().cost
        billed = w.emulator.books().billed
        assert billed.input_tokens == 10
        assert cost.input_tokens == billed.input_tokens + 5
        assert (w.pool.stats().answered, w.pool.stats().accepted) == (10, 10)


async def test_live_answers_are_no_reason_to_doubt_what_a_batch_states(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pool={"escalate": "live"}, pace=Pace(running=300)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(5))
        with carpool.options(timeout=100):
            tasks.start_soon(w.ask_all, [f"hurried {number}" for number in range(5)])
        await anyio.sleep(1_000)
    assert "states" not in caplog.text


PRICE = 40.0  # USD that each of these calls costs in a batch, and half of what it costs live


def priced(budget: float) -> dict[str, Any]:
    return {"prices": {"gpt-5-mini": {"input": 1e6, "output": 0}}, "budget": budget}


def dear(number: int) -> str:
    text = f"{number:04d}"
    return text + (320 - len(msgspec.json.encode(body(text)))) * "x"


def exact(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
    """Bill what is expected: 80 tokens."""
    usage = {"prompt_tokens": 80, "completion_tokens": 0, "total_tokens": 80}
    return {"choices": [{"message": {"content": "ok"}}], "usage": usage}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("lives", [0, 3, 20])
async def test_the_budget_holds_though_calls_ride_and_are_sent_live(tmp_path: Path, kept: bool, lives: int) -> None:
    budget = 20 * PRICE + lives * 2 * PRICE + 1
    settings = {"escalate": "live", "timeout": 400, **priced(budget)}
    async with AsyncExitStack() as stack:
        emulator: dict[str, Any] = {"pace": SLOW, "answer": exact}
        if kept:
            w = await stack.enter_async_context(
                (await stack.enter_async_context(site(tmp_path, **emulator))).open(**settings)
            )
        else:
            w = await stack.enter_async_context(world(pool=settings, **emulator))
        await w.ask_all([dear(number) for number in range(20)])
        assert len(w.answers()) == live(w) == lives
        assert {type(error) for error in w.errors().values()} <= {carpool.RequestExpired}
        await anyio.sleep(2_000)
        paid = w.pool.stats().cost.paid
        assert paid == (20 + 2 * lives) * PRICE <= budget if kept else paid <= budget  # or nobody waits for the batch


async def test_what_batches_might_have_billed_too_is_there_again_when_they_are_over() -> None:
    settings = {"escalate": "live", "timeout": 400, **priced(3 * PRICE + 1)}
    async with world(pool=settings, pace=SLOW, answer=exact) as w:
        await w.ask(dear(1))
        assert len(w.answers()) == live(w) == 1
        with pytest.raises(carpool.BudgetExceeded):
            await w.pool.request(CHAT, body(dear(2)))
        await anyio.sleep(400)  # nobody waits for the batch, which is cancelled before it runs
        assert w.pool.stats().cost.paid == 2 * PRICE
        with anyio.move_on_after(1) as accepted:
            await w.pool.request(CHAT, body(dear(2)))
        assert accepted.cancelled_caught


@pytest.mark.parametrize("rides", [False, True])
async def test_flexible_calls_are_reckoned_at_the_price_of_a_batch(rides: bool) -> None:
    settings = {"escalate": "flex", "timeout": 400, **priced((2 if rides else 1) * PRICE + 1)}
    timing = carpool.Timing() if rides else PATIENT
    async with world(pool={**settings, "timing": timing}, pace=SLOW, answer=exact) as w:
        await w.ask(dear(1))
        assert len(w.answers()) == live(w) == 1


async def test_money_is_there_again_where_a_batch_was_faster_than_live_calls() -> None:
    """Also that of calls which never got their turn to be sent live."""

    async def tamper(request: httpx2.Request) -> httpx2.Response | None:
        return refusal(429, retry_after="60") if is_live(request) else None

    settings = {"escalate": "live", "timeout": 640, **priced(180 * PRICE + 1)}
    async with tampered(tamper, pool=settings, pace=SLOW, answer=exact) as w:
        await w.ask_all([dear(number) for number in range(60)])
        assert len(w.answers()) == 60
        await anyio.sleep(2_000)
        with anyio.move_on_after(1) as accepted:  # all that is left
            await w.pool.gather([body(dear(number)) for number in range(100, 220)], endpoint=CHAT)
        assert accepted.cancelled_caught


async def test_a_live_call_that_is_refused_for_now_reserves_its_money_once() -> None:
    refusals = [refusal(429)] * 10
    settings = {"escalate": "live", **priced(6 * PRICE + 1)}
    slow = tampered(to_live_calls(*refusals, None), pool=settings, pace=SLOW, answer=exact)
    async with slow as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, dear(1))  # its money is held all the time
        with carpool.options(timeout=400):
            await w.ask(dear(2))
        assert live(w) == 1
        with anyio.move_on_after(1) as accepted:  # 2 were paid, 2 may be billed by the batch: 2 are left
            await w.pool.gather([body(dear(number)) for number in (3, 4)], endpoint=CHAT)
        assert accepted.cancelled_caught
        tasks.cancel_scope.cancel()


async def test_live_answers_count_towards_the_budget() -> None:
    prices = {"gpt-5-mini": {"input": 1e6, "output": 0}}
    async with world(pool={**WAITS, "prices": prices, "budget": 150}) as w:
        await w.ask("x" * 400)
        assert len(w.answers()) == 1
        with pytest.raises(carpool.BudgetExceeded):
            await w.pool.request(CHAT, body("y" * 400))


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_billed_in_batches_and_live_is_counted(seed: int) -> None:
    chance = random.Random(seed)
    troubles = Troubles(failing={500: 0.1, 400: 0.1}, doubled=0.1, expiring=0.2, cancelled=0.2)
    settings = {"escalate": chance.choice(["live", "flex"]), "limits": {"*": 200}, "counter": lambda *_: 10}
    model = Model(chance.choice([0, 10, 30]))
    async with world(pool=settings, pace=Pace(running=120), troubles=troubles, seed=seed, answer=model) as w:
        async with anyio.create_task_group() as tasks:
            for text in texts(60):
                with carpool.options(timeout=chance.choice([None, 20, 60, 100, 150])):
                    tasks.start_soon(w.ask, text)
                await anyio.sleep(chance.uniform(0, 2))
        await anyio.sleep(5_000)
        stats = w.pool.stats()
        books = w.emulator.books()
        assert stats.cost.requests == sum(batch.completed for batch in books.batches) + live(w)
        assert stats.answered + stats.failed == stats.accepted == len(w.settled) == 60


# --- anything at any time


class Chaos:
    """Run pools on one emulator, from a seed: callers that hurry, wait or go, and everything that may go wrong."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        chance = self._chance.random
        self.emulator: dict[str, Any] = {
            "pace": Pace(validating=3 * chance(), running=self._chance.choice([5, 40, 120]), window=150),
            "faults": Faults(
                lost_reply=0.1 * chance(), server_error=0.1 * chance(), too_many=0.15 * chance(), reset=0.05 * chance()
            ),
            "troubles": Troubles(
                failing={500: 0.1 * chance(), 400: 0.1 * chance()},
                missing=0.05 * chance(),
                torn=0.05 * chance(),
                expiring=0.2 * chance(),
                cancelled=0.1 * chance(),
                failed_validation=0.1 * chance(),
            ),
            "live_per_minute": self._chance.choice([None, 5, 30]),
            "enqueued_tokens": self._chance.choice([None, {"*": 90}]),
            "count": lambda given: 10,
            "answer": Model(self._chance.choice([0, 5, 25])),
            "seed": seed,
        }
        self.settings: dict[str, Any] = {
            "escalate": self._chance.choice(["live", "live", "flex"]),
            "timing": carpool.Timing(linger=1, max_linger=5, lookup=2),
            "limits": self._chance.choice([None, {"*": 90}]),
            "counter": lambda *_: 10,
            "canary": self._chance.choice([None, None, 3]),
        }
        self.settled = Counter[str]()
        self.told: dict[str, carpool.Response | Exception] = {}

    async def ask(self, w: World, text: str) -> None:
        timeout = self._chance.choice([None, 8, 20, 60, 200])
        stays = self._chance.choice([math.inf, math.inf, math.inf, 4, 40])
        await anyio.sleep(self._chance.uniform(0, 30))
        with anyio.move_on_after(stays):
            try:
                response = await w.pool.request(carpool.Request(CHAT, body(text), timeout=timeout))
                assert response.text == text
                self.told[text] = response
            except carpool.CarpoolError as exc:
                self.told[text] = exc
            self.settled[text] += 1

    async def ask_all(self, w: World, wanted: list[str]) -> None:
        async with anyio.create_task_group() as tasks:
            for text in wanted:
                tasks.start_soon(self.ask, w, text)
            if self._chance.random() < 0.1:
                await anyio.sleep(self._chance.uniform(0, 60))
                await w.pool.cancel()

    def moment(self) -> float:
        return self._chance.uniform(0, 100)

    def judge(self, emulator: Emulator) -> None:
        books = emulator.books()
        assert max(books.live_bodies.values(), default=0) <= 1
        billed_twice = {name: paid for name, paid in books.paid.items() if paid > 1 + books.lost[name]}
        assert not billed_twice


@pytest.mark.parametrize("seed", range(16))
async def test_whatever_goes_wrong_each_caller_is_settled_once_and_nothing_is_paid_live_twice(seed: int) -> None:
    chaos = Chaos(seed)
    async with world(pool=chaos.settings, **chaos.emulator) as w:
        await chaos.ask_all(w, texts(40))
        stats = w.pool.stats()
        assert stats.accepted == 40
    assert set(chaos.settled.values()) == {1}
    assert len(chaos.told) > 10
    chaos.judge(w.emulator)


@pytest.mark.parametrize("seed", range(5))
async def test_with_a_journal_neither_do_processes_that_end_at_any_time(seed: int, tmp_path: Path) -> None:
    """The next one asks again for what its predecessor was not told of."""
    chaos = Chaos(1_000 + seed)
    async with site(tmp_path, **chaos.emulator) as at:
        for _ in range(2):
            async with anyio.create_task_group() as tasks, at.interrupted(**chaos.settings) as w:
                untold = [text for text in texts(30) if isinstance(chaos.told.get(text), carpool.PoolClosed | None)]
                tasks.start_soon(chaos.ask_all, w, untold)
                await anyio.sleep(chaos.moment())
                tasks.cancel_scope.cancel()
            chaos.judge(at.emulator)
        async with at.open(**chaos.settings) as w:
            await chaos.ask_all(
                w, [text for text in texts(30) if isinstance(chaos.told.get(text), carpool.PoolClosed | None)]
            )
    chaos.judge(at.emulator)


async def test_an_answer_that_is_being_saved_when_a_pool_is_left_is_there_in_the_next(tmp_path: Path) -> None:
    saving = anyio.Event()

    async def slow(func: Callable[..., Any], /, *args: object) -> Any:
        """Save for two seconds, as a thread would: whoever waits for it cannot be cancelled."""
        await anyio.lowlevel.checkpoint()
        if getattr(func, "__name__", "") == "_save":
            saving.set()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
        return func(*args)

    async with site(tmp_path, pace=SLOW) as s:
        async with s.open(**LIVE, run_sync=slow) as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "text")
            await saving.wait()
            await w.pool.drain(1)
        assert isinstance(w.errors()["text"], carpool.PoolClosed)
        async with s.open(**LIVE) as w:
            await w.ask("text")
        assert w.answers() == {"text": "text"}
        assert s.emulator.books().live == 1

"""Outages while batches run: whoever awaits is told, and all is answered in the end, paid once and within the limit."""

import errno
import os
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from virtual import CHAT, InMemory, World, body, run_here, site, world

import carpool
from carpool.journal.sqlite.folder import Lock
from carpool.testing import Pace, Troubles

pytestmark = pytest.mark.anyio

HOUR = 3_600.0
DAY = 24 * HOUR
RARELY = carpool.Timing(poll_max=5_000)  # so rarely is looked for processes that have died
LIMIT = 3_000
SLOW: dict[str, Any] = {
    "pace": Pace(validating=1, running=3 * HOUR, finalizing=1),
    "count": lambda _: 20,
    "enqueued_tokens": {"*": 10 * LIMIT},
}
KEYED: dict[str, Any] = {**SLOW, "api_key": "sk-known"}
KEPT: dict[str, Any] = {"limits": {"gpt-5-mini": LIMIT}, "counter": lambda endpoint, model, content: 20}


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Outage:
    """Have a key refused for a while."""

    def __init__(self) -> None:
        self._key: str | None = None

    def __call__(self, request: httpx2.Request) -> None:
        is_refused = self._key is not None and request.headers["authorization"].endswith(self._key)
        request.headers["authorization"] = "Bearer sk-revoked" if is_refused else "Bearer sk-known"

    async def last(self, seconds: float, key: str = "sk-key") -> None:
        self._key = key
        await anyio.sleep(seconds)
        self._key = None


async def test_submissions_are_answered_after_the_key_was_refused_for_long(tmp_path: Path) -> None:
    outage = Outage()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open(**KEPT) as w:
        for number in range(120):
            await w.pool.submit(CHAT, body(f"a {number}"), key=f"a {number}")
        await anyio.sleep(300)
        await outage.last(2_000)
        await anyio.sleep(60)
        for number in range(120):
            await w.pool.submit(CHAT, body(f"b {number}"), key=f"b {number}")
        keys: set[str | int | None] = set()
        async with w.pool.outcomes() as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None
                keys.add(outcome.key)
                outcome.ack()
                if len(keys) == 240:
                    break
        books = s.emulator.books()
    assert set(books.bodies.values()) == {1}
    assert max(level.tokens for level in books.queue) <= LIMIT


async def test_room_of_what_is_out_of_reach_is_taken_by_no_other_process(tmp_path: Path) -> None:
    outage = Outage()
    async with (
        site(tmp_path, before=outage, **KEYED) as s,
        s.open(key="sk-mine", **KEPT) as w,
        s.open(**KEPT) as beside,
    ):
        for number in range(120):
            await w.pool.submit(CHAT, body(f"a {number}"), key=f"a {number}")
        await anyio.sleep(300)
        await outage.last(2_000, key="sk-mine")
        for number in range(120):
            await beside.pool.submit(CHAT, body(f"b {number}"), key=f"b {number}")
        await anyio.sleep(900)
        books = s.emulator.books()
    assert max(level.tokens for level in books.queue) <= LIMIT


async def test_a_call_that_was_told_takes_the_same_batch_when_it_is_made_again(tmp_path: Path) -> None:
    outage = Outage()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open() as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(300)
            await outage.last(2_000)
        assert isinstance(w.errors()["one"], carpool.AuthenticationFailed)
        await w.ask("one")
        stats = w.pool.stats()
    assert w.answers() == {"one": "one"}
    assert set(s.emulator.books().bodies.values()) == {1}
    assert (stats.accepted, stats.answered, stats.failed) == (2, 1, 1)


async def test_what_could_not_be_submitted_or_reached_is_told_by_a_code(tmp_path: Path) -> None:
    class Down(Outage):
        def __call__(self, request: httpx2.Request) -> None:
            if self._key is not None:
                raise httpx2.ConnectError("no route to host")
            super().__call__(request)

    outage = Down()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "submitted")
        await anyio.sleep(300)
        tasks.start_soon(outage.last, 100_000)
        await anyio.sleep(1)
        tasks.start_soon(w.ask, "not submitted")
    codes = {text: getattr(error, "code", None) for text, error in w.errors().items()}
    assert codes == {"submitted": "out_of_reach", "not submitted": "not_submitted"}


class Amiss:
    """Have some paths answered as if nothing were there."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __call__(self, request: httpx2.Request) -> None:
        if any(part in request.url.path for part in self.parts):
            request.url = httpx2.URL("http://emulator/v1/files/nothing")


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_its_server_has_lost_is_told_after_two_days_however_often_a_service_starts(
    tmp_path: Path, restarts: bool
) -> None:
    told: list[tuple[float, BaseException | None]] = []
    lost = Amiss()
    async with site(tmp_path, before=lost, **SLOW) as s:
        begin = anyio.current_time()
        for day in range(4 if restarts else 1):
            with anyio.move_on_after(DAY if restarts else 4 * DAY):
                async with s.open(timing=RARELY, **KEPT) as w, w.pool.outcomes() as outcomes:
                    if day == 0:
                        await w.pool.submit(CHAT, body("lost"), key="lost")
                        await anyio.sleep(300)
                        lost.parts = tuple(batch.id for batch in s.emulator.books().batches)
                    async for outcome in outcomes:
                        told.append((anyio.current_time() - begin, outcome.error))
                        outcome.ack()
    ((after, error),) = told
    assert isinstance(error, carpool.ResultMissing)
    assert 2 * DAY <= after <= 2 * DAY + 4 * HOUR


async def test_a_program_whose_batch_was_lost_is_answered_on_the_third_day(tmp_path: Path) -> None:
    lost = Amiss()
    async with site(tmp_path, before=lost, **SLOW) as s:
        async with s.interrupted() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "text")
            await anyio.sleep(300)
            lost.parts = tuple(batch.id for batch in s.emulator.books().batches)
            tasks.cancel_scope.cancel()
        came: list[bool] = []
        while not any(came) and len(came) < 9:
            async with s.open(timing=RARELY) as w:
                await w.ask("text")
                came.append("text" in w.answers())
                assert w.answers() or isinstance(w.errors()["text"], carpool.ResultMissing)
            await anyio.sleep(DAY / 2)
    assert len(came) == 6  # two days after it was first told, it is told once more


HALF: dict[str, Any] = {"troubles": Troubles(failing={400: 0.5}), "seed": 5, **SLOW}  # half of the requests are refused


async def came_of_ten(w: World) -> list[carpool.Outcome]:
    """Submit ten, and give what came of them within ten hours."""
    came: list[carpool.Outcome] = []
    for number in range(10):
        await w.pool.submit(CHAT, body(f"{number}"), key=f"{number}")
    with anyio.move_on_after(10 * HOUR):
        async with w.pool.outcomes() as outcomes:
            async for outcome in outcomes:
                came.append(outcome)
                outcome.ack()
    await w.pool.drain(0)
    return came


class OneFileAlone:
    """Have the first file alone that is read after the inputs be there; counts how often each is asked for."""

    def __init__(self) -> None:
        self.reads: dict[str, int] = {}

    def __call__(self, request: httpx2.Request) -> None:
        path = request.url.path
        if path.endswith("/content"):
            self.reads[path] = self.reads.get(path, 0) + 1
            if path != next(iter(self.reads)):
                request.url = httpx2.URL("http://emulator/v1/files/nothing/content")


@pytest.mark.parametrize("retention", [DAY, 30 * DAY])
async def test_answers_are_not_kept_back_where_the_file_of_errors_cannot_be_read(
    tmp_path: Path, retention: float
) -> None:
    """Nor is the file of answers read again, or removed before the journal knows what is in it."""
    files = OneFileAlone()
    told: dict[Any, tuple[float, BaseException | None]] = {}
    async with (
        site(tmp_path, before=files, **HALF) as s,
        s.open(**KEPT, retention=retention) as w,
    ):
        begin = anyio.current_time()
        for number in range(10):
            await w.pool.submit(CHAT, body(f"{number}"), key=f"{number}")
        await anyio.sleep(30 * HOUR)
        downloads = s.files("download-*")
        async with w.pool.outcomes() as outcomes:
            async for outcome in outcomes:
                told[outcome.key] = anyio.current_time() - begin, outcome.error
                outcome.ack()
                if len(told) == 10:
                    break
    answered = [after for after, error in told.values() if error is None]
    missing = [after for after, error in told.values() if isinstance(error, carpool.ResultMissing)]
    assert len(answered) + len(missing) == 10
    assert max(answered) <= 30 * HOUR + 1 < 48 * HOUR <= min(missing)
    first, *others = files.reads.values()
    assert first == 1
    assert 20 < sum(others) < 100
    assert len(downloads) == 1


async def test_what_is_in_the_file_of_errors_is_told_where_the_file_of_answers_cannot_be_read(tmp_path: Path) -> None:
    class WithoutAnswers(OneFileAlone):
        def __call__(self, request: httpx2.Request) -> None:
            path = request.url.path
            if path.endswith("/content"):
                self.reads[path] = self.reads.get(path, 0) + 1
                if path == next(iter(self.reads)):
                    request.url = httpx2.URL("http://emulator/v1/files/nothing/content")

    files = WithoutAnswers()
    async with site(tmp_path, before=files, **HALF) as s, s.open(**KEPT) as w:
        came = await came_of_ten(w)
    assert {type(outcome.error) for outcome in came} == {carpool.RequestRejected}
    assert 2 <= len(came) <= 8


async def test_a_file_that_came_short_is_read_again_though_the_other_cannot_be(tmp_path: Path) -> None:
    class Short(InMemory):
        """Leave the last line of the first file out, the first time."""

        contents = 0

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if request.url.path.endswith("/content") and response.is_success:
                self.contents += 1
                if self.contents == 1:
                    lines = (await response.aread()).splitlines(keepends=True)
                    return httpx2.Response(200, content=b"".join(lines[:-1]))
            return response

    files = OneFileAlone()
    async with site(tmp_path, **HALF) as s:
        s.transport = Short(s.emulator.app, files)
        async with s.open(**KEPT) as w:
            came = await came_of_ten(w)
    assert len(came) == sum(s.emulator.books().bodies.values())
    assert {outcome.error for outcome in came} == {None}
    assert next(iter(files.reads.values())) == 2


async def test_a_batch_that_was_not_cancelled_when_a_pool_is_left_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open() as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "text")
            await anyio.sleep(300)
            tasks.start_soon(outage.last, 300)
            await anyio.sleep(1)
            await w.pool.cancel()
            tasks.cancel_scope.cancel()
        await w.pool.aclose()
        (batch,) = s.emulator.books().batches
    assert f"left before batch {batch.id} was cancelled: it runs on and is billed" in caplog.messages


async def test_of_a_file_that_is_cut_each_time_nothing_is_left_that_is_of_no_use(tmp_path: Path) -> None:
    class Cutting(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if not request.url.path.endswith("/content"):
                return response
            content = await response.aread()
            length = {"content-length": str(len(content))}
            return httpx2.Response(200, content=content[: len(content) // 2], headers=length)

    async with site(tmp_path, **SLOW) as s:
        s.transport = Cutting(s.emulator.app)
        async with s.interrupted() as w:
            for number in range(10):
                await w.pool.submit(CHAT, body(f"{number}" + 500 * "x"), key=f"{number}")
            await anyio.sleep(6 * HOUR)
            reads = [path for _, path in s.transport.requests if path.endswith("/content")]
            assert len(reads) > 50
            assert len(s.files("download-*")) == 1


async def test_a_cancellation_in_an_outage_is_repeated_when_it_is_over(tmp_path: Path) -> None:
    outage = Outage()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open() as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "text")
            await anyio.sleep(300)
            tasks.start_soon(outage.last, 2_000)
            await anyio.sleep(1)
            await w.pool.cancel()
        await anyio.sleep(HOUR)
        (batch,) = s.emulator.books().batches
    assert batch.status == "cancelled"
    assert not s.emulator.books().bodies


async def test_what_is_asked_for_after_it_was_cancelled_is_answered(tmp_path: Path) -> None:
    def before(request: httpx2.Request) -> None:
        if refused and request.method == "GET":
            request.headers["authorization"] = "Bearer sk-revoked"

    refused: list[bool] = []
    async with site(tmp_path, before=before, **SLOW, api_key="sk-key") as s, s.open() as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "text")
            await anyio.sleep(300)
            refused.append(True)
        assert isinstance(w.errors()["text"], carpool.AuthenticationFailed)
        await w.pool.cancel()
        refused.clear()
        await w.ask("text")
    assert w.answers() == {"text": "text"}
    assert sum(s.emulator.books().bodies.values()) == 1


async def test_a_worker_whose_disk_was_full_for_a_moment_keeps_no_other_back(tmp_path: Path) -> None:
    full: list[bool] = []

    async def run_sync(func: Any, /, *args: object) -> Any:
        if full and getattr(func, "__name__", "") in ("_write", "_sync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await run_here(func, *args)

    limited: dict[str, Any] = {"limits": {"gpt-5-mini": 300}, "counter": lambda endpoint, model, content: 10}
    pace = Pace(validating=1, running=600, finalizing=1)
    async with site(tmp_path, pace=pace) as s, s.open(run_sync=run_sync, **limited) as w, s.open(**limited) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, [f"{number}" for number in range(28)])
            await anyio.sleep(100)
            full.append(True)
            with pytest.raises(carpool.JournalError):
                await w.pool.submit(CHAT, body("late"), key="late")
            full.clear()
            await anyio.sleep(60)
            with anyio.fail_after(HOUR):
                await other.ask_all([f"other {number}" for number in range(10)])
                await other.pool.submit(CHAT, body("late"), key="late")
        assert len(w.answers()) == 28  # what ran is answered there all the same
        assert len(other.answers()) == 10
        with pytest.raises(carpool.JournalError):
            await w.pool.request(CHAT, body("more"))
    assert set(s.emulator.books().bodies.values()) == {1}


async def test_who_waits_for_another_worker_is_answered_though_the_disk_was_full_here(tmp_path: Path) -> None:
    full: list[bool] = []

    async def run_sync(func: Any, /, *args: object) -> Any:
        if full and getattr(func, "__name__", "") in ("_write", "_sync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await run_here(func, *args)

    told: list[str] = []

    async def ask(pool: carpool.Pool) -> None:
        told.append((await pool.request(carpool.Request(CHAT, body("text"), key="one"))).text)

    pace = Pace(validating=1, running=600, finalizing=1)
    async with (
        site(tmp_path, pace=pace) as s,
        s.open(run_sync=run_sync) as w,
        s.open() as other,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask, other.pool)
        await anyio.sleep(100)
        tasks.start_soon(ask, w.pool)
        await anyio.sleep(10)
        full.append(True)
        with pytest.raises(carpool.JournalError):
            await w.pool.submit(CHAT, body("late"), key="late")
        full.clear()
    assert told == ["text", "text"]
    assert set(s.emulator.books().bodies.values()) == {1}


async def test_without_a_journal_what_nobody_awaits_any_more_is_cancelled() -> None:
    outage = Outage()
    async with world(before=outage, **KEYED) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(300)
            await outage.last(2_000)
        assert isinstance(w.errors()["one"], carpool.AuthenticationFailed)
        await anyio.sleep(1_000)
        (batch,) = w.emulator.books().batches
        assert batch.status == "cancelled"
        assert w.pool.stats().open == ()
    assert not w.emulator.books().bodies


async def test_what_the_dead_left_is_taken_over_later_where_the_folder_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with site(tmp_path) as s, s.open() as w:
        async with s.interrupted() as other:
            await other.pool.submit(CHAT, body("left"), key="left")
        with monkeypatch.context() as patch:
            patch.setattr(Lock, "take", refuse)
            await anyio.sleep(600)
            await w.ask("meanwhile")
        async with w.pool.outcomes() as outcomes:
            outcome = await anext(outcomes)
            outcome.ack()
    assert w.answers() == {"meanwhile": "meanwhile"}
    assert (outcome.key, outcome.error) == ("left", None)
    assert set(s.emulator.books().bodies.values()) == {1}
    assert len([record for record in caplog.records if "taken over for now" in record.message]) == 1


PRICED: dict[str, Any] = {"prices": {"gpt-5-mini": {"input": 10.0, "output": 10.0}}, "budget": 0.8}
DEAR = 400_000 * "x"  # 0.50 USD in a batch


async def test_the_money_of_a_call_that_was_told_is_there_for_it_and_for_no_other(tmp_path: Path) -> None:
    outage = Outage()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open(**PRICED) as w:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, DEAR)
            await anyio.sleep(300)
            await outage.last(2_000)
        assert isinstance(w.errors().pop(DEAR), carpool.AuthenticationFailed)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, DEAR)
            await anyio.sleep(60)
            with pytest.raises(carpool.BudgetExceeded):
                await w.pool.request(CHAT, body(f"{DEAR}y"))
        assert isinstance(w.settled[DEAR], carpool.Response)
    assert sum(s.emulator.books().bodies.values()) == 1


async def test_calls_that_were_told_are_counted_once(tmp_path: Path) -> None:
    outage = Outage()
    async with site(tmp_path, before=outage, **KEYED) as s, s.open() as w:
        async with anyio.create_task_group() as tasks:
            with carpool.options(tags=["told"]):
                for number in range(3):
                    tasks.start_soon(w.ask, f"{number}")
            await anyio.sleep(300)
            await outage.last(2_000)
        assert len(w.errors()) == 3
        await anyio.sleep(4 * HOUR)  # the answers come all the same
        stats = w.pool.stats()
    assert (stats.accepted, stats.answered, stats.failed) == (3, 0, 3)
    assert (stats.tags["told"].accepted, stats.tags["told"].answered, stats.tags["told"].failed) == (3, 0, 3)

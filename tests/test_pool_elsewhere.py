"""Several processes on one folder: what a call asks for that another one has, or had, under way, is not paid again."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from virtual import CHAT, Samples, Site, World, body, run_here, site

import carpool
from carpool.testing import Answer, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)
_OK = Answer(200, b'{"choices":[{"message":{"content":"ok"}}]}')
RARELY = carpool.Timing(poll_max=5_000)  # so rarely is looked for processes that have died


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def asked(key: str | None = "one", text: str = "text") -> carpool.Request:
    return carpool.Request(CHAT, body(text), key=key)


async def ask(w: World, told: list[str], key: str | None = "one") -> None:
    """Keep the answer, or the name of the error; none takes for ever."""
    with anyio.fail_after(5_000):
        try:
            told.append((await w.pool.request(asked(key))).text)
        except carpool.CarpoolError as exc:
            told.append(type(exc).__name__)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - virtual time
        await anyio.sleep(0.1)


async def running(w: World) -> None:
    """Wait until a batch runs."""
    await until(lambda: any(batch.stage == "running" for batch in w.pool.stats().open))


async def test_a_call_with_a_key_waits_for_what_another_process_has_under_way(tmp_path: Path) -> None:
    """As when its first answer was lost on the way to a client that asks again elsewhere."""
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open() as one, at.open() as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told)
            await running(one)
            tasks.start_soon(ask, other, told)
        assert told == ["text #1"] * 2
        assert other.pool.stats().batches == 0


async def test_without_a_key_equal_calls_of_two_processes_are_two(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open() as one, at.open() as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told, None)
            await running(one)
            tasks.start_soon(ask, other, told, None)
        assert sorted(told) == ["text #1", "text #2"]


async def test_what_was_answered_elsewhere_is_found_by_its_key_though_the_folder_was_empty(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples()) as at, at.open(timing=RARELY) as one, at.open(timing=RARELY) as other:
        await ask(other, told)
        await ask(one, told)
    assert told == ["text #1"] * 2


@pytest.mark.parametrize("key", ["one", None])
async def test_what_a_dead_process_had_under_way_is_taken_over_at_once(tmp_path: Path, key: str | None) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        async with at.open() as w:
            await ask(w, [], "another")  # there is something to be found
        async with at.open(timing=RARELY) as heir, anyio.create_task_group() as tasks:
            async with at.interrupted() as w:
                tasks.start_soon(ask, w, told, key)
                await running(w)
            await ask(heir, told, key)
    assert told == ["PoolClosed", "text #2"]
    assert at.emulator.books().times(body("text")) == 2


async def test_a_call_that_waits_goes_on_where_the_other_process_dies(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open(timing=RARELY) as heir:  # noqa: SIM117
        async with anyio.create_task_group() as tasks:
            async with at.interrupted() as w:
                tasks.start_soon(ask, w, told)
                await running(w)
                tasks.start_soon(ask, heir, told)
                await anyio.sleep(10)
            assert told == ["PoolClosed"]
    assert told == ["PoolClosed", "text #1"]
    assert at.emulator.books().times(body("text")) == 1


async def test_what_a_third_process_took_over_is_waited_for_where_it_runs(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(ask, w, told)
            await running(w)
        async with at.open(), at.open() as third:
            await ask(third, told)
        assert told == ["PoolClosed", "text #1"]


async def test_what_a_third_process_took_over_and_does_not_send_is_sent_here(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples()) as at:
        async with anyio.create_task_group() as tasks, at.interrupted(timing=PATIENT) as w:
            tasks.start_soon(ask, w, told)
            await until(lambda: bool(at.files("segment*")))
        async with at.open() as second, at.open() as third:
            await ask(third, told)
            assert [lane.dormant for lane in second.pool.stats().lanes] == [1]
        assert told == ["PoolClosed", "text #1"]


async def _left_waiting(at: Site) -> None:
    """Let a process die that has a call that waits to be packed."""
    async with anyio.create_task_group() as tasks, at.interrupted(timing=PATIENT) as w:
        tasks.start_soon(ask, w, [])
        await until(lambda: bool(at.files("segment*")))
        await anyio.sleep(1)


async def test_what_is_asked_for_again_where_it_was_taken_over_is_waited_for(tmp_path: Path) -> None:
    """Though it is in no batch yet."""
    told: list[str] = []
    async with site(tmp_path, answer=Samples()) as at:
        await _left_waiting(at)
        async with at.open(timing=PATIENT) as heir, at.open() as third, anyio.create_task_group() as tasks:
            tasks.start_soon(ask, heir, told)
            await anyio.sleep(1)
            tasks.start_soon(ask, third, told)
            await anyio.sleep(100)
            assert third.pool.stats().batches == 0
            await heir.pool.flush()
        assert told == ["text #1"] * 2
        assert at.emulator.books().times(body("text")) == 1


async def test_where_it_was_taken_over_it_is_waited_for_once_a_third_process_sends_it(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        await _left_waiting(at)
        async with at.open() as heir, at.open() as third, anyio.create_task_group() as tasks:
            tasks.start_soon(ask, third, told)
            await running(third)
            tasks.start_soon(ask, heir, told)
        assert told == ["text #1"] * 2
        assert at.emulator.books().times(body("text")) == 1


async def test_whose_caller_goes_where_it_was_taken_over_is_sent_here(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples()) as at:
        await _left_waiting(at)
        async with at.open(timing=PATIENT) as heir, at.open() as third:
            with anyio.move_on_after(5):
                await ask(heir, [])
            await ask(third, told)
        assert told == ["text #1"]


async def test_what_another_process_has_given_up_is_sent_here(tmp_path: Path) -> None:
    """The provider denies its batch for ten minutes: so that process lives on, and no answer comes."""
    told: list[str] = []
    denied = False

    def deny(request: httpx2.Request) -> None:
        if denied and request.method == "GET":
            request.url = request.url.copy_with(path="/v1/batches/none")

    async with site(tmp_path, before=deny, answer=Samples(), pace=SLOW) as at, at.open() as one, at.open() as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told)
            await running(one)
            denied = True
            tasks.start_soon(ask, other, told)
            await until(lambda: bool(told))
            denied = False
        assert told == ["ResultMissing", "text #2"]


async def test_what_another_process_sent_live_in_vain_is_sent_here(tmp_path: Path) -> None:
    """Nobody awaits it there any more, so that it would be told of to whoever asks there."""
    told: list[str] = []
    answers = iter([Answer(500, {"error": {"message": "no"}}), _OK])

    async def answer(*_: Any) -> Answer:
        await anyio.sleep(20)
        return next(answers)

    settings: dict[str, Any] = {"timing": PATIENT, "timeout": 100, "escalate": "live"}
    async with site(tmp_path, answer=answer) as at, at.open(**settings) as one, at.open() as other:
        with anyio.move_on_after(80):
            await ask(one, [])
        await anyio.sleep(100)
        await ask(other, told)
        assert one.pool.stats().batches == 0
    assert told == ["ok"]


async def test_what_stays_in_the_journal_of_a_process_that_is_drained_is_sent_here(tmp_path: Path) -> None:
    """It may go on with its batches for hours."""
    told: list[str] = []
    left: list[str] = []
    settings: dict[str, Any] = {"timing": carpool.Timing(linger=50, max_linger=50)}
    async with site(tmp_path, answer=Samples(), pace=Pace(running=1_000)) as at, at.open() as other:
        async with at.open(**settings) as one, anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, left, "first")
            await running(one)
            tasks.start_soon(ask, one, left)
            await anyio.sleep(5)
            tasks.start_soon(partial(one.pool.drain, submit=False))
            await until(lambda: bool(left))
            tasks.start_soon(ask, other, told)
            await running(other)
            assert left == ["PoolClosed"]
        assert (left, told) == (["PoolClosed", "text #1"], ["text #2"])


async def test_what_fails_elsewhere_is_sent_here(tmp_path: Path) -> None:
    told: list[str] = []
    answers = iter([Answer(400, {"error": {"message": "no"}}), _OK])
    async with site(tmp_path, answer=lambda *_: next(answers), pace=SLOW) as at, at.open() as one, at.open() as other:  # noqa: SIM117
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told)
            await running(one)
            tasks.start_soon(ask, other, told)
    assert told == ["RequestRejected", "ok"]


async def _cancelled(w: World) -> None:
    await w.pool.cancel()


async def _drained(w: World) -> None:
    await w.pool.drain(1)


async def _timed_out(w: World) -> None:
    """Let its timeout do it."""


@pytest.mark.parametrize(
    ("ending", "error"),
    [(_cancelled, "RequestCancelled"), (_drained, "PoolClosed"), (_timed_out, "RequestExpired")],
)
async def test_a_call_that_waits_can_be_ended(
    tmp_path: Path, ending: Callable[[World], Awaitable[None]], error: str
) -> None:
    told: list[str] = []
    async with site(tmp_path, pace=SLOW) as at, at.open() as one, at.open(timeout=15.0) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, [])
            await running(one)
            tasks.start_soon(ask, other, told)
            await anyio.sleep(5)
            start = anyio.current_time()
            await ending(other)
            await until(lambda: bool(told))
            assert told == [error]
            assert anyio.current_time() - start < 12
        assert at.emulator.books().times(body("text")) == 1


async def test_a_call_that_waited_until_it_was_late_is_sent_live_once_it_begins_here(tmp_path: Path) -> None:
    hours = Pace(validating=5, running=36_000, finalizing=5)
    told: list[str] = []

    async def in_an_hour(w: World) -> None:
        with anyio.fail_after(5_000):
            request = carpool.Request(CHAT, body("text"), key="one", timeout=3_600)
            told.append((await w.pool.request(request)).text)

    async with site(tmp_path, answer=Samples(), pace=hours) as at, at.open() as one, at.open(escalate="live") as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told)
            await running(one)
            tasks.start_soon(in_an_hour, other)
            await anyio.sleep(3_500)  # it would have been sent live by now
            await one.pool.cancel()
        assert sorted(told) == ["RequestCancelled", "text #1"]
        assert other.pool.stats().batches == 0


async def test_a_call_that_waits_is_cancelled_just_when_it_is_looked_up_again(tmp_path: Path) -> None:
    looks = 0
    told: list[str] = []

    async def slowly(func: Callable[..., Any], /, *args: Any) -> Any:
        """Take a second to say what is under way elsewhere."""
        nonlocal looks
        if args and getattr(args[0], "__name__", "") == "under_way":
            looks += 1
            await anyio.sleep(1)
        return await run_here(func, *args)

    async with site(tmp_path, pace=SLOW) as at, at.open() as one, at.open(run_sync=slowly) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, [])
            await running(one)
            tasks.start_soon(ask, other, told)
            await until(lambda: looks == 2)
            await other.pool.cancel()
            await until(lambda: bool(told))
        assert told == ["RequestCancelled"]
        assert other.pool.stats().batches == 0


async def test_a_process_that_is_closed_goes_on_with_what_it_waits_for_where_the_other_dies(tmp_path: Path) -> None:
    told: list[str] = []
    async with (
        site(tmp_path, answer=Samples(), pace=SLOW) as at,
        anyio.create_task_group() as tasks,
        at.open() as other,
    ):
        async with at.interrupted() as one:
            tasks.start_soon(ask, one, [])
            await running(one)
            tasks.start_soon(ask, other, told)
            await anyio.sleep(5)
            tasks.start_soon(other.pool.aclose)
            await anyio.sleep(5)
        with anyio.fail_after(1_000):
            await other.pool.aclose()
        assert told == ["text #1"]
        assert at.emulator.books().times(body("text")) == 1


async def test_a_process_that_submits_no_more_leaves_what_it_waits_for_to_others(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, pace=Pace(running=1_000)) as at, at.open() as third, at.open() as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, other, [], "first")
            await running(other)
            async with at.interrupted(timing=PATIENT) as one:
                tasks.start_soon(ask, one, [])
                await anyio.sleep(1)
                tasks.start_soon(ask, other, [])
                await anyio.sleep(1)
                tasks.start_soon(partial(other.pool.drain, submit=False))
            await anyio.sleep(10)
            tasks.start_soon(ask, third, told)
            with anyio.fail_after(10):
                await running(third)
        assert told == ["text"]


async def test_a_process_is_left_while_nobody_waits_any_more(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open() as one, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, one, [])
        await running(one)
        async with at.open() as other:
            with anyio.move_on_after(5):
                await ask(other, [])
            start = anyio.current_time()
        assert anyio.current_time() - start < 1


# --- several rows of one key: the process that had the first one did not send it, so another was made


async def test_of_two_rows_of_a_key_the_one_that_is_paid_for_is_taken(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        await _left_waiting(at)
        async with at.open(timing=RARELY) as heir:
            async with anyio.create_task_group() as tasks, at.interrupted() as third:
                tasks.start_soon(ask, third, told)
                await running(third)
            await ask(heir, told)
        assert told == ["PoolClosed", "text #1"]
        assert at.emulator.books().times(body("text")) == 1


@pytest.mark.parametrize("route", ["/v1/files", "/v1/batches"])
async def test_of_two_rows_of_a_key_the_one_that_will_be_paid_for_is_taken(tmp_path: Path, route: str) -> None:
    """It is in a batch that is taken over, and goes on whether or not anybody asks for its rows."""
    told: list[str] = []
    broken = False

    def before(request: httpx2.Request) -> None:
        if broken and request.method == "POST" and request.url.path == route:
            raise httpx2.ReadError("connection reset")

    async with site(tmp_path, answer=Samples(), before=before) as at:
        await _left_waiting(at)
        async with at.open() as heir:
            broken = True
            async with anyio.create_task_group() as tasks, at.interrupted() as third:
                tasks.start_soon(ask, third, told)
                await until(lambda: ("POST", route) in at.transport.requests)
                await anyio.sleep(0.1)
            broken = False
            await ask(heir, told)
            await anyio.sleep(100)
    assert told == ["PoolClosed", "text #1"]
    assert at.emulator.books().times(body("text")) == 1


async def test_of_two_rows_of_a_key_the_one_is_taken_whose_answer_came_meanwhile(tmp_path: Path) -> None:
    """When it was looked for the journal did not know the answer, and now its batch is over."""
    told: list[str] = []

    async def slowly(func: Callable[..., Any], /, *args: Any) -> Any:
        """Take as long to look as the batch runs."""
        result = await run_here(func, *args)
        if args and getattr(args[0], "__name__", "") == "find":
            await anyio.sleep(100)
        return result

    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        await _left_waiting(at)
        async with at.open(run_sync=slowly) as heir:
            async with anyio.create_task_group() as tasks, at.interrupted() as third:
                tasks.start_soon(ask, third, told)
                await running(third)
            await running(heir)
            await ask(heir, told)
    assert told == ["PoolClosed", "text #1"]
    assert at.emulator.books().times(body("text")) == 1


async def test_what_is_just_being_taken_over_is_waited_for(tmp_path: Path) -> None:
    """The journal knows already whose it is, and the pool does not know it yet."""
    told: list[str] = []
    looks = 0

    async def slowly(func: Callable[..., Any], /, *args: Any) -> Any:
        nonlocal looks
        if args and getattr(args[0], "__name__", "") == "has_others":
            looks += 1
            await anyio.sleep(1)
        return await run_here(func, *args)

    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open(run_sync=slowly) as heir:
        async with anyio.create_task_group() as tasks, at.interrupted() as one:
            tasks.start_soon(ask, one, told)
            await running(one)
        seen = looks
        await until(lambda: looks > seen)
        await ask(heir, told)
        assert told == ["PoolClosed", "text #1"]
        assert at.emulator.books().times(body("text")) == 1


def slow_to(name: str, seconds: float = 1) -> Callable[..., Awaitable[Any]]:
    """Take so long for what is done by this name, by the journal or by whoever calls it directly."""

    async def slowly(func: Callable[..., Any], /, *args: Any) -> Any:
        if name in (getattr(one, "__name__", "") for one in (func, *args[:1])):
            await anyio.sleep(seconds)
        return await run_here(func, *args)

    return slowly


@pytest.mark.parametrize("verb", ["write", "find", "intend"])
@pytest.mark.parametrize("later", [0, 0.5, 1.5, 2.5])
async def test_a_call_with_a_key_that_two_processes_are_asked_for_at_once_is_sent_once(
    tmp_path: Path, verb: str, later: float
) -> None:
    """As by a client whose connection broke while the first was still recording it."""
    told: list[str] = []
    async with (
        site(tmp_path, answer=Samples(), pace=SLOW) as at,
        at.open(run_sync=slow_to(verb)) as one,
        at.open() as other,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told)
            await anyio.sleep(later)
            tasks.start_soon(ask, other, told)
        assert told == ["text #1"] * 2
        assert at.emulator.books().times(body("text")) == 1


async def test_a_process_that_dies_before_it_has_recorded_a_call_leaves_it_to_others(tmp_path: Path) -> None:
    told: list[str] = []
    refused = anyio.Event()

    async def never(func: Callable[..., Any], /, *args: Any) -> Any:
        if args and getattr(args[0], "__name__", "") == "write":
            refused.set()
            raise OSError("no room")
        return await run_here(func, *args)

    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open() as other:
        async with anyio.create_task_group() as tasks, at.interrupted(run_sync=never) as one:
            tasks.start_soon(ask, one, told)
            await refused.wait()
        await ask(other, told)
        assert told == ["PoolClosed", "text #1"]


async def test_calls_with_keys_beyond_the_budget_are_left_to_others(tmp_path: Path) -> None:
    told: list[str] = []
    prices = {"gpt-5-mini": {"input": 1e6, "output": 0.0}}
    async with (
        site(tmp_path, answer=Samples(), pace=SLOW) as at,
        at.open(budget=0.01, prices=prices) as poor,
        at.open() as rich,
    ):
        await ask(poor, told)
        await ask(rich, told)
    assert told == ["BudgetExceeded", "text #1"]


async def test_calls_beyond_those_that_were_answered_before_are_sent_once(tmp_path: Path) -> None:
    """One request of the key is answered; each process is asked for two."""
    told: list[str] = []
    async with (
        site(tmp_path, answer=Samples(), pace=SLOW) as at,
        at.open(run_sync=slow_to("write")) as one,
        at.open() as other,
    ):
        await ask(other, [])
        async with anyio.create_task_group() as tasks:
            for w, count in ((one, 2), (other, 1)):
                for _ in range(count):
                    tasks.start_soon(ask, w, told)
                await anyio.sleep(0.5)
        assert sorted(told) == ["text #1", "text #2", "text #2"]
        assert at.emulator.books().times(body("text")) == 2


def failing_to(name: str, *, times: int = 1) -> Callable[..., Awaitable[Any]]:
    """Fail so many times to do what the journal does by this name."""
    left = times

    async def fails(func: Callable[..., Any], /, *args: Any) -> Any:
        nonlocal left
        if left and args and getattr(args[0], "__name__", None) == name:
            left -= 1
            raise carpool.JournalError("busy")
        return await run_here(func, *args)

    return fails


async def test_calls_that_cannot_be_declared_are_not_begun_with(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        async with at.open() as w:
            await ask(w, [], None)  # from now on calls without keys are looked up too
        async with at.open(run_sync=failing_to("intend")) as w, anyio.create_task_group() as tasks:
            tasks.start_soon(ask, w, told, "one")
            tasks.start_soon(ask, w, told, None)
        assert told == ["JournalError"] * 2
        assert at.emulator.books().times(body("text")) == 1  # of the first


async def left_just_when_declared(w: World, came: anyio.Event, key: str = "one") -> None:
    """Let a caller go while its call is declared."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, w, [], key)
        await came.wait()
        tasks.cancel_scope.cancel()


def slow_to_declare(came: anyio.Event, fails: str = "") -> Callable[..., Awaitable[Any]]:
    failing = failing_to(fails)

    async def slowly(func: Callable[..., Any], /, *args: Any) -> Any:
        given = await failing(func, *args)
        if args and getattr(args[0], "__name__", "") == "intend":
            came.set()
            await anyio.sleep(1)
        return given

    return slowly


@pytest.mark.parametrize("fails", ["", "withdraw"])
async def test_what_is_declared_and_not_begun_with_is_left_to_others(tmp_path: Path, fails: str) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open() as other:
        came = anyio.Event()
        async with at.open(run_sync=slow_to_declare(came, fails)) as one:
            await left_just_when_declared(one, came)
            await ask(other, told)
    assert told == ["text #1"]


@pytest.mark.parametrize("again", ["one", "two"])
async def test_a_declaration_that_could_not_be_withdrawn_is_at_the_next_look_up(tmp_path: Path, again: str) -> None:
    """Whether that looks for the same key, for a caller that goes once more, or for another."""
    told: list[str] = []
    failing = slow_to_declare(anyio.Event(), "withdraw")
    async with (
        site(tmp_path, answer=Samples(), pace=SLOW) as at,
        at.open() as other,
        at.open(run_sync=failing) as one,
    ):
        for key in ("one", again):
            with anyio.move_on_after(0.5):
                await ask(one, [], key)
            await anyio.sleep(2)
        start = anyio.current_time()
        await ask(other, told)
        took = anyio.current_time() - start
    assert told == ["text #1"]
    assert took < 200


async def test_a_second_call_that_goes_leaves_the_first_to_be_recorded(tmp_path: Path) -> None:
    """As of a client that asks once more, and goes: the first call's request is on its way to the disk."""
    told: list[str] = []
    came, slow = anyio.Event(), slow_to("write")

    async def slowly(func: Callable[..., Any], /, *args: Any) -> Any:
        nonlocal came
        given = await slow(func, *args)
        if args and getattr(args[0], "__name__", "") == "intend":
            came.set()
            await anyio.sleep(0.1)
        return given

    async with (
        site(tmp_path, answer=Samples(), pace=SLOW) as at,
        at.open(run_sync=slowly) as one,
        at.open() as other,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one, told)
            await anyio.sleep(0.2)
            came = anyio.Event()
            await left_just_when_declared(one, came)
            await anyio.sleep(0.3)
            tasks.start_soon(ask, other, told)
        assert told == ["text #1"] * 2
        assert at.emulator.books().times(body("text")) == 1


@pytest.mark.parametrize("after", [0.1, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("key", [None, "one"])
async def test_a_call_that_goes_before_it_is_recorded_is_taken_by_an_equal_one(
    tmp_path: Path, key: str | None, after: float
) -> None:
    """As of a client that asks again when its time is over, while the disk is slow."""
    told: list[str] = []
    settings: dict[str, Any] = {"timing": carpool.Timing(linger=0.2), "run_sync": slow_to("_sync", 3)}
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open(**settings) as w:
        await w.pool.request(asked("before", "before"))
        with anyio.move_on_after(after):
            await ask(w, [], key)
        await ask(w, told, key)
    assert told == ["text #1"]
    assert at.emulator.books().times(body("text")) == 1


async def test_that_a_caller_went_once_slows_no_later_look_up(tmp_path: Path) -> None:
    """Else on a slow disk calls would wait for those before them to be recorded, and travel apart."""
    settings: dict[str, Any] = {"timing": carpool.Timing(linger=1), "run_sync": slow_to("_sync", 3)}
    async with site(tmp_path, pace=SLOW) as at, at.open(**settings) as w:
        with anyio.move_on_after(1):
            await w.pool.request(asked("gone", "gone"))
        await anyio.sleep(60)
        await w.pool.request(asked("first", "first"))
        before = w.pool.stats().batches
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(w.pool.request, asked(f"{number}", f"{number}"))
                await anyio.sleep(0.5)
        assert w.pool.stats().batches == before + 1


async def test_equal_calls_with_one_key_are_each_sent(tmp_path: Path) -> None:
    told: list[str] = []
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at, at.open() as one:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask, one, told)
        assert sorted(told) == ["text #1", "text #2", "text #3"]


async def test_calls_that_come_while_others_are_looked_up_are_looked_up_together(tmp_path: Path) -> None:
    """Else each would wait for all before it: on a slow disk calls of a service would come faster than they go."""

    told: list[str] = []
    async with site(tmp_path) as at, at.open(run_sync=slow_to("find")) as w:
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, w, told, f"key {number}")
                await anyio.sleep(0.1)
        assert anyio.current_time() - start < 30
    assert told == ["text"] * 100

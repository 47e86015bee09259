"""Enqueued-token limits, kept by the whole pool on virtual time, on both backends, against the emulator in memory."""

import logging
from typing import Any

import anyio
import pytest
import tiktoken
import vocabulary
from virtual import CHAT, EMBEDDINGS, InMemory, World, body, run_here, world

import carpool
from carpool.settings import Ports
from carpool.testing import Emulator, Pace
from carpool.tokens import NoVocabulary, Tiktoken

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

# A batch takes 20 times `poll_min` and more.
PACE = Pace(validating=1, running=60, finalizing=1)
MODEL = "gpt-5-mini"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture(autouse=True, scope="module")
def _vocabulary() -> None:
    assert vocabulary.is_there(), "tiktoken's vocabularies are missing: say `make .vocabulary/.ready`"


def texts(count: int, words: int = 12) -> list[str]:
    return [f"Text {number}. " + "All work and no play. " * (1 + number * 7 % words) for number in range(count)]


def exact(given: dict[str, Any]) -> int:
    """Count as the Cookbook does for plain chat messages."""
    encode = tiktoken.get_encoding("o200k_base").encode_ordinary
    return 3 + sum(3 + len(encode(m["role"])) + len(encode(m["content"])) for m in given["messages"])


def work_of(asked: list[str]) -> int:
    return sum(exact(body(text)) for text in asked)


def all_answered(w: World, asked: list[str]) -> None:
    assert w.answers() == {text: text for text in asked}, w.errors()
    assert all(times == 1 for times in w.emulator.books().bodies.values())


def most_queued(emulator: Emulator) -> int:
    return max(line.tokens for line in emulator.books().queue)


# --- the limit


async def test_an_unknown_limit_is_found_by_one_refusal_and_kept_nearly_full() -> None:
    asked = texts(2_000)
    limit = work_of(asked) // 10
    async with world(pace=PACE, enqueued_tokens={"*": limit}, count=exact) as w:
        await w.ask_all(asked)
        (lane,) = w.pool.stats().lanes
    all_answered(w, asked)
    books = w.emulator.books()
    assert books.refusals() == 1
    assert books.utilisation(MODEL) >= 0.90
    assert (lane.limit, lane.limit_source, lane.refusals) == (limit, "learned", 1)
    assert (lane.waiting, lane.submitted, lane.enqueued) == (0, 0, 0)
    assert lane.utilisation is not None
    assert 0.7 <= lane.utilisation <= 1.0


async def test_the_users_number_is_never_exceeded() -> None:
    asked = texts(600)
    limit = work_of(asked) // 5
    async with world(pool={"limits": {MODEL: limit}}, pace=PACE, count=exact) as w:
        await w.ask_all(asked)
        (lane,) = w.pool.stats().lanes
    all_answered(w, asked)
    assert (lane.limit, lane.limit_source) == (limit, "user")
    # The emulator has no limit, and lets everything in: it is the pool that keeps what is queued there within its own.
    levels = [line.tokens for line in w.emulator.books().queue]
    assert levels
    assert max(levels) <= limit


async def test_a_provider_that_takes_less_than_the_user_said_is_believed() -> None:
    asked = texts(600)
    limit = work_of(asked) // 5
    async with world(pool={"limits": {"*": 3 * limit}}, pace=PACE, enqueued_tokens={MODEL: limit}, count=exact) as w:
        await w.ask_all(asked)
        (lane,) = w.pool.stats().lanes
    all_answered(w, asked)
    assert (lane.limit, lane.limit_source) == (limit, "learned")
    assert w.emulator.books().refusals() <= 8  # those that were under way together


async def test_the_table_gives_the_limit_of_a_tier() -> None:
    async with world(pool={"tier": "tier-1"}) as w:
        for model in ("gpt-4o-2024-11-20", "gpt-5-mini", "llama"):
            await w.pool.request(CHAT, body(model=model))
        lanes = {lane.lane.model: (lane.limit, lane.limit_source) for lane in w.pool.stats().lanes}
    assert lanes == {
        "gpt-4o-2024-11-20": (90_000, "table"),
        "gpt-5-mini": (5_000_000, "table"),
        "llama": (None, "unknown"),
    }


@pytest.mark.parametrize(
    "wrong", [{"tier": "tier-9"}, {"limits": {"gpt-4o": -1}}, {"limits": {"gpt-4o": "90K"}}, {"limits": 90_000}]
)
def test_impossible_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(carpool.ConfigurationError):
        carpool.Pool("key", "http://emulator/v1", **wrong)


@pytest.mark.parametrize("virtual_backend", ["asyncio"], indirect=True)  # no matter of the event loop
async def test_a_tier_that_was_raised_is_found_within_a_day_at_the_cost_of_a_refusal() -> None:
    asked = texts(900, words=1)
    limit = work_of(asked) // 30
    timing = carpool.Timing(poll_min=120, poll_max=600)
    async with world(pool={"timing": timing}, pace=Pace(running=3_600), enqueued_tokens={"*": limit}, count=exact) as w:
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, asked)
            await anyio.sleep(3_600)
            w.emulator.set_limit("*", 20 * limit)
        took = anyio.current_time() - start
    all_answered(w, asked)
    assert took < 24 * 3_600
    assert w.emulator.books().refusals() <= 2


@pytest.mark.parametrize("refuse_at", ["validation", "creation"])
async def test_any_wording_at_any_moment_teaches_the_limit(refuse_at: Any) -> None:
    asked = texts(400)
    limit = work_of(asked) // 4 // 1_000 * 1_000

    def azure(model: str, tokens: int) -> str:
        return (
            f"The number of enqueued tokens has surpassed the configured limit of {tokens // 1_000}K for the "
            f"deployment '{model}'. Please either increase the limit or try again once the current jobs have finished."
        )

    async with world(
        pace=PACE, enqueued_tokens={"*": limit}, count=exact, refuse_at=refuse_at, room_message=azure
    ) as w:
        await w.ask_all(asked)
        (lane,) = w.pool.stats().lanes
    all_answered(w, asked)
    assert lane.limit == limit
    assert w.emulator.books().refusals() == 1


async def test_a_refusal_that_states_no_limit_is_lived_with() -> None:
    asked = texts(300)
    limit = work_of(asked) // 4
    async with world(
        pace=PACE, enqueued_tokens={"*": limit}, count=exact, room_message=lambda model, tokens: "Enqueued tokens: no."
    ) as w:
        await w.ask_all(asked)
    all_answered(w, asked)
    assert w.emulator.books().refusals() <= 12


# --- one request above the whole limit


async def test_a_request_above_the_whole_limit_is_refused_at_once_and_names_both_numbers() -> None:
    big = "All work and no play. " * 5_000
    async with world(pool={"limits": {"*": 10_000}}, pace=PACE, count=exact) as w, anyio.create_task_group() as tasks:
        for text in texts(20):
            tasks.start_soon(w.ask, text)
        start = anyio.current_time()
        with pytest.raises(carpool.LimitExceeded, match="10,000") as caught:
            await w.pool.request(CHAT, body(big))
        assert anyio.current_time() - start < 2
    assert f"{exact(body(big)):,}" in str(caught.value)
    assert MODEL in str(caught.value)
    all_answered(w, texts(20))


async def test_a_request_above_a_limit_that_is_learned_is_refused_when_it_is_learned() -> None:
    big = "All work and no play. " * 5_000
    async with world(pace=PACE, enqueued_tokens={"*": 10_000}, count=exact) as w:
        await w.ask_all([*texts(20), big])
    assert sorted(w.answers()) == sorted(texts(20))
    assert isinstance(w.errors()[big], carpool.LimitExceeded)
    assert w.emulator.books().refusals() == 1


# --- who counts otherwise


@pytest.mark.parametrize("virtual_backend", ["asyncio"], indirect=True)  # no matter of the event loop
@pytest.mark.parametrize("factor", [1.4, 0.7])
@pytest.mark.parametrize("told", ["by the batch", "by the rows", "not at all"])
async def test_a_provider_that_counts_otherwise_is_kept_pace_with(factor: float, told: str) -> None:
    asked = texts(1_500)
    limit = int(work_of(asked) * factor) // 10
    count = lambda given: int(exact(given) * factor)  # noqa: E731
    answer: dict[str, Any] = {}
    if told == "not at all":
        answer["answer"] = lambda endpoint, given: {
            "choices": [{"message": {"content": given["messages"][0]["content"]}}]
        }
    async with world(pace=PACE, enqueued_tokens={"*": limit}, count=count, usage=told == "by the batch", **answer) as w:
        await w.ask_all(asked)
    all_answered(w, asked)
    books = w.emulator.books()
    refused = [line.at for line in books.queue if line.change == "refused"]
    ends = [line.at for line in books.queue]
    assert len(refused) <= 8
    assert not [at for at in refused if at > (min(ends) + max(ends)) / 2]


async def test_others_on_the_account_and_late_releases_are_lived_with() -> None:
    asked = texts(800)
    limit = work_of(asked) // 8
    begin: list[float] = []

    def others(model: str, now: float) -> int:
        begin.append(now)
        return limit // 2 if 100 <= now - begin[0] <= 300 else 0

    async with world(pace=PACE, enqueued_tokens={"*": limit}, count=exact, other_tokens=others, release_after=10) as w:
        await w.ask_all(asked)
    all_answered(w, asked)
    assert w.emulator.books().refusals() <= 30


async def test_two_pools_share_one_account() -> None:
    asked = texts(1_000)
    half = len(asked) // 2
    limit = work_of(asked) // 10
    async with world(pace=PACE, enqueued_tokens={"*": limit}, count=exact) as w:
        ports = Ports(run_sync=run_here, transport=InMemory(w.emulator.app))
        async with carpool.Pool("sk-key", "http://emulator/v1", _ports=ports) as pool:
            other = World(pool, w.emulator, w.transport)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask_all, asked[:half])
                tasks.start_soon(other.ask_all, asked[half:])
    assert w.answers() | other.answers() == {text: text for text in asked}
    books = w.emulator.books()
    refused = [line.at for line in books.queue if line.change == "refused"]
    middle = (books.queue[0].at + books.queue[-1].at) / 2
    late = sum(at > middle for at in refused)
    assert len(refused) <= 20
    assert late < max(1, len(refused) - late)


# --- counting


class Counting:
    """Count like tiktoken, and how often."""

    def __init__(self) -> None:
        self.calls = 0
        self._count = Tiktoken()

    def __call__(self, endpoint: str, model: str, given: bytes) -> int:
        self.calls += 1
        return self._count(endpoint, model, given)


@pytest.mark.parametrize("limits", [None, {"*": 10_000_000}])
async def test_nothing_is_counted_without_a_limit_or_far_below_it(limits: dict[str, int] | None) -> None:
    counter = Counting()
    async with world(pool={"limits": limits, "counter": counter}) as w:
        await w.ask_all(texts(500))
    assert counter.calls == 0
    assert len(w.answers()) == 500


async def test_near_the_limit_each_request_is_counted_once() -> None:
    counter = Counting()
    asked = texts(500)
    async with world(pool={"limits": {"*": work_of(asked) // 4}, "counter": counter}, pace=PACE) as w:
        await w.ask_all(asked)
    assert counter.calls == len(asked)
    all_answered(w, asked)


async def test_not_far_above_the_estimate_a_sample_is_counted() -> None:
    counter = Counting()
    asked = [f"{number} " + "word " * 2_000 for number in range(600)]
    async with world(pool={"limits": {"*": 2 * work_of(asked)}, "counter": counter}, pace=PACE) as w:
        await w.ask_all(asked)
    assert 0 < counter.calls < len(asked) / 2
    all_answered(w, asked)


async def test_a_counter_of_the_users_own_is_used() -> None:
    models = set()

    def counter(endpoint: str, model: str, given: bytes) -> int:
        models.add((endpoint, model))
        return 100

    async with world(pool={"limits": {"*": 1_000}, "counter": counter}, pace=PACE, count=lambda given: 100) as w:
        await w.ask_all(texts(100))
        assert max(lane.enqueued for lane in w.pool.stats().lanes) <= 1_000
    assert models == {(CHAT, MODEL)}
    assert len(w.answers()) == 100


@pytest.mark.parametrize("problem", [NoVocabulary("no network"), ValueError("a fault"), "text", -1])
async def test_what_cannot_be_counted_is_estimated(problem: Any, caplog: pytest.LogCaptureFixture) -> None:
    def counter(endpoint: str, model: str, given: bytes) -> Any:
        if isinstance(problem, Exception):
            raise problem
        return problem

    asked = texts(800)
    limit = work_of(asked) // 5
    with caplog.at_level(logging.WARNING, "carpool"):
        async with world(pool={"counter": counter}, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as w:
            await w.ask_all(asked)
    all_answered(w, asked)
    books = w.emulator.books()
    assert books.refusals() <= 3
    assert books.utilisation(MODEL) >= 0.5
    if not isinstance(problem, NoVocabulary):
        assert "are estimated" in caplog.text


class Panic(BaseException):
    """Stand for what Rust raises through Python."""


async def test_a_counter_that_panics_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def counter(endpoint: str, model: str, given: bytes) -> int:
        raise Panic(f"secret prompt: {given!r}")

    asked = texts(200)
    async with world(pool={"counter": counter, "limits": {"*": work_of(asked) // 3}}, pace=PACE) as w:
        await w.ask_all(asked)
    all_answered(w, asked)
    assert "Panic" in caplog.text
    assert "secret prompt" not in caplog.text


class AsyncCounter:
    """Count as nobody can use it."""

    async def __call__(self, endpoint: str, model: str, given: bytes) -> int:
        return 1


@pytest.mark.parametrize("counter", [5, "text", AsyncCounter(), AsyncCounter().__call__])
def test_a_counter_that_is_no_plain_function_is_refused(counter: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="counter"):
        carpool.Pool("key", "http://emulator/v1", counter=counter)


async def test_a_vocabulary_that_comes_late_is_used_when_it_is_there() -> None:
    arrived = False
    counter = Counting()

    def late(endpoint: str, model: str, given: bytes) -> int:
        if not arrived:
            raise NoVocabulary("not yet")
        return counter(endpoint, model, given)

    asked = texts(800)
    limit = work_of(asked) // 8
    async with (
        world(pool={"counter": late}, pace=PACE, enqueued_tokens={"*": limit}, count=exact) as w,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(w.ask_all, asked)
        await anyio.sleep(100)
        arrived = True
    all_answered(w, asked)
    assert counter.calls > 100


# --- lanes


async def test_two_endpoints_of_a_model_share_its_queue() -> None:
    asked = texts(300)
    limit = work_of(asked) // 5

    def count(given: dict[str, Any]) -> int:
        return exact(given) if "messages" in given else 1_000

    async with world(pace=PACE, enqueued_tokens={"*": limit}, count=count) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, asked)
        embeddings = [{"model": MODEL, "input": f"{number} " + "word " * 1_000} for number in range(10)]
        responses = await w.pool.gather(embeddings, endpoint=EMBEDDINGS)
    all_answered(w, asked)
    assert len(responses) == 10
    assert most_queued(w.emulator) <= limit
    assert w.emulator.books().refusals() <= 4


async def test_long_prompts_wait_in_a_queue_of_their_own() -> None:
    long = body("word " * 130_000, model="gpt-4.1-mini")
    async with world(pool={"tier": "tier-1"}) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.pool.request, CHAT, long)
        tasks.start_soon(w.pool.request, CHAT, body("short", model="gpt-4.1-mini"))
        await anyio.wait_all_tasks_blocked()
        limits = {lane.lane.long: lane.limit for lane in w.pool.stats().lanes}
    assert limits == {True: 5_000_000, False: 2_000_000}
    assert len(w.emulator.books().batches) == 2


# --- leaving while calls wait for room


async def test_leaving_submits_what_waits_for_room_too() -> None:
    asked = texts(300)
    async with (
        anyio.create_task_group() as tasks,
        world(pace=PACE, enqueued_tokens={"*": work_of(asked) // 10}, count=exact) as w,
    ):
        for text in asked:
            tasks.start_soon(w.ask, text)
        await anyio.sleep(100)
    all_answered(w, asked)
    assert not w.emulator.books().files


async def test_leaving_by_an_exception_tells_those_who_wait_for_room_and_leaves_no_input_file() -> None:
    asked = texts(300)
    opened: list[World] = []

    async def leave() -> None:
        async with world(pace=PACE, enqueued_tokens={"*": work_of(asked) // 10}, count=exact) as w:
            opened.append(w)
            for text in asked:
                tasks.start_soon(w.ask, text)
            await anyio.sleep(100)
            raise RuntimeError

    async with anyio.create_task_group() as tasks:
        with pytest.raises(RuntimeError):
            await leave()
    (w,) = opened
    assert len(w.answers()) + len(w.errors()) == len(asked)
    assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
    assert not [file for file in w.emulator.books().files if file.purpose == "batch"]

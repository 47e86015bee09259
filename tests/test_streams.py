"""Streams on a whole pool: what goes in, what comes out, and in which order; on virtual time, on both backends."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from streams_kit import Feed, Taken, collect, kinds, stream_texts, text_of, texts, ways
from virtual import CHAT, EMBEDDINGS, VirtualLoop, body, world

import carpool
from carpool.testing import Answer, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


# --- order


@ways
@kinds
async def test_each_request_of_a_stream_is_answered_once(way: str, kind: str) -> None:
    async with world(pace=SLOW) as w:
        feed = Feed(1_300)
        outcomes = await collect(getattr(w.pool, way)(feed.requests(kind), endpoint=CHAT))
    order = [outcome.index for outcome in outcomes]
    assert sorted(order) == list(range(1_300))
    assert way == "as_completed" or order == sorted(order)
    assert all(outcome.ok for outcome in outcomes)
    assert all(text_of(outcome) == f"text {outcome.index}" for outcome in outcomes)
    assert all(outcome.request == body(text_of(outcome)) for outcome in outcomes)
    assert set(w.emulator.books().bodies.values()) == {1}
    assert len(w.emulator.books().batches) == 1
    assert feed.over


async def slow_first(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
    await anyio.sleep(500 if given["model"] == "slow" else 0)
    return {"choices": [{"message": {"content": given["messages"][0]["content"]}}]}


@ways
async def test_those_that_come_first_wait_for_those_before_them_or_do_not(way: str) -> None:
    wanted = [body(text, model="slow" if text == "text 0" else "quick") for text in texts(20)]
    came: dict[int, float] = {}
    async with world(answer=slow_first) as w:
        start = anyio.current_time()
        async for outcome in getattr(w.pool, way)(wanted, endpoint=CHAT):
            came[outcome.index] = anyio.current_time() - start
            assert text_of(outcome) == f"text {outcome.index}"
    if way == "map":
        assert list(came) == list(range(20))
        assert min(came.values()) > 500
    else:
        assert list(came)[-1] == 0
        assert sorted(came.values())[-2] < 100


# --- what a source may give


@ways
async def test_a_source_may_give_requests_rows_and_bodies_in_every_form(way: str) -> None:
    row = {"custom_id": "mine", "method": "POST", "url": EMBEDDINGS, "body": {"model": "m", "input": "x"}}
    asked: list[Any] = [
        carpool.Request(CHAT, body("request")),
        carpool.Request(CHAT, json.dumps(body("text")).encode()),
        row,
        json.dumps(row),
        json.dumps(row).encode() + b"\n",
        {"url": CHAT, "body": json.dumps(body("a row with its body as text"))},
    ]
    async with world() as w:
        outcomes = await collect(getattr(w.pool, way)(asked))
        bare = await collect(getattr(w.pool, way)([body("bare"), json.dumps(body("json"))], endpoint=CHAT))
    by_index = {outcome.index: outcome for outcome in outcomes}
    assert [by_index[index].request for index in range(6)] == asked
    assert {text_of(by_index[index]) for index in (0, 1, 5)} == {"request", "text", "a row with its body as text"}
    assert all(by_index[index].result().json()["object"] == "list" for index in (2, 3, 4))
    assert sorted(map(text_of, bare)) == ["bare", "json"]


@pytest.mark.parametrize("source", [[], (), iter(()), {}.values()])
@ways
async def test_an_empty_source_is_over_at_once(way: str, source: Any) -> None:
    async with world() as w:
        start = anyio.current_time()
        assert await collect(getattr(w.pool, way)(source)) == []
        async with getattr(w.pool, way)(source) as outcomes:
            assert await collect(outcomes) == []
        assert anyio.current_time() == start
    assert w.transport.requests == []


@pytest.mark.parametrize("source", [None, 5, "text", b"bytes", carpool.Request(CHAT, {}), body(), object()])
@ways
async def test_what_is_no_source_is_refused_at_once(way: str, source: Any) -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="iterable"):
            getattr(w.pool, way)(source, endpoint=CHAT)


@ways
async def test_what_is_wrong_with_one_request_is_its_outcome(way: str) -> None:
    asked: list[Any] = [
        body("first"),
        {"messages": []},
        carpool.Request("/v1/audio/speech", body()),
        carpool.Request(CHAT, body(), priority=1_000),
        5,
        None,
        {"model": "m", "stream": True},
        {"model": "m", "x": object()},
        body("last"),
    ]
    async with world() as w:
        outcomes = sorted(await collect(getattr(w.pool, way)(asked, endpoint=CHAT)), key=lambda outcome: outcome.index)
        (bare,) = await collect(getattr(w.pool, way)([body()]))
    assert [outcome.request for outcome in outcomes] == asked
    assert [outcome.ok for outcome in outcomes] == [True, *[False] * 7, True]
    assert [type(outcome.error) for outcome in outcomes[1:-1]] == [
        carpool.Unbatchable,
        carpool.Unbatchable,
        carpool.ConfigurationError,
        *[carpool.Unbatchable] * 4,
    ]
    assert isinstance(bare.error, carpool.ConfigurationError)
    with pytest.raises(carpool.ConfigurationError, match="endpoint"):
        bare.result()
    assert w.emulator.books().bodies.total() == 2


@ways
async def test_a_request_that_fails_is_an_outcome_and_no_end(way: str) -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        text = given["messages"][0]["content"]
        return Answer(400, {"error": {"message": "no", "code": "bad"}}) if text[-1] == "3" else {"choices": []}

    async with world(answer=answer) as w:
        outcomes = await collect(getattr(w.pool, way)(Feed(20).plain(), endpoint=CHAT))
        stats = w.pool.stats()
    failed = [outcome for outcome in outcomes if not outcome.ok]
    assert sorted(outcome.index for outcome in failed) == [3, 13]
    assert all(isinstance(outcome.error, carpool.RequestRejected) for outcome in failed)
    assert all(outcome.response is None for outcome in failed)
    assert (stats.accepted, stats.answered, stats.failed) == (20, 18, 2)


async def test_requests_are_kept_until_they_are_given_and_not_otherwise() -> None:
    class Asked(dict[str, Any]):
        """Can be asked about by a weak reference."""

    import weakref

    refs: list[Any] = []

    def requests() -> Iterator[Any]:
        for text in texts(10):
            asked = Asked(body(text))
            refs.append(weakref.ref(asked))
            yield asked
            del asked

    def alive() -> int:
        gc.collect()
        return sum(ref() is not None for ref in refs)

    async with world(pace=SLOW) as w:
        async with w.pool.map(requests(), endpoint=CHAT) as outcomes:
            await anyio.sleep(10)
            assert alive() == 10
            for left in range(9, -1, -1):
                outcome = await anext(outcomes)
                assert isinstance(outcome.request, Asked)
                del outcome
                assert alive() == left
        refs.clear()
        async with w.pool.map(requests(), endpoint=CHAT, keep_requests=False) as outcomes:
            await anyio.sleep(10)
            assert alive() == 0
            assert [outcome.request for outcome in await collect(outcomes)] == [None] * 10


# --- sources that take their time


async def test_what_a_slow_source_gave_goes_out_while_it_thinks_about_the_next() -> None:
    async with world(pool={"timing": carpool.Timing(linger=1)}) as w:
        start = anyio.current_time()
        came = []
        async for outcome in w.pool.map(Feed(5, pause=100).asynchronous(), endpoint=CHAT):
            came.append(anyio.current_time() - start)
            assert text_of(outcome) == f"text {outcome.index}"
    assert len(w.emulator.books().batches) == 5
    assert all(100 * number <= at < 100 * number + 20 for number, at in enumerate(came, 1))


async def test_a_source_that_waits_for_the_answers_of_its_own_stream_gets_them() -> None:
    """Each request is made of the answer before it."""
    answers: list[str] = ["seed"]
    grown = anyio.Event()

    async def requests() -> AsyncIterator[Any]:
        nonlocal grown
        for number in range(5):
            while len(answers) <= number:
                grown = anyio.Event()
                await grown.wait()
            yield body(answers[-1] + "!")

    async with world() as w:
        async for outcome in w.pool.as_completed(requests(), endpoint=CHAT):
            answers.append(text_of(outcome))
            grown.set()
    assert answers[-1] == "seed!!!!!"


async def test_a_source_may_do_whatever_a_task_may() -> None:
    async def requests() -> AsyncIterator[Any]:
        with anyio.move_on_after(5):
            await anyio.sleep_forever()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 5)
        yield body("after both")

    async with world() as w:
        assert [text_of(outcome) for outcome in await collect(w.pool.map(requests(), endpoint=CHAT))] == ["after both"]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_others_get_their_turn_while_a_long_source_is_read(kind: str) -> None:
    turns = [0]

    async def others() -> None:
        while True:
            turns[0] += 1
            await anyio.lowlevel.checkpoint()

    async with (
        world(pool={"timing": PATIENT}) as w,
        anyio.create_task_group() as tasks,
        w.pool.map(Feed(20_000).requests(kind), endpoint=CHAT, keep_requests=False),
    ):
        tasks.start_soon(others)
        while w.pool.stats().accepted < 20_000:
            await anyio.lowlevel.checkpoint()
        assert turns[0] >= 35  # some 500 requests at a time
        tasks.cancel_scope.cancel()


# --- errors of the source


@ways
@kinds
async def test_an_error_of_the_source_comes_after_the_outcomes_of_what_it_gave(way: str, kind: str) -> None:
    taken = Taken()
    async with world(pace=SLOW) as w:
        feed = Feed(700, error=ZeroDivisionError("the source"))
        outcomes = getattr(w.pool, way)(feed.requests(kind), endpoint=CHAT)
        await taken.take(outcomes)
        assert await collect(outcomes) == []
    assert sorted(taken.texts) == sorted(texts(700))
    assert isinstance(taken.error, ZeroDivisionError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, carpool.PoolClosed])
async def test_any_error_of_a_source_is_raised(error: type[BaseException]) -> None:
    class Source:
        def __iter__(self) -> "Source":
            return self

        def __next__(self) -> Any:
            self.given = getattr(self, "given", 0) + 1
            if self.given == 1:
                return body("one")
            raise error

    async with world() as w:
        outcomes = w.pool.map(Source(), endpoint=CHAT)
        assert text_of(await anext(outcomes)) == "one"
        with pytest.raises(StopAsyncIteration if error is StopIteration else error):
            await anext(outcomes)


@pytest.mark.parametrize("source", ["__iter__", "__aiter__"])
async def test_a_source_that_cannot_even_begin_says_why(source: str) -> None:
    def fails(self: object) -> Any:
        raise ZeroDivisionError

    async with world() as w:
        with pytest.raises(ZeroDivisionError):
            await collect(w.pool.map(type("Source", (), {source: fails})(), endpoint=CHAT))


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})])
async def test_a_source_that_is_cancelled_from_within_ends_the_stream() -> None:
    """On asyncio anybody may cancel what the source waits for; nobody has cancelled the stream then."""

    async def requests() -> AsyncIterator[Any]:
        yield body("one")
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with world() as w:
        outcomes = w.pool.map(requests(), endpoint=CHAT)
        assert text_of(await anext(outcomes)) == "one"
        with pytest.raises(asyncio.CancelledError):
            await anext(outcomes)
        assert await collect(outcomes) == []


# --- several at once


async def test_many_streams_share_a_pool_with_single_calls_and_gathers() -> None:
    taken = [Taken() for _ in range(12)]
    async with world(pace=SLOW) as w:
        async with anyio.create_task_group() as tasks:
            for number, one in enumerate(taken):
                way = w.pool.map if number % 2 else w.pool.as_completed
                kind = "async" if number % 3 else "plain"
                feed = Feed(100 + number, of=f"stream {number}", pause=0.5 if number % 4 == 1 else None)
                tasks.start_soon(one.take, way(feed.requests(kind), endpoint=CHAT))
            tasks.start_soon(w.ask_all, texts(50))
            gathered = await w.pool.gather([body(f"gathered {n}") for n in range(50)], endpoint=CHAT)
        stats = w.pool.stats()
    for number, one in enumerate(taken):
        assert one.error is None
        assert sorted(one.texts) == sorted(f"stream {number} {n}" for n in range(100 + number))
        assert {outcome.index: text_of(outcome) for outcome in one.outcomes} == {
            n: f"stream {number} {n}" for n in range(100 + number)
        }
    assert len(w.answers()) == 50
    assert [response.text for response in gathered] == [f"gathered {n}" for n in range(50)]
    assert set(w.emulator.books().bodies.values()) == {1}
    assert (stats.accepted, stats.answered) == (1_366, 1_366)


@ways
async def test_a_stream_may_be_shared_by_several_who_take_from_it(way: str) -> None:
    taken = [Taken() for _ in range(5)]
    async with world(pace=SLOW) as w:
        outcomes = getattr(w.pool, way)(Feed(1_700, error=ZeroDivisionError()).plain(), endpoint=CHAT)
        with anyio.fail_after(1_000):
            async with anyio.create_task_group() as tasks:
                for one in taken:
                    tasks.start_soon(one.take, outcomes, 0.01)
    assert sorted(text for one in taken for text in one.texts) == sorted(texts(1_700))
    assert all(one.outcomes for one in taken)
    assert sum(isinstance(one.error, ZeroDivisionError) for one in taken) == 1
    assert sum(one.error is None for one in taken) == 4


async def test_a_stream_that_is_waited_for_in_vain_is_waited_for_again() -> None:
    """Whoever takes an outcome with a timeout loses none."""
    got: list[str] = []
    vain = 0
    async with world(pace=SLOW) as w:
        outcomes = w.pool.map(Feed(5, pause=7).asynchronous(), endpoint=CHAT)
        while len(got) < 5:
            with anyio.move_on_after(2) as scope:
                got.append(text_of(await anext(outcomes)))
            vain += scope.cancelled_caught
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)
    assert got == texts(5)
    assert vain > 10


# --- how requests travel


async def test_requests_of_a_stream_say_how_they_travel_or_the_block_around_it_does() -> None:
    async with world(pool={"timing": PATIENT}) as w, anyio.create_task_group() as tasks:
        asked = [
            carpool.Request(CHAT, body("plain")),
            carpool.Request(CHAT, body("urgent"), priority=7, tags=("own",)),
            carpool.Request(CHAT, body("short"), timeout=40),
        ]
        with carpool.options(tags=["block"], timeout=50):
            outcomes = w.pool.map(asked)
        taken = Taken()
        start = anyio.current_time()
        tasks.start_soon(taken.take, outcomes)
        await anyio.sleep(1)
        assert {lane.lane.priority for lane in w.pool.stats().lanes} == {0, 7}
        assert {tag: counts.accepted for tag, counts in w.pool.stats().tags.items()} == {"block": 2, "own": 1}
        await taken.until_ended()
        assert 49 <= anyio.current_time() - start <= 53
        assert [type(outcome.error) for outcome in taken.outcomes] == [carpool.RequestExpired] * 3


async def test_a_source_may_set_how_what_it_gives_travels() -> None:
    def requests() -> Iterator[Any]:
        with carpool.options(tags=["inner"]):
            yield body("one")
        yield body("two")

    async with world() as w:
        await collect(w.pool.map(requests(), endpoint=CHAT))
        assert {tag: counts.answered for tag, counts in w.pool.stats().tags.items()} == {"inner": 1}


@kinds
async def test_a_timeout_ends_the_request_alone(kind: str) -> None:
    """Also where the source is asynchronous, and what it gave is handed over while it waits."""
    form = lambda text: carpool.Request(CHAT, body(text), timeout=30 if text[-1] in "13579" else None)  # noqa: E731
    async with world(pace=SLOW) as w:
        start = anyio.current_time()
        feed = Feed(10, form=form, pause=0.1)
        by_index = {outcome.index: outcome async for outcome in w.pool.as_completed(feed.requests(kind))}
        assert 60 < anyio.current_time() - start < 100
    assert {index for index, outcome in by_index.items() if not outcome.ok} == {1, 3, 5, 7, 9}
    assert all(isinstance(by_index[index].error, carpool.RequestExpired) for index in (1, 3, 5, 7, 9))


@kinds
async def test_a_stream_may_be_sent_live(kind: str) -> None:
    async with world(pace=Pace(running=10_000)) as w, carpool.Pool("sk", "http://emulator/v1", _ports=w.ports) as pool:
        with carpool.options(live=True):
            outcomes = pool.map(Feed(30, pause=0.1).requests(kind), endpoint=CHAT)
            assert [text_of(outcome) for outcome in await collect(outcomes)] == texts(30)
    assert w.emulator.books().batches == ()


@ways
async def test_the_mode_live_serves_streams(way: str) -> None:
    async with world(pool={"mode": "live"}) as w:
        assert sorted(await stream_texts(w.pool, way, 300)) == sorted(texts(300))
    assert w.emulator.books().batches == ()


async def test_an_output_is_asked_for_in_a_stream() -> None:
    import msgspec

    class City(msgspec.Struct):
        name: str

    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        assert given["response_format"]["json_schema"]["strict"]
        return {"choices": [{"message": {"content": '{"name": "Ulm"}'}, "finish_reason": "stop"}]}

    asked = [carpool.Request(CHAT, body("where"), output=City), carpool.Request(CHAT, body(), output=int)]
    async with world(answer=answer) as w:
        good, bad = await collect(w.pool.map(asked))
    assert good.result().parse(City) == City("Ulm")
    assert isinstance(bad.error, carpool.ConfigurationError)


async def test_what_is_near_its_timeout_escalates_in_a_stream() -> None:
    settings: dict[str, Any] = {"timeout": 100, "escalate": "live"}
    async with world(pool=settings, pace=Pace(running=10_000)) as w:
        start = anyio.current_time()
        assert sorted(await stream_texts(w.pool, "as_completed", 20)) == sorted(texts(20))
        assert anyio.current_time() - start < 100


async def test_a_budget_ends_requests_and_not_the_stream() -> None:
    prices = {"gpt-5-mini": {"input": 1e6, "output": 0}}  # a dollar a prompt token live, half of it in a batch
    async with world(pool={"budget": 20.0, "prices": prices}) as w:
        outcomes = await collect(w.pool.map([body(text) for text in texts(40)], endpoint=CHAT))
    kinds_ = {type(outcome.error) for outcome in outcomes if not outcome.ok}
    assert kinds_ == {carpool.BudgetExceeded}
    assert 0 < sum(outcome.ok for outcome in outcomes) < 40
    assert [outcome.index for outcome in outcomes] == list(range(40))


async def test_a_canary_that_is_refused_refuses_the_rest_of_its_lane_and_no_other() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        return Answer(400, {"error": {"message": "no"}}) if given["model"] == "bad" else {"choices": []}

    async with world(pool={"canary": 5}, answer=answer) as w:
        asked = [body(text, model=model) for text in texts(50) for model in ("bad", "good")]
        outcomes = await collect(w.pool.map(asked, endpoint=CHAT))
    assert [outcome.ok for outcome in outcomes] == [False, True] * 50
    assert {type(outcome.error) for outcome in outcomes[::2]} == {carpool.RequestRejected}
    assert len(w.emulator.books().bodies) == 55


async def test_a_wrong_key_is_the_outcome_of_every_request() -> None:
    async with world(api_key="sk-other") as w:
        outcomes = await collect(w.pool.map(Feed(20).plain(), endpoint=CHAT))
    assert [type(outcome.error) for outcome in outcomes] == [carpool.AuthenticationFailed] * 20


async def test_cancelling_the_batches_ends_what_is_under_way_in_a_stream() -> None:
    async with world(pace=Pace(running=10_000)) as w, anyio.create_task_group() as tasks:
        taken = Taken()
        tasks.start_soon(taken.take, w.pool.map(Feed(20).plain(), endpoint=CHAT))
        await anyio.sleep(60)
        await w.pool.cancel()
        await anyio.sleep(100)
        assert {type(outcome.error) for outcome in taken.outcomes} == {carpool.RequestCancelled}
        assert len(taken.outcomes) == 20


# --- settings


@pytest.mark.parametrize("setting", ["max_pending", "max_spool"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "5"])
def test_bounds_that_make_no_sense_are_refused(setting: str, wrong: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match=setting):
        carpool.Pool("key", **{setting: wrong})


async def test_a_stream_of_a_pool_that_is_not_open_says_so() -> None:
    with pytest.raises(carpool.PoolClosed, match="async with"):
        carpool.Pool("key").map([])

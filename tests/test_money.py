"""What a pool says that answers cost, against what the emulator billed; estimates, and budgets: on both backends."""

import logging
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest
from virtual import CHAT, EMBEDDINGS, InMemory, body, site, world

import carpool
from carpool.config import Timing
from carpool.models import Usage
from carpool.prices import Prices
from carpool.testing import Answer, Books, Faults, Pace, Troubles, echo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = Timing(linger=1_000, max_linger=1_000)
DOLLARS = {"gpt-5-mini": {"input": 1e6, "output": 0}}  # a dollar a prompt token, live, and half of it in a batch


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def billed(books: Books, model: str = "gpt-5-mini", prices: Any = None) -> float:
    """Give what the emulator's batches cost, by the table of prices."""
    price = Prices(prices).of(model)
    assert price is not None
    return price.of(Usage(books.billed.input_tokens, books.billed.output_tokens, 0))


def saying(**usage: Any) -> Any:
    """Answer with this usage."""

    def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"message": {"content": "x"}}], "usage": usage}

    return answer


# --- what was paid


async def test_the_cost_is_what_was_billed_to_the_cent() -> None:
    async with world(pace=SLOW) as w:
        await w.ask_all([f"{text} {'word ' * number}" for number, text in enumerate(texts(100))])
        cost = w.pool.stats().cost
    books = w.emulator.books()
    assert (cost.requests, cost.unpriced) == (100, 0)
    assert (cost.input_tokens, cost.output_tokens) == (books.billed.input_tokens, books.billed.output_tokens)
    assert cost.paid == pytest.approx(billed(books), rel=1e-12)
    assert cost.paid == pytest.approx((cost.input_tokens * 0.125 + cost.output_tokens * 1.0) / 1e6, rel=1e-12)
    assert cost.live == pytest.approx(2 * cost.paid)
    assert cost.saved == pytest.approx(cost.paid)


async def test_each_lane_has_its_cost_and_all_of_them_make_the_whole() -> None:
    async with world() as w:
        await w.pool.gather([body(text, model="gpt-4o") for text in texts(3)], endpoint=CHAT)
        await w.pool.gather([body(text, model="gpt-5-nano") for text in texts(4)], endpoint=CHAT)
        await w.pool.gather([{"model": "text-embedding-3-small", "input": "x" * 400}] * 5, endpoint=EMBEDDINGS)
        await w.pool.gather([body(model="llama")], endpoint=CHAT)
        stats = w.pool.stats()
    by_model = {lane.model: cost for lane, cost in stats.costs.items()}
    assert {model: cost.requests for model, cost in by_model.items()} == {
        "gpt-4o": 3,
        "gpt-5-nano": 4,
        "text-embedding-3-small": 5,
        "llama": 1,
    }
    assert by_model["text-embedding-3-small"].paid == pytest.approx(500 * 0.01 / 1e6)
    assert (by_model["llama"].unpriced, by_model["llama"].paid, by_model["llama"].live) == (1, 0, 0)
    assert stats.cost.paid == pytest.approx(sum(cost.paid for cost in by_model.values()))
    assert stats.cost.requests == 13


@pytest.mark.parametrize(
    ("usage", "paid"),
    [
        ({"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}, 3.0),
        (
            {
                "prompt_tokens": 1_000_000,
                "completion_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": 500_000},
            },
            0.5 * (0.5 * 2 + 0.5 * 0.2),
        ),
        ({"prompt_tokens": 0, "completion_tokens": 0}, 0.0),
        ({}, 0.0),
    ],
)
async def test_the_users_prices_count_cached_tokens_too(usage: dict[str, Any], paid: float) -> None:
    prices = {"mine": {"input": 2, "cached": 0.2, "output": 4}}
    async with world(pool={"prices": prices}, answer=saying(**usage)) as w:
        await w.pool.request(CHAT, body(model="mine"))
        cost = w.pool.stats().cost
    assert cost.paid == pytest.approx(paid)
    assert cost.live == pytest.approx(2 * paid)


async def test_another_discount_counts() -> None:
    prices = {"*": {"input": 2, "batch": 0.8}}
    async with world(pool={"prices": prices}, answer=saying(prompt_tokens=1_000_000, completion_tokens=7)) as w:
        await w.pool.request(CHAT, body(model="grok-9"))
        cost = w.pool.stats().cost
    assert [cost.paid, cost.live] == pytest.approx([1.6, 2])


async def test_live_calls_cost_the_live_price() -> None:
    async with world(pool={"prices": DOLLARS}) as w:
        await w.ask("four" * 4)
        with carpool.options(live=True):
            await w.ask("five" * 5)
        cost = w.pool.stats().cost
    assert [cost.paid, cost.live] == pytest.approx([2 + 5, 4 + 5])


async def test_failures_cost_nothing() -> None:
    async with world(answer=lambda endpoint, given: Answer(400, {"usage": {"prompt_tokens": 99}})) as w:
        await w.ask_all(texts(5))
        assert w.pool.stats().cost == carpool.Stats(0, 0, 0, 0, ()).cost


async def test_answers_that_nobody_awaits_any_more_are_paid() -> None:
    async with world(pool={"timeout": 30}, pace=SLOW) as w:
        await w.ask_all(texts(5))
        assert len(w.errors()) == 5
        with carpool.options(timeout=500):
            await w.ask("keeps it open")
        assert w.pool.stats().cost.requests >= 1
        books = w.emulator.books()
        assert w.pool.stats().cost.input_tokens == books.billed.input_tokens


@pytest.mark.parametrize("seed", range(6))
async def test_rows_that_come_twice_and_files_that_are_fetched_again_are_paid_once(seed: int) -> None:
    troubles = Troubles(doubled=0.3, foreign=0.1)
    faults = Faults(truncated=0.4, cut=0.2)
    async with world(troubles=troubles, faults=faults, seed=seed) as w:
        await w.ask_all(texts(60))
        cost = w.pool.stats().cost
    assert len(w.answers()) == cost.requests == 60
    assert cost.paid == pytest.approx(billed(w.emulator.books()), rel=1e-9)


async def test_answers_of_an_earlier_time_cost_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(5))
            assert w.pool.stats().cost.paid == pytest.approx(billed(at.emulator.books()))
        async with at.open() as w:
            await w.ask_all(texts(5))
            assert w.pool.stats().cost.requests == 0
            await w.ask("new")
            assert w.pool.stats().cost.requests == 1


async def test_what_an_earlier_process_submitted_is_paid_by_the_one_that_collects_it(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask_all, texts(5))
            await anyio.sleep(30)
        async with at.open() as w:
            await w.ask_all(texts(5))
            assert w.pool.stats().cost.paid == pytest.approx(billed(at.emulator.books()))


class Misstating(InMemory):
    """State so many times the input tokens."""

    factor = 2

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if request.method == "GET" and request.url.path.startswith("/v1/batches/"):
            told = msgspec.json.decode(await response.aread())
            if told.get("usage"):
                told["usage"]["input_tokens"] *= self.factor
            return httpx2.Response(200, json=told)
        return response


async def test_a_batch_that_states_other_tokens_than_its_rows_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as outer:
        ports = outer.ports._replace(transport=Misstating(outer.emulator.app))
        async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
            for _ in range(3):
                await pool.gather([body(text) for text in texts(5)], endpoint=CHAT)
                await anyio.sleep(30)
    said = [record.getMessage() for record in caplog.records if "states" in record.getMessage()]
    assert len(said) == 1
    assert "states 10 input tokens, its rows add up to 5" in said[0]


async def test_a_batch_that_states_what_its_rows_say_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(doubled=0.2, failing={500: 0.3})
    async with world(troubles=troubles, seed=1) as w:
        await w.ask_all(texts(50))
    assert "states" not in caplog.text


# --- estimates


def count(endpoint: str, model: str, given: bytes) -> int:
    return len(given) // 10


def count_parsed(given: dict[str, Any]) -> int:
    return len(msgspec.json.encode(given)) // 10


async def test_an_estimate_says_what_is_then_billed() -> None:
    requests = [body(f"{text} {'ü' * number}", max_tokens=50) for number, text in enumerate(texts(250))]
    settings = {"counter": count, "timing": Timing(linger=5)}
    async with world(pool=settings, count=count_parsed) as w:
        estimate = await w.pool.estimate(requests, endpoint=CHAT)
        assert w.transport.requests == []
        await w.pool.gather(requests, endpoint=CHAT)
        cost = w.pool.stats().cost
        books = w.emulator.books()
        assert (estimate.requests, estimate.batches) == (250, len(books.batches))
        assert estimate.tokens == books.billed.input_tokens == cost.input_tokens
        assert estimate.cost == pytest.approx(cost.input_tokens * 0.125 / 1e6)
        assert estimate.most is not None
        assert estimate.cost is not None
        assert estimate.cost < cost.paid <= estimate.most
        assert estimate.live == pytest.approx(2 * estimate.cost)


async def test_an_estimate_knows_of_files_that_are_full_and_of_lanes() -> None:
    """50,000 embedding inputs make a file, and so does each endpoint and model."""
    embeddings: list[Any] = [{"model": "text-embedding-3-small", "input": ["x"] * 1_000}] * 120
    mixed = [carpool.Request(EMBEDDINGS, given) for given in embeddings]
    mixed += [carpool.Request(CHAT, body(text, model=model)) for text in texts(3) for model in ("gpt-4o", "gpt-5-mini")]
    async with world(pool={"counter": lambda *_: 7}) as w:
        estimate = await w.pool.estimate(mixed)
        await w.pool.gather(mixed)
    assert estimate.batches == len(w.emulator.books().batches) == 5
    assert estimate.tokens == 126 * 7
    assert estimate.most is None  # chat without a bound


async def test_an_estimate_needs_no_open_pool_and_no_price() -> None:
    pool = carpool.Pool("sk", "http://emulator/v1", counter=count)
    estimate = await pool.estimate([body(model="llama"), carpool.Request(CHAT, body())], endpoint=CHAT)
    assert (estimate.requests, estimate.batches, estimate.cost, estimate.live) == (2, 2, None, None)
    assert (await pool.estimate([])).requests == 0


async def test_an_estimate_refuses_what_cannot_travel() -> None:
    async with world() as w:
        with pytest.raises(carpool.Unbatchable):
            await w.pool.estimate([{"model": "m", "stream": True}], endpoint=CHAT)
        with pytest.raises(carpool.ConfigurationError):
            await w.pool.estimate([body()])


# --- budgets


async def test_when_the_budget_is_spent_calls_are_refused_and_those_under_way_are_answered() -> None:
    """Five run, which spends it; others that were accepted meanwhile wait, and fail."""
    settings: dict[str, Any] = {
        "budget": 20,
        "prices": {"gpt-5-mini": {"input": 0, "output": 2e6}},  # of which nothing is expected before the first answer
        "limits": {"*": 50},
        "counter": lambda *_: 10,
    }
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, [f"{'word' * 10} {text}" for text in texts(30)])
        await anyio.sleep(300)
        assert w.pool.stats().cost.paid >= 20
        start = anyio.current_time()
        with pytest.raises(carpool.BudgetExceeded, match="is spent"):
            await w.pool.request(CHAT, body("more"))
        assert anyio.current_time() == start
        assert len(w.settled) == 30
    assert {type(error) for error in w.errors().values()} == {carpool.BudgetExceeded}
    books = w.emulator.books()
    assert books.bodies.total() == len(w.answers()) < 30
    assert w.answers() == {text: text for text in w.answers()}
    assert books.files == ()


async def test_what_calls_under_way_are_expected_to_cost_counts() -> None:
    size = len(msgspec.json.encode(body("x" * 400)))
    settings = {"budget": 2.5 * size / 4 / 2, "prices": DOLLARS, "timing": PATIENT}
    async with world(pool=settings) as w, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(w.pool.request, CHAT, body("x" * 400))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(carpool.BudgetExceeded, match="does not allow for this call"):
            await w.pool.request(CHAT, body("x" * 400))
        with carpool.options(live=True), pytest.raises(carpool.BudgetExceeded):
            await w.pool.request(CHAT, body("x" * 400))
        assert w.pool.stats().accepted == 2
        await w.pool.flush()


async def test_calls_that_are_given_up_make_room_in_the_budget() -> None:
    settings = {"budget": 60, "prices": DOLLARS, "timing": PATIENT}
    async with world(pool=settings) as w:
        for _ in range(5):
            with anyio.move_on_after(5):
                await w.pool.request(CHAT, body("x" * 300))
            await anyio.wait_all_tasks_blocked()  # it leaves the queue
        (outcome,) = await w.pool.gather([carpool.Request(CHAT, body("x" * 300), timeout=5)], return_exceptions=True)
        assert isinstance(outcome, carpool.RequestExpired)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "x" * 300)
            await anyio.wait_all_tasks_blocked()
            await w.pool.flush()
    assert len(w.answers()) == 1


async def test_a_budget_of_nothing_lets_nothing_pass() -> None:
    async with world(pool={"budget": 0}) as w:
        await w.ask_all(texts(3))
        outcomes = await w.pool.gather([body()], endpoint=CHAT, return_exceptions=True)
    assert {type(error) for error in [*w.errors().values(), *outcomes]} == {carpool.BudgetExceeded}
    assert w.transport.requests == []


async def test_a_model_without_a_price_passes_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pool={"budget": 1}) as w:
        for text in texts(3):
            await w.pool.request(CHAT, body(text, model="llama"))
    said = [record.getMessage() for record in caplog.records if "no price is known" in record.getMessage()]
    assert len(said) == 1
    assert "llama" in said[0]


async def test_rows_that_fail_in_passing_are_not_sent_again_when_the_budget_is_spent() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        return Answer(500) if "fails" in str(given) else echo(endpoint, given)

    settings = {"budget": 10, "prices": {"gpt-5-mini": {"input": 0, "output": 2e6}}}
    async with world(pool=settings, answer=answer) as w:
        await w.ask_all(["word" * 20, "fails"])
    assert list(w.answers()) == ["word" * 20]
    assert isinstance(w.errors()["fails"], carpool.BudgetExceeded)
    assert len(w.emulator.books().batches) == 1


async def test_what_the_budget_stopped_is_asked_for_anew_by_the_next_process(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "prices": {"gpt-5-mini": {"input": 0, "output": 2e6}},
        "limits": {"*": 30},
        "counter": lambda *_: 10,
    }
    wanted = [f"{'word' * 10} {text}" for text in texts(12)]
    async with site(tmp_path) as at:
        async with at.open(budget=30, **settings) as w:
            await w.ask_all(wanted)
        stopped = set(w.errors())
        assert 0 < len(stopped) < 12
        async with at.open(**settings) as w:
            await w.ask_all(wanted)
            assert w.pool.stats().cost.requests == len(stopped)
        assert len(w.answers()) == 12
        assert at.files("segment*") == at.files("shard*") == set()
    assert set(at.emulator.books().bodies.values()) == {1}


@pytest.mark.parametrize("budget", [0, 1e-9])
async def test_answers_that_are_on_disk_are_given_whatever_the_budget(tmp_path: Path, budget: float) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(10))
        async with at.open(budget=budget) as w:
            await w.ask_all(texts(10))
            await w.ask("new")
        assert sorted(w.answers()) == sorted(texts(10))
        assert isinstance(w.errors()["new"], carpool.BudgetExceeded)


async def test_a_budget_bounds_what_is_paid_but_for_what_is_under_way() -> None:
    settings = {"budget": 100, "prices": DOLLARS}
    async with world(pool=settings) as w:
        for text in texts(60):
            await w.ask("x" * 40 + text)
        paid = w.pool.stats().cost.paid
    assert 80 < paid <= 105
    assert {type(error) for error in w.errors().values()} == {carpool.BudgetExceeded}
    assert paid == pytest.approx(billed(w.emulator.books(), prices=DOLLARS))


# --- settings


NAN, INF = float("nan"), float("inf")
WRONG: dict[str, list[Any]] = {
    "budget": [-1, "5", True, NAN, INF, []],
    "canary": [0, -1, True, 1.5, "5", (), (5,), (5, 1), (5, -0.1), (5, NAN), [5, 0.1]],
    "escalate": ["fast", True, 1, "", ["live"]],
    "retry": [3, {}, "no", carpool.Retry],
    "on_event": [5, "print", []],
    "timeout": [0, -1, True, "5", NAN, INF],
    "prices": [
        5,
        [],
        {5: {"input": 1}},
        {"m": 5},
        {"m": {}},
        {"m": {"output": 1}},
        {"m": {"input": "1"}},
        {"m": {"input": -1}},
        {"m": {"input": True}},
        {"m": {"input": NAN}},
        {"m": {"input": 1, "batch": 1.5}},
        {"m": {"input": 1, "colour": 1}},
    ],
}


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, values in WRONG.items() for wrong in values])
def test_a_setting_that_makes_no_sense_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match=name):
        carpool.Pool("sk", "http://emulator/v1", **{name: wrong})


async def test_an_async_hook_is_refused() -> None:
    async def hook(event: carpool.Event) -> None: ...

    with pytest.raises(carpool.ConfigurationError, match="on_event"):
        carpool.Pool("sk", "http://emulator/v1", on_event=hook)


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"max_attempts": 1.5}, {"max_attempts": True}, {"max_expiries": -1}]
)
def test_a_retry_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(carpool.ConfigurationError, match="Retry"):
        carpool.Retry(**wrong)


@pytest.mark.parametrize(
    "setting",
    [
        {"budget": 0},
        {"budget": 5},
        {"canary": 1},
        {"canary": (5, 0)},
        {"canary": (5, 0.99)},
        {"escalate": "flex"},
        {"prices": {}},
        {"prices": {"*": {"input": 0}}},
        {"on_event": logging.getLogger("any").info},
        {"timeout": 0.001},
    ],
    ids=str,
)
def test_a_setting_that_makes_sense_is_taken(setting: dict[str, Any]) -> None:
    assert "not open" in repr(carpool.Pool("sk", "http://emulator/v1", **setting))

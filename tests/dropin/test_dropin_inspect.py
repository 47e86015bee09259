"""Inspect, above the official SDK; it calls from event loops of its own, and replaces clients that look closed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import carpool
from carpool.testing import Pace

from .kit import (
    FAST,
    MODEL,
    ONCE,
    PATIENT,
    Client,
    ask_all,
    echoed,
    emulated,
    failing,
    one_fails,
    refusal_of,
    shows,
    sizes,
    texts,
)

inspect_ai = pytest.importorskip("inspect_ai")
openai = pytest.importorskip("openai")
models: Any = pytest.importorskip("inspect_ai.model")
datasets: Any = pytest.importorskip("inspect_ai.dataset")
scorers: Any = pytest.importorskip("inspect_ai.scorer")

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]

CLIENT = Client(
    name="inspect-ai",
    packages=("inspect-ai",),
    passed_in="`http_client=`, an argument of the model",
    code="""with carpool.Pool() as pool:  # on a thread, as each eval has an event loop of its own
    model = get_model("openai/gpt-5-mini", http_client=pool.http_client())
    eval(task, model=model, max_connections=1000, max_samples=1000)""",
    catches=(
        "`max_connections` is 20 to 100 by default, and batches as small: give 1,000, and as many `max_samples`."
        " What the first model of a name and key was given holds for the later ones of the process.",
        "Inspect sends failed rows of status 408, 429 and 5xx again, for ever, unless `max_retries=0`.",
        "Models that reason (gpt-5, o-series) are asked to say hello first, in a batch of one, before all else: give "
        "`reasoning_summary` to be spared that.",
        "`streaming=true` is refused. Where a caller listens (`on_stream`), Inspect then asks again without.",
        "Counting the tokens of messages (for compaction, with the Responses API) is refused.",
    ),
    not_tried=(
        "`batch=` of Inspect itself: leave it off",
        "`azure/` and `bedrock/` models",
        "`inspect` on the command line",
    ),
    beside=("openai", "httpx2"),
)


def model_of(pool: carpool.Pool, name: str = f"openai/{MODEL}", **more: Any) -> Any:
    settings = {"max_connections": 50, "max_retries": 0, **more.pop("settings", {})}
    config = models.GenerateConfig(**settings)
    return models.get_model(name, config=config, memoize=False, http_client=pool.http_client(), **more)


async def ask(model: Any, text: str) -> str:
    return str((await model.generate(text)).completion)


def evaluate(model: Any, folder: Path, number: int, **more: Any) -> Any:
    samples = [datasets.Sample(input=text, target=text) for text in texts(number)]
    task = inspect_ai.Task(dataset=samples, scorer=scorers.exact())
    (log,) = inspect_ai.eval(
        task, model=model, display="none", log_dir=str(folder), max_samples=50, max_connections=50, **more
    )
    return log


@shows("one batch", "after the exit")
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=PATIENT) as pool:
            model = model_of(pool)
            assert await ask_all(50, lambda text: ask(model, text)) == echoed(50)
        routes = emulator.books().routes
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(model, "after")
        refusal_of(caught, carpool.PoolClosed, "closed")
        assert emulator.books().routes == routes
    assert sizes(emulator) == [50]


@shows("after the exit")
def test_evals_ride_one_after_another_though_inspect_closes_their_client(tmp_path: Path) -> None:
    with emulated() as emulator:
        with carpool.Pool(timing=PATIENT) as pool:
            model = model_of(pool)
            first = evaluate(model, tmp_path, 50)
            second = evaluate(model, tmp_path, 10)
        late = evaluate(model, tmp_path, 3, fail_on_error=False)
        fatal = evaluate(model, tmp_path, 1)
    for log, number in ((first, 50), (second, 10)):
        assert log.status == "success"
        assert log.results.completed_samples == number
        assert log.results.scores[0].metrics["mean"].value == 1
    assert ["closed" in sample.error.message for sample in late.samples] == [True] * 3
    assert fatal.status == "error"
    assert "closed" in fatal.error.message
    assert sizes(emulator) == [10, 50]


@shows("threads")
def test_one_event_loop_after_another_uses_the_pool_on_a_thread() -> None:
    with emulated() as emulator, carpool.Pool(timing=PATIENT) as pool:
        model = model_of(pool)
        for number in (10, 5):
            assert asyncio.run(ask_all(number, lambda text: ask(model, text))) == echoed(number)
    assert sizes(emulator) == [5, 10]


async def test_a_model_that_was_closed_still_rides() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            model = model_of(pool)
            async with model:
                assert await ask(model, "first") == "first"
            model.api.initialize()
            assert await ask(model, "second") == "second"
        model.api.initialize()
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(model, "after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [1, 1]


async def test_the_responses_api_and_openai_compatible_models_ride(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated() as emulator:
        monkeypatch.setenv("SOME_API_KEY", "sk-emulated")
        monkeypatch.setenv("SOME_BASE_URL", emulator.url)
        async with carpool.Pool(timing=FAST) as pool:
            responses = model_of(pool, responses_api=True)
            compatible = model_of(pool, f"openai-api/some/{MODEL}")
            answers = await asyncio.gather(ask(responses, "a response"), ask(compatible, "compatible"))
    assert list(answers) == ["a response", "compatible"]
    assert sizes(emulator) == [1, 1]


async def test_a_model_that_reasons_says_hello_first_in_a_batch_of_its_own() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            model = model_of(pool, "openai/gpt-5-mini")
            assert await ask_all(5, lambda text: ask(model, text)) == echoed(5)
            spared = model_of(pool, "openai/gpt-5-mini", settings={"reasoning_summary": "none"})
            assert await ask(spared, "spared") == "spared"
    assert sizes(emulator) == [1, 1, 5]


async def test_the_limit_that_a_model_was_given_first_holds_for_all_of_its_name() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            name = "openai/gpt-4.1-nano"
            await ask(model_of(pool, name, settings={"max_connections": 2}), "first")
            await ask_all(4, lambda text: ask(model_of(pool, name), text))
    assert sizes(emulator) == [1, 2, 2]


@shows("timeouts")
async def test_a_timeout_of_the_client_does_not_fire() -> None:
    with emulated(pace=Pace(running=1.5)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            assert await ask(model_of(pool, client_timeout=0.5), "patient") == "patient"
    assert sizes(emulator) == [1]


@shows("failed row")
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError")]
)
async def test_a_failed_row_is_the_clients_own_error_and_is_not_sent_again(status: int, kind: str) -> None:
    with emulated(failing(status)) as emulator:
        async with carpool.Pool(timing=FAST, retry=ONCE) as pool:
            model = model_of(pool)
            failed = await one_fails(lambda text: ask(model, text))
    assert type(failed).__name__ == ("ModelGenerateError" if status == 400 else "RetryError")
    cause: Any = failed.__cause__
    assert type(cause) is getattr(openai, kind)
    assert (cause.status_code, cause.code, cause.param) == (status, "some_code", "messages")
    error = carpool.error_of(failed)
    assert isinstance(error, carpool.RequestFailed)
    assert (error.status_code, error.code) == (status, "some_code")
    assert sizes(emulator) == [2]
    assert set(emulator.books().bodies.values()) == {1}


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            for responses in (False, True):
                with pytest.raises(Exception, match="Request:") as caught:
                    await ask(model_of(pool, streaming=True, responses_api=responses), "streamed")
                refusal_of(caught, carpool.Unbatchable, "stream", "batch")
            counting = model_of(pool, responses_api=True).count_tokens([models.ChatMessageUser(content="how many")])
            with pytest.raises(openai.BadRequestError) as counted:
                await counting
    refusal_of(counted, carpool.Unbatchable, "/responses/input_tokens", "batch")
    assert sizes(emulator) == []


async def test_where_a_caller_listens_to_the_stream_inspect_asks_again_without() -> None:
    async def listen(event: Any) -> None:
        pass

    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            output = await model_of(pool).generate("heard", on_stream=listen)
    assert output.completion == "heard"
    assert sizes(emulator) == [1]

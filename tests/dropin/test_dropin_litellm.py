"""LiteLLM, above the official SDK, and beside it on httpx."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import carpool
from carpool.testing import Pace, echo

from .kit import (
    MODEL,
    ONCE,
    Client,
    ask_all,
    ask_all_in_threads,
    echoed,
    emulated,
    failing,
    messages,
    one_fails,
    refusal_of,
    shows,
    sizes,
    structured,
)

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would look for prices on the network
litellm = pytest.importorskip("litellm")
openai = pytest.importorskip("openai")

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")]

CLIENT = Client(
    name="litellm",
    packages=("litellm",),
    passed_in="`client=pool.wrap(client)` in each call; an `AsyncHTTPHandler` for `aresponses`",
    code="""litellm.api_key = "rides-only"  # what goes around the pool is refused: see below

async with carpool.Pool() as pool:
    client = pool.wrap(AsyncOpenAI())
    answer = await litellm.acompletion(model="openai/gpt-5-mini", messages=..., client=client)

    handler = AsyncHTTPHandler()  # of litellm.llms.custom_httpx.http_handler
    handler.client = pool.http_client("httpx")
    answer = await litellm.aresponses(model="openai/gpt-5-mini", input=..., client=handler, api_key=key)""",
    catches=(
        "**`acompletion` of a model that LiteLLM sends to the Responses API by itself (gpt-5-codex, gpt-5-pro, "
        "`openai/responses/...`) ignores `client` and goes live.** So does `aresponses` where `client` is an "
        "`AsyncOpenAI`. Set `litellm.api_key` to one that does not exist: what rides by `client` has a key of its own, "
        "and what goes around is refused.",
        "`litellm.aclient_session` works for chat completions, but not where LiteLLM has cached a client for the same "
        "key and URL before it was set.",
        "`num_retries` does nothing, as the SDK's retries do; `fallbacks` call other models, with the same `client`.",
        "Errors are LiteLLM's own, made anew: `carpool.error_of` finds ours behind them.",
    ),
    not_tried=("the proxy", "`Router`", "providers other than `openai/`"),
    beside=("openai", "httpx"),
)
SLOWLY = carpool.Timing(linger=1.0, poll_min=0.05, poll_max=0.2)


@pytest.fixture(autouse=True)
def _own_clients() -> None:
    litellm.in_memory_llm_clients_cache.flush_cache()


async def chat(client: Any, text: str, **more: Any) -> str:
    completion = await litellm.acompletion(model=f"openai/{MODEL}", messages=messages(text), client=client, **more)
    return str(completion.choices[0].message.content)


def handler_of(pool: carpool.Pool) -> Any:
    handlers = pytest.importorskip("litellm.llms.custom_httpx.http_handler")
    handler = handlers.AsyncHTTPHandler()
    handler.client = pool.http_client("httpx")
    return handler


@shows("one batch", "after the exit")
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            client = pool.wrap(openai.AsyncOpenAI())
            assert await ask_all(50, lambda text: chat(client, text)) == echoed(50)
        routes = emulator.books().routes
        with pytest.raises(litellm.APIError) as caught:
            await chat(client, "after")
        assert caught.value.status_code == 410
        refusal_of(caught, carpool.PoolClosed, "closed")
        assert emulator.books().routes == routes
    assert sizes(emulator) == [50]


@shows("threads", "after the exit")
def test_fifty_threads_with_the_sync_client_are_one_batch() -> None:
    def ask(text: str) -> Any:
        completion = litellm.completion(model=f"openai/{MODEL}", messages=messages(text), client=client)
        return completion.choices[0].message.content

    with emulated() as emulator:
        with carpool.Pool(timing=SLOWLY) as pool:
            client = pool.wrap(openai.OpenAI())
            assert ask_all_in_threads(50, ask) == echoed(50)
        with pytest.raises(litellm.APIError) as caught:
            ask("after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [50]


async def test_a_session_for_all_calls_rides(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            monkeypatch.setattr(litellm, "aclient_session", pool.http_client("httpx"))
            assert await ask_all(5, lambda text: chat(None, text)) == echoed(5)
        with pytest.raises(litellm.APIError) as caught:
            await chat(None, "after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [5]


async def test_responses_ride_by_a_handler() -> None:
    async def respond(text: str) -> str:
        response = await litellm.aresponses(model=f"openai/{MODEL}", input=text, client=handler)
        return str(response.output[0].content[0].text)

    with emulated() as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            handler = handler_of(pool)
            assert await ask_all(5, respond) == echoed(5)
        with pytest.raises(openai.APIError) as caught:
            await respond("after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [5]


async def test_what_goes_around_the_pool_has_no_key_where_litellm_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    async def post(self: Any, url: str, headers: dict[str, str], **more: Any) -> None:
        keys.append(headers["Authorization"])
        raise RuntimeError("this goes nowhere")

    monkeypatch.setattr(litellm, "api_key", "rides-only")
    monkeypatch.setattr("litellm.llms.custom_httpx.http_handler.AsyncHTTPHandler.post", post)
    with emulated() as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            client = pool.wrap(openai.AsyncOpenAI())
            around: list[Callable[[], Any]] = [
                lambda: litellm.aresponses(model=f"openai/{MODEL}", input="around", client=client),
                lambda: litellm.acompletion(
                    model=f"openai/responses/{MODEL}", messages=messages("around"), client=client
                ),
            ]
            for call in around:
                with pytest.raises(openai.APIError, match="goes nowhere"):
                    await call()
            assert await chat(client, "rides") == "rides"
    assert keys == ["Bearer rides-only"] * 2
    assert sizes(emulator) == [1]


async def test_embeddings_moderations_images_and_completions_ride() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            client = pool.wrap(openai.AsyncOpenAI())
            vectors, moderation, image, completion = await asyncio.gather(
                litellm.aembedding(model="openai/text-embedding-3-small", input=["one", "two"], client=client),
                litellm.amoderation(model="omni-moderation-latest", input="kind words", client=client),
                litellm.aimage_generation(model="openai/gpt-image-1", prompt="a cat", client=client),
                litellm.atext_completion(
                    model="text-completion-openai/gpt-3.5-turbo-instruct", prompt="a completion", client=client
                ),
            )
    assert [len(entry["embedding"]) for entry in vectors.data] == [8, 8]
    assert moderation.results[0].flagged is False
    assert image.data[0].revised_prompt == "a cat"
    assert completion.choices[0].text == "a completion"
    assert sizes(emulator) == [1, 1, 1, 1]


@shows("structured")
async def test_structured_output_is_given() -> None:
    with emulated(structured(lambda text: {"name": text})) as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            client = pool.wrap(openai.AsyncOpenAI())
            assert await chat(client, "text", response_format={"type": "json_object"}) == '{"name": "text"}'
    assert sizes(emulator) == [1]


@shows("timeouts")
async def test_a_timeout_of_the_call_does_not_fire() -> None:
    with emulated(pace=Pace(running=1.5)) as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            assert await chat(pool.wrap(openai.AsyncOpenAI()), "patient", timeout=0.5) == "patient"
    assert sizes(emulator) == [1]


@shows("failed row")
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError")]
)
async def test_a_failed_row_is_the_clients_own_error_and_is_not_sent_again(status: int, kind: str) -> None:
    with emulated(failing(status)) as emulator:
        async with carpool.Pool(timing=SLOWLY, retry=ONCE) as pool:
            client = pool.wrap(openai.AsyncOpenAI())
            failed = await one_fails(lambda text: chat(client, text, num_retries=2))
    assert type(failed) is getattr(litellm, kind)
    assert isinstance(failed, getattr(openai, kind))
    assert failed.status_code == status
    assert "too long" in failed.message
    error = carpool.error_of(failed)
    assert isinstance(error, carpool.RequestFailed)
    assert (error.status_code, error.code) == (status, "some_code")
    assert sizes(emulator) == [2]
    assert set(emulator.books().bodies.values()) == {1}


async def test_a_fallback_rides_by_the_same_client() -> None:
    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        return failing(503)(endpoint, body) if body["model"] == MODEL else echo(endpoint, body)

    with emulated(answer) as emulator:
        async with carpool.Pool(timing=SLOWLY, retry=ONCE) as pool:
            client = pool.wrap(openai.AsyncOpenAI())
            assert await chat(client, "again", fallbacks=["openai/gpt-4o"]) == "again"
    assert sizes(emulator) == [1, 1]


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=SLOWLY) as pool:
            client, handler = pool.wrap(openai.AsyncOpenAI()), handler_of(pool)
            calls: list[Callable[[], Any]] = [
                lambda: chat(client, "streamed", stream=True),
                lambda: litellm.aresponses(model=f"openai/{MODEL}", input="streamed", stream=True, client=handler),
            ]
            for call in calls:
                with pytest.raises(litellm.BadRequestError) as caught:
                    await call()
                refusal_of(caught, carpool.Unbatchable, "stream", "batch")
            with pytest.raises(litellm.BadRequestError) as heard:
                await litellm.atranscription(model="openai/whisper-1", file=("a.wav", b"RIFF"), client=client)
    refusal_of(heard, carpool.Unbatchable, "audio", "batch")
    assert sizes(emulator) == []

"""The SDK of Groq, on httpx; its base URL ends above /openai/v1."""

import asyncio
from typing import Any

import pytest

import carpool

from .kit import (
    FAST,
    ONCE,
    PATIENT,
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
)

groq = pytest.importorskip("groq")

pytestmark = pytest.mark.anyio

CLIENT = Client(
    name="groq",
    packages=("groq",),
    passed_in="`batched(client)`, `pool.wrap(client)`",
    code="""async with carpool.batched(AsyncGroq()) as client:
    answer = await client.chat.completions.create(model=..., messages=...)""",
    catches=(
        "`Groq` (not `AsyncGroq`) blocks its thread while a call rides: make the calls from many threads, to a pool "
        "on a thread of its own.",
    ),
    not_tried=("Groq's own Batch API: the emulator stood in for it",),
    beside=("httpx",),
)
MODEL = "llama-3.3-70b-versatile"
BELOW = "/openai"


def root(emulator: Any) -> str:
    """Give the base URL as Groq's SDK wants it."""
    return str(emulator.url).removesuffix("/v1")


async def chat(client: Any, text: str, **more: Any) -> str:
    completion = await client.chat.completions.create(model=MODEL, messages=messages(text), **more)
    return str(completion.choices[0].message.content)


@shows("one batch", "after the exit")
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer() -> None:
    with emulated(prefix=BELOW) as emulator:
        async with carpool.batched(groq.AsyncGroq(base_url=root(emulator)), timing=PATIENT) as client:
            assert type(client) is groq.AsyncGroq
            assert await ask_all(50, lambda text: chat(client, text)) == echoed(50)
        routes = emulator.books().routes
        for call in (lambda: chat(client, "after"), lambda: client.models.list()):
            with pytest.raises(groq.APIStatusError) as caught:
                await call()
            refusal_of(caught, carpool.PoolClosed, "closed")
        assert emulator.books().routes == routes
    assert sizes(emulator) == [50]


@shows("threads", "after the exit")
def test_fifty_threads_with_the_sync_client_are_one_batch() -> None:
    def ask(text: str) -> Any:
        return client.chat.completions.create(model=MODEL, messages=messages(text)).choices[0].message.content

    with emulated(prefix=BELOW) as emulator:
        with carpool.batched(groq.Groq(base_url=root(emulator)), timing=PATIENT) as client:
            assert type(client) is groq.Groq
            assert ask_all_in_threads(50, ask) == echoed(50)
        with pytest.raises(groq.APIStatusError) as caught:
            ask("after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [50]


@shows("timeouts")
async def test_copies_and_raw_responses_ride() -> None:
    with emulated(prefix=BELOW) as emulator:
        async with carpool.batched(groq.AsyncGroq(base_url=root(emulator), timeout=0.1), timing=FAST) as client:
            copy = client.with_options(max_retries=5)
            said, raw = await asyncio.gather(
                chat(copy, "copied"),
                client.chat.completions.with_raw_response.create(model=MODEL, messages=messages("raw")),
            )
            assert carpool.pool_of(copy) is carpool.pool_of(client)
    assert said == "copied"
    assert (await raw.parse()).choices[0].message.content == "raw"
    assert raw.headers["x-carpool-batch-id"] == emulator.books().batches[0].id
    assert sizes(emulator) == [2]


@shows("failed row")
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError")]
)
async def test_a_failed_row_is_the_sdks_own_error_and_is_not_sent_again(status: int, kind: str) -> None:
    with emulated(failing(status), prefix=BELOW) as emulator:
        client = groq.AsyncGroq(base_url=root(emulator), max_retries=2)
        async with carpool.batched(client, timing=FAST, retry=ONCE) as batched:
            failed = await one_fails(lambda text: chat(batched, text))
    assert type(failed) is getattr(groq, kind)
    assert failed.status_code == status
    assert failed.body["error"]["code"] == "some_code"
    error = carpool.error_of(failed)
    assert isinstance(error, carpool.RequestFailed)
    assert error.status_code == status
    assert sizes(emulator) == [2]
    assert set(emulator.books().bodies.values()) == {1}


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    with emulated(prefix=BELOW) as emulator:
        async with carpool.batched(groq.AsyncGroq(base_url=root(emulator)), timing=FAST) as client:
            with pytest.raises(groq.BadRequestError) as streamed:
                await chat(client, "streamed", stream=True)
            with pytest.raises(groq.BadRequestError) as heard:
                await client.audio.transcriptions.create(model="whisper-large-v3", file=("a.wav", b"RIFF"))
    refusal_of(streamed, carpool.Unbatchable, "stream", "batch")
    refusal_of(heard, carpool.Unbatchable, "audio", "batch")
    assert sizes(emulator) == []


async def test_models_pass_through() -> None:
    with emulated(prefix=BELOW) as emulator:
        async with groq.AsyncGroq(base_url=root(emulator)) as given, carpool.batched(given, timing=FAST) as client:
            assert (await client.models.list()).object == "list"
    assert emulator.books().routes["GET /v1/models"] == 1

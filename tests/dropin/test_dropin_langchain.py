"""langchain-openai, above the official SDK."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import carpool
from carpool.testing import Pace

from .kit import (
    FAST,
    MODEL,
    ONCE,
    PATIENT,
    Client,
    ask_all,
    ask_all_in_threads,
    echoed,
    emulated,
    failing,
    one_fails,
    refusal_of,
    shows,
    sizes,
    structured,
    texts,
)

langchain_openai = pytest.importorskip("langchain_openai")
openai = pytest.importorskip("openai")

pytestmark = pytest.mark.anyio

CLIENT = Client(
    name="langchain-openai",
    packages=("langchain-openai",),
    passed_in="`http_client=` and `http_async_client=`, both",
    code="""with carpool.Pool() as pool:  # on a thread: for invoke and ainvoke alike
    model = ChatOpenAI(
        model="gpt-5-mini",
        http_client=pool.http_client(sync=True),
        http_async_client=pool.http_client(),
    )
    answers = await model.abatch([...])""",
    catches=(
        "Both clients must be given: with `http_async_client` alone `invoke`, `batch` and sync embeddings go live, and "
        "with `http_client` alone `ainvoke` and `abatch` do.",
        '`batch` uses as many threads as the machine has cores, and a few: give `config={"max_concurrency": 1000}`. '
        "`abatch` starts all at once.",
        "Of more texts to embed than `chunk_size` (1,000) the chunks are awaited one after another, a batch each.",
        "`streaming=True`, `astream` and whatever streams a model inside a graph is refused.",
        "`with_retry()` sends failed rows again, and `with_fallbacks([...])` calls a model that may not ride.",
    ),
    not_tried=("`AzureChatOpenAI`", "the LangSmith gateway", "agents of `langchain` and `langgraph`"),
    beside=("langchain-core", "openai", "httpx2"),
)


class Planet(BaseModel):
    """Be what a model is asked to fill in."""

    name: str
    moons: int


def planet(text: str) -> dict[str, Any]:
    return {"name": text, "moons": len(text)}


def clients(pool: carpool.Pool) -> dict[str, Any]:
    return {"http_client": pool.http_client(sync=True), "http_async_client": pool.http_client()}


def chat_of(pool: carpool.Pool, **more: Any) -> Any:
    return langchain_openai.ChatOpenAI(model=MODEL, **clients(pool), **more)


def embeddings_of(pool: carpool.Pool, **more: Any) -> Any:
    return langchain_openai.OpenAIEmbeddings(
        model="text-embedding-3-small", check_embedding_ctx_length=False, **clients(pool), **more
    )


async def ask(model: Any, text: str) -> Any:
    return (await model.ainvoke(text)).text


@shows("one batch", "after the exit")
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=PATIENT) as pool:
            model = chat_of(pool)
            assert await ask_all(50, lambda text: ask(model, text)) == echoed(50)
        routes = emulator.books().routes
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(model, "after")
        refusal_of(caught, carpool.PoolClosed, "closed")
        assert emulator.books().routes == routes
    assert sizes(emulator) == [50]


async def test_abatch_is_one_batch() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=PATIENT) as pool:
            answers = await chat_of(pool).abatch(texts(50))
    assert [answer.text for answer in answers] == texts(50)
    assert sizes(emulator) == [50]


@shows("threads")
def test_batch_is_one_batch_where_it_may_use_enough_threads() -> None:
    with emulated() as emulator, carpool.Pool(timing=PATIENT) as pool:
        answers = chat_of(pool).batch(texts(50), config={"max_concurrency": 50})
    assert [answer.text for answer in answers] == texts(50)
    assert sizes(emulator) == [50]


def test_batch_uses_few_threads_unless_told_otherwise() -> None:
    with emulated() as emulator, carpool.Pool(timing=FAST) as pool:
        chat_of(pool).batch(texts(50))
    assert max(sizes(emulator)) <= min(32, (os.cpu_count() or 1) + 4)


@shows("threads", "after the exit")
def test_invoke_and_ainvoke_ride_together_in_a_pool_on_a_thread() -> None:
    async def both() -> tuple[Any, Any]:
        return await asyncio.gather(anyio.to_thread.run_sync(model.invoke, "sync"), model.ainvoke("async"))

    with emulated() as emulator:
        with carpool.Pool(timing=PATIENT) as pool:
            model = chat_of(pool)
            assert [answer.text for answer in asyncio.run(both())] == ["sync", "async"]
            assert ask_all_in_threads(5, lambda text: model.invoke(text).text) == echoed(5)
        calls: list[Callable[[], Any]] = [lambda: model.invoke("after"), lambda: asyncio.run(model.ainvoke("after"))]
        for call in calls:
            with pytest.raises(openai.APIStatusError) as caught:
                call()
            refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [2, 5]


async def test_the_responses_api_rides() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            model = chat_of(pool, use_responses_api=True)
            assert await ask_all(5, lambda text: ask(model, text)) == echoed(5)
    assert sizes(emulator) == [5]


@shows("structured")
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_structured_output_is_parsed(method: str) -> None:
    with emulated(structured(planet)) as emulator, carpool.Pool(timing=FAST) as pool:
        model = chat_of(pool).with_structured_output(Planet, method=method)
        made = await asyncio.gather(
            model.ainvoke("answer as json"), anyio.to_thread.run_sync(model.invoke, "answer as json")
        )
    assert list(made) == [Planet(name="answer as json", moons=14)] * 2
    assert sizes(emulator) == [2]


async def test_embeddings_ride() -> None:
    with emulated() as emulator, carpool.Pool(timing=FAST) as pool:
        model = embeddings_of(pool)
        several, one, blocking = await asyncio.gather(
            model.aembed_documents(["one", "two"]),
            model.aembed_query("one"),
            anyio.to_thread.run_sync(model.embed_documents, ["two", "one"]),
        )
    assert several == blocking[::-1]
    assert several[0] == one
    assert len(one) == 8
    assert sizes(emulator) == [3]


async def test_chunks_of_embeddings_are_awaited_one_after_another() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            vectors = await embeddings_of(pool, chunk_size=2).aembed_documents(["one", "two", "three"])
    assert len(vectors) == 3
    assert sizes(emulator) == [1, 1]


async def test_given_one_client_the_other_way_is_not_the_pools() -> None:
    with emulated():
        async with carpool.Pool(timing=FAST) as pool:
            ours = pool.http_client()
            model = langchain_openai.ChatOpenAI(model=MODEL, http_async_client=ours)
            assert carpool.pool_of(model.root_async_client) is pool
            with pytest.raises(carpool.ConfigurationError):
                carpool.pool_of(model.root_client)


@shows("timeouts")
async def test_a_timeout_of_the_model_does_not_fire() -> None:
    with emulated(pace=Pace(running=1.5)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            assert await ask(chat_of(pool, timeout=0.5, max_retries=2), "patient") == "patient"
    assert sizes(emulator) == [1]


@shows("failed row")
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError")]
)
async def test_a_failed_row_is_the_clients_own_error_and_is_not_sent_again(status: int, kind: str) -> None:
    with emulated(failing(status)) as emulator:
        async with carpool.Pool(timing=FAST, retry=ONCE) as pool:
            model = chat_of(pool, max_retries=2)
            failed = await one_fails(lambda text: ask(model, text))
    assert isinstance(failed, getattr(openai, kind))
    assert (failed.status_code, failed.code, failed.param) == (status, "some_code", "messages")
    error = carpool.error_of(failed)
    assert isinstance(error, carpool.RequestFailed)
    assert error.status_code == status
    assert sizes(emulator) == [2]
    assert set(emulator.books().bodies.values()) == {1}


async def test_with_retry_sends_a_failed_row_again() -> None:
    with emulated(failing(500)) as emulator:
        async with carpool.Pool(timing=FAST, retry=ONCE) as pool:
            model = chat_of(pool).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
            with pytest.raises(openai.InternalServerError):
                await ask(model, "bad")
    assert sizes(emulator) == [1, 1]


async def test_an_error_that_is_made_anew_still_leads_to_ours() -> None:
    with emulated(failing(400, message="The prompt is too long.")):
        async with carpool.Pool(timing=FAST) as pool:
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(chat_of(pool), "bad")
    assert "ContextOverflow" in type(caught.value).__name__
    refusal_of(caught, carpool.RequestRejected, "too long")


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    async def stream() -> None:
        async for _ in chat_of(pool).astream("streamed"):
            pass

    async def parse_streamed() -> None:
        async for _ in chat_of(pool).with_structured_output(Planet).astream("streamed"):
            pass

    async def streaming() -> None:
        await chat_of(pool, streaming=True).ainvoke("streamed")

    def blocking() -> None:
        for _ in chat_of(pool).stream("streamed"):
            pass

    with emulated() as emulator:
        async with carpool.Pool(timing=FAST, thread=True) as pool:
            for call in (stream, parse_streamed, streaming, lambda: anyio.to_thread.run_sync(blocking)):
                with pytest.raises(openai.BadRequestError) as caught:
                    await call()
                refusal_of(caught, carpool.Unbatchable, "stream", "batch")
    assert sizes(emulator) == []

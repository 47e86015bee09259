"""Pydantic AI, above the official SDK."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

import carpool
from carpool.testing import Pace, echo

from .kit import (
    CHAT,
    FAST,
    MODEL,
    ONCE,
    PATIENT,
    Client,
    ask_all,
    ask_all_in_threads,
    chat_answer,
    echoed,
    emulated,
    failing,
    one_fails,
    refusal_of,
    shows,
    sizes,
    structured,
    tool_call,
)

pydantic_ai = pytest.importorskip("pydantic_ai")
openai = pytest.importorskip("openai")
models = pytest.importorskip("pydantic_ai.models.openai")
OpenAIProvider: Any = pytest.importorskip("pydantic_ai.providers.openai").OpenAIProvider

pytestmark = [
    pytest.mark.anyio,
    # `run_sync` leaves the event loops that it makes in threads open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CLIENT = Client(
    name="pydantic-ai",
    packages=("pydantic-ai-slim",),
    passed_in="`OpenAIProvider(openai_client=pool.wrap(client))`, `OpenAIProvider(http_client=pool.http_client())`",
    code="""async with carpool.Pool() as pool:
    provider = OpenAIProvider(openai_client=pool.wrap(AsyncOpenAI()))
    agent = Agent(OpenAIChatModel("gpt-5-mini", provider=provider))
    answer = await agent.run(...)""",
    catches=(
        'A model given as a string (`Agent("openai:gpt-5-mini")`) makes a client of its own, which calls live: give '
        "each model the provider, those of a `FallbackModel` too.",
        "An agent with tools makes one call after another: each step is another batch.",
        "`run_stream`, `run_stream_events` and an `event_stream_handler` stream, and are refused.",
        "`request_timeout` of the model settings does fire; `timeout` does nothing.",
        '`openai_transport="websocket"` is not to be had with a wrapped client: its calls ride, with a warning. It '
        "**goes live** where only `http_client` was passed in.",
    ),
    not_tried=("its own batches (`direct.model_request_batch`)", "durable execution", "realtime"),
    beside=("openai", "httpx2"),
)


class Planet(BaseModel):
    """Be what a model is asked to fill in."""

    name: str
    moons: int


def planet(text: str) -> dict[str, Any]:
    return {"name": text, "moons": len(text)}


def provider(pool: carpool.Pool) -> Any:
    return OpenAIProvider(openai_client=pool.wrap(openai.AsyncOpenAI()))


def agent_of(given: Any, kind: str = "OpenAIChatModel", **settings: Any) -> Any:
    return pydantic_ai.Agent(getattr(models, kind)(MODEL, provider=given), **settings)


async def run(agent: Any, text: str) -> Any:
    return (await agent.run(text)).output


@shows("one batch", "after the exit")
@pytest.mark.parametrize("kind", ["OpenAIChatModel", "OpenAIResponsesModel"])
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer(kind: str) -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=PATIENT) as pool:
            agent = agent_of(provider(pool), kind)
            assert await ask_all(50, lambda text: run(agent, text)) == echoed(50)
        routes = emulator.books().routes
        with pytest.raises(pydantic_ai.ModelHTTPError) as caught:
            await run(agent, "after")
        refusal_of(caught, carpool.PoolClosed, "closed")
        assert emulator.books().routes == routes
    assert sizes(emulator) == [50]


async def test_a_ready_http_client_rides_and_is_not_replaced_when_the_agent_is_left() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            agent = agent_of(OpenAIProvider(http_client=pool.http_client()))
            async with agent:
                assert await ask_all(5, lambda text: run(agent, text)) == echoed(5)
            assert await run(agent, "later") == "later"
        async with agent:
            with pytest.raises(pydantic_ai.ModelHTTPError) as caught:
                await run(agent, "after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [1, 5]


@shows("threads", "after the exit")
def test_run_sync_from_threads_with_event_loops_of_their_own_is_one_batch() -> None:
    with emulated() as emulator:
        with carpool.Pool(timing=PATIENT) as pool:
            agent = agent_of(provider(pool))
            assert ask_all_in_threads(10, lambda text: agent.run_sync(text).output) == echoed(10)
            assert agent.run_sync("later").output == "later"
        with pytest.raises(pydantic_ai.ModelHTTPError) as caught:
            agent.run_sync("after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [1, 10]


@shows("structured")
@pytest.mark.parametrize("kind", ["OpenAIChatModel", "OpenAIResponsesModel"])
async def test_structured_output_is_parsed(kind: str) -> None:
    with emulated(structured(planet)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            agent = agent_of(provider(pool), kind, output_type=pydantic_ai.NativeOutput(Planet))
            assert await run(agent, "text") == Planet(name="text", moons=4)
    assert sizes(emulator) == [1]


async def test_each_step_of_agents_with_tools_is_a_batch_of_all_of_them() -> None:
    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        assert endpoint == CHAT
        last = body["messages"][-1]
        if last["role"] == "tool":
            return chat_answer(body, f"{body['messages'][0]['content']}: {last['content']}")
        return tool_call(body, "weather", {"city": last["content"]})

    def weather(city: str) -> str:
        return f"rain in {city}"

    with emulated(answer) as emulator:
        async with carpool.Pool(timing=PATIENT) as pool:
            agent = agent_of(provider(pool), tools=[weather])
            answers = await ask_all(20, lambda text: run(agent, text))
    assert answers == {text: f"{text}: rain in {text}" for text in echoed(20)}
    assert sizes(emulator) == [20, 20]


async def test_embeddings_ride() -> None:
    embeddings = pytest.importorskip("pydantic_ai.embeddings.openai")
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            model = embeddings.OpenAIEmbeddingModel("text-embedding-3-small", provider=provider(pool))
            embedder = pydantic_ai.Embedder(model)
            results = await asyncio.gather(embedder.embed_query("one"), embedder.embed_documents(["two", "three"]))
    assert [len(result.embeddings) for result in results] == [1, 2]
    assert sizes(emulator) == [2]


@shows("timeouts")
async def test_a_timeout_of_the_model_settings_does_not_fire() -> None:
    with emulated(pace=Pace(running=1.5)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            agent = agent_of(provider(pool), model_settings={"timeout": 0.5})
            assert await run(agent, "patient") == "patient"
    assert sizes(emulator) == [1]


@shows("failed row")
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "ModelRequestRejectedError"), (429, "ModelRateLimitError"), (500, "ModelServerError")]
)
async def test_a_failed_row_is_the_clients_own_error_and_is_not_sent_again(status: int, kind: str) -> None:
    with emulated(failing(status)) as emulator:
        async with carpool.Pool(timing=FAST, retry=ONCE) as pool:
            agent = agent_of(provider(pool))
            failed = await one_fails(lambda text: run(agent, text))
    assert isinstance(failed, pydantic_ai.ModelHTTPError)
    assert isinstance(failed, getattr(pydantic_ai.exceptions, kind))
    assert failed.status_code == status
    assert failed.body["code"] == "some_code"
    error = carpool.error_of(failed)
    assert isinstance(error, carpool.RequestFailed)
    assert (error.status_code, error.code) == (status, "some_code")
    assert sizes(emulator) == [2]
    assert set(emulator.books().bodies.values()) == {1}


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    async def handle(context: Any, events: Any) -> None:
        async for _ in events:
            pass

    async def stream() -> None:
        async with agent.run_stream("streamed") as result:
            await result.get_output()

    async def watch() -> None:
        await agent.run("watched", event_stream_handler=handle)

    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            agent = agent_of(provider(pool))
            for call in (stream, watch):
                with pytest.raises(pydantic_ai.ModelHTTPError) as caught:
                    await call()
                assert caught.value.status_code == 400
                refusal_of(caught, carpool.Unbatchable, "stream", "batch")
    assert sizes(emulator) == []


async def test_a_websocket_is_not_to_be_had_and_its_calls_ride_instead() -> None:
    pytest.importorskip("websockets")
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            settings = {"openai_transport": "websocket"}
            agent = agent_of(provider(pool), "OpenAIResponsesModel", model_settings=settings)
            with pytest.warns(pydantic_ai.exceptions.UnsupportedSettingWarning, match="using HTTP"):
                assert await run(agent, "instead") == "instead"
    assert sizes(emulator) == [1]


async def test_a_model_that_falls_back_does_so_on_a_failed_row_in_another_batch() -> None:
    fallback = pytest.importorskip("pydantic_ai.models.fallback")

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        return failing(503)(endpoint, body) if body["model"] == MODEL else echo(endpoint, body)

    with emulated(answer) as emulator:
        async with carpool.Pool(timing=FAST, retry=ONCE) as pool:
            both = [models.OpenAIChatModel(name, provider=provider(pool)) for name in (MODEL, "gpt-4o")]
            assert await run(pydantic_ai.Agent(fallback.FallbackModel(*both)), "again") == "again"
    assert sizes(emulator) == [1, 1]

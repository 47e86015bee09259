"""Instructor, above the official SDK."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

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
    emulated,
    failing,
    messages,
    refusal_of,
    shows,
    sizes,
    structured,
    texts,
)

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")
GaveUp: Any = pytest.importorskip("instructor.core").InstructorRetryException

pytestmark = pytest.mark.anyio

CLIENT = Client(
    name="instructor",
    packages=("instructor",),
    passed_in="`instructor.from_openai(pool.wrap(client))`",
    code="""async with carpool.Pool() as pool:
    client = instructor.from_openai(pool.wrap(AsyncOpenAI()))
    answer = await client.create(model=..., messages=..., response_model=...)""",
    catches=(
        "An answer that fails validation is asked for again up to 3 times (`max_retries`), each time in another batch.",
        "Errors come as `InstructorRetryException`; the SDK's own is its `__cause__`.",
        "`create_partial` and `create_iterable` stream, and are refused.",
    ),
    not_tried=("`instructor.from_provider`, which makes a client of its own", "hooks, caching, multimodal prompts"),
    beside=("openai", "httpx2"),
)


class Planet(BaseModel):
    """Be what a model is asked to fill in."""

    name: str
    moons: int

    @field_validator("moons")
    @classmethod
    def _counted(cls, moons: int) -> int:
        if moons < 0:
            raise ValueError("there are no negative moons")
        return moons


def planet(text: str) -> dict[str, Any]:
    return {"name": text, "moons": len(text)}


def planets(number: int) -> dict[str, Any]:
    return {text: planet(text) for text in texts(number)}


def call(client: Any, text: str, **more: Any) -> Any:
    return client.create(model=MODEL, messages=messages(text), response_model=Planet, **more)


async def ask(client: Any, text: str, **more: Any) -> Any:
    return (await call(client, text, **more)).model_dump()


@shows("one batch", "structured", "after the exit")
@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "JSON"])
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer(mode: str) -> None:
    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        return structured(planet)(endpoint, {**body, "messages": [m for m in body["messages"] if m["role"] == "user"]})

    with emulated(answer) as emulator:
        async with carpool.Pool(timing=PATIENT) as pool:
            client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI()), mode=getattr(instructor.Mode, mode))
            assert await ask_all(50, lambda text: ask(client, text)) == planets(50)
        with pytest.raises(GaveUp) as caught:
            await ask(client, "after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [50]


@shows("threads", "after the exit")
def test_fifty_threads_with_the_sync_client_are_one_batch() -> None:
    with emulated(structured(planet)) as emulator:
        with carpool.Pool(timing=PATIENT) as pool:
            client = instructor.from_openai(pool.wrap(openai.OpenAI()))
            assert ask_all_in_threads(50, lambda text: call(client, text).model_dump()) == planets(50)
        with pytest.raises(GaveUp) as caught:
            call(client, "after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [50]


async def test_an_answer_that_fails_validation_is_asked_for_again_in_another_batch() -> None:
    times = Counter[str]()

    def once_wrong(text: str) -> dict[str, Any]:
        times["asked"] += 1
        return {"name": "one", "moons": -1 if times["asked"] == 1 else 7}

    with emulated(structured(once_wrong)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI()))
            assert await ask(client, "one") == {"name": "one", "moons": 7}
    assert sizes(emulator) == [1, 1]


@shows("structured")
async def test_the_completion_comes_beside_the_model() -> None:
    with emulated(structured(planet)):
        async with carpool.Pool(timing=FAST) as pool:
            client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI()))
            made, completion = await client.create_with_completion(
                model=MODEL, messages=messages("beside"), response_model=Planet
            )
    assert made.model_dump() == planet("beside")
    assert completion.id == "chatcmpl-1"


@shows("failed row")
@pytest.mark.parametrize(("status", "kind"), [(400, "BadRequestError"), (429, "RateLimitError")])
async def test_a_failed_row_is_the_clients_own_error_and_is_not_sent_again(status: int, kind: str) -> None:
    with emulated(failing(status)) as emulator:
        async with carpool.Pool(timing=FAST, retry=ONCE) as pool:
            client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI()))
            with pytest.raises(GaveUp) as caught:
                await ask(client, "bad", max_retries=2)
    cause = caught.value.__cause__
    assert type(cause) is getattr(openai, kind)
    assert (cause.status_code, cause.code, cause.param) == (status, "some_code", "messages")
    assert caught.value.n_attempts == 1
    refusal_of(caught, carpool.RequestFailed, "too long")
    assert sizes(emulator) == [1]


@shows("timeouts")
async def test_a_timeout_of_the_call_does_not_fire() -> None:
    with emulated(structured(planet), pace=Pace(running=1.0)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI(timeout=0.5)))
            assert await ask(client, "patient", timeout=0.5) == planet("patient")
    assert sizes(emulator) == [1]


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    async def partial() -> None:
        async for _ in client.create_partial(model=MODEL, messages=messages("x"), response_model=Planet):
            pass

    async def many() -> None:
        async for _ in client.create_iterable(model=MODEL, messages=messages("x"), response_model=Planet):
            pass

    with emulated(structured(planet)) as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI()))
            for streamed in (partial, many):
                with pytest.raises((GaveUp, openai.BadRequestError)) as caught:
                    await streamed()
                refusal_of(caught, carpool.Unbatchable, "stream", "batch")
    assert sizes(emulator) == []


def test_several_event_loops_share_a_pool_on_a_thread() -> None:
    with emulated(structured(planet)) as emulator, carpool.Pool(timing=PATIENT) as pool:
        client = instructor.from_openai(pool.wrap(openai.AsyncOpenAI()))
        assert ask_all_in_threads(5, lambda text: asyncio.run(ask(client, text))) == planets(5)
    assert sizes(emulator) == [5]

"""The official SDK of OpenAI, 3.x and the last 2.x."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import carpool
from carpool.testing import Answer, Pace

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
    messages,
    refusal_of,
    shows,
    sizes,
    structured,
)

openai = pytest.importorskip("openai")
from openai import AsyncOpenAI, OpenAI  # noqa: E402

pytestmark = pytest.mark.anyio

CLIENT = Client(
    name="openai",
    packages=("openai",),
    passed_in="`batched(client)`, `pool.wrap(client)`",
    code="""async with carpool.batched(AsyncOpenAI()) as client:
    answer = await client.chat.completions.create(model=..., messages=...)

with carpool.batched(OpenAI()) as client:  # calls from many threads ride together
    answer = client.chat.completions.create(model=..., messages=...)""",
    catches=(
        "`OpenAI` (not `AsyncOpenAI`) blocks its thread while a call rides: make the calls from many threads. Its pool "
        "is to be on a thread of its own (`with batched(...)`, `with Pool()`, `Pool(thread=True)`).",
        "`timeout` and `max_retries` do nothing, as a call rides for hours and is never sent twice; "
        "`asyncio.timeout`, `asyncio.wait_for` and `carpool.options(timeout=...)` do.",
        "Websockets (`client.responses.connect()`, `client.realtime.connect()`) do not ride: they fail with a wrapped "
        "client, and **go live** with `AsyncOpenAI(http_client=pool.http_client())`.",
        "`openai.AsyncOpenAI()` objects made elsewhere in a program, and the module's own `openai.chat`, know nothing "
        "of the pool.",
    ),
    not_tried=("`AzureOpenAI`, `BedrockOpenAI`", "realtime"),
    beside=("httpx2", "httpx"),
)


class Planet(BaseModel):
    """Be what a model is asked to fill in."""

    name: str
    moons: int


def planet(text: str) -> dict[str, Any]:
    return {"name": text, "moons": len(text)}


async def chat(client: Any, text: str, **more: Any) -> str:
    completion = await client.chat.completions.create(model=MODEL, messages=messages(text), **more)
    return str(completion.choices[0].message.content)


@shows("one batch")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_fifty_calls_are_one_batch_and_each_caller_has_its_own_answer() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=PATIENT) as client:
            assert type(client) is AsyncOpenAI
            assert await ask_all(50, lambda text: chat(client, text)) == echoed(50)
    assert sizes(emulator) == [50]


@shows("threads", "after the exit")
def test_fifty_threads_with_the_sync_client_are_one_batch() -> None:
    def ask(text: str) -> str | None:
        return client.chat.completions.create(model=MODEL, messages=messages(text)).choices[0].message.content

    with emulated() as emulator:
        with carpool.batched(OpenAI(), timing=PATIENT) as client:
            assert type(client) is OpenAI
            assert ask_all_in_threads(50, ask) == echoed(50)
        with pytest.raises(openai.APIStatusError) as caught:
            ask("after the exit")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [50]


@pytest.mark.slow
@shows("one batch")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_two_thousand_calls_are_one_batch() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=PATIENT) as client:
            assert await ask_all(2_000, lambda text: chat(client, text)) == echoed(2_000)
    assert sizes(emulator) == [2_000]


async def test_every_endpoint_answers() -> None:
    answers: dict[str, Any] = {}

    async def keep(name: str, call: Any) -> None:
        answers[name] = await call

    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client, anyio.create_task_group() as tasks:
            calls = {
                "response": client.responses.create(model=MODEL, input="a response"),
                "embeddings": client.embeddings.create(model="text-embedding-3-small", input=["one", "two"]),
                "floats": client.embeddings.create(
                    model="text-embedding-3-small", input=["one", "two"], encoding_format="float"
                ),
                "moderation": client.moderations.create(model="omni-moderation-latest", input="kind words"),
                "image": client.images.generate(model="gpt-image-1", prompt="a cat"),
                "completion": client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a completion"),
            }
            for name, call in calls.items():
                tasks.start_soon(keep, name, call)
    assert answers["response"].output_text == "a response"
    vectors = [entry.embedding for entry in answers["embeddings"].data]
    assert [len(vector) for vector in vectors] == [8, 8]
    assert vectors == [entry.embedding for entry in answers["floats"].data]
    assert answers["moderation"].results[0].flagged is False
    assert answers["image"].data[0].revised_prompt == "a cat"
    assert answers["completion"].choices[0].text == "a completion"
    assert sizes(emulator) == [1, 1, 1, 1, 2]


@shows("structured")
async def test_parse_gives_pydantic_models() -> None:
    async def parse_chat(text: str) -> Any:
        completion = await client.chat.completions.parse(model=MODEL, messages=messages(text), response_format=Planet)
        return completion.choices[0].message.parsed

    async def parse_response(text: str) -> Any:
        return (await client.responses.parse(model=MODEL, input=text, text_format=Planet)).output_parsed

    with emulated(structured(planet)) as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            chats, responses = await asyncio.gather(ask_all(5, parse_chat), ask_all(5, parse_response))
    expected = {f"text {index}": Planet(name=f"text {index}", moons=6) for index in range(5)}
    assert chats == responses == expected
    assert sizes(emulator) == [5, 5]


async def test_raw_and_streamed_wrappers_see_the_http_response() -> None:
    given: dict[str, Any] = {"model": MODEL, "messages": messages("wrapped")}

    async def streamed() -> tuple[int, str, str, Any]:
        async with client.chat.completions.with_streaming_response.create(**given) as response:
            lines = [line async for line in response.iter_lines()]
        async with client.with_streaming_response.chat.completions.create(**given) as response:
            parsed = await response.parse()
        return response.status_code, response.headers["content-type"], "\n".join(lines), parsed

    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            raw, plain, (status, kind, lines, parsed) = await asyncio.gather(
                client.chat.completions.with_raw_response.create(**given),
                client.chat.completions.create(**given),
                streamed(),
            )
            assert raw.parse() == plain == parsed
            assert b'"wrapped"' in raw.http_response.content
            assert '"wrapped"' in lines
            assert (raw.http_response.status_code, status) == (200, 200)
            assert raw.headers["content-type"].startswith("application/json")
            assert kind.startswith("application/json")
            assert raw.elapsed.total_seconds() > 0
            assert raw.headers["x-request-id"] == raw.request_id
            assert plain._request_id  # noqa: SLF001 - the SDK documents it
            batches = {batch.id for batch in emulator.books().batches}
            assert raw.headers["x-carpool-batch-id"] in batches
            assert raw.headers["x-carpool-custom-id"]


async def test_copies_ride_in_the_same_pool() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            copies = [
                client,
                client.with_options(timeout=5, max_retries=1),
                client.with_options(default_headers={"x-team": "blue"}),
                client.copy(),
            ]
            assert {carpool.pool_of(copy) for copy in copies} == {carpool.pool_of(client)}
            answers = await asyncio.gather(*(chat(copy, "copied") for copy in copies))
        assert answers == ["copied"] * 4
        for copy in copies:
            with pytest.raises(openai.APIStatusError) as caught:
                await chat(copy, "late")
            refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [4]


async def test_copies_for_another_account_are_refused() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            for other, words in (
                (client.with_options(api_key="sk-other"), ["key"]),
                (client.with_options(base_url="http://127.0.0.1:9/v1"), ["http://127.0.0.1:9/v1", emulator.url]),
                (client.with_options(organization="org-other"), ["org-other"]),
                (client.with_options(project="proj-other"), ["proj-other"]),
            ):
                with pytest.raises(openai.APIStatusError) as caught:
                    await chat(other, "another's")
                refusal_of(caught, carpool.ConfigurationError, *words)
                assert "sk-other" not in str(caught.value)
    assert sizes(emulator) == []


@shows("timeouts")
async def test_timeouts_of_the_sdk_do_not_fire_and_those_of_the_event_loop_do() -> None:
    with emulated(pace=Pace(running=1.0)) as emulator:
        async with carpool.batched(AsyncOpenAI(timeout=1, max_retries=2), timing=FAST) as client:
            first, second = await asyncio.gather(chat(client, "first"), chat(client, "second", timeout=0.1))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(chat(client, "third"), 0.05)
    assert (first, second) == ("first", "second")
    assert sizes(emulator) == [2]
    assert set(emulator.books().bodies.values()) == {1}


@shows("failed row")
async def test_a_failed_row_is_the_sdks_own_error_and_is_not_sent_again() -> None:
    kinds = {400: openai.BadRequestError, 429: openai.RateLimitError, 500: openai.InternalServerError}
    error = {"message": "Too long.", "type": "invalid_request_error", "param": "messages", "code": "some_code"}

    def answer(endpoint: str, body: dict[str, Any]) -> Answer:
        return Answer(int(body["messages"][0]["content"]), {"error": error})

    with emulated(answer) as emulator:
        async with carpool.batched(AsyncOpenAI(max_retries=2), timing=FAST, retry=ONCE) as client:
            calls = (chat(client, str(status)) for status in kinds)
            outcomes: Any = await asyncio.gather(*calls, return_exceptions=True)
    for failed, (status, kind) in zip(outcomes, kinds.items(), strict=True):
        assert type(failed) is kind
        assert failed.status_code == failed.response.status_code == status
        assert failed.body == error
        assert (failed.code, failed.param, failed.type) == ("some_code", "messages", "invalid_request_error")
        assert failed.request_id
        assert failed.response.headers["x-should-retry"] == "false"
        ours = carpool.error_of(failed)
        assert isinstance(ours, carpool.RequestFailed)
        assert (ours.status_code, ours.code) == (status, "some_code")
        assert ours.batch_id == emulator.books().batches[0].id
    assert sizes(emulator) == [3]
    assert set(emulator.books().bodies.values()) == {1}


async def _stream_chat(client: AsyncOpenAI) -> None:
    await client.chat.completions.create(model=MODEL, messages=messages("streamed"), stream=True)


async def _stream_chat_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=messages("streamed")):
        pass


async def _stream_raw(client: AsyncOpenAI) -> None:
    await client.chat.completions.with_raw_response.create(model=MODEL, messages=messages("streamed"), stream=True)


async def _stream_response(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="streamed"):
        pass


async def _transcribe(client: AsyncOpenAI) -> None:
    await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"))


async def _speak(client: AsyncOpenAI) -> None:
    await client.audio.speech.create(model="tts-1", voice="alloy", input="hello")


async def _edit_image(client: AsyncOpenAI) -> None:
    await client.images.edit(model="gpt-image-1", image=("a.png", b"PNG"), prompt="a hat")


async def _count_tokens(client: AsyncOpenAI) -> None:
    await client.responses.input_tokens.count(model=MODEL, input="how many")


REFUSED: list[tuple[Callable[[AsyncOpenAI], Awaitable[None]], list[str]]] = [
    (_stream_chat, ["stream", "batch"]),
    (_stream_chat_helper, ["stream", "batch"]),
    (_stream_raw, ["stream", "batch"]),
    (_stream_response, ["stream", "batch"]),
    (_transcribe, ["audio", "batch"]),
    (_speak, ["/audio/speech", "batch"]),
    (_edit_image, ["multipart", "batch"]),
    (_count_tokens, ["/responses/input_tokens", "batch"]),
]


@shows("refused")
async def test_what_cannot_ride_is_refused_and_the_user_is_told_why() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            for call, words in REFUSED:
                with pytest.raises(openai.BadRequestError) as caught:
                    await call(client)
                refusal_of(caught, carpool.Unbatchable, *words)
    assert sizes(emulator) == []


@shows("after the exit")
async def test_after_the_pools_exit_nothing_goes_out() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            assert await chat(client, "before") == "before"
        routes = emulator.books().routes
        assert not client.is_closed()
        refused: list[Callable[[], Any]] = [
            lambda: chat(client, "after"),
            lambda: client.responses.create(model=MODEL, input="after"),
            lambda: client.embeddings.create(model="text-embedding-3-small", input="after"),
            lambda: client.models.list(),
            lambda: _stream_chat(client),
            lambda: _transcribe(client),
        ]
        for call in refused:
            with pytest.raises(openai.APIStatusError) as caught:
                await call()
            assert caught.value.status_code == 410
            refusal_of(caught, carpool.PoolClosed, "closed")
        assert emulator.books().routes == routes
    assert sizes(emulator) == [1]


async def test_websockets_do_not_go_around_the_pool() -> None:
    pytest.importorskip("websockets")
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            for connect in (client.responses.connect, lambda: client.realtime.connect(model="gpt-realtime")):
                with pytest.raises(OSError):  # noqa: PT011 - the address does not exist
                    await connect().enter()
    assert emulator.books().routes == {}


async def test_a_client_that_is_closed_inside_the_pool_still_rides() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            async with client:
                pass
            await client.close()
            assert await chat(client, "still") == "still"
    assert sizes(emulator) == [1]


async def test_models_and_files_pass_through() -> None:
    with emulated() as emulator:
        async with AsyncOpenAI() as given, carpool.batched(given, timing=FAST) as client:
            assert (await client.models.list()).object == "list"
            file = await client.files.create(file=("notes.txt", io.BytesIO(b"some notes")), purpose="user_data")
            assert (await client.files.content(file.id)).content == b"some notes"
            assert (await client.files.delete(file.id)).deleted
    assert emulator.books().routes["GET /v1/models"] == 1


async def test_headers_for_carpool_set_how_one_call_travels() -> None:
    with emulated(pace=Pace(running=60)):
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await chat(client, "urgent", extra_headers={"x-carpool-timeout": "0.2"})
            with pytest.raises(openai.APIStatusError) as other, carpool.options(timeout=0.2):
                await chat(client, "urgent too")
    for refused in (caught, other):
        assert refused.value.status_code == 424
        refusal_of(refused, carpool.RequestExpired)


@shows("threads")
def test_several_event_loops_share_a_pool_on_a_thread() -> None:
    def ask(text: str) -> str:
        return asyncio.run(chat(client, text))

    with emulated() as emulator, carpool.Pool(timing=PATIENT) as pool:
        client = pool.wrap(AsyncOpenAI())
        assert ask_all_in_threads(10, ask) == echoed(10)
    assert sizes(emulator) == [10]


async def test_from_another_event_loop_a_pool_without_a_thread_names_the_setting() -> None:
    with emulated() as emulator:
        async with carpool.batched(AsyncOpenAI(), timing=FAST) as client:

            def elsewhere() -> None:
                asyncio.run(chat(client, "lost"))

            with pytest.raises(openai.APIStatusError) as caught:
                await anyio.to_thread.run_sync(elsewhere)
    refusal_of(caught, carpool.ConfigurationError, "thread=true")
    assert sizes(emulator) == []


async def test_the_sync_client_is_refused_where_it_would_hold_up_the_pool_and_names_the_setting() -> None:
    def ask() -> str | None:
        answer = client.chat.completions.create(model=MODEL, messages=messages("blocking"))
        return answer.choices[0].message.content

    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            client = pool.wrap(OpenAI())
            with pytest.raises(openai.APIStatusError) as caught:
                ask()
            refusal_of(caught, carpool.ConfigurationError, "thread=true")
        async with carpool.Pool(timing=FAST, thread=True) as pool:
            client = pool.wrap(OpenAI())
            assert await anyio.to_thread.run_sync(ask) == "blocking"
    assert sizes(emulator) == [1]


@pytest.mark.parametrize("family", ["httpx2", "httpx"])
async def test_a_ready_http_client_of_either_family_rides(family: Any) -> None:
    pytest.importorskip(family)
    if family == "httpx2" and openai.__version__.startswith("2."):
        pytest.skip("openai 2.x stands on httpx")
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            http_client = pool.http_client(family=family)
            client = AsyncOpenAI(http_client=http_client)
            assert await ask_all(5, lambda text: chat(client, text)) == echoed(5)
            await client.close()
            assert not http_client.is_closed
        with pytest.raises(openai.APIStatusError) as caught:
            await chat(client, "after")
    refusal_of(caught, carpool.PoolClosed, "closed")
    assert sizes(emulator) == [5]

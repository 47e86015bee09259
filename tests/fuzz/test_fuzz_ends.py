"""What has no end is left: listings that go on for ever, lines that no row has, numbers that no database takes."""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from virtual import CHAT, body, site, world

import carpool
from carpool.models import CallFailed, Flow, Lane, PackedBatch, Reply
from carpool.perform import _LINE
from carpool.providers.openai import OpenAI
from carpool.testing import Answer

pytestmark = pytest.mark.anyio

OPENAI = OpenAI()
SOUGHT = PackedBatch("pool-b1", Lane(CHAT, "gpt-5-mini"), (), 10, packed_at=1.7e9).sought


@pytest.fixture
def anyio_backend(virtual_backend: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return virtual_backend


@pytest.mark.parametrize(
    "flow",
    [lambda: OPENAI.find({"pool-b1": ""}, 1.7e9), lambda: OPENAI.uploads(SOUGHT), lambda: OPENAI.recent(0.0, 10**9)],
    ids=["find", "uploads", "recent"],
)
def test_a_listing_without_an_end_says_nothing_of_what_is_there(flow: Callable[[], Flow[Any]]) -> None:
    search, numbers = flow(), count()

    def turn() -> None:
        next(search)
        for number in numbers:
            search.send(Reply(200, b'{"data":[{"id":"x%d"}],"has_more":true}' % number))

    with pytest.raises(CallFailed, match="no end") as caught:
        turn()
    assert caught.value.failure.kind == "lost"
    assert next(numbers) < 20_000


class Endless(httpx2.AsyncByteStream):
    """Be a line that goes on for ever."""

    async def __aiter__(self) -> Any:
        while True:
            yield b"x" * 2**20


async def test_a_line_without_an_end_is_not_held(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("carpool.perform._LINE", 2**19)
    caplog.set_level(logging.WARNING)
    async with world() as w:
        answered = w.transport.handle_async_request

        async def reply(request: httpx2.Request) -> httpx2.Response:
            if request.url.path.endswith("/content"):
                return httpx2.Response(200, stream=Endless())
            response: httpx2.Response = await answered(request)
            return response

        monkeypatch.setattr(w.transport, "handle_async_request", reply)
        await w.ask("hi")
    error = w.errors()["hi"]
    assert isinstance(error, carpool.RequestFailed)
    assert "a line of more than" in str(error)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_line_may_have_256_mb() -> None:
    """The test above sets a smaller bound."""
    assert _LINE == 256 * 2**20


HUGE = [2**63]


def _usage_of(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("number", HUGE)
async def test_numbers_that_no_database_takes_are_no_numbers(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that counts so made the journal call itself damaged."""
    message = f"Enqueued token limit reached for gpt-5-mini in organization x. Limit: {abs(number):,} enqueued tokens."
    refusals: Iterator[httpx2.Response] = iter(
        [httpx2.Response(429, json={"error": {"message": message, "code": "token_limit_exceeded"}})]
    )

    def spoil(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        if request.method == "POST" and request.url.path.endswith("/batches"):
            return next(refusals, response)
        if "/batches" not in request.url.path or response.status_code != 200:
            return response
        told = response.json()
        for batch in told.get("data", [told]):
            batch["usage"] = {"input_tokens": number}
            batch["request_counts"] = {"total": number, "completed": number, "failed": number}
        return httpx2.Response(200, json=told)

    answer = {"choices": [{"message": {"content": "hi"}}], "usage": _usage_of(number)}
    async with site(tmp_path, answer=lambda endpoint, given: answer) as s:
        answered = s.transport.handle_async_request

        async def reply(request: httpx2.Request) -> httpx2.Response:
            response = await answered(request)
            await response.aread()
            return spoil(request, response)

        monkeypatch.setattr(s.transport, "handle_async_request", reply)
        for _ in range(2):
            async with s.open(reuse="never") as w:
                await w.ask("hi")
                assert w.answers() == {"hi": "hi"}


async def test_halves_of_surrogate_pairs_can_be_printed_and_kept(tmp_path: Path) -> None:
    said = b'{"error":{"message":"\\ud83d \\udfff","code":"\\ud83d"}}'
    answered: list[str] = []

    def answer(endpoint: str, given: dict[str, Any]) -> Answer | dict[str, Any]:
        text = given["messages"][0]["content"]
        answered.append(text)
        return Answer(400, said) if text == "bad" else {"text": text}

    async with site(tmp_path, answer=answer) as s:
        requests = [carpool.Request(CHAT, body(text), key=text) for text in ("bad", "good")]
        for opening in range(2):
            async with s.open() as w:
                bad, good = await w.pool.gather(requests, return_exceptions=True)
            assert isinstance(bad, carpool.RequestRejected)
            f"{bad} {bad!r}".encode()
            assert "? ?" in str(bad)
            assert isinstance(good, carpool.Response)
            assert good.json() == {"text": "good"}
            assert answered.count("good") == 1, opening
        first, *_ = s.emulator.books().batches
    assert first.total == 2

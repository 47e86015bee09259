"""Live calls: their rate and the headers that tell of it, their books, and an answer that changes."""

from collections import Counter
from typing import Any

import anyio
import httpx2
import pytest
from emulating import CHAT, MALFORMED, Client, body, some

from carpool.testing import Answer, Emulator, Faults, digest, echo
from carpool.testing.rate import rate_headers

pytestmark = pytest.mark.anyio

TOLD = {
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
}


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


async def call(client: Client, **more: Any) -> httpx2.Response:
    return await client.http.post("/chat/completions", json=body(**more))


def requests_of(reply: httpx2.Response) -> tuple[str, ...]:
    return tuple(reply.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset"))


async def test_every_live_reply_tells_of_the_rate() -> None:
    async with Emulator(answer=lambda endpoint, given: Answer(503, {}, {"x-own": "1"})).inline() as emulator:
        client = Client(emulator)
        for reply in (await call(client), await call(client, stream=True)):
            assert set(reply.headers) >= TOLD
            assert "retry-after" not in reply.headers
        assert (await call(client)).headers["x-own"] == "1"
        assert not set((await client.http.get("/batches")).headers) & TOLD


async def test_calls_above_the_rate_are_a_429_that_tells_when_to_come_back() -> None:
    async with Emulator(live_per_minute=2).inline() as emulator:
        client = Client(emulator)
        assert requests_of(await call(client)) == ("2", "1", "1m0s")
        await anyio.sleep(20)
        assert requests_of(await call(client)) == ("2", "0", "1m0s")
        await anyio.sleep(10.5)
        reply = await call(client)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert reply.headers["retry-after"] == "30"
        assert requests_of(reply) == ("2", "0", "49.5s")
        await anyio.sleep(30)
        assert (await call(client)).status_code == 200
        assert (await call(client)).status_code == 429
    books = emulator.books()
    assert (books.live, sum(books.live_bodies.values())) == (5, 3)


async def test_too_many_on_a_live_endpoint_tells_of_the_rate_too() -> None:
    async with Emulator(faults=Faults(too_many=1.0, only={f"POST {CHAT}"})).inline() as emulator:
        client = Client(emulator)
        replies = [await call(client) for _ in range(40)]
    assert {reply.status_code for reply in replies} == {429}
    assert all(set(reply.headers) >= TOLD for reply in replies)
    assert {requests_of(reply)[1] for reply in replies} == {"0"}
    hints = {("retry-after" in reply.headers, "retry-after-ms" in reply.headers) for reply in replies}
    assert hints == {(True, False), (False, True), (False, False)}


async def test_too_many_elsewhere_tells_nothing_of_it() -> None:
    async with Emulator(faults=Faults(too_many=1.0)).inline() as emulator:
        assert not set((await Client(emulator).http.get("/batches")).headers) & TOLD


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.12, "120ms"), (1.0, "1s"), (8.64, "8.64s"), (60.0, "1m0s"), (359.9996, "6m0s"), (61.5, "1m1.5s")],
)
async def test_a_span_is_written_as_the_api_does(seconds: float, text: str) -> None:
    assert rate_headers(5, 1, seconds)["x-ratelimit-reset-requests"] == text


async def test_the_books_tell_what_was_run_live_and_in_which_tier() -> None:
    async with Emulator().inline() as emulator:
        client = Client(emulator)
        await call(client, service_tier="flex")
        await call(client)
        await call(client, text="other", service_tier="auto")
        await call(client, stream=True)
        await client.create(await client.upload(some(1)))
        await anyio.sleep(1)
    books = emulator.books()
    assert books.live_tiers == {"flex": 1, "default": 1, "auto": 1}
    assert books.live_bodies == {digest(body()): 2, digest(body("other")): 1}
    assert books.bodies == Counter({digest(body("text 0")): 1})


async def test_the_answer_can_be_changed() -> None:
    async with Emulator().inline() as emulator:
        client = Client(emulator)
        assert (await call(client)).json()["choices"][0]["message"]["content"] == "hi"
        emulator.answer = lambda endpoint, given: {"new": True}
        assert (await call(client)).json() == {"new": True}
        batch_id = await client.create(await client.upload(some(1)))
        await anyio.sleep(1)
        output = (await client.get(batch_id))["output_file_id"]
        assert (await client.rows(output))["r-0"]["response"]["body"] == {"new": True}
        with pytest.raises(ValueError, match="callable"):
            emulator.answer = None  # type: ignore[assignment]
        assert emulator.answer(CHAT, {}) == {"new": True}


@pytest.mark.parametrize(("reply", "told"), MALFORMED)
async def test_what_is_no_answer_is_a_500_that_says_what_to_mend(reply: Any, told: str) -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    async with Emulator(answer=answer).inline() as emulator:
        given = await call(Client(emulator))
    assert given.status_code == 500
    assert told in given.json()["error"]["message"]


async def test_the_answer_cannot_be_changed_beside_an_upstream() -> None:
    emulator = Emulator(upstream="http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="exclude"):
        emulator.answer = echo


async def test_a_rate_of_none_a_minute_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="live_per_minute is 1 or more"):
        Emulator(live_per_minute=0)


async def test_an_echo_that_is_set_counts_as_the_emulator_does() -> None:
    async with Emulator(answer=lambda endpoint, given: {}, count=lambda given: 77).inline() as emulator:
        emulator.answer = echo
        assert (await call(Client(emulator))).json()["usage"]["prompt_tokens"] == 77

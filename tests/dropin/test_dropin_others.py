"""SDKs whose calls have another shape: nothing of theirs can ride, and they are told so."""

from typing import Any

import pytest

import carpool

from .kit import FAST, Client, emulated, messages, refusal_of, shows, sizes

anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")
mistral = pytest.importorskip("mistralai.client")

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]

CLIENT = Client(
    name="anthropic, google-genai, mistralai",
    packages=("anthropic", "google-genai", "mistralai"),
    passed_in="not at all",
    code="carpool.batched(AsyncAnthropic())  # ConfigurationError",
    catches=("Given `pool.http_client()`, their calls are refused one by one, as they are for another base URL.",),
    not_tried=("their own Batch APIs",),
    beside=("httpx2",),
)
PROMPT: dict[str, Any] = {"model": "any", "max_tokens": 5, "messages": messages("hello")}


def clients() -> dict[str, Any]:
    return {
        "AsyncAnthropic": anthropic.AsyncAnthropic(api_key="sk-other"),
        "Anthropic": anthropic.Anthropic(api_key="sk-other"),
        "Client": genai.Client(api_key="sk-other"),
        "Mistral": mistral.Mistral(api_key="sk-other"),
    }


@shows("refused")
@pytest.mark.parametrize("name", ["AsyncAnthropic", "Anthropic", "Client", "Mistral"])
async def test_a_client_that_cannot_be_batched_is_refused_by_name(name: str) -> None:
    with emulated():
        with pytest.raises(carpool.ConfigurationError, match=name):
            carpool.batched(clients()[name])
        async with carpool.Pool(timing=FAST) as pool:
            with pytest.raises(carpool.ConfigurationError, match=f"{name}.*openai"):
                pool.wrap(clients()[name])


async def _anthropic(http_client: Any) -> None:
    await anthropic.AsyncAnthropic(api_key="sk-other", http_client=http_client).messages.create(**PROMPT)


async def _genai(http_client: Any) -> None:
    client = genai.Client(api_key="sk-other", http_options={"httpx_async_client": http_client})
    await client.aio.models.generate_content(model="gemini-2.5-flash", contents="hello")


async def _mistral(http_client: Any) -> None:
    client = mistral.Mistral(api_key="sk-other", async_client=http_client)
    await client.chat.complete_async(model="mistral-small-latest", messages=messages("hello"))


@shows("refused", "after the exit")
@pytest.mark.parametrize("call", [_anthropic, _genai, _mistral])
async def test_their_calls_are_refused_by_a_ready_http_client_during_and_after_the_pools_life(call: Any) -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            http_client = pool.http_client()
            with pytest.raises(Exception, match="the pool is for") as caught:
                await call(http_client)
            refusal_of(caught, carpool.ConfigurationError, "base url", "https://", emulator.url)
        with pytest.raises(Exception, match="closed") as late:
            await call(http_client)
        refusal_of(late, carpool.PoolClosed, "closed")
        assert emulator.books().routes == {}
    assert sizes(emulator) == []


async def test_their_calls_to_the_pools_own_base_url_are_refused() -> None:
    with emulated() as emulator:
        async with carpool.Pool(timing=FAST) as pool:
            root = emulator.url.removesuffix("/v1")
            client = anthropic.AsyncAnthropic(api_key="sk-emulated", base_url=root, http_client=pool.http_client())
            with pytest.raises(anthropic.BadRequestError) as caught:
                await client.messages.create(**PROMPT)
    refusal_of(caught, carpool.Unbatchable, "/v1/messages", "batch")
    assert sizes(emulator) == []

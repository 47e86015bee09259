"""What the drop-in tests share: a client's description, an emulator that anything going around the pool lands on."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

import carpool
from carpool.testing import Answer, Emulator, echo
from carpool.testing.answers import last_text
from carpool.testing.books import Books

CHAT = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
FAST = carpool.Timing(linger=0.15, poll_min=0.03, poll_max=0.1)
ONCE = carpool.Retry(max_attempts=1)  # what the server fails to answer is not sent again
# For many calls at once: a framework takes its time between two of them.
PATIENT = carpool.Timing(linger=0.5, poll_min=0.03, poll_max=0.1)

_HARMLESS = ("/v1/files", "/v1/batches", "/v1/models")
_KEYS = ("OPENAI_API_KEY", "GROQ_API_KEY", "ANTHROPIC_API_KEY", "MISTRAL_API_KEY", "GEMINI_API_KEY")


@dataclass(frozen=True)
class Client:
    """Describe a client for its page: its packages, how it is passed in, what to know, what was left out.

    `beside` are packages whose versions matter too.
    """

    name: str
    packages: tuple[str, ...]
    passed_in: str
    code: str
    catches: tuple[str, ...] = ()
    not_tried: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def shows(*columns: str) -> pytest.MarkDecorator:
    """Mark a test by the columns of docs/reference/clients.md that it fills."""
    return pytest.mark.shows(*columns)


@contextmanager
def emulated(answer: Callable[..., Any] = echo, *, prefix: str = "", **settings: Any) -> Iterator[Emulator]:
    """Run an emulator that the environment's variables point to, and hold it to this: nothing was asked of it live.

    `prefix` is a path before its /v1.
    """
    emulator = Emulator(answer=answer, **settings)
    if prefix:
        emulator.app = _below(prefix, emulator.app)
    with pytest.MonkeyPatch.context() as patch, emulator:
        patch.delenv("CARPOOL_MODE", raising=False)
        for key in _KEYS:
            patch.setenv(key, "sk-emulated")
        patch.setenv("OPENAI_BASE_URL", emulator.url)
        yield emulator
    assert live_routes(emulator.books()) == set()


def live_routes(books: Books) -> set[str]:
    """Name what was called that costs the full price, or might: all but files, batches and models."""
    called = {route for route in books.routes if not route.partition(" ")[2].startswith(_HARMLESS)}
    return called | ({"live"} if books.live else set())


def sizes(emulator: Emulator) -> list[int]:
    """Give the number of requests in each batch."""
    return sorted(batch.total for batch in emulator.books().batches)


def texts(number: int) -> list[str]:
    """Make prompts that differ."""
    return [f"text {index}" for index in range(number)]


def messages(text: str) -> list[Any]:
    """Make the messages of a chat."""
    return [{"role": "user", "content": text}]


def chat_answer(body: dict[str, Any], content: str | None, **message: Any) -> dict[str, Any]:
    """Make a chat completion."""
    said = {"role": "assistant", "content": content, "refusal": None, **message}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def tool_call(body: dict[str, Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a chat completion that calls a tool."""
    called = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return chat_answer(body, None, tool_calls=[called])


def structured(give: Callable[[str], dict[str, Any]]) -> Callable[[str, dict[str, Any]], Any]:
    """Answer chats and responses with what `give` makes of the prompt: by the tool that is offered, else as JSON."""

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint != CHAT:
            said = json.dumps(give(last_text(body["input"])))
            return echo(endpoint, {**body, "input": said})
        value = give(last_text(body["messages"]))
        if body.get("tools"):
            return tool_call(body, body["tools"][0]["function"]["name"], value)
        return chat_answer(body, json.dumps(value))

    return answer


def failing(
    status: int = 400, code: str = "some_code", message: str = "The messages are too long."
) -> Callable[[str, dict[str, Any]], Any]:
    """Answer every row with an error; "fine" is answered well."""
    error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": code}

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if "fine" in json.dumps(body):
            return echo(endpoint, body)
        return Answer(status, {"error": error})

    return answer


def refusal_of(caught: pytest.ExceptionInfo[BaseException], kind: type[carpool.CarpoolError], *words: str) -> None:
    """Check that carpool's error is found behind a client's, and that both say what a user needs to know."""
    error = carpool.error_of(caught.value)
    assert isinstance(error, kind), (error, caught.value)
    for word in words:
        assert word in str(error).lower()
        assert word in str(caught.value).lower()


async def ask_all(number: int, call: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
    """Await `call` of each of so many texts at once, and give what came under each text."""
    answers: dict[str, Any] = {}

    async def ask(text: str) -> None:
        answers[text] = await call(text)

    async with anyio.create_task_group() as tasks:
        for text in texts(number):
            tasks.start_soon(ask, text)
    return answers


def ask_all_in_threads(number: int, call: Callable[[str], Any]) -> dict[str, Any]:
    """Make `call` of each of so many texts at once, each in a thread of its own."""
    with ThreadPoolExecutor(number) as threads:
        return dict(zip(texts(number), threads.map(call, texts(number)), strict=True))


async def one_fails(call: Callable[[str], Awaitable[Any]]) -> Any:
    """Await `call` of "fine", which is answered, and "bad" at once, and give the error of the latter."""
    outcomes = await asyncio.gather(call("fine"), call("bad"), return_exceptions=True)
    assert outcomes[0] == "fine"
    assert isinstance(outcomes[1], Exception)
    return outcomes[1]


def echoed(number: int) -> dict[str, str]:
    """Give what `ask_all` gives when each caller has the emulator's echo of its own text."""
    return {text: text for text in texts(number)}


def _below(prefix: str, app: Any) -> Any:
    async def below(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}
        await app(scope, receive, send)

    return below

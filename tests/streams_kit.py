"""Sources that keep books of what was taken from them, and what their streams gave."""

import math
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from virtual import CHAT, body

import carpool

ways = pytest.mark.parametrize("way", ["map", "as_completed"])
kinds = pytest.mark.parametrize("kind", ["plain", "async"])


def texts(number: int) -> list[str]:
    return [f"text {n}" for n in range(number)]


def text_of(outcome: carpool.Outcome) -> str:
    return outcome.result().text


class Feed:
    """Give so many requests, and then perhaps raise; each takes `pause` seconds, where it is asked for as `async`.

    `given` counts them; `over` tells whether it was read to its end, or closed.
    """

    def __init__(
        self,
        number: float = math.inf,
        *,
        pause: float | None = None,
        error: BaseException | None = None,
        form: Callable[[str], Any] = body,
        of: str = "text",
    ) -> None:
        self.given = 0
        self.over = False
        self._number = number
        self._pause = pause
        self._error = error
        self._form = form
        self._of = of

    def requests(self, kind: str = "plain") -> Any:
        """Give them as an iterator, or as an async one."""
        return self.plain() if kind == "plain" else self.asynchronous()

    def plain(self) -> Iterator[Any]:
        """Give them without a pause."""
        try:
            for number in count():
                if number >= self._number:
                    break
                self.given += 1
                yield self._form(f"{self._of} {number}")
            if self._error is not None:
                raise self._error
        finally:
            self.over = True

    async def asynchronous(self) -> AsyncIterator[Any]:
        """Give them with pauses, or with none at all where that is None."""
        try:
            for request in self.plain():
                if self._pause is not None:
                    await anyio.sleep(self._pause)
                yield request
        finally:
            self.over = True


class Taken:
    """Keep what streams gave, for tests that look while they run."""

    def __init__(self) -> None:
        self.outcomes: list[carpool.Outcome] = []
        self.error: BaseException | None = None
        self._ended = anyio.Event()

    async def take(self, outcomes: Any, pause: float | None = None) -> None:
        """Take all there is, and keep what ends it."""
        try:
            async for outcome in outcomes:
                self.outcomes.append(outcome)
                if pause is not None:
                    await anyio.sleep(pause)
        except Exception as exc:  # noqa: BLE001 - of any kind
            self.error = exc
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Tell whether nothing else comes."""
        return self._ended.is_set()

    async def until_ended(self) -> None:
        """Wait until nothing else comes."""
        await self._ended.wait()

    @property
    def texts(self) -> list[str]:
        """Give the answers."""
        return [text_of(outcome) for outcome in self.outcomes]


async def collect(outcomes: Any) -> list[carpool.Outcome]:
    """Take all there is."""
    return [outcome async for outcome in outcomes]


async def take(outcomes: Any, number: int) -> list[carpool.Outcome]:
    """Take so many, and no more."""
    return [await anext(outcomes) for _ in range(number)]


async def stream_texts(pool: carpool.Pool, way: str, number: int, **more: Any) -> list[str]:
    """Ask for so many texts, and give the answers in the order in which they came."""
    outcomes = getattr(pool, way)(Feed(number).plain(), endpoint=CHAT, **more)
    return [text_of(outcome) for outcome in await collect(outcomes)]


async def quiet() -> None:
    """Let everything go as far as it can without time."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()

"""Calls whose requests another living process has under way: they wait for what comes of these, and pay for nothing."""

from collections.abc import Awaitable, Callable, Iterator

import anyio

from .resume import Deferred


class Elsewhere:
    """Have calls looked up again, by `look_up`, every `pause` seconds, for as long as it finds that they must wait."""

    def __init__(self, look_up: Callable[[list[Deferred]], Awaitable[None]], pause: float) -> None:
        self._look_up = look_up
        self._pause = pause
        self._calls: dict[int, Deferred] = {}  # by their numbers
        self._came = anyio.Event()

    def __iter__(self) -> Iterator[Deferred]:
        return iter(self._calls.values())

    def __contains__(self, number: object) -> bool:
        return number in self._calls

    def wait(self, call: Deferred) -> None:
        """Let a call wait."""
        self._calls[call.number] = call
        self._came.set()

    async def run(self) -> None:
        """Look up until cancelled."""
        while True:
            await self._came.wait()
            await anyio.sleep(self._pause)
            self._came = anyio.Event()
            calls, self._calls = self._calls, {}
            await self._look_up([*calls.values()])

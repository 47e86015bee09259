"""What is to be done in a pool's event loop, for whoever asks: from any thread, and from a finalizer."""

from collections import deque
from collections.abc import Callable

import anyio


class Errands:
    """Do things in the event loop behind `post`, in their order, in one task; it is made there.

    There is no lock: a finalizer may run at any moment, also where one is held.
    """

    def __init__(self, post: Callable[[Callable[[], object]], object]) -> None:
        self._post = post
        self._asked: deque[Callable[[], object]] = deque()
        self._wake = anyio.Event()
        self._over = False

    def put(self, errand: Callable[[], object]) -> None:
        """Let something be done soon; RuntimeError where the event loop is over, though it may be done all the same."""
        self._asked.append(errand)
        if self._over:
            raise RuntimeError("The event loop is over.")
        self._post(lambda: self._wake.set())

    async def run(self) -> None:
        """Do whatever is asked for."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            self.catch_up()

    def catch_up(self) -> None:
        """Do what was asked for so far, at once."""
        while self._asked:
            self._asked.popleft()()

    def close(self) -> None:
        """Do what was asked for so far, and nothing any more."""
        self._over = True
        self.catch_up()

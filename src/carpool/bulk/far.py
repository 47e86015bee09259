"""A stream as it is reached from elsewhere: requests and outcomes cross by slices."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from ..errors import PoolClosed
from ..models import Encoded, Request
from ..spans import Bound, Entry
from .errands import Errands
from .stream import Stream

T = TypeVar("T")


class Reach(Protocol):
    """Await something in the pool's event loop."""

    async def __call__(self, func: Callable[..., Awaitable[T]], /, *args: object) -> T:
        """Await it; where the caller is cancelled, it is cancelled too."""
        ...


async def here(func: Callable[..., Awaitable[T]], /, *args: object) -> T:
    """Await something in the event loop that runs here."""
    return await func(*args)


class FarStream:
    """Stand for a stream in the event loop that `reach` reaches, and that `errands` are done in."""

    def __init__(self, stream: Stream, reach: Reach, errands: Errands) -> None:
        self._stream = stream
        self._reach = reach
        self._errands = errands

    def encode(self, request: Request) -> Encoded:
        """Check a request, and encode it."""
        return self._stream.encode(request)

    def accept(self, asked: Sequence[Bound], index: int) -> None:
        """Let requests join their lanes soon, the first of which has this position."""
        self._put(partial(self._stream.accept, asked, index))

    def complete(self, came: int) -> None:
        """Note that so many requests came, and no others will."""
        self._put(partial(self._stream.complete, came))

    async def room(self, came: int) -> int:
        """Wait until more requests may come than so many; gives how many, 0 where none may any more."""
        return await self._reach(self._room, came)

    async def _room(self, came: int) -> int:
        self._errands.catch_up()  # what was handed over takes room
        return await self._stream.room(came)

    async def ready(self, most: int) -> bool:
        """Wait for outcomes, and lay so many out at most; false when all were taken. Raises what ended the pool."""
        try:
            return await self._reach(self._stream.ready, most)
        except PoolClosed:
            if self._stream.outlives:  # its event loop is perhaps over, and what it holds is not lost
                return self._stream.ready_at_last(most)
            raise

    def take(self) -> list[Entry]:
        """Take what is laid out."""
        return self._stream.take()

    async def leave(self) -> None:
        """Give up what is not settled, at once."""
        try:
            await self._reach(self._leave)
        except PoolClosed:
            self._stream.close()

    async def _leave(self) -> None:
        self._stream.leave()

    def leave_soon(self) -> None:
        """Give up what is not settled; from any thread, at any moment."""
        try:
            self._errands.put(self._stream.leave)
        except RuntimeError:
            self._stream.close()

    def _put(self, errand: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # whoever awaits something is told
            self._errands.put(errand)

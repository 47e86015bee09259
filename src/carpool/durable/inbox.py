"""What users hold while they iterate over the outcomes of submissions."""

import weakref
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio

from ..bulk.errands import Errands
from ..bulk.far import Reach
from ..errors import CarpoolError, PoolClosed
from ..outcomes import Outcome
from .taker import Taker


class Inbox:
    """Iterate over the outcomes of submissions, as an async iterator, until the pool is closed.

    Each outcome goes to one of those who iterate. What was given here and not acked is given to others when this is
    left, by `async with` or by `aclose`, or forgotten.
    """

    def __init__(self, taker: Taker, reach: Reach, errands: Errands) -> None:
        self._taker = taker
        self._reach = reach
        self._errands = errands
        self._out = taker.out
        self._over = False
        self._fetching = anyio.Lock()
        self._forgotten = weakref.finalize(self, _leave_soon, errands, taker)
        self._forgotten.atexit = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let others have what was not acked."""
        self._over = True
        self._forgotten()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while not self._over and not self._taker.is_over:
            try:
                return self._out.popleft()
            except IndexError:
                await self._fetch()
        raise StopAsyncIteration

    async def _fetch(self) -> None:
        async with self._fetching:
            if self._out or self._over:  # meanwhile
                return
            try:
                more = await self._reach(self._taker.ready)
            except PoolClosed:  # its event loop is over
                more = False
            except CarpoolError:
                self._over = True
                raise
            if not more:
                self._over = True


def _leave_soon(errands: Errands, taker: Taker) -> None:
    """Leave, from any thread, at any moment."""
    with suppress(RuntimeError):  # the pool is over
        errands.put(taker.leave)

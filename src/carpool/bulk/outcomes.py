"""What users hold of a stream."""

import weakref
from types import TracebackType
from typing import Self

import anyio

from ..errors import CarpoolError
from ..outcomes import Outcome
from ..spans import Entry
from .reading import Reading

_SLICE = 500  # outcomes that are fetched at once


class Outcomes:
    """Iterate over outcomes, as an async iterator; leave it early by `async with`, or by `aclose`.

    The source is read while they are awaited. An error of its own is raised when the outcomes of what it gave before
    have been; what ends the pool is raised at once. Several tasks may take from one stream.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._given = reading.given
        self._over = False
        self._fetching = anyio.Lock()
        # Whoever breaks out of a loop over it forgets it.
        self._forgotten = weakref.finalize(self, reading.leave_soon)
        self._forgotten.atexit = False

    async def __aenter__(self) -> Self:
        await self._reading.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading, and give up what is not answered."""
        self._over = True
        self._forgotten.detach()
        await self._reading.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while not self._over:
            try:
                return self._given.popleft()
            except IndexError:
                await self._fetch()
        raise StopAsyncIteration

    async def _fetch(self) -> None:
        async with self._fetching:
            if self._given or self._over:  # meanwhile
                return
            try:
                far = await self._reading.start()
                if await far.ready(_SLICE):
                    self._given.extend(map(self._outcome, far.take()))
                    return
            except CarpoolError:
                if not self._over:
                    await self.aclose()
                    raise
            await self.aclose()
            error, self._reading.error = self._reading.error, None
            if error is not None:
                raise error

    def _outcome(self, entry: Entry) -> Outcome:
        index, ending = entry
        kept = self._reading.kept
        asked = None if kept is None else kept.pop(index)
        if isinstance(ending, CarpoolError):
            return Outcome(index, asked, None, ending)
        return Outcome(index, asked, ending, None)

"""What processes leave that have died is taken over: looked for now and then, and when a call may be a part of it."""

from collections.abc import Sequence
from typing import Protocol

import anyio

from .engine.events import Event, Recovered
from .journal import Journal, Stamped


class Heir(Protocol):
    """Go on with what is taken over."""

    def replay(self, told: Sequence[Stamped], *, others: bool) -> None:
        """Take note of it; `others` says whether the journal keeps answers of other processes."""
        ...

    def feed(self, event: Event) -> None:
        """Tell the engine."""
        ...

    def ask_again(self) -> None:
        """Have sent what nobody needs to ask for."""
        ...


class Adoption:
    """Take over for an `heir`, all of it or nothing: what a journal could not tell to the end, it tells again."""

    def __init__(self, heir: Heir, journal: Journal) -> None:
        self._heir = heir
        self._journal = journal
        self._turn = anyio.Lock()

    async def take_over(self) -> None:
        """Take note of what processes left that have died; it goes on with `Recovered`. Raises `JournalError`."""
        others = await self._journal.has_others()
        told = [entry async for chunk in self._journal.load() for entry in chunk]
        self._heir.replay(told, others=others)  # at once: nobody else will tell it

    async def look(self) -> None:
        """Look for processes that have died since, and go on with what they left. Raises `JournalError`."""
        async with self._turn:
            await self.take_over()
            self._heir.feed(Recovered())
            self._heir.ask_again()

"""Between the processes of a journal: word of batches that have ended comes to whichever of them has the endpoint."""

import logging
from collections.abc import Callable, Iterable

import anyio

from .engine.events import Woken
from .errors import JournalError
from .journal import Journal

log: logging.Logger = logging.getLogger("carpool.wakes")


class Wakes:
    """Leave word for other processes, and look every `pause` seconds for what they left of the `open_` batches."""

    def __init__(
        self,
        journal: Journal,
        feed: Callable[[Woken], None],
        open_: Callable[[], frozenset[str]],
        now: Callable[[], float],
        pause: float,
    ) -> None:
        self._journal = journal
        self._feed = feed
        self._open = open_
        self._now = now
        self._pause = pause
        self._unsaid: set[str] = set()
        self._saying = False
        self._wanted = anyio.Event()
        self._failing = False

    def begin(self) -> None:
        """Begin to look."""
        self._wanted.set()

    async def leave(self, batch_ids: Iterable[str]) -> None:
        """Leave word that batches have ended; of what comes while some is written, the writer takes care too."""
        self._unsaid.update(batch_ids)
        if self._saying:
            return
        self._saying = True
        try:
            while self._unsaid:
                said, self._unsaid = self._unsaid, set()
                await self._journal.leave_word(said, self._now())
        except JournalError as exc:
            log.warning("word of batches that have ended is lost: %s They are checked all the same, though later.", exc)
        finally:
            self._saying = False

    async def run(self) -> None:
        """Look, from when it is begun."""
        await self._wanted.wait()
        while True:
            await self._look()
            await anyio.sleep(self._pause)

    async def _look(self) -> None:
        open_ = self._open()
        try:
            word = await self._journal.take_word(open_) if open_ else frozenset()
        except JournalError as exc:
            if not self._failing:
                log.warning("word of batches that have ended is not found: %s", exc)
            self._failing = True
            return
        self._failing = False
        if word:
            self._feed(Woken(tuple(sorted(word))))

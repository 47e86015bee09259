"""Keys: under each something is submitted once, whoever asks, in whatever process."""

from collections.abc import Awaitable, Callable

import anyio

from ..errors import JournalError
from ..journal import Journal, Keyed
from .entry import Entry, copies, other_request

_AT_ONCE = 1_000  # keys claimed by one transaction: some milliseconds
_PAUSE = 0.05  # seconds, in which another process records what it submits under a key, or dies


class Keys:
    """Claim keys in the journal, many at a time; `join` takes what is submitted under those that were free.

    `known` hears of what was submitted before; `start` runs a step; `is_over` says that nothing is submitted any more,
    which `refuse` then tells; `free` waits for keys that are just being freed.
    """

    def __init__(
        self,
        journal: Journal,
        start: Callable[[Callable[[], Awaitable[None]]], None],
        join: Callable[[Entry], None],
        known: Callable[[Entry, int], None],
        is_over: Callable[[], bool],
        refuse: Callable[[Entry], None],
        free: Callable[[], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._start = start
        self._join = join
        self._known = known
        self._is_over = is_over
        self._refuse = refuse
        self._free = free
        self._entries: dict[str, Entry] = {}  # from when they are asked for until they are recorded, or refused
        self._asked: list[Entry] = []
        self._later: list[Entry] = []
        self._claiming = False

    def ask(self, entry: Entry) -> None:
        """Claim the key of an entry, unless this process is just submitting something under it."""
        assert entry.key is not None  # noqa: S101 - others are not claimed
        known = self._entries.setdefault(entry.key, entry)
        if known is not entry:
            known.join(entry)
            return
        self._asked.append(entry)
        if not self._claiming:
            self._claiming = True
            self._start(self._claim)

    def over(self, entry: Entry) -> None:
        """Note that an entry is recorded, or refused."""
        if entry.key is not None:
            self._entries.pop(entry.key, None)

    def entries(self) -> list[Entry]:
        """Give what is being submitted under keys."""
        return [*self._entries.values()]

    async def _claim(self) -> None:
        try:
            while self._asked or self._later:
                if not self._asked:
                    await anyio.sleep(_PAUSE)
                    self._asked += self._later  # others may have come meanwhile
                    self._later.clear()
                asked, self._asked = self._asked[:_AT_ONCE], self._asked[_AT_ONCE:]
                await self._claim_some(asked)
        finally:
            self._claiming = False

    async def _claim_some(self, asked: list[Entry]) -> None:
        await self._free()
        try:
            taken = await self._journal.claim_keys({entry.key or "": entry.digest for entry in asked})
        except JournalError as exc:
            for entry in asked:
                self.over(entry)
                entry.refuse(copies(exc))
            return
        for entry in asked:
            self._take(entry, taken.get(entry.key or ""))

    def _take(self, entry: Entry, claim: Keyed | None) -> None:
        if claim is None:
            self._join(entry)
        elif claim.digest != entry.digest:
            self.over(entry)
            entry.refuse(other_request)
        elif claim.row is not None:
            self.over(entry)
            self._known(entry, claim.row)
        elif self._is_over():
            self.over(entry)
            self._refuse(entry)
        else:
            self._later.append(entry)

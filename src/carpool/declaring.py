"""Keys of calls that a process is about to record: while it declares one, no other process begins with the same."""

from collections.abc import Collection
from contextlib import suppress

from .errors import JournalError
from .journal import Journal


class Declarations:
    """Keep what this process declares, by digests, during one look-up after another.

    What it begins with stays declared until that is recorded, which the journal notes; the rest is withdrawn.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._begun: dict[bytes, bool] = {}  # what is declared, and whether this process begins with it
        self._owed: set[bytes] = set()  # what could not be withdrawn

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._begun

    async def declare(self, digests: Collection[bytes]) -> Collection[bytes]:
        """Declare what no other process does; gives what others do."""
        others, before = await self._journal.intend(digests)
        # What this process declared before is begun with, and not to be withdrawn for the sake of who asks now.
        new = [digest for digest in digests if digest not in others]
        self._begun |= {digest: digest in before and digest not in self._owed for digest in new}
        return others

    def begin(self, digest: bytes) -> None:
        """Note that this process begins with something, if it is declared."""
        if digest in self._begun:
            self._begun[digest] = True

    async def withdraw(self) -> None:
        """Let others begin with what this process does not; where that fails, next time.

        What is still declared then is declared anew before anybody begins with it: others do when it is old.
        """
        begun = {digest for digest, is_begun in self._begun.items() if is_begun}
        self._owed = (self._owed | self._begun.keys()) - begun
        self._begun.clear()
        if self._owed:
            with suppress(JournalError):
                await self._journal.withdraw([*self._owed])
                self._owed.clear()

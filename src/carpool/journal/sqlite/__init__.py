"""The journal in SQLite: one database for all processes that share its folder, on a local disk."""

import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio

from ...engine import commands
from ...engine.events import Claimed
from ...errors import JournalError
from ...naming import shard_of, span_of
from ...ports import RunSync
from .. import Ending, Intents, Keyed, Known, Stamped, Summary
from .store import Store

__all__ = ["Sqlite"]


_OVER = object()


class Sqlite:
    """Keep a journal in a folder; `open` makes one."""

    def __init__(self, store: Store, run_sync: RunSync) -> None:
        self._store = store
        self._run_sync = run_sync
        self._turn = anyio.Lock()
        self._alone = threading.Lock()  # asyncio may cancel what waits for a thread, which runs on
        self._held = {store.shard}
        self.place: str = str(store.folder)
        self.pool: str = store.pool
        self.key_mark = store.key_mark
        self.numbered: int = span_of(store.shard)[0]

    @classmethod
    async def open(cls, folder: Path, account: str, retention: float, run_sync: RunSync) -> Self:
        """Open a folder, or make it; `account` says whose batches are meant.

        What was delivered more than `retention` seconds ago is removed.
        """
        opening = _Opening(partial(Store, folder, account, retention))
        try:
            return cls(await run_sync(_mapped, opening.run), run_sync)
        except BaseException:
            opening.leave()
            raise

    async def note_key(self, mark: str) -> None:
        """Note the mark of the key in use."""
        await self._do(self._store.note_key, mark)
        self.key_mark = mark

    async def record(self, *facts: Stamped) -> None:
        """Record facts, all or none; they are safe when this returns."""
        await self._do(self._store.write, facts)

    async def load(self) -> AsyncGenerator[Sequence[Stamped], None]:
        """Take over what processes left that have died since the last time, and tell it again, in chunks."""
        chunks = self._store.take_over()
        while (chunk := await self._do(next, chunks, None)) is not None:
            yield chunk
        self._held = set(self._store.told)

    def holds(self, row: int) -> bool:
        """Tell whether a row that is not settled is of this process, or of one whose work it took over."""
        return shard_of(row) in self._held

    async def find(self, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        """Look for requests of all processes; those of one digest come in the order of their numbers."""
        known: dict[bytes, list[Known]] = await self._do(self._store.find, digests)
        return known

    async def under_way(self, rows: Collection[int]) -> set[int]:
        """Say which of these rows, that are not answered, other living processes have under way, or will have."""
        under_way: set[int] = await self._do(self._store.under_way, rows)
        return under_way

    async def open_batch(self) -> str | None:
        """Give the remote id of the newest batch under way, of any process; None where there is none."""
        batch_id: str | None = await self._do(self._store.open_batch)
        return batch_id

    async def summary(self) -> Summary:
        """Count the answers that are kept."""
        summary: Summary = await self._do(self._store.summary)
        return summary

    async def claim_room(self, claim: commands.Claim) -> Claimed:
        """Give room to a batch, if other processes leave some, and tell what they did since the last time."""
        claimed: Claimed = await self._do(self._store.claims.claim, claim)
        return claimed

    async def claim_keys(self, asked: Mapping[str, bytes]) -> dict[str, Keyed]:
        """Claim keys for submissions; gives those under which something was submitted before."""
        taken: dict[str, Keyed] = await self._do(self._store.claim_keys, asked)
        return taken

    async def intend(self, digests: Collection[bytes]) -> Intents:
        """Declare calls with keys that are about to be recorded, but for those that other processes are about to."""
        intents: Intents = await self._do(self._store.intend, digests)
        return intents

    async def withdraw(self, digests: Collection[bytes]) -> None:
        """Leave to others what was declared, and is not going to be recorded."""
        await self._do(self._store.intents.withdraw, digests)

    async def endings(self, rows: Collection[int]) -> dict[int, Ending]:
        """Say how submissions ended; of those that are acked, or have not ended, nothing."""
        endings: dict[int, Ending] = await self._do(self._store.endings, rows)
        return endings

    async def leave_word(self, batch_ids: Collection[str], at: float) -> None:
        """Leave word that batches have ended, for whatever process waits for them; none does for others' batches."""
        await self._do(self._store.woken.leave, batch_ids, at)

    async def take_word(self, batch_ids: Collection[str]) -> frozenset[str]:
        """Take the word that was left of some of these batches; what is older than an hour may be gone."""
        word: frozenset[str] = await self._do(self._store.woken.take, batch_ids)
        return word

    async def has_others(self) -> bool:
        """Tell whether answers to requests of other processes are kept."""
        others: bool = await self._do(self._store.has_others)
        return others

    async def forget_old(self) -> None:
        """Forget what was delivered longer ago than it is kept; others are let in meanwhile."""
        steps = self._store.forget_old()
        while await self._do(_is_left, steps):
            pass

    async def aclose(self) -> None:
        """Leave what is unfinished to the next process."""
        await self._do(self._store.close)

    async def _do(self, func: Callable[..., Any], *args: object) -> Any:
        async with self._turn:
            return await self._run_sync(self._run, func, *args)

    def _run(self, func: Callable[..., Any], *args: object) -> Any:
        with self._alone:
            return _mapped(func, *args)


class _Opening:
    """Make a store in a thread, which runs on where asyncio cancels what waits for it: then it is closed again."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make = make
        self._alone = threading.Lock()
        self._store: Store | None = None
        self._left = False

    def run(self) -> Store:
        """Make it; in a thread."""
        store = self._make()
        with self._alone:
            self._store = store
            if self._left:
                store.close()
        return store

    def leave(self) -> None:
        """Have it closed, now or when it is made."""
        with self._alone:
            self._left = True
            if self._store is not None:
                self._store.close()


def _is_left(steps: Iterator[None]) -> bool:
    """Take a step, and tell whether there was one."""
    return next(steps, _OVER) is not _OVER


def _mapped(func: Callable[..., Any], *args: object) -> Any:
    """Call, and say what to do where the disk refuses; SQLite's own errors are mapped where they arise."""
    try:
        return func(*args)
    except OSError as exc:
        raise JournalError(f"The journal cannot be used: {exc}. Free some room, or name a folder that works.") from exc

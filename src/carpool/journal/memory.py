"""The journal in memory: what SQLite is held to by the same tests, and what a simulated process leaves to the next."""

import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ..engine import commands
from ..engine.events import (
    ANSWERED,
    DELIVERED,
    Accepted,
    Acked,
    Admitted,
    Claimed,
    Cleared,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalated,
    Event,
    GivenUp,
    Learned,
    Missing,
    Packed,
    Released,
    Settled,
    Spent,
    Submitted,
    Unclaimed,
    Unmet,
    Uploaded,
    Wanted,
)
from ..engine.packing import stretches
from ..models import Queue
from ..naming import number_of, shard_of, span_of
from . import DIGEST, Ending, Intents, Keyed, Known, Place, Stamped, Summary
from .claims import Claims
from .submissions import Submissions

_HOUR = 3_600.0


class Folder:
    """Hold what one process leaves to the next."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.key_mark: str | None = None
        self.shards = 0  # given so far
        self.held: set[int] = set()  # by processes that are alive
        self.holders: dict[int, int] = {}  # their own shards
        self.unfinished: set[int] = set()
        self.requests: dict[bytes, list[int]] = {}
        self.accepted: list[tuple[float, Accepted]] = []
        self.batches: dict[int, dict[type[Event], Stamped]] = {}
        self.escalated: list[tuple[float, Escalated]] = []
        self.left: dict[int, Stamped] = {}  # what batches that are over have left at the provider
        self.done: list[float] = []  # when batches were packed that are over
        self.outcomes: list[tuple[float, Settled]] = []
        self.learned: dict[Queue, tuple[float, Learned]] = {}
        self.submissions: Submissions = Submissions()
        self.claims: Claims = Claims(self.holders)
        self.stances: dict[int, tuple[int, bool]] = {}  # by row, and which process says whether something comes of it
        self.word: dict[str, float] = {}  # that batches have ended
        self.intents: dict[bytes, int] = {}  # calls that shards are about to record, by digests


class Memory:
    """Keep a journal in a `Folder`; a process that dies is one whose journal was told to `die`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        folder.shards += 1
        self.place = "memory"
        self.pool: str = folder.pool
        self.key_mark = folder.key_mark
        self.numbered: int = span_of(folder.shards)[0]
        self._own = folder.holders[folder.shards] = folder.shards
        self._lives = True
        self._taken = {folder.shards}
        self._told = {folder.shards}  # of what was taken
        folder.held |= self._taken
        folder.unfinished |= self._taken
        self._opening: list[Stamped] | None = _of_the_account(folder)
        self._heard = 0  # of what other processes did
        self._on: dict[type[Event], Callable[[Any, float], None]] = {
            Accepted: self._accepted,
            Packed: lambda fact, at: folder.batches.update({fact.number: {Packed: (at, fact)}}),
            Uploaded: self._note,
            Created: self._note,
            Settled: self._settled,
            Delivered: self._delivered,
            Done: self._done,
            Cleared: self._cleared,
            Learned: lambda fact, at: folder.learned.update({fact.queue: (at, fact)}),
            Discarded: self._discarded,
            Escalated: lambda fact, at: folder.escalated.append((at, fact)),
            Admitted: folder.claims.admit,
            Released: folder.claims.release,
            Wanted: self._say,
            GivenUp: self._say,
            Missing: self._missing,
            Submitted: folder.submissions.add,
            Unmet: folder.submissions.fail,
            Acked: folder.submissions.ack,
            Unclaimed: folder.submissions.unclaim,
        }

    async def note_key(self, mark: str) -> None:
        """Note the mark of the key in use."""
        self.key_mark = self._folder.key_mark = mark

    # --- facts

    async def record(self, *facts: Stamped) -> None:
        """Record facts."""
        for at, fact in facts:
            self._on[type(fact)](fact, at)

    def _accepted(self, fact: Accepted, at: float) -> None:
        run, digests = fact.run, fact.digests
        self._folder.accepted.append((at, Accepted(fact.lane, run.part(0, len(run)), fact.rich)))
        for position, row in enumerate(run.rows):
            digest = digests[position * DIGEST : (position + 1) * DIGEST]
            self._folder.requests.setdefault(digest, []).append(row)
            if self._folder.intents.get(digest) == self._own:
                del self._folder.intents[digest]

    def _note(self, fact: Uploaded | Created, at: float) -> None:
        batch = self._folder.batches.get(number_of(fact.key))
        if batch is not None:
            batch[type(fact)] = at, fact

    def _missing(self, fact: Missing, at: float) -> None:
        batch = self._folder.batches.get(number_of(fact.key), {})
        batch.pop(Missing, None)
        if fact.what is not None:
            batch[Missing] = at, fact

    def _say(self, fact: Wanted | GivenUp, at: float) -> None:
        self._folder.stances.update(dict.fromkeys(fact.rows, (self._own, isinstance(fact, Wanted))))

    def _settled(self, fact: Settled, at: float) -> None:
        for row in self._folder.stances.keys() & set(fact.rows):
            del self._folder.stances[row]
        failed = {row for row, mark in zip(fact.rows, fact.marks, strict=True) if not mark & ANSWERED}
        for rows in self._folder.requests.values():
            rows[:] = [row for row in rows if row not in failed]
        copy = Settled(fact.batch_id, fact.file, fact.rows[:], fact.offsets[:], fact.sizes[:], fact.marks[:])
        self._folder.outcomes.append((at, copy))

    def _delivered(self, fact: Delivered, at: float) -> None:
        for _, settled in self._folder.outcomes:
            for position, row in enumerate(settled.rows):
                if row in fact.rows:
                    settled.marks[position] = ANSWERED | DELIVERED * fact.received

    def _done(self, fact: Done, at: float) -> None:
        self._folder.claims.held.pop(number_of(fact.key), None)
        batch = self._folder.batches.pop(number_of(fact.key), None)
        if batch is not None:
            self._folder.done.append(batch[Packed][0])
            if fact.leaves is not None:
                self._folder.left[number_of(fact.key)] = at, fact

    def _cleared(self, fact: Cleared, at: float) -> None:
        self._folder.left.pop(number_of(fact.key), None)

    def _discarded(self, fact: Discarded, at: float) -> None:
        accepted = self._folder.accepted
        accepted[:] = [entry for entry in accepted if entry[1].run.segment != fact.segment]
        needed = {entry[1].run.segment for entry in accepted}
        self._folder.escalated[:] = [
            entry for entry in self._folder.escalated if any(run.segment in needed for run in entry[1].runs)
        ]

    # --- what is there

    async def load(self) -> AsyncGenerator[Sequence[Stamped], None]:
        """Take over what processes left that have died since the last time, and tell it again, in chunks."""
        opening, self._opening = self._opening, None
        self._taken |= self._folder.unfinished - self._folder.held
        self._folder.held |= self._taken
        self._folder.holders.update(dict.fromkeys(self._taken, self._own))
        untold = self._taken - self._told
        if opening is not None:
            opening += self._of_the_living(time.time())
        if opening:
            yield opening
        if accepted := list(self._unsettled(untold)):
            yield accepted
        for number, facts in sorted(self._folder.batches.items()):
            if shard_of(number) in untold:
                yield list(facts.values())
        if escalated := [entry for entry in self._folder.escalated if _is_of(entry[1], untold)]:
            yield escalated
        if left := [fact for number, fact in sorted(self._folder.left.items()) if shard_of(number) in untold]:
            yield left
        if outstanding := self._folder.submissions.outstanding(untold, dict(self._places())):
            yield [(time.time(), outstanding)]
        if untold:
            self._drop_settled(untold)
            self._folder.submissions.drop_claims(untold)
            self._forget_intents(untold)
            self._drop_finished(untold)
            self._told |= untold

    def _of_the_living(self, now: float) -> list[Stamped]:
        self._heard = self._folder.claims.newest
        times = self._folder.claims.created(self._folder.batches, self._taken, now)
        return [(now, Spent(times))] if times else []

    def _unsettled(self, shards: Collection[int]) -> Iterator[Stamped]:
        settled = {row for _, outcome in self._folder.outcomes for row in outcome.rows}
        for at, fact in sorted(self._folder.accepted, key=lambda entry: entry[1].run.segment):
            if shard_of(fact.run.segment) in shards:
                for is_settled, part in stretches(fact.run, (row in settled for row in fact.run.rows)):
                    if not is_settled:
                        yield at, Accepted(fact.lane, part, fact.rich)

    def holds(self, row: int) -> bool:
        """Tell whether a row that is not settled is of this process, or of one whose work it took over."""
        return shard_of(row) in self._told

    async def find(self, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        """Look for requests of all processes; those of one digest come in the order of their numbers."""
        places = dict(self._places())
        found = {digest: sorted(self._folder.requests.get(digest, ())) for digest in digests}
        return {digest: [Known(row, places.get(row)) for row in rows] for digest, rows in found.items() if rows}

    async def under_way(self, rows: Collection[int]) -> set[int]:
        """Say which of these rows, that are not answered, other living processes have under way, or will have."""
        packed = [fact for facts in self._folder.batches.values() for _, fact in facts.values()]
        batched = {row for fact in packed if isinstance(fact, Packed) for run in fact.runs for row in run.rows}
        holders = {row: self._folder.holders[shard_of(row)] for row in rows if shard_of(row) in self._folder.held}
        said = {row: self._folder.stances.get(row, (0, False)) for row in holders}
        return {
            row
            for row, holder in holders.items()
            if (said[row][1] if said[row][0] == holder else row in batched or holder == shard_of(row))
        }

    def _places(self) -> Iterator[tuple[int, Place]]:
        for _, outcome in self._folder.outcomes:
            for row, offset, size, mark in zip(
                outcome.rows, outcome.offsets, outcome.sizes, outcome.marks, strict=True
            ):
                if outcome.file is not None and mark & ANSWERED:
                    yield row, Place(outcome.file, outcome.batch_id or "", offset, size, bool(mark & DELIVERED))

    async def open_batch(self) -> str | None:
        """Give the remote id of the newest batch under way, of any process; None where there is none."""
        told = [entry for facts in self._folder.batches.values() for entry in facts.values()]
        created = [(at, fact.status.id) for at, fact in told if isinstance(fact, Created)]
        return max(created)[1] if created else None

    async def summary(self) -> Summary:
        """Count the answers that are kept."""
        answered = [(at, mark) for at, outcome in self._folder.outcomes for mark in outcome.marks if mark & ANSWERED]
        undelivered = sum(not mark & DELIVERED for _, mark in answered)
        return Summary(len(answered), undelivered, max((at for at, _ in answered), default=None))

    async def claim_room(self, claim: commands.Claim) -> Claimed:
        """Give room to a batch, if other processes leave some, and tell what they did since the last time."""
        claims, heard = self._folder.claims, self._heard
        claimed = claims.claim(claim, self._folder.batches, self._folder.learned, heard)
        self._heard = claims.newest
        return claimed

    async def claim_keys(self, asked: Mapping[str, bytes]) -> dict[str, Keyed]:
        """Claim keys for submissions; gives those under which something was submitted before."""
        return self._folder.submissions.claim(asked, shard_of(self.numbered), self._told)

    async def intend(self, digests: Collection[bytes]) -> Intents:
        """Declare calls with keys that are about to be recorded, but for those that other processes are about to."""
        intents = self._folder.intents
        known = frozenset(intents.keys() & digests)
        others = frozenset(digest for digest in known if intents[digest] not in self._told)
        intents |= dict.fromkeys(set(digests) - others, self._own)
        return Intents(others, known - others)

    async def withdraw(self, digests: Collection[bytes]) -> None:
        """Leave to others what was declared, and is not going to be recorded."""
        intents = self._folder.intents
        for digest in digests:
            if intents.get(digest) == self._own:
                del intents[digest]

    def _forget_intents(self, shards: Collection[int]) -> None:
        intents = self._folder.intents
        self._folder.intents = {digest: shard for digest, shard in intents.items() if shard not in shards}

    async def endings(self, rows: Collection[int]) -> dict[int, Ending]:
        """Say how submissions ended; of those that are acked, or have not ended, nothing."""
        return self._folder.submissions.endings(rows, dict(self._places()))

    # --- word of batches that have ended

    async def leave_word(self, batch_ids: Collection[str], at: float) -> None:
        """Leave word that batches have ended, for whatever process waits for them; none does for others' batches."""
        word = self._folder.word
        for old in [batch_id for batch_id, left_at in word.items() if left_at < at - _HOUR]:
            del word[old]
        created = [facts[Created][1] if Created in facts else None for facts in self._folder.batches.values()]
        awaited = {fact.status.id for fact in created if isinstance(fact, Created)}
        for batch_id in batch_ids:
            if batch_id in awaited or None in created:
                word.setdefault(batch_id, at)

    async def take_word(self, batch_ids: Collection[str]) -> frozenset[str]:
        """Take the word that was left of some of these batches; what is older than an hour may be gone."""
        taken = frozenset(self._folder.word).intersection(batch_ids)
        for batch_id in taken:
            del self._folder.word[batch_id]
        return taken

    async def has_others(self) -> bool:
        """Tell whether answers to requests of other processes are kept."""
        return any(shard_of(row) != self._own for row, _ in self._places())

    # --- what may go

    def _drop_settled(self, shards: Collection[int]) -> None:
        """Drop the segments in these shards of which all rows are settled, and no batch is open."""
        folder = self._folder
        there = {fact.run.segment for _, fact in folder.accepted if shard_of(fact.run.segment) in shards}
        needed = {fact.run.segment for _, fact in self._unsettled(shards) if isinstance(fact, Accepted)}
        for number, facts in folder.batches.items():
            _, packed = facts[Packed]
            if shard_of(number) in shards and isinstance(packed, Packed):
                needed.update(run.segment for run in packed.runs)
        for segment in there - needed:
            self._discarded(Discarded(segment), 0.0)

    def _drop_finished(self, shards: Collection[int]) -> None:
        """Forget the shards of which nothing is unfinished."""
        folder = self._folder
        numbers = [*folder.batches, *folder.left, *(fact.run.segment for _, fact in folder.accepted)]
        finished = set(shards) - set(map(shard_of, numbers)) - folder.submissions.shards()
        self._taken -= finished
        folder.unfinished -= finished
        folder.held -= finished
        for shard in finished:
            del folder.holders[shard]

    async def forget_old(self) -> None:
        """Forget nothing: memory keeps what it has for as long as it is there."""

    # --- the end

    def die(self) -> None:
        """Leave as a process does that is killed."""
        if self._lives:
            self._folder.held -= self._taken
        self._lives = False

    async def aclose(self) -> None:
        """Leave what is unfinished to the next process; a second time does nothing."""
        if not self._lives:
            return
        self._folder.submissions.drop_claims(self._told)
        self._forget_intents(self._taken)
        self._drop_finished(self._taken)
        self.die()


def _is_of(fact: Escalated, shards: Collection[int]) -> bool:
    return any(shard_of(run.segment) in shards for run in fact.runs)


def _of_the_account(folder: Folder) -> list[Stamped]:
    now = time.time()
    times = tuple(sorted(at for at in folder.done if at > now - _HOUR))
    return [*folder.learned.values(), (now, Spent(times))] if times else [*folder.learned.values()]

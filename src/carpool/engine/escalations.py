"""Rows that are sent live, because their time runs out before their batch ends: each once, whatever becomes of it."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import NamedTuple

from ..models import Failure, Lane, Run
from .batch import Batch
from .batches import Batches
from .commands import Bill, Command, Fail, Record, SendLive, Settle
from .events import Escalate, Escalated, GivenUp, LiveEnded
from .lanes import Lanes
from .packing import singles, stretches
from .stages import Stage

_UNSENT = frozenset(("expired", "budget"))  # kinds of failure of live calls that were not made, or were not paid for
LOST = Failure("expired", "The request was sent live before its timeout, and no answer came; it is not sent again.")


_KEPT = 86_400.0  # seconds


class _Lost(NamedTuple):
    lane: Lane
    run: Run
    event: LiveEnded
    at: float


class Escalations:
    """Take rows out of the queue where they wait, and follow those that travel in a batch as well.

    Where a journal `keeps` them, those sent in vain that may have been billed stay known for a day, or until somebody
    is told: who asks for one anew would have it sent live, and billed, twice.
    """

    def __init__(self, lanes: Lanes, batches: Batches, *, keeps: bool) -> None:
        self._lanes = lanes
        self._batches = batches
        self._keeps = keeps
        self._sent: set[int] = set()  # and have not come to an end
        self._flying: dict[int, tuple[Lane, Run]] = {}  # of which the live call is under way
        self._alone: set[int] = set()  # of these, those that are in no batch
        self._packing: set[int] = set()  # rows that are sent once their packing is recorded
        self._lost: dict[int, _Lost] = {}  # in no batch, sent in vain, and nobody heard

    # --- sending

    def begin(self, event: Escalate, now: float) -> list[Command]:
        """Have rows sent live, but for those that were before, or that nothing is to be paid for any more."""
        rows = sorted(event.rows - self._sent)
        waiting, packing = self._lanes.take_out(rows)
        self._packing |= packing
        self._alone.update(row for _, run in waiting for row in run.rows)
        batches = [batch for batch in self._batches if not batch.revoked]
        wanted = [batch for batch in batches if self._lanes.why_barred(batch.lane, now) is None]
        riding = [(batch.lane, run) for batch in wanted for run in self._of_batch(batch, rows)]
        return self._send([*waiting, *riding])

    def packed(self, batch: Batch) -> list[Command]:
        """Have rows sent live that were being packed when they should have been."""
        if not self._packing:
            return []
        rows = sorted(self._packing.intersection(batch.rows))
        self._packing.difference_update(rows)
        return self._send([(batch.lane, run) for run in self._of_batch(batch, rows)]) if rows else []

    def _of_batch(self, batch: Batch, rows: list[int]) -> Iterable[Run]:
        """Give rows of a batch; while it is not being created yet, they leave it."""
        held = batch.holds(rows)
        if batch.stage in (Stage.PACKED, Stage.UPLOADED) and not self._batches.is_being_created(batch):
            batch.escaped |= held
        marked = ((run, (row in held for row in run.rows)) for run in batch.runs) if held else ()
        return [part for run, marks in marked for is_held, part in stretches(run, marks) if is_held]

    def _send(self, runs: list[tuple[Lane, Run]]) -> list[Command]:
        by_lane: dict[Lane, list[Run]] = {}
        for lane, run in runs:
            by_lane.setdefault(lane, []).append(run)
        return [Record(Escalated(lane, tuple(of_lane))) for lane, of_lane in by_lane.items()]

    def recorded(self, event: Escalated, now: float) -> list[Command]:
        """Send rows, now that it is recorded that they are."""
        for run in event.runs:
            self._sent.update(run.rows)
            self._flying |= {single.rows[0]: (event.lane, single) for single in singles(run)}
        return [SendLive(event.lane, event.runs), *self._forget_lost(now)]

    # --- what becomes of them

    def ended(self, event: LiveEnded, now: float) -> list[Command]:
        """Settle a row by its live answer, unless its batch was faster, or may still have a better one."""
        lane, run = self._flying.pop(event.row)
        if event.failure is not None and event.failure.kind in _UNSENT and event.row not in self._alone:
            self._sent.discard(event.row)  # it rides, and was not sent live
        unheard = self._keeps and not event.awaited and may_be_billed(event)
        if event.row in self._alone:
            self._alone.discard(event.row)
            if unheard:
                self._lost[event.row] = _Lost(lane, run, event, now)
                return [Record(GivenUp((event.row,)))]
            return [self._settle(lane, event), *self._lanes.settled([run])]
        batch = next((batch for batch in self._batches if batch.holds((event.row,))), None)
        if event.answer is not None and event.answer.ok:
            if batch is None:  # its batch was faster
                return [Bill("", lane, [event.answer])]
            batch.settle(event.row, well=True)
            batch.lived.add(event.row)
            return [self._settle(lane, event)]
        if batch is None or event.row not in batch.escaped or unheard:
            return []
        batch.settle(event.row, well=False)
        return [self._settle(lane, event)]

    def _settle(self, lane: Lane, event: LiveEnded) -> Settle | Fail:
        answered = event.answer is not None and event.answer.ok
        self._lanes.ended(lane, answered=answered, failed=not answered)
        if event.answer is None:
            return Fail(None, (event.row,), event.failure or LOST)
        return Settle("", lane, [event.row], [event.answer], event.file)

    def part(self, batch: Batch) -> set[int]:
        """Let the rows of a batch that is to be dropped go on alone whose live calls are under way; says which."""
        flying = self._flying.keys() & batch.open
        self._alone |= flying
        return flying

    def lost(self, rows: AbstractSet[int]) -> set[int]:
        """Say which of these rows were sent live in vain: they have their batch only."""
        return {row for row in rows & self._sent if row not in self._flying}

    def unheard(self, batch: Batch) -> set[int]:
        """Give the rows of a batch that were sent live in vain and that nobody awaits: they end when somebody asks."""
        unasked = batch.abandoned if batch.asked is None else batch.open - batch.asked
        return self.lost(unasked & batch.open) if self._keeps and self._sent else set()

    def close(self, commands: list[Command]) -> list[Command]:
        """Forget the rows that end by these commands."""
        if self._sent:
            for command in commands:
                if isinstance(command, Settle | Fail):
                    self._sent.difference_update(command.numbers)
        return commands

    # --- what an earlier process left

    def remember(self, event: Escalated) -> None:
        """Take note of rows that an earlier process sent live."""
        self._sent.update(row for run in event.runs for row in run.rows)

    def recover(self, batches: Iterable[Batch], now: float) -> None:
        """Part those that an earlier process sent live from what may be sent; batches that have not run lose them."""
        for batch in batches:
            if batch.stage is Stage.PACKED:
                self.leave(batch)
        for lane, runs in self._lanes.forget_dormant(self._sent):
            self.keep_lost(lane, runs, now)

    def leave(self, batch: Batch) -> None:
        """Let rows that an earlier process sent live leave a batch that was not created."""
        batch.escaped |= batch.gone
        if self._sent:
            batch.escaped |= batch.holds(sorted(self._sent))

    def keep_lost(self, lane: Lane, runs: Iterable[Run], now: float) -> list[Command]:
        """Keep rows that were sent live in vain, and that nobody has asked for again, until somebody does."""
        kept = {single.rows[0]: single for single in chain.from_iterable(map(singles, runs))}
        for row, single in kept.items():
            self._lost[row] = _Lost(lane, single, LiveEnded(row), now)
        return [Record(GivenUp((*kept,)))] if kept else []

    def flying(self, rows: Iterable[int]) -> set[int]:
        """Say which of these rows are being sent live."""
        return {row for row in rows if row in self._flying}

    def asked(self, rows: Iterable[int]) -> tuple[set[int], list[Command]]:
        """Hear that rows are asked for again; says which are here, and fails those that were sent live in vain."""
        here = self._alone.intersection(rows)
        lost = sorted(self._lost.keys() & rows)
        return here.union(lost), self._end_lost(lost)

    def _forget_lost(self, now: float) -> list[Command]:
        """End what was kept for a day: whoever might have asked for it has done without."""
        return self._end_lost([row for row, lost in self._lost.items() if lost.at + _KEPT <= now])

    def _end_lost(self, rows: Iterable[int]) -> list[Command]:
        commands: list[Command] = []
        for lost in map(self._lost.pop, rows):
            commands += [self._settle(lost.lane, lost.event), *self._lanes.settled([lost.run])]
        return commands


def may_be_billed(event: LiveEnded) -> bool:
    """Tell whether a live call that came to no answer may be billed all the same; a refusal is not."""
    return event.answer is None and (event.failure is None or event.failure.kind not in _UNSENT)

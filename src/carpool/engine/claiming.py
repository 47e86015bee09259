"""Asking the journal for room, and what its answers lead to (see `claims`)."""

from ..config import Timing
from .batch import Batch
from .batches import Batches
from .cadence import spread
from .commands import Command
from .endings import Endings
from .events import Claimed
from .lanes import Lanes

_PART = 0.01  # of the time that a batch takes may pass before it is asked again: so much of a share stays unused
_LONGEST = 60.0  # seconds, and half as many more


class Claiming:
    """Take what the journal says of the room that other processes leave."""

    def __init__(self, timing: Timing, batches: Batches, lanes: Lanes, endings: Endings) -> None:
        self._timing = timing
        self._batches = batches
        self._lanes = lanes
        self._endings = endings

    def claimed(self, event: Claimed, now: float) -> list[Command]:
        """Create a batch for which there is room, or let it stand in line again."""
        self._hear(event, now)
        batch = self._batches.get(event.key)
        commands: list[Command] = []
        if batch is not None:
            commands = self._grant(batch, event, now) if event.granted else self._deny(batch, event, now)
        commands += self._learn(event, now)
        if batch is not None and batch.revoked:
            return [*commands, *self._endings.stop(batch, now)]
        if batch is not None and event.granted:
            commands += self._batches.next_steps([batch], now)
        return [*commands, *self._batches.make_room(event.queue, now)]

    def _hear(self, event: Claimed, now: float) -> None:
        """Count what other processes created, and what of theirs has ended; their clocks may be ahead of ours."""
        self._lanes.hear_spent([min(at, now) for at in event.created], now)
        for queue, at, tokens in event.ended:
            self._lanes.ledger(queue).end_elsewhere(tokens, min(at, now))

    def _grant(self, batch: Batch, event: Claimed, now: float) -> list[Command]:
        batch.claimed = True
        self._lanes.granted(batch.lane, batch.key, batch.load, event.others, now)
        return []

    def _deny(self, batch: Batch, event: Claimed, now: float) -> list[Command]:
        """Let a batch wait; one that was packed before it was known what others hold may be too large, and is anew."""
        batch.denials += 1
        pause = 0.0 if event.learned is not None else self._pause(batch)
        self._lanes.denied(batch.lane, batch.key, batch.load, event.others, now, pause)
        ledger = self._lanes.ledger(event.queue)
        too_large = ledger.scale.weigh(batch.load) > max(ledger.share, ledger.room(now))
        return self._lanes.take_back([batch.key]) if too_large and batch.total > 1 and not batch.revoked else []

    def _pause(self, batch: Batch) -> float:
        """Give the seconds until the journal is asked again, spread so that no process is always the first."""
        ledger, shortest = self._lanes.ledger(batch.lane.queue), self._timing.poll_min
        pause = shortest if ledger.goes_first else max(shortest, _PART * ledger.turn)
        return min(pause, _LONGEST) * (1 + spread(batch.key, batch.denials) / 2)

    def _learn(self, event: Claimed, now: float) -> list[Command]:
        """Learn the limit that another process was told; what stands in line is chosen by it."""
        if event.learned is None:
            return []
        ledger = self._lanes.ledger(event.queue)
        before, (tokens, at) = ledger.cap, event.learned
        ledger.learn(tokens, "learned", at)
        return [*self._lanes.measure_up(event.queue, now), *self._lanes.choose_smaller(event.queue, before)]

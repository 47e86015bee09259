"""The course of a batch at the provider: how it stands, what goes wrong on the way, and what its files held."""

import math

from msgspec import structs

from ..config import Timing
from ..models import NO_REPLY, BatchStatus, Failure
from .agenda import Agenda
from .batch import Batch
from .batches import Batches
from .cadence import backoff, spread
from .commands import Command, Tell
from .endings import Endings
from .events import Checked, Collected, Failed
from .lanes import Lanes, Name
from .nudges import Nudges
from .rounds import Rounds
from .stages import (
    CANCEL_AGAIN,
    CANCELLING,
    OVERDUE,
    VANISHED,
    Do,
    Stage,
    Step,
    is_admitted,
    is_end,
    is_news,
    on_failure,
    patience,
)
from .verdicts import has_files, ran

_SHORT_READS = 4  # times that files with fewer rows than they should have are fetched
_CUT_READS = 20  # and others, that were cut in the middle of a line
_SHORT_PAUSE = 2.5  # times `poll_min`, doubling
_SILENT = Failure("lost", "The provider gives no reply about the batch.")
_LATE = 21_600.0  # seconds after which a batch is told of, where nobody knows how long others take
_LATE_TIMES, _LATE_LEAST = 4, 1_800.0  # times what others take, but no less than so many seconds


class Checking:
    """Follow the batches that run; what nobody has awaited for `abandon` seconds is cancelled, unless `closing`."""

    def __init__(
        self,
        timing: Timing,
        abandon: float,
        batches: Batches,
        lanes: Lanes,
        endings: Endings,
        agenda: Agenda[Name],
        nudges: Nudges,
        rounds: Rounds,
    ) -> None:
        self._timing = timing
        self._abandon = abandon
        self._batches = batches
        self._lanes = lanes
        self._endings = endings
        self._agenda = agenda
        self._nudges = nudges
        self._rounds = rounds
        self.closing = False

    # --- checking

    def checked(self, event: Checked, now: float) -> list[Command]:
        """Hear how batches stand, or that the provider does not know them."""
        commands: list[Command] = []
        self._batches.placed(event.place, event.pages, now)
        asked = [self._batches.of_remote(remote_id) for remote_id in event.remote_ids]
        self._rounds.answered([batch.key for batch in asked], event.pages, self._batches, now)
        seen = {status.id: status for status in event.statuses}
        batches = [*asked, *self._by_the_way(event, now)]
        listed = {remote_id for page in event.pages for remote_id in page.remote_ids}
        told = [batch for batch in batches if batch.status.id in (listed if event.pages else seen)]
        for batch in self._rounds.passed_over([batch.key for batch in told]):
            self._agenda.set(batch.key, now + self._nudges.passed_over(batch, now))
            commands += self._cancel_unawaited(batch, now)
        further = any(batch.is_further(seen[batch.status.id]) for batch in told if batch.status.id in seen)
        self._rounds.heard([batch.key for batch in asked], further=further, listed=bool(event.pages), now=now)
        # In the order of arrival: those that were refused together go out again in it.
        for batch in sorted(batches, key=lambda batch: batch.first_row):
            remote_id = batch.status.id
            if remote_id in seen and seen[remote_id].status == NO_REPLY:
                commands += self.failed_step(batch, _SILENT, now)
            elif remote_id in seen:
                commands += self.heard(batch, seen[remote_id], now)
            elif now - (batch.denied_since or now) >= VANISHED:
                commands += self._endings.vanish(batch, now)
            else:
                batch.denied_since = batch.denied_since or now
                self._agenda.set(batch.key, now + self._nudges.pause(batch, now))
        return commands

    def _by_the_way(self, event: Checked, now: float) -> list[Batch]:
        """Take out the batches that were not asked for, and would be later: of these too it was told.

        Not those whose files are awaited, or fell short, nor those of which word came since. An end of which word will
        come is left to that for a moment.
        """
        asked = frozenset(event.remote_ids)
        others = [status for status in event.statuses if status.id not in asked]
        known = [(self._batches.of_remote(status.id), status) for status in others if self._batches.is_known(status.id)]
        batches = [
            batch
            for batch, status in known
            if batch.stage is Stage.OPEN and batch.key in self._agenda and batch.may_be_told
            if not self._leaves_to_word(batch, status, now)
        ]
        for batch in batches:
            self._agenda.drop(batch.key)
        return batches

    def _leaves_to_word(self, batch: Batch, status: BatchStatus, now: float) -> bool:
        """Leave an end to the word of it, which may be lost."""
        left = batch.netted and is_end(status.status)
        if left:
            self._agenda.advance(batch.key, now + self._timing.poll_max)
        return left

    def heard(self, batch: Batch, status: BatchStatus, now: float) -> list[Command]:
        """Hear how a batch stands."""
        batch.denied_since = batch.failing_since = batch.awaits = batch.let_go_at = None
        batch.attempts = 0
        back = self._endings.reappear(batch, now) if batch.has_vanished else []
        return [*self._endings.found(batch), *back, *self._stands(batch, status, now)]

    def _stands(self, batch: Batch, status: BatchStatus, now: float) -> list[Command]:
        if is_end(status.status) and ran(status) and not has_files(status) and batch.looks < _SHORT_READS:
            batch.looks += 1
            return self._read_later(batch, now)  # its files are named a moment later
        if status.status == batch.status.status or is_news(batch.status.status, status.status):
            batch.status = status
        if is_end(batch.status.status):
            return self._ended(batch, now)
        if now - (batch.overdue_since or now) >= CANCELLING:
            batch.status = structs.replace(batch.status, status="expired")
            return self._ended(batch, now)
        self._agenda.set(batch.key, now + self._nudges.pause(batch, now))
        admitted = self._admitted(batch, now) if is_admitted(batch.status.status) else []
        return [*admitted, *self._look_at_age(batch, now), *self._cancel(batch, now)]

    def _cancel(self, batch: Batch, now: float) -> list[Command]:
        """Cancel a batch that will not end by itself, or that nobody has awaited for so long that nobody will.

        What ran is paid for: the batch is over when the provider says so, and its files are there.
        """
        if now - batch.opened_at >= OVERDUE and batch.overdue_since is None:
            batch.overdue_since = now
            return self._batches.cancel(batch, now)
        if batch.is_to_end and batch.status.status != "cancelling":  # the last word of it may not have got through
            return self._cancel_again(batch, now)
        return self._cancel_unawaited(batch, now)

    def _cancel_again(self, batch: Batch, now: float) -> list[Command]:
        if now - batch.cancelled_at >= CANCEL_AGAIN:
            return self._batches.cancel(batch, now)
        self._agenda.advance(batch.key, batch.cancelled_at + CANCEL_AGAIN)
        return []

    def _cancel_unawaited(self, batch: Batch, now: float) -> list[Command]:
        """Cancel a batch that nobody has awaited for so long that nobody will, as nothing is kept."""
        batch.look_who_waits(now)
        if batch.unawaited_since is None or self.closing:
            return []
        since = batch.unawaited_since
        if now - since < self._abandon:
            self._agenda.advance(batch.key, since + self._abandon)
            return []
        batch.unawaited_since = math.inf  # once
        return self._batches.cancel(batch, now)

    def _look_at_age(self, batch: Batch, now: float) -> list[Command]:
        """Tell of a batch that takes far longer than others of its queue (traps 15)."""
        age, usual = now - batch.opened_at, self._lanes[batch.lane].ledger.usual
        if batch.was_late or age < (_LATE if usual is None else max(_LATE_LEAST, _LATE_TIMES * usual)):
            return []
        batch.was_late = True
        usually = "" if usual is None else f", where others took {usual / 60:.0f}"
        message = f"Batch {batch.remote_id} has been {batch.status.status} for {age / 60:.0f} minutes{usually}."
        return [Tell("late", message, batch.lane, batch.remote_id)]

    def _admitted(self, batch: Batch, now: float) -> list[Command]:
        """Note that the provider took the batch into its queue: the next may be let in."""
        lane = self._lanes[batch.lane]
        lane.admitted()
        news = lane.ledger.admit(batch.key, now)
        told = self._batches.admitted(batch) if news else []
        return [*told, *self._batches.make_room(batch.lane.queue, now)] if news else []

    def _ended(self, batch: Batch, now: float) -> list[Command]:
        """Give the room of a batch to others, and read its files."""
        batch.step(Step.ENDED)
        self._nudges.ended(batch, now)
        told: list[Command] = []
        if is_admitted(batch.status.status):
            lane = self._lanes[batch.lane]
            lane.admitted()
            lane.ledger.release(batch.key, now)
            told = self._batches.released(batch, ran=True)
        if not has_files(batch.status):
            return [*told, *self._endings.finish(batch, now)]
        return [*told, *self._batches.next_steps([batch], now), *self._batches.make_room(batch.lane.queue, now)]

    # --- collecting

    def collected(self, event: Collected, now: float) -> list[Command]:
        """End a batch whose files were read, or have them read again."""
        batch = self._batches[event.key]
        batch.reads += 1
        batch.billed, batch.input_tokens = event.billed, event.input_tokens
        batch.cuts += event.cut and batch.cuts < _CUT_READS
        if (batch.falls_short or event.cut) and batch.reads - batch.cuts < _SHORT_READS:
            return self._read_later(batch, now)
        return self._endings.finish(batch, now)

    def _read_later(self, batch: Batch, now: float) -> list[Command]:
        """Look at a batch again, and then at its files: one may be named a moment later."""
        if batch.stage is Stage.ENDED:
            batch.step(Step.SHORT)
        tries = batch.reads + batch.looks
        pause = backoff(tries, spread(batch.key, tries), base=_SHORT_PAUSE * self._timing.poll_min)
        self._agenda.set(batch.key, now + pause)
        return []

    # --- what goes wrong

    def failed(self, event: Failed, now: float) -> list[Command]:
        """Hear that a step of some batches did not succeed."""
        self._rounds.answered(event.keys, (), self._batches, now)
        # A step that fails after its outcome was told may name a batch that is done.
        commands: list[Command] = []
        for key in event.keys:
            batch = self._batches.get(key)
            if batch is None:
                commands += self._batches.uploaded_in_vain(key, ())
            else:
                commands += self.failed_step(batch, event.failure, now)
        return commands

    def failed_step(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        """Try the step of a batch again, look whether it happened, or give it up."""
        if batch.stage is Stage.ENDED and not batch.untold and not batch.lived:
            return self._endings.finish(batch, now)
        do = on_failure(batch.stage, failure.kind)
        if batch.revoked and batch.stage in (Stage.PACKED, Stage.UPLOADED) and do is not Do.LOOK:
            return self._endings.stop(batch, now)
        batch.note_failure(failure.kind, now)
        batch.denied_since = None  # what is denied is denied each time
        waits = now - (batch.failing_since or now) < patience(batch.stage, failure.kind) and not batch.is_lost(now)
        if do is Do.AGAIN and waits:
            batch.attempts += 1
            if batch.stage is Stage.PACKED and failure.kind == "lost":
                batch.again, batch.unsure_until = True, now + self._timing.lookup
            pause = backoff(batch.attempts, spread(batch.key, batch.attempts))
            self._agenda.set(batch.key, now + max(pause, batch.pause))
            return []
        if do is Do.LOOK:
            batch.step(Step.LOST)
            batch.opened_at, batch.unreplied_since = now, batch.unreplied_since or now
            return self._batches.next_steps([batch], now)
        if do is Do.REQUEUE:
            return self._endings.refused(batch, failure.limit, now)
        return self._endings.failed_for_good(batch, failure, now)

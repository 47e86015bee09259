"""How batches end, and what becomes of their rows: answered, refused for good, or sent again."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import structs

from ..config import Timing
from ..models import OUT_OF_MONEY, OUT_OF_REACH, Attempt, Failure
from .agenda import Agenda
from .batch import Batch
from .batches import Batches
from .cadence import spread
from .commands import Bill, Command, Fail, LetGo, Record, Settle, Tell
from .escalations import LOST, Escalations
from .events import Answered, GivenUp, Learned, Missing, Wanted, unanswered
from .lanes import Lanes, Name
from .packing import Waiting
from .retries import History, Retries, attempt_by, attempt_of, attempts_of, is_passing
from .stages import Stage
from .verdicts import condemned, for_rows, hopeless, input_unseen, left_over

_NEVER_FITS = Failure(
    "full",
    "Alone, and tried many times, the request found no room: the provider counts it above its enqueued-token limit. "
    "Shorten it, or use another model.",
)
_VANISHED = Failure("missing", "The provider no longer knows the batch.")
ON_PURPOSE = Failure("cancelled", "The request was cancelled by Pool.cancel.")
_BARRED = 600.0  # seconds for which a lane takes nothing that has no hope, before it is tried again


class Endings:
    """Settle the rows of batches that have ended; `pool` prefixes their custom_ids."""

    def __init__(
        self,
        pool: str,
        timing: Timing,
        batches: Batches,
        lanes: Lanes,
        retries: Retries,
        escalations: Escalations,
        agenda: Agenda[Name],
    ) -> None:
        self._pool = pool
        self._timing = timing
        self._batches = batches
        self._lanes = lanes
        self._retries = retries
        self._escalations = escalations
        self._agenda = agenda

    # --- rows

    def answered(self, event: Answered, now: float) -> list[Command]:
        """Settle rows: each once (the first counts), and only those of the batch; what may fare better is kept."""
        batch = self._batches[event.key]
        batch_id = batch.remote_id or ""
        numbers, rows = batch.claim(self._pool, event.rows)
        attempts: dict[int, tuple[Attempt, ...]] = {}
        for number, row in batch.unclaimed:
            if number not in batch.open:  # it stands here twice
                continue
            if is_passing(row):
                batch.failed[number] = row
            else:
                batch.refuse(row.message)
                batch.settle(number, well=False)
                numbers.append(number)
                rows.append(row)
                attempts[number] = self._retries.history(number, attempt_of(row, batch_id))
        billed, batch.billed_twice = batch.billed_twice, []
        bill = [Bill(batch_id, batch.lane, billed)] if billed else []
        settle = Settle(batch_id, batch.lane, numbers, rows, event.file, attempts)
        self._lanes.ended(batch.lane, answered=len(rows) - len(attempts), failed=len(attempts))
        return [*bill, settle, *self._look_at_money(batch, now)]

    def _look_at_money(self, batch: Batch, now: float) -> list[Command]:
        """Send nothing for a while where rows were refused because the account may spend no more."""
        broke = next((row for _, row in batch.unclaimed if row.code in OUT_OF_MONEY), None)
        if broke is None:
            return []
        return self._lanes.bar_all(Failure("budget", broke.message, broke.status_code, broke.code), now + _BARRED)

    # --- batches

    def finish(self, batch: Batch, now: float) -> list[Command]:
        """Settle what no file mentioned, or send it again: by what the validation said, or by how the batch ended."""
        status = batch.status
        if status.no_room is not None:
            return self.refused(batch, status.no_room.limit, now)
        if input_unseen(status):
            return self._upload_again(batch, now)
        if status.status == "failed":
            return self._invalid(batch, now)
        lane = self._lanes[batch.lane]
        lane.rest(now, self._timing, spread(batch.key, 0)) if batch.mostly_failed else lane.go_on()
        lane.ledger.report(*batch.bill, now)
        told = [*self._tell_strangers(batch), *self._lanes.judge(batch, batch.well, ran=True)]
        # What may still be in files that fell short stays there.
        return [*told, *self._send_rest_again(batch, left_over(status), now, keep_files=batch.falls_short)]

    def _invalid(self, batch: Batch, now: float) -> list[Command]:
        """Part the rows that a failed validation names from the others (traps 4), or all of them from their lane."""
        status = batch.status
        failure = hopeless(status)
        if failure is not None:
            return self.give_up_lane(batch, failure, now)
        left = batch.open - self._escalations.part(batch)
        named = condemned(status, batch.rows)
        if named:  # some may have been answered live meanwhile
            return self._condemn(batch, {row: failure for row, failure in named.items() if row in left}, now)
        whole = left_over(status)
        if whole.kind == "rejected":
            # One row may be to blame.
            halved = not batch.revoked and self._lanes[batch.lane].suspect(sorted(left))
            return self.send_again(batch, now) if halved else self._refuse(batch, whole, now)
        self._lanes[batch.lane].rest(now, self._timing, spread(batch.key, 0))
        return self._send_rest_again(batch, whole, now)

    def _condemn(self, batch: Batch, guilty: dict[int, Failure], now: float) -> list[Command]:
        alike: dict[Failure, set[int]] = {}
        for row, failure in guilty.items():
            batch.refuse(failure.message)
            alike.setdefault(failure, set()).add(row)
        commands = [command for failure, rows in alike.items() for command in self._fail(batch, rows, failure)]
        commands += self._lanes.judge(batch, len(batch.open) - len(guilty), ran=False)
        return [*commands, *self.send_again(batch, now, without=guilty.keys())]

    def _refuse(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        """End a batch that was refused as a whole."""
        batch.refuse(failure.message)
        batch.refused = batch.total
        return [*self._lanes.judge(batch, 0, ran=False), *self.end(batch, failure, now)]

    def _tell_strangers(self, batch: Batch) -> list[Command]:
        if not batch.strangers:
            return []
        message = f"{len(batch.strangers)} rows in the files of batch {batch.remote_id} are of requests not sent in it."
        return [Tell("strangers", message, batch.lane, batch.remote_id)]

    def give_up_lane(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        """End a batch that had no hope, and all that is like it, with one clear error."""
        if failure.kind == "budget":
            barred = self._lanes.bar_all(failure, now + _BARRED)
        else:
            barred = self._lanes.bar(batch.lane, failure, now + _BARRED)
        return [*barred, *self.end(batch, failure, now)]

    def end(self, batch: Batch, failure: Failure, now: float, *, keep_files: bool = False) -> list[Command]:
        """Settle whatever is left of a batch with one failure and drop it."""
        rest, left = self._rest(batch)
        unheard = self._escalations.unheard(batch)
        kept = self._escalations.keep_lost(batch.lane, rest.drop(unheard), now)
        failed = self._fail(batch, left - unheard, failure)
        dropped = self._batches.drop(batch, list(rest), now, keep_files=keep_files)
        return [*kept, *failed, *dropped, *self._batches.make_room(batch.lane.queue, now)]

    def let_go(self, batch: Batch, failure: Failure, now: float, *, missing: bool = False) -> list[Command]:
        """Tell whoever waits why there is no answer yet, and look seldom for a batch that may be paid for.

        It keeps its room, but no others back: submissions go on waiting for it; who asks for its rows again waits for
        them again. After twice the provider's window it ends: in this process, or in all together where the provider
        says that it, or a file of it, is `missing`. While a key is refused, or nobody replies, it may well be there.
        """
        if batch.is_lost(now) or (missing and batch.has_been_missing(now)):
            return self.end(batch, failure, now, keep_files=True)
        lane = self._lanes[batch.lane]
        lane.trial.dropped(batch.key)
        if batch.stage is Stage.LOST:
            lane.ledger.presume(batch.key, batch.opened_at)
        message = f"Batch {batch.remote_id or batch.key} is out of reach, and looked for: {failure.message}"
        told: list[Command] = []
        if batch.let_go_at is None:
            told.append(Tell("late", message, batch.lane, batch.remote_id))
        if missing and batch.missing is None:
            told += self._note_missing(batch, "file" if batch.stage is Stage.ENDED else "batch", now)
        batch.let_go(now)
        self._agenda.set(batch.key, now + batch.pause)
        awaited = batch.open - batch.abandoned
        awaited -= self._escalations.flying(awaited)
        attempts = self._attempts(batch, awaited, failure)
        left = LetGo(batch.remote_id, awaited, structs.replace(failure, code=OUT_OF_REACH), attempts)
        return [*told, left, *self._batches.make_room(batch.lane.queue, now)]

    def _note_missing(self, batch: Batch, what: Literal["batch", "file"], now: float) -> list[Command]:
        batch.missing, batch.missing_at = what, now
        return [Record(Missing(batch.key, what))]

    def found(self, batch: Batch) -> list[Command]:
        """Note that a batch is there after all; of its files that says nothing."""
        if batch.missing != "batch":
            return []
        batch.missing = None
        return [Record(Missing(batch.key, None))]

    def vanish(self, batch: Batch, now: float) -> list[Command]:
        """Let go of a batch that the provider has denied for long: it counts as gone as long as it does."""
        left = self.let_go(batch, _VANISHED, now, missing=True)
        if batch.stage is Stage.DONE or batch.has_vanished:
            return left
        batch.has_vanished = True
        self._lanes[batch.lane].ledger.forget(batch.key, now)
        gone = [Record(GivenUp((*batch.open,))), *self._batches.released(batch)]
        return [*left, *gone, *self._batches.make_room(batch.lane.queue, now)]

    def reappear(self, batch: Batch, now: float) -> list[Command]:
        """Hear of a batch that had vanished: it takes room after all, and others may wait for it."""
        batch.has_vanished = False
        self._lanes.remember_created(batch.lane, batch.key, batch.load, batch.opened_at, now)
        return [Record(Wanted((*batch.open,)))]

    def failed_for_good(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        """Tell the rows of a batch why its step failed."""
        is_missing = batch.stage is Stage.ENDED and failure.kind == "gone"
        failure = for_rows(batch.stage, failure)
        if batch.stage not in (Stage.PACKED, Stage.UPLOADED):
            return self.let_go(batch, failure, now, missing=is_missing)
        if failure.kind == "budget":
            return self.give_up_lane(batch, failure, now)
        return self._refuse(batch, failure, now) if failure.kind == "rejected" else self.end(batch, failure, now)

    def _rest(self, batch: Batch) -> tuple[Waiting, set[int]]:
        """Give the rows of a batch that end with it, and which of them are not settled.

        Not those that go on alone, or ended in an earlier process.
        """
        rest = Waiting()
        rest.put_back(batch.runs)
        apart = self._escalations.part(batch) | batch.gone
        rest.drop(apart)
        return rest, batch.open - apart

    def _fail(self, batch: Batch, rows: AbstractSet[int], failure: Failure) -> list[Command]:
        if not rows:
            return []
        self._lanes.ended(batch.lane, failed=len(rows))
        return [Fail(batch.remote_id, frozenset(rows), failure, self._attempts(batch, rows, failure))]

    def _attempts(self, batch: Batch, rows: AbstractSet[int], failure: Failure) -> dict[int, History]:
        """Give what became of rows each time that they were sent, this one included where their batch was created."""
        return {} if batch.remote_id is None else self._histories(batch, rows, attempt_by(failure, batch.remote_id))

    def _histories(self, batch: Batch, rows: AbstractSet[int], attempt: Attempt) -> dict[int, History]:
        failed = attempts_of(batch.failed, rows, batch.remote_id or "")
        return self._retries.histories(rows, failed, attempt)

    # --- sending again

    def _send_rest_again(
        self, batch: Batch, failure: Failure, now: float, *, keep_files: bool = False
    ) -> list[Command]:
        """Send what is left of a batch again, but for what has failed so too often."""
        left = batch.open - self._escalations.part(batch) - self._escalations.unheard(batch)
        histories = self._histories(batch, left, attempt_by(failure, batch.remote_id))
        last = set() if batch.revoked else self._retries.over(histories)
        missing = last - batch.failed.keys()
        ended = [*self._settle(batch, last - missing), *self._fail(batch, missing, failure)]
        self._retries.note({row: histories[row] for row in left - last} if last else histories)
        return [*ended, *self.send_again(batch, now, without=last, keep_files=keep_files)]

    def _settle(self, batch: Batch, rows: AbstractSet[int]) -> list[Command]:
        """Give callers the rows that failed, though they might have fared better."""
        if not rows:
            return []
        numbers, batch_id = sorted(rows), batch.remote_id or ""
        failed = [batch.failed[row] for row in numbers]
        self._lanes.ended(batch.lane, failed=len(numbers))
        attempts = self._histories(batch, rows, attempt_of(failed[0], batch_id))
        return [Settle(batch_id, batch.lane, numbers, failed, None, attempts), Record(unanswered(numbers, batch_id))]

    def send_again(
        self, batch: Batch, now: float, *, without: Collection[int] = (), keep_files: bool = False
    ) -> list[Command]:
        """Drop a batch and let its unsettled rows wait again, but for some, and for those that nobody awaits.

        Those of an earlier process that nobody has asked for are kept, and not sent; nor is what was cancelled, or sent
        live in vain.
        """
        rest, left = self._rest(batch)
        left.difference_update(without)
        lost = self._escalations.lost(left)
        stopped = left - lost - batch.wanted if batch.revoked else frozenset[int]()
        unheard = lost & self._escalations.unheard(batch)  # whoever asks is told
        kept = self._escalations.keep_lost(batch.lane, rest.drop(unheard), now)
        lost -= unheard
        ends = ((lost, LOST), (stopped, ON_PURPOSE))
        failed = [Fail(batch.remote_id, frozenset(rows), failure) for rows, failure in ends if rows]
        self._lanes.ended(batch.lane, failed=len(lost) + len(stopped))
        left -= lost | stopped
        if left:
            settled = rest.drop([row for row in batch.rows if row not in left])
        else:
            settled, rest = list(rest), Waiting()
        taken_out = self._lanes.taken_out(rest.drop(batch.abandoned))
        if batch.asked is not None:
            unasked = rest.drop([row for row in batch.rows if row not in batch.asked])
            self._lanes[batch.lane].dormant.put_back(unasked)
        self._lanes.put_back(batch.lane, list(rest), batch.key)
        dropped = self._batches.drop(batch, settled, now, keep_files=keep_files, again=rest.rows)
        heavy = self._lanes.measure_up(batch.lane.queue, now)
        return [*kept, *failed, *dropped, *taken_out, *heavy, *self._batches.make_room(batch.lane.queue, now)]

    def refused(self, batch: Batch, limit: int | None, now: float) -> list[Command]:
        """Let the rows of a batch that found no room wait; what stands in line behind it is chosen anew."""
        ledger = self._lanes[batch.lane].ledger
        ledger.refuse(batch.key, limit, now, spread(batch.key, 0))
        self._lanes.found_no_room(batch.key)
        if ledger.is_empty and batch.total > 1:
            ledger.split(batch.total)
        elif ledger.is_empty and self._lanes[batch.lane].refused_alone(batch.first_row, batch.load, now):
            return self.end(batch, _NEVER_FITS, now)
        learned = [] if limit is None else [Record(Learned(batch.lane.queue, limit))]
        return [*learned, *self._lanes.take_back(ledger.line), *self.send_again(batch, now)]

    def _upload_again(self, batch: Batch, now: float) -> list[Command]:
        """Send the rows of a batch again whose input file the validation did not see yet."""
        if self._lanes[batch.lane].hold(now, self._timing, spread(batch.key, 0)):
            return self.end(batch, left_over(batch.status), now)
        return self.send_again(batch, now)

    def give_back(self, batch: Batch, now: float) -> list[Command]:
        """Drop a batch that was never created; its upload may be under way, and is deleted when it has arrived."""
        self._batches.note_upload(batch)
        self._lanes.not_created()
        return self.send_again(batch, now)

    # --- cancelling

    def revoke(self, batch: Batch, now: float) -> list[Command]:
        """Cancel a batch on purpose: what ran is paid for, and settled when it ends; the rest is not sent again."""
        batch.revoke()
        if batch.stage is Stage.PACKED or (batch.stage is Stage.UPLOADED and not self._batches.is_being_created(batch)):
            return self.stop(batch, now)
        return self._batches.cancel(batch, now)

    def stop(self, batch: Batch, now: float) -> list[Command]:
        """End a batch that was cancelled on purpose before it was created; what was asked for since waits again."""
        self._batches.note_upload(batch)
        return self.send_again(batch, now)

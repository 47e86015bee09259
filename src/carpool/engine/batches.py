"""All batches that are not over: what each is to do next, and what becomes of its rows when it ends."""

import math
from collections.abc import Collection, Iterable, Iterator

from ..models import BatchStatus, Failure, Leftovers, Queue, Run, Sought
from .agenda import Agenda
from .batch import OVERDUE, Batch, Stage, Step, condemned, input_unseen, left_over
from .cadence import spread
from .commands import Check, Collect, Command, Create, Delete, Fail, Find, Record, Upload
from .events import Done, Learned
from .lanes import Lanes, Name
from .packing import Waiting

_NEVER_FITS = Failure(
    "full",
    "Alone, and tried many times, the request found no room: the provider counts it above its enqueued-token limit. "
    "Shorten it, or use another model.",
)


class Batches:
    """Hold the batches by their client keys, and those that were created by their remote ids.

    Listings show what is there after `lookup` seconds.
    """

    def __init__(self, lanes: Lanes, agenda: Agenda[Name], lookup: float) -> None:
        self.lookup = lookup
        self._lanes = lanes
        self._agenda = agenda
        self._batches: dict[str, Batch] = {}
        self._keys: dict[str, str] = {}  # client keys by remote ids
        self._uploads: dict[str, Sought] = {}  # under way, though their batches were dropped

    def __getitem__(self, key: str) -> Batch:
        return self._batches[key]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches.values())

    def get(self, key: str) -> Batch | None:
        """Give a batch, None when it is over."""
        return self._batches.get(key)

    def add(self, batch: Batch) -> None:
        """Hold a batch."""
        self._batches[batch.key] = batch

    def created(self, batch: Batch, status: BatchStatus) -> None:
        """Note what the provider calls a batch."""
        batch.status = status
        self._keys[status.id] = batch.key

    def is_known(self, remote_id: str) -> bool:
        """Tell whether a batch is known by this remote id."""
        return remote_id in self._keys

    def of_remote(self, remote_id: str) -> Batch:
        """Give the batch that the provider calls so."""
        return self._batches[self._keys[remote_id]]

    # --- what is to be done

    def make_room(self, queue: Queue, now: float) -> list[Command]:
        """Create the batches for which there is room, and choose the next ones."""
        let_in = [self._batches[key] for key in self._lanes.let_in(queue, now)]
        uploaded = [batch for batch in let_in if batch.stage is Stage.UPLOADED]
        forbidden = self._lanes.forbidden(queue)
        return [*self.next_steps(uploaded, now), *forbidden, *self._lanes.consider_all(queue, now)]

    def next_steps(self, batches: list[Batch], now: float) -> list[Command]:
        """Give the commands that the stages of these batches call for."""
        commands: list[Command] = []
        lost: list[Batch] = []
        open_: list[Batch] = []
        for batch in batches:
            match batch.stage:
                case Stage.PACKED:
                    commands.append(Upload(batch.packed()))
                case Stage.UPLOADED:
                    commands += self._create(batch)
                case Stage.LOST:
                    lost.append(batch)
                case Stage.OPEN:
                    open_.append(batch)
                case _:
                    add_up = batch.status.input_tokens is None and self._lanes[batch.lane].ledger.cap < math.inf
                    commands.append(Collect(batch.key, batch.status, add_up))
        if lost:
            files = {batch.key: batch.file_id or "" for batch in lost}
            commands.append(Find(files, min(batch.packed_at for batch in lost), now))
        if open_:
            open_.sort(key=lambda batch: batch.opened_at, reverse=True)
            keys = tuple(batch.key for batch in open_)
            commands.append(Check(keys, tuple(batch.remote_id or "" for batch in open_)))
        return commands

    def _create(self, batch: Batch) -> list[Command]:
        ledger = self._lanes[batch.lane].ledger
        if batch.key in ledger.line:
            return []
        return [Create(batch.packed(ledger.scale.guess(batch.load)), batch.file_id or "")]

    # --- how batches end

    def finish(self, batch: Batch, now: float) -> list[Command]:
        """Settle what no file mentioned: by what the validation said, or by how the batch ended."""
        status = batch.status
        if status.no_room is not None:
            return self.refused(batch, status.no_room.limit, now)
        if input_unseen(status):
            return self._upload_again(batch, now)
        guilty = {row: failure for row, failure in condemned(status, batch.rows).items() if row in batch.open}
        if guilty:
            failures = [Fail(status.id, (row,), failure) for row, failure in guilty.items()]
            return [*failures, *self.send_again(batch, guilty, now)]
        lane = self._lanes[batch.lane]
        lane.go_on()
        lane.ledger.report(*batch.bill, now)
        # What may still be in files that fell short stays there.
        return self.end(batch, left_over(status), now, keep_files=batch.falls_short)

    def end(self, batch: Batch, failure: Failure, now: float, *, keep_files: bool = False) -> list[Command]:
        """Settle whatever is left of a batch with one failure and drop it."""
        commands: list[Command] = [Fail(batch.remote_id, frozenset(batch.open), failure)] if batch.open else []
        commands += self._drop(batch, batch.runs, now, keep_files=keep_files)
        return [*commands, *self.make_room(batch.lane.queue, now)]

    def give_up(self, batch: Batch, failure: Failure, now: float) -> list[Command]:
        """Tell whoever waits, and leave a batch that may be paid for to the next process: nothing is recorded."""
        if now - batch.packed_at >= OVERDUE:
            return self.end(batch, failure, now, keep_files=True)
        commands: list[Command] = [Fail(batch.remote_id, frozenset(batch.open), failure, False)] if batch.open else []
        self._forget(batch, now)
        return [*commands, *self.make_room(batch.lane.queue, now)]

    def send_again(self, batch: Batch, without: Collection[int], now: float) -> list[Command]:
        """Drop a batch and let its unsettled rows wait again, but for some, and for those that nobody awaits.

        Those of an earlier process that nobody has asked for are kept, and not sent.
        """
        rest = Waiting()
        rest.put_back(batch.runs)
        gone = batch.abandoned
        settled = rest.drop([row for row in batch.rows if row in without or row not in batch.open])
        taken_out = self._lanes.taken_out(rest.drop(gone))
        if batch.asked is not None:
            unasked = rest.drop([row for row in batch.rows if row not in batch.asked])
            self._lanes[batch.lane].dormant.put_back(unasked)
        self._lanes.put_back(batch.lane, list(rest))
        dropped = self._drop(batch, settled, now)
        heavy = self._lanes.measure_up(batch.lane.queue, now)
        return [*dropped, *taken_out, *heavy, *self.make_room(batch.lane.queue, now)]

    def refused(self, batch: Batch, limit: int | None, now: float) -> list[Command]:
        """Let the rows of a batch that found no room wait; what stands in line behind it is chosen anew."""
        ledger = self._lanes[batch.lane].ledger
        ledger.refuse(batch.key, limit, now, spread(batch.key, 0))
        if ledger.is_empty and batch.total > 1:
            ledger.split(batch.total)
        elif ledger.is_empty and self._lanes[batch.lane].refused_alone(batch.first_row, batch.load, now):
            return self.end(batch, _NEVER_FITS, now)
        learned = [] if limit is None else [Record(Learned(batch.lane.queue, limit))]
        return [*learned, *self._lanes.take_back(ledger.line), *self.send_again(batch, (), now)]

    def _upload_again(self, batch: Batch, now: float) -> list[Command]:
        """Send the rows of a batch again whose input file the validation did not see yet."""
        if self._lanes[batch.lane].hold(now, spread(batch.key, 0)):
            return self.end(batch, left_over(batch.status), now)
        return self.send_again(batch, (), now)

    def _drop(self, batch: Batch, settled: Iterable[Run], now: float, *, keep_files: bool = False) -> list[Command]:
        """Forget a batch, the remote files it leaves and the segments that nobody needs any more."""
        self._forget(batch, now)
        leaves = None if keep_files else self._leaves(batch)
        done = Record(Done(batch.key, batch.remote_id, leaves))
        settle = self._lanes.settled(settled)
        if leaves is None or batch.key in self._uploads:
            return [done, *settle]
        pause = max(0.0, batch.unsure_until - now) if leaves.sought else 0.0
        return [done, *settle, Delete(leaves.file_ids, leaves.sought, batch.key, pause)]

    def _forget(self, batch: Batch, now: float) -> None:
        batch.step(Step.DONE)
        self._agenda.drop(batch.key)
        del self._batches[batch.key]
        self._lanes.drop(batch.lane, batch.key, now)
        if batch.remote_id is not None:
            self._keys.pop(batch.remote_id, None)

    def _leaves(self, batch: Batch) -> Leftovers | None:
        sought = batch.packed().sought if batch.again or batch.key in self._uploads else None
        return Leftovers(batch.files, sought) if batch.files or sought else None

    def give_back(self, batch: Batch, now: float) -> list[Command]:
        """Drop a batch that was never created; its upload may be under way, and is deleted when it has arrived."""
        if batch.stage is Stage.PACKED and batch.key not in self._agenda:  # where it would wait to be tried again
            self._uploads[batch.key] = batch.packed().sought
        return self.send_again(batch, (), now)

    def uploaded_in_vain(self, key: str, file_ids: tuple[str, ...]) -> list[Command]:
        """Delete what came of an upload whose batch was dropped meanwhile."""
        sought = self._uploads.pop(key, None)
        return [Delete(file_ids, sought, key, self.lookup if sought else 0.0)] if file_ids or sought else []

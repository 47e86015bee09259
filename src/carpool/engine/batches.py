"""All batches that are not over, and what each is to do next."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

from ..models import BatchStatus, Leftovers, Page, Queue, Run, Sought
from ..naming import number_of, shard_of
from . import places
from .agenda import Agenda
from .batch import Batch, BatchStats
from .commands import Cancel, Claim, Collect, Command, Create, Delete, Find, Record, Upload
from .events import Admitted, Done, Released
from .lanes import Lanes, Name
from .rounds import Rounds
from .stages import CANCEL_AGAIN, Stage, Step

_STAGES: dict[Stage, Literal["uploading", "creating", "running", "collecting"]] = {
    Stage.PACKED: "uploading",
    Stage.UPLOADED: "creating",
    Stage.LOST: "creating",
    Stage.OPEN: "running",
    Stage.ENDED: "collecting",
}
_FEW = 0.01  # the share of a batch's rows whose callers may have gone before it is worth another upload


class Batches:
    """Hold the batches by their client keys, and those that were created by their remote ids.

    Listings show what is there after `lookup` seconds. With `claims`, the journal is asked for room before a creation.
    """

    def __init__(self, lanes: Lanes, agenda: Agenda[Name], rounds: Rounds, lookup: float, *, claims: bool) -> None:
        self.lookup = lookup
        self._claims = claims
        self._shards: set[int] = set()  # of the batches that are here, or were since the journal was last asked
        self._lanes = lanes
        self._agenda = agenda
        self._rounds = rounds
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
        self._shards.add(shard_of(number_of(batch.key)))

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

    def stats(self, batch: Batch) -> BatchStats:
        """Give the figures of one."""
        ledger = self._lanes[batch.lane].ledger
        return BatchStats(
            batch.key,
            batch.remote_id,
            batch.lane,
            "queued" if batch.key in ledger.line else _STAGES[batch.stage],
            batch.status.status if batch.remote_id is not None else "",
            batch.total,
            batch.unsettled,
            ledger.scale.guess(batch.load),
            batch.packed_at,
            batch.status.answered,
        )

    # --- what is to be done

    def make_room(self, queue: Queue, now: float) -> list[Command]:
        """Create the batches for which there is room, and choose the next ones."""
        is_stale = partial(self._is_stale, now)
        let_in, packed = self._lanes.let_in(queue, now, is_stale, self._asks)
        uploaded = [batch for batch in map(self._batches.__getitem__, let_in) if batch.stage is Stage.UPLOADED]
        forbidden = self._lanes.forbidden(queue, now, is_stale)
        return [*self.next_steps(uploaded, now), *packed, *forbidden, *self._lanes.consider_all(queue, now)]

    def _asks(self, key: str) -> bool:
        """Tell whether the journal is asked for room for a batch as soon as it is let in."""
        return self._claims and self._batches[key].stage is Stage.UPLOADED

    def _is_stale(self, now: float, key: str) -> bool:
        """Tell whether to choose a batch anew before it is created: rows have left it, and it was not done just now.

        One that is let in all the same runs, and is billed, with what nobody awaits any more.
        """
        batch = self._batches[key]
        if not batch.escaped and len(batch.abandoned) <= batch.total * _FEW:
            return False
        return self._lanes[batch.lane].may_renew(now)

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
                    commands += self._create(batch, now)
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
        return [*commands, *(self._rounds.checks(open_, frozenset(self._keys), now) if open_ else ())]

    def placed(self, place: str | None, pages: Sequence[Page], now: float) -> None:
        """Note where the listing shows open batches."""
        if pages:
            batches = {remote_id: self._batches[key] for remote_id, key in self._keys.items()}
            open_ = {remote_id: batch for remote_id, batch in batches.items() if batch.stage is Stage.OPEN}
            places.note(open_, place, pages, now - self.lookup)

    def cancel(self, batch: Batch, now: float) -> list[Command]:
        """Cancel a batch that runs; one that is being created is cancelled when it is known."""
        if batch.stage is not Stage.OPEN or batch.remote_id is None:
            return []
        batch.cancelled_at = now
        self._agenda.advance(batch.key, now + CANCEL_AGAIN)
        return [Cancel(batch.remote_id)]

    def is_being_created(self, batch: Batch) -> bool:
        """Tell whether a creation is under way: the batch neither waits for room nor for another try."""
        waits = batch.key in self._agenda or batch.key in self._lanes[batch.lane].ledger.line
        return batch.stage is Stage.UPLOADED and not waits

    def _create(self, batch: Batch, now: float) -> list[Command]:
        ledger = self._lanes[batch.lane].ledger
        if batch.key in ledger.line:
            return []
        if batch.escaped and (batch.holds_ended or self._lanes[batch.lane].may_renew(now)):
            return self._lanes.take_back([batch.key])
        batch.escaped.clear()  # what could not leave it in time rides in it
        if self._claims and not batch.claimed:
            return self._claim(batch, now)
        return [Create(batch.packed(ledger.scale.guess(batch.load)), batch.file_id or "")]

    # --- what other processes of the journal are to know

    def _claim(self, batch: Batch, now: float) -> list[Command]:
        """Ask for room beside what other processes hold, for one batch after the other."""
        queue = batch.lane.queue
        ledger = self._lanes.ledger(queue)
        if ledger.others.asking.difference((batch.key,)):
            self._lanes.wait_for_answer(batch.lane, batch.key, batch.load, now)
            return []
        ledger.others.asking.add(batch.key)
        tokens, room = math.ceil(ledger.scale.weigh(batch.load)), ledger.allowance(batch.key, now)
        shards = frozenset(self._shards)
        self._shards = {shard_of(number_of(key)) for key in self._batches}
        return [Claim(batch.key, queue, tokens, room, ledger.goes_first, ledger.hearsay.heard_at, shards, now)]

    def admitted(self, batch: Batch) -> list[Command]:
        """Tell other processes that a batch was taken into its queue."""
        return [Record(Admitted(batch.key))] if self._claims else []

    def released(self, batch: Batch, *, ran: bool = False) -> list[Command]:
        """Leave the room of a batch to other processes."""
        return [Record(Released(batch.key, ran))] if self._claims else []

    # --- how batches are dropped

    def drop(
        self, batch: Batch, settled: Iterable[Run], now: float, *, keep_files: bool = False, again: int = 0
    ) -> list[Command]:
        """Forget a batch, `again` of whose rows wait anew, the remote files it leaves and segments without use."""
        self.forget(batch, now)
        leaves = None if keep_files else self._leaves(batch)
        done = Record(Done(batch.key, batch.remote_id, leaves, again))
        settle = self._lanes.settled(settled)
        if leaves is None or batch.key in self._uploads:
            return [done, *settle]
        pause = max(0.0, batch.unsure_until - now) if leaves.sought else 0.0
        return [done, *settle, Delete(leaves.file_ids, leaves.sought, batch.key, pause)]

    def forget(self, batch: Batch, now: float) -> None:
        """Forget a batch."""
        batch.step(Step.DONE)
        self._agenda.drop(batch.key)
        del self._batches[batch.key]
        self._lanes.drop(batch.lane, batch.key, now)
        if batch.remote_id is not None:
            self._keys.pop(batch.remote_id, None)

    def _leaves(self, batch: Batch) -> Leftovers | None:
        sought = batch.packed().sought if batch.again or batch.key in self._uploads else None
        return Leftovers(batch.files, sought) if batch.files or sought else None

    def note_upload(self, batch: Batch) -> None:
        """Note that the upload of a batch that is to be dropped may be under way: it is deleted when it has arrived."""
        if batch.stage is Stage.PACKED and batch.key not in self._agenda:  # where it would wait to be tried again
            self._uploads[batch.key] = batch.packed().sought

    def uploaded_in_vain(self, key: str, file_ids: tuple[str, ...]) -> list[Command]:
        """Delete what came of an upload whose batch was dropped meanwhile."""
        sought = self._uploads.pop(key, None)
        return [Delete(file_ids, sought, key, self.lookup if sought else 0.0)] if file_ids or sought else []

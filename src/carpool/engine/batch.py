"""One batch: where it stands here, where it stands at the provider, and what becomes of the rows it leaves over."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal

import msgspec

from ..models import NEWEST, BatchStatus, Lane, Load, PackedBatch, Row, Run, are_ok
from .packing import common, load_of, sum_loads
from .stages import AGAIN, OVERDUE, SELDOM, STEPS, Stage, Step, is_news

_ENDED_EARLY = frozenset({"batch_expired", "batch_cancelled"})  # codes of rows to which their batch never came
UNDONE = _ENDED_EARLY | {"request_timeout"}
_STRANGERS = 1_000  # ids that are kept, to be counted
_REASONS = 3  # that are quoted


class BatchStats(msgspec.Struct, frozen=True, gc=False):
    """Tell of one batch that is not over: where it stands here, and its `status` at the provider, "" before it has one.

    A `queued` one waits for room. `tokens` is what it is expected to weigh in its queue; `since` is when it was packed,
    in seconds since the epoch; `done` rows came to an end as the provider counts, None where it does not say.
    """

    key: str
    id: str | None
    lane: Lane
    stage: Literal["uploading", "queued", "creating", "running", "collecting"]
    status: str
    rows: int
    unsettled: int
    tokens: int
    since: float
    done: int | None


class Batch:
    """Hold what is known of one batch until its last row is settled."""

    def __init__(self, key: str, lane: Lane, runs: tuple[Run, ...], packed_at: float) -> None:
        self.key = key
        self.lane = lane
        self.runs = runs
        self.packed_at = packed_at
        self.load: Load = sum_loads(runs)
        counted = sum(run.size for run in runs if run.tokens is not None)
        self.size: int = self.load.size + counted
        self.stage: Stage = Stage.PACKED
        self.file_id: str | None = None
        self.status: BatchStatus = BatchStatus("", None, "unknown")
        self.opened_at: float = 0.0  # when it was created, or its reply was lost
        self.denied_since: float | None = None  # since when the provider does not know it
        self.failing_since: float | None = None
        self.unreplied_since: float | None = None  # since when creations are not replied to, and not found
        self.let_go_at: float | None = None  # when whoever waited was told that it is out of reach, and it still is
        self.missing: Literal["batch", "file"] | None = None  # what the provider says is not there
        self.missing_at: float = 0.0  # since when, also in earlier processes
        self.repeated_at: float = 0.0  # then, or when its creation was last repeated since
        self.has_vanished = False  # the provider denies it, and it takes no room
        self._failing_as = ""
        self.attempts: int = 0  # at the present step
        self.checks = 0
        self.place: str | None = NEWEST  # of the page that shows it together with others
        self.newest = False  # the newest page showed it when that was last read
        self.strayed = False  # its place was lost once
        self.awaits: str | None = None  # the place of a listing that was under way when it was due
        self.claimed = False  # the journal has found room for it
        self.denials = 0  # times that it had none
        self.told_at: float | None = None  # when word came that it has ended
        self.hurried = False  # while it was being asked for
        self.netted = False  # it is asked for rarely, since word will come
        self.reads = 0  # of all its files
        self.looks = 0  # for the names of its files
        self.cuts = 0  # of these, that ended in the middle of a line
        self.billed = self.input_tokens = 0  # rows that said what they cost, and what they cost together
        self.abandoned: set[int] = set()  # rows that nobody awaits any more
        self.escaped: set[int] = set()  # rows that were sent live, and are not to run in it
        self.unawaited_since: float | None = None  # since when it holds no others
        self.revoked = False  # cancelled on purpose
        self.wanted: set[int] = set()  # rows that were asked for since
        self.cancelled_at: float = 0.0  # when that was last asked for
        self.unclaimed: list[tuple[int, Row]] = []  # of the rows that came last
        self.failed: dict[int, Row] = {}  # that may fare better another time
        self.lived: set[int] = set()  # rows that were answered live
        self.billed_twice: list[Row] = []  # and by the batch as well
        self.gone: set[int] = set()  # rows that ended in an earlier process
        self.refusals: list[str] = []  # why the first rows were refused for good
        self.refused: int = 0  # how many
        self.unanswered: set[int] = set()  # rows that ended so, or in vain live
        self.well: int = 0  # rows that were answered
        self.strangers: set[tuple[str, int]] = set()  # ids in its files that nobody sent with it, and where they stand
        self.was_late = False  # and that was told
        self.overdue_since: float | None = None  # when it was cancelled, as it would not end
        self.again = False  # an upload without a reply may have arrived
        self.unsure_until: float = 0.0  # until then listings may not show it
        self.recovered = False  # from an earlier process, which may or may not have gone further than it recorded
        self.asked: set[int] | None = None  # of an earlier process: the rows that somebody has asked for again
        self._open: set[int] | None = None
        self._sent: frozenset[int] | None = None  # all rows, once that is asked

    def step(self, step: Step) -> None:
        """Move on; an illegal step is a KeyError."""
        self.stage = STEPS[self.stage, step]
        self.attempts = 0
        self.failing_since = None
        if step is Step.CREATED:
            self.unreplied_since = None

    def note_failure(self, kind: str, now: float) -> None:
        """Note that the step failed; a refused key, and what is said to be gone, are timed apart from the rest."""
        failing_as = kind if kind in ("auth", "gone") else ""
        if self.failing_since is None or failing_as != self._failing_as:
            self.failing_since, self._failing_as = now, failing_as

    def let_go(self, now: float) -> None:
        """Note that whoever waited was told; those who come later are after another while."""
        if self.let_go_at is None:
            self.let_go_at = self.repeated_at = now
        self.denied_since = None
        if self.stage is not Stage.LOST:
            self.failing_since = None

    @property
    def pause(self) -> float:
        """Give the least time between two tries of its step, in seconds."""
        if self.let_go_at is None or self.stage is Stage.UPLOADED:
            return 0.0
        return AGAIN if self.stage is Stage.ENDED else SELDOM

    def is_lost(self, now: float) -> bool:
        """Tell whether it has been out of reach for so long that it is not looked for any more."""
        return self.let_go_at is not None and now - self.let_go_at >= OVERDUE

    def has_been_missing(self, now: float) -> bool:
        """Tell whether the provider has said for so long that it, or a file of it, is not there."""
        return self.missing is not None and now - self.missing_at >= OVERDUE

    def looked(self, now: float) -> None:
        """Note that the listings can be read: while they could not, no creation was tried."""
        if self.failing_since is not None and self.unreplied_since is not None:
            self.unreplied_since += now - self.failing_since
        self.failing_since = None

    def may_be_repeated(self, now: float) -> bool:
        """Tell whether a creation that no listing shows is due again, whose replies have been lost for long."""
        return self.let_go_at is not None and now - self.repeated_at >= AGAIN

    def is_further(self, status: BatchStatus) -> bool:
        """Tell whether it stands further than what was heard of it last."""
        if status.status == self.status.status:
            return (status.answered or 0) > (self.status.answered or 0)
        return is_news(self.status.status, status.status)

    @property
    def may_be_told(self) -> bool:
        """Tell whether a listing that was read for others may say how it stands.

        Not where its files are awaited, or fell short, nor where word came of it since.
        """
        return not self.looks and not self.reads and self.told_at is None

    @property
    def may_wait(self) -> bool:
        """Tell whether it may wait for what a listing tells by the way, as it has not done already."""
        return self.may_be_told and self.awaits is None

    @property
    def is_unseen(self) -> bool:
        """Tell whether only the newest page may show it, and nothing keeps it from being looked for there at once."""
        sought = self.place == NEWEST and not self.newest
        return sought and self.may_be_told and self.denied_since is None and not self.attempts

    @property
    def holds_ended(self) -> bool:
        """Tell whether rows would run in it whose callers were told that they are not sent again."""
        return not self.escaped <= self.open | self.lived

    @property
    def remote_id(self) -> str | None:
        """Give the provider's id, None before the creation."""
        return self.status.id or None

    def packed(self, tokens: int = 0) -> PackedBatch:
        """Describe the input file, which is expected to weigh so many tokens."""
        return PackedBatch(self.key, self.lane, self.runs, self.size, tokens, self.again, self.packed_at)

    @property
    def rows(self) -> Iterator[int]:
        """Give all row numbers, in the order of the file's lines."""
        return chain.from_iterable(run.rows for run in self.runs)

    @property
    def first_row(self) -> int:
        """Give the number of the row that came first."""
        return self.runs[0].rows[0]

    @property
    def total(self) -> int:
        """Count all rows."""
        return sum(len(run) for run in self.runs)

    @property
    def unsettled(self) -> int:
        """Count the rows that are not settled."""
        return self.total if self._open is None else len(self._open)

    @property
    def untold(self) -> int:
        """Count the rows that no file has told of."""
        return self.unsettled - len(self.failed)

    @property
    def falls_short(self) -> bool:
        """Tell whether the files held fewer rows than they should (traps 11): the provider counts more, or all ran."""
        status = self.status
        all_ran = status.status == "completed" and self.untold > 0
        untold, well = self.untold + len(self.lived), self.well - len(self.lived)  # what came live, no file has told of
        # Rows without a status were seen among those that count as completed (contracts A7, rule 8).
        odd = sum(row.status_code == 0 and row.code not in UNDONE for row in self.failed.values())
        few = (status.answered or 0) > self.total - untold or (status.succeeded or 0) > well + odd
        return all_ran or few

    @property
    def mostly_failed(self) -> bool:
        """Tell whether the server had no answer to most of what it ran."""
        return 2 * sum(row.code not in _ENDED_EARLY for row in self.failed.values()) > self.total

    @property
    def files(self) -> tuple[str, ...]:
        """Give the ids of its remote files."""
        ids = (self.file_id, self.status.output_file_id, self.status.error_file_id)
        return tuple(file_id for file_id in ids if file_id)

    @property
    def bill(self) -> tuple[Load, int]:
        """Give what its answered rows weighed by our count, and the input tokens they were billed; 0 if unknown.

        That of a batch of which more failed than succeeded tells nothing, nor one of which it is not known which did:
        they may weigh otherwise than the rest.
        """
        status = self.status
        billed: int | None = self.billed
        tokens = self.input_tokens
        if status.input_tokens is not None:
            billed, tokens = status.succeeded, status.input_tokens
        if not tokens:
            return Load(0, 0), 0
        ended = self.failed.keys() | self.unanswered | self.gone | self.lived
        if billed == self.total and not ended:
            return self.load, tokens
        unbilled = self.open | ended
        answered = self.total - len(unbilled)
        if 2 * answered < self.total or billed not in (None, answered):
            return Load(0, 0), 0
        return self.load.plus(load_of(self.runs, unbilled), -1), tokens

    @property
    def open(self) -> set[int]:
        """Give the numbers of the rows that are not settled; built when the first answer comes, or a caller goes."""
        if self._open is None:
            self._open = set[int]().union(*(run.rows for run in self.runs))
        return self._open

    def recall(self, rows: Sequence[int]) -> set[int]:
        """Say which of these rows, in order, are here and not settled: somebody awaits them again."""
        held = self.holds(rows)
        if held:
            self.abandoned -= held
            self.unawaited_since = None
            self.repeated_at = 0.0  # it is worth another try
            if self.revoked:
                self.wanted |= held
        if self.asked is not None:
            self.asked |= held
            if len(self.asked) + len(self.gone) >= self.total:
                self.asked = None  # as in a batch of this process's own
        return held

    def holds(self, rows: Sequence[int]) -> set[int]:
        """Say which of these rows, in order, are here and not settled."""
        if self._open is not None and len(rows) <= len(self.runs):
            return self._open.intersection(rows)
        held = set[int]().union(*(common(run.rows, rows) for run in self.runs))
        return held if self._open is None else held & self._open

    def forget_ended(self, unsettled: Iterable[int]) -> None:
        """Take note that of its rows all others ended in an earlier process."""
        left = set(unsettled)
        if len(left) < self.total:
            self._open = left
            self.gone = set(self.rows) - left
            # They came live: nothing else ends before its batch, but for what came in one of its files when the other
            # could not be read, and comes again.
            self.lived = set(self.gone)
            self.well = len(self.gone)

    def revoke(self) -> None:
        """Note that it is cancelled on purpose; what is asked for from now on is not meant."""
        self.revoked = True
        self.wanted.clear()

    @property
    def is_to_end(self) -> bool:
        """Tell whether it was cancelled, and still should be."""
        return self.revoked or self.overdue_since is not None or self.unawaited_since == math.inf

    def abandon(self, rows: set[int], now: float) -> None:
        """Note that nobody awaits these rows any more."""
        self.abandoned |= rows
        self.look_who_waits(now)

    def look_who_waits(self, now: float) -> None:
        """Note since when nobody awaits it."""
        nobody = self.unsettled <= len(self.abandoned) and (self._open is None or self._open <= self.abandoned)
        if nobody and self.unawaited_since is None:
            self.unawaited_since = now

    def claim(self, pool: str, rows: Sequence[Row]) -> tuple[list[int], list[Row]]:
        """Settle answers: each request once (the first counts), and only those that are here and open.

        The rows of open requests that are no answers are given in `unclaimed`; what nobody sent is counted.
        """
        prefix = f"{pool}-"
        start = len(prefix)
        open_ = self.open
        numbers: list[int] = []
        answers: list[Row] = []
        self.unclaimed.clear()
        for row, ok in zip(rows, are_ok(rows), strict=True):
            try:
                number = int(row.custom_id[start:])
            except ValueError:
                number = -1
            if row.custom_id != f"{prefix}{number}":
                self._note_stranger(row)
            elif number not in open_:
                self._note_odd(number, row)
            elif ok:
                open_.remove(number)
                numbers.append(number)
                answers.append(row)
            else:
                self.unclaimed.append((number, row))
        if self.failed:  # some may have been answered after all
            for number in numbers:
                self.failed.pop(number, None)
        self.well += len(numbers)
        return numbers, answers

    def _note_odd(self, number: int, row: Row) -> None:
        """Note a row that is not open: one that came live, for once, or was never sent; others come twice."""
        if self._sent is None:
            self._sent = frozenset(self.rows)
        if number not in self._sent:
            self._note_stranger(row)
        elif number in self.lived:
            self.lived.discard(number)
            self.billed_twice += [row] if row.ok else []

    def _note_stranger(self, row: Row) -> None:
        if len(self.strangers) < _STRANGERS:
            self.strangers.add((row.custom_id, row.offset))

    def refuse(self, reason: str) -> None:
        """Note that a row was refused for good; the first reasons are kept."""
        self.refused += 1
        if len(self.refusals) < _REASONS:
            self.refusals.append(reason)

    def settle(self, number: int, *, well: bool) -> None:
        """Note that a row has come to its end, by an answer where `well`."""
        self.open.remove(number)
        self.failed.pop(number, None)
        self.well += well
        if not well:
            self.unanswered.add(number)

"""One batch: where it stands here, where it stands at the provider, and what becomes of the rows it leaves over."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from itertools import chain

from msgspec import structs

from ..models import BatchStatus, Failure, Lane, Load, PackedBatch, Row, Run
from .packing import common, sum_loads


class Stage(Enum):
    """Say what a batch waits for."""

    PACKED = auto()  # the upload
    UPLOADED = auto()  # the creation
    LOST = auto()  # to be found: it may have been created
    OPEN = auto()  # the provider
    ENDED = auto()  # its files
    DONE = auto()  # nothing


class Step(Enum):
    """Name what moves a batch on."""

    UPLOADED = auto()
    CREATED = auto()
    LOST = auto()
    NOT_FOUND = auto()
    ENDED = auto()
    DONE = auto()


STEPS: dict[tuple[Stage, Step], Stage] = {
    (Stage.PACKED, Step.UPLOADED): Stage.UPLOADED,
    (Stage.PACKED, Step.DONE): Stage.DONE,
    (Stage.UPLOADED, Step.CREATED): Stage.OPEN,
    (Stage.UPLOADED, Step.LOST): Stage.LOST,
    (Stage.UPLOADED, Step.DONE): Stage.DONE,
    (Stage.LOST, Step.CREATED): Stage.OPEN,
    (Stage.LOST, Step.NOT_FOUND): Stage.UPLOADED,
    (Stage.LOST, Step.DONE): Stage.DONE,
    (Stage.OPEN, Step.ENDED): Stage.ENDED,
    (Stage.OPEN, Step.DONE): Stage.DONE,
    (Stage.ENDED, Step.DONE): Stage.DONE,
}

# What may be seen after what (contracts A5): forward jumps are usual, since fast batches skip polls. The specification
# lets `failed` follow validation only; any end is believed from any open status, for servers that say so.
_ENDS = frozenset({"failed", "completed", "expired", "cancelled"})
NEXT: dict[str, frozenset[str]] = {
    "validating": _ENDS | {"in_progress", "finalizing", "cancelling"},
    "in_progress": _ENDS | {"finalizing", "cancelling"},
    "finalizing": _ENDS | {"cancelling"},
    "cancelling": _ENDS,
    "failed": frozenset(),
    "completed": frozenset(),
    "expired": frozenset(),
    "cancelled": frozenset(),
}


def is_news(known: str, seen: str) -> bool:
    """Tell whether a status may follow another; one that is older than what is known comes from a listing that lags.

    Statuses that are not in the table exist (traps 14): they are no end, and anything may follow them.
    """
    if known not in NEXT:
        return seen != known
    return seen in NEXT[known] or (seen not in NEXT and known not in _ENDS)


def is_end(status: str) -> bool:
    """Tell whether a status is terminal."""
    return status in _ENDS


class Do(Enum):
    """Say what a failed step leads to."""

    AGAIN = auto()  # the same step, after a pause
    LOOK = auto()  # find out whether it happened
    REQUEUE = auto()  # the rows wait for room
    FAIL = auto()  # the rows fail with this failure


# A creation that the provider refused for now ("Cannot find file" right after the upload, 429) did not happen and is
# repeated; one without a reply may have happened and is looked for (traps 12, 13). A lost upload is repeated at once,
# since the provider looks for its name first. What else is refused before the creation fails: nothing was paid.
BEFORE_CREATION: dict[tuple[Stage, str], Do] = {
    (Stage.PACKED, "busy"): Do.AGAIN,
    (Stage.PACKED, "lost"): Do.AGAIN,
    (Stage.UPLOADED, "busy"): Do.AGAIN,
    (Stage.UPLOADED, "gone"): Do.AGAIN,
    (Stage.UPLOADED, "lost"): Do.LOOK,
    (Stage.UPLOADED, "full"): Do.REQUEUE,
}


def on_failure(stage: Stage, kind: str) -> Do:
    """Say what a failed step leads to; once a batch may be paid for, whatever fails is tried again with patience."""
    if stage in (Stage.PACKED, Stage.UPLOADED):
        return BEFORE_CREATION.get((stage, kind), Do.FAIL)
    return Do.AGAIN


# How long a step may go on failing, in seconds. Nothing is paid before the creation, so those rows fail early enough
# to be noticed; an open batch runs on without us for the whole window (24 h) and is waited for an hour beyond it.
_PATIENCE: dict[Stage, float] = {Stage.LOST: 90_000.0, Stage.OPEN: 90_000.0, Stage.ENDED: 7_200.0}
_SHORT_PATIENCE = 900.0  # before the creation; and for a refused key, or what is said to be gone, at any time
VANISHED = 600.0  # a batch that the provider denies for so long is gone; right after its creation a 404 is usual
OVERDUE = 172_800.0  # twice the window: a batch that is not over by then is cancelled, and ends for us


def patience(stage: Stage, kind: str) -> float:
    """Give the seconds that a step may go on failing in this way."""
    return _SHORT_PATIENCE if kind in ("auth", "gone") else _PATIENCE.get(stage, _SHORT_PATIENCE)


class Batch:
    """Hold what is known of one batch until its last row is settled."""

    def __init__(self, key: str, lane: Lane, runs: tuple[Run, ...], packed_at: float) -> None:
        self.key = key
        self.lane = lane
        self.runs = runs
        self.packed_at = packed_at
        self.size = sum(run.size for run in runs)
        self.load = sum_loads(runs)
        self.stage = Stage.PACKED
        self.file_id: str | None = None
        self.status = BatchStatus("", None, "unknown")
        self.opened_at = 0.0  # when it was created, or its reply was lost
        self.denied_since: float | None = None  # since when the provider does not know it
        self.failing_since: float | None = None
        self._failing_as = ""
        self.attempts = 0  # at the present step
        self.checks = 0
        self.reads = 0  # of all its files
        self.billed = self.input_tokens = 0  # rows that said what they cost, and what they cost together
        self.abandoned: set[int] = set()  # rows that nobody awaits any more
        self.again = False  # an upload without a reply may have arrived
        self.unsure_until = 0.0  # until then listings may not show it
        self.recovered = False  # from an earlier process, which may or may not have gone further than it recorded
        self.asked: set[int] | None = None  # of an earlier process: the rows that somebody has asked for again
        self._open: set[int] | None = None

    def step(self, step: Step) -> None:
        """Move on; an illegal step is a KeyError."""
        self.stage = STEPS[self.stage, step]
        self.attempts = 0
        if step not in (Step.LOST, Step.NOT_FOUND):  # a creation that is looked for in vain has not got further
            self.failing_since = None

    def note_failure(self, kind: str, now: float) -> None:
        """Note that the step failed; a refused key, and what is said to be gone, are timed apart from the rest."""
        failing_as = kind if kind in ("auth", "gone") else ""
        if self.failing_since is None or failing_as != self._failing_as:
            self.failing_since, self._failing_as = now, failing_as

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
    def falls_short(self) -> bool:
        """Tell whether the files held fewer rows than they should (traps 11): the provider counts more, or all ran."""
        all_ran = self.status.status == "completed" and self.unsettled > 0
        return all_ran or (self.status.answered or 0) > self.total - self.unsettled

    @property
    def files(self) -> tuple[str, ...]:
        """Give the ids of its remote files."""
        ids = (self.file_id, self.status.output_file_id, self.status.error_file_id)
        return tuple(file_id for file_id in ids if file_id)

    @property
    def bill(self) -> tuple[Load, int]:
        """Give what its answered rows weighed by our count, and the input tokens they were billed; 0 if unknown.

        That of a batch of which more failed than succeeded tells nothing.
        """
        status = self.status
        billed, tokens = self.billed, self.input_tokens
        if status.input_tokens is not None:
            billed, tokens = self.total if status.succeeded is None else status.succeeded, status.input_tokens
        if 2 * billed < self.total:
            return Load(0, 0), 0
        share = billed / self.total
        return Load(round(share * self.load.tokens), round(share * self.load.size)), tokens

    @property
    def open(self) -> set[int]:
        """Give the numbers of the rows that are not settled; built when the first answer comes."""
        if self._open is None:
            self._open = set(self.rows)
        return self._open

    def recall(self, rows: Sequence[int]) -> set[int]:
        """Say which of these rows, in order, are here and not settled: somebody awaits them again."""
        held = {row for run in self.runs for row in common(run.rows, rows)}
        if self._open is not None:
            held &= self._open
        self.abandoned -= held
        if self.asked is not None:
            self.asked |= held
        return held

    def claim(self, pool: str, rows: Iterable[Row]) -> tuple[list[int], list[Row]]:
        """Settle rows: each once (the first counts), and only those that this batch holds."""
        prefix = f"{pool}-"
        start = len(prefix)
        open_ = self.open
        numbers: list[int] = []
        claimed: list[Row] = []
        for row in rows:
            custom_id = row.custom_id
            if custom_id.startswith(prefix) and len(custom_id) < start + 20 and custom_id[start:].isdecimal():
                number = int(custom_id[start:])
                if number in open_ and str(number) == custom_id[start:]:
                    open_.remove(number)
                    numbers.append(number)
                    claimed.append(row)
        return numbers, claimed


def for_rows(stage: Stage, failure: Failure) -> Failure:
    """Say to the rows of a batch why its step failed for good."""
    if failure.kind in ("auth", "disk", "full", "failed"):
        return failure
    if stage is Stage.LOST:
        message = f"Whether the batch was created cannot be found out: {failure.message}"
        return structs.replace(failure, kind="failed", message=message)
    if stage in (Stage.OPEN, Stage.ENDED):
        return structs.replace(
            failure, kind="missing", message=f"The batch's answers are out of reach: {failure.message}"
        )
    return structs.replace(failure, kind="failed" if failure.kind in ("busy", "lost") else "rejected")


_LEFT_OVER: dict[str, Failure] = {
    "completed": Failure("missing", "The batch was completed, but neither of its files mentions this request."),
    "expired": Failure("expired", "The completion window ended before this request ran.", code="batch_expired"),
    "cancelled": Failure("cancelled", "The batch was cancelled before this request ran.", code="batch_cancelled"),
}


def left_over(status: BatchStatus) -> Failure:
    """Say what became of the rows that no file of an ended batch mentions."""
    if status.status != "failed":
        return _LEFT_OVER[status.status]
    if not status.problems:
        return Failure("failed", "The provider failed the whole batch and gave no reason.")
    first = status.problems[0]
    more = f" (and {len(status.problems) - 1} more problems)" if len(status.problems) > 1 else ""
    return Failure("rejected", f"The provider refused the whole batch: {first.message}{more}", code=first.code)


def condemned(status: BatchStatus, rows: Iterable[int]) -> dict[int, Failure]:
    """Say which rows a failed validation names: they alone are to blame (traps 4)."""
    named = {p.line: p for p in status.problems if p.line is not None}
    if status.status != "failed" or not named:
        return {}
    return {
        row: Failure("rejected", named[line].message, code=named[line].code)
        for line, row in enumerate(rows, 1)
        if line in named
    }


def has_files(status: BatchStatus) -> bool:
    """Tell whether there is anything to read."""
    return status.output_file_id is not None or status.error_file_id is not None


def input_unseen(status: BatchStatus) -> bool:
    """Tell whether the validation did not see the input file yet (traps 12): nothing ran, nothing is wrong."""
    named = [p for p in status.problems if p.line is None and "cannot find file" in p.message.lower()]
    return status.status == "failed" and bool(named)


def is_admitted(status: str) -> bool:
    """Tell whether the provider took a batch into its queue: it does, or refuses, when the validation ends."""
    return status not in ("validating", "failed")

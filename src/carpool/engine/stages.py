"""The stages of a batch here, its statuses at the provider, and how long each step may go on failing."""

from enum import Enum, auto


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
    SHORT = auto()
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
    (Stage.ENDED, Step.SHORT): Stage.OPEN,
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


def is_admitted(status: str) -> bool:
    """Tell whether the provider took a batch into its queue: it does, or refuses, when the validation ends."""
    return status not in ("validating", "failed")


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
SELDOM = 300.0  # between two tries of a step whose patience is over
AGAIN = 3_600.0  # and between two creations, once their replies have been lost for so long, and two reads of files
OVERDUE = 172_800.0  # twice the window: a batch that is not over by then is cancelled
CANCELLING = 3_600.0  # and ends for us, when it is not over so long after (half an hour was seen, contracts A5)
CANCEL_AGAIN = 60.0  # what does not get through within a minute is tried once more when the batch is heard of


def patience(stage: Stage, kind: str) -> float:
    """Give the seconds that a step may go on failing in this way."""
    return _SHORT_PATIENCE if kind in ("auth", "gone") else _PATIENCE.get(stage, _SHORT_PATIENCE)

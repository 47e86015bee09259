"""What a hook is given: one record for each transition of a call, of a batch, and of the pool."""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import structs

from .models import Lane, Usage

# Each is said in one line in docs/reference/events.md; a test compares.
Kind: TypeAlias = Literal[
    # calls
    "accepted",
    "resumed",
    "joined",
    "escalated",
    "answered",
    "failed",
    "expired",
    "left",
    "taken_back",
    "billed",
    # batches
    "packed",
    "recovered",
    "uploaded",
    "queued",
    "claimed",
    "created",
    "found",
    "status",
    "ended",
    "refused",
    "collected",
    "retried",
    "lost",
    "cancelled",
    "returned",
    "requeued",
    "given_up",
    "done",
    "cleared",
    # the pool and its account
    "opened",
    "limited",
    "held",
    "late",
    "strangers",
    "spent",
    "hint",
    "broken",
    "draining",
    "closed",
]
Source: TypeAlias = Literal["batch", "live", "journal"]


class Event(msgspec.Struct, frozen=True, gc=False):
    """Tell `on_event` of one transition, of a `kind` that docs/reference/events.md lists, `at` seconds since the epoch.

    `pool` is what the custom_ids of the pool begin with. `lane` is the endpoint, the model and what else parts
    batches. A `call` keeps its number from "accepted" to its end; its `custom_id` may become that of an equal request
    of an earlier time. `batch` is the client key of a batch, `batch_id` the provider's id, `status` how it stands
    there. `numbers` are those of the requests concerned, as first and last of each stretch, `rows` is how many they
    are. `tokens` is what they weigh in the queue, or the queue's limit.

    `error` names the exception that a caller gets; `status_code` and `code` are the provider's, or `code` says more.
    `source` says how an answer came; `usage` and `cost`, in USD, what it was billed, None where nobody knows.
    `seconds` have passed since the call was accepted, or the batch was created. `message` is for people.
    """

    kind: Kind
    at: float
    pool: str
    message: str = ""
    lane: Lane | None = None
    call: int | None = None
    custom_id: str | None = None
    tags: tuple[str, ...] = ()
    batch: str | None = None
    batch_id: str | None = None
    numbers: tuple[tuple[int, int], ...] = ()
    rows: int | None = None
    tokens: int | None = None
    status: str | None = None
    status_code: int | None = None
    code: str | None = None
    error: str | None = None
    source: Source | None = None
    usage: Usage | None = None
    cost: float | None = None
    seconds: float | None = None

    @property
    def custom_ids(self) -> Iterator[str]:
        """Give the custom_ids of the requests concerned: of one, or of all that are in `numbers`."""
        if self.custom_id is not None:
            yield self.custom_id
        for first, last in self.numbers:
            yield from (f"{self.pool}-{number}" for number in range(first, last + 1))

    def __repr__(self) -> str:
        """Write what is set, but for the time and the pool, which are no two runs the same."""
        return f"Event({', '.join((self.kind, *self._set()))})"

    def _set(self) -> Iterator[str]:
        for field in structs.fields(Event):
            value: Any = getattr(self, field.name)
            if field.name not in _UNSAID and value != field.default:
                yield f"{field.name}={_written(value)}"


_UNSAID = frozenset({"kind", "at", "pool"})


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(tuple(value)) if isinstance(value, Lane | Usage) else repr(value)

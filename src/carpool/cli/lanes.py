"""What the account's batches come to, lane by lane: pure, and times are seconds since the epoch."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple, TypeAlias

from ..limits import family_of, table_limit
from ..providers.replies import Listed


class Limit(NamedTuple):
    """Hold an enqueued-token limit and where it comes from.

    Learned is what the account's newest refusal says, and `said_by` that batch's id; else it is the source that the
    table names.
    """

    tokens: int
    source: Literal["learned", "table"]
    as_of: date | datetime
    said_by: str


class LaneSum(NamedTuple):
    """Sum one lane up.

    `enqueued` are the tokens of the `open` batches but the `unweighed`, which do not say what they weigh.
    `utilisation` is the share of the limit that was in use on average, None where it cannot be told; `partial` says
    that it leaves batches out, for they do not say what they weighed.
    """

    model: str | None
    endpoint: str | None
    limit: Limit | None
    enqueued: int
    open: int
    unweighed: int
    utilisation: float | None
    partial: bool
    refusals: int


_Key: TypeAlias = tuple[str | None, str | None]


def sum_up(
    batches: Iterable[Listed],
    *,
    since: float,
    now: float,
    models: Collection[str] = (),
    tier: str | None = None,
    as_of: date | None = None,
) -> list[LaneSum]:
    """Sum up what is open, and what ended since `since`; of all models, or of those named and those that are not told.

    Snapshots count as their family: a batch names its snapshot where the refusal of another may name the family.
    """
    batches = list(batches)
    learned = _learned(batches)
    wanted = {_family(model) for model in models}
    lanes: dict[_Key, list[Listed]] = {}
    for batch in batches:
        family = _family(batch.model)
        if (batch.open or _at(batch) >= since) and (not wanted or family is None or family in wanted):
            lanes.setdefault((family, batch.endpoint), []).append(batch)
    lanes |= {(family, None): [] for family in wanted - {family for family, _ in lanes}}
    sums = [
        _sum(key, lanes[key], learned.get(key[0]) or _published(key[0], tier, as_of), since, now)
        for key in sorted(lanes, key=lambda key: (key[0] is None, key[0] or "", key[1] or ""))
    ]
    # Batches that failed before they named a model tell nothing.
    return [lane for lane in sums if lane.model is not None or lane.open or lane.refusals]


def _family(model: str | None) -> str | None:
    return None if model is None else family_of(model) or model


def _at(batch: Listed) -> float:
    """Give when a batch was last heard of."""
    return batch.ended_at or batch.created_at or 0.0


def _refused(batch: Listed) -> bool:
    return batch.status.status == "failed" and batch.status.no_room is not None


def _learned(batches: Iterable[Listed]) -> dict[str | None, Limit]:
    """Give the limits that refusals state, the newest of each model: a queue is the model's, whatever the endpoint."""
    limits: dict[str | None, Limit] = {}
    for batch in sorted(filter(_refused, batches), key=_at):
        tokens = batch.status.no_room.limit if batch.status.no_room else None
        if batch.model is not None and tokens is not None:
            as_of = datetime.fromtimestamp(_at(batch), UTC)
            limits[_family(batch.model)] = Limit(tokens, "learned", as_of, batch.status.id)
    return limits


def _published(model: str | None, tier: str | None, as_of: date | None) -> Limit | None:
    row = table_limit(model, tier, as_of=as_of) if model and tier else None
    return None if row is None else Limit(row.tokens, "table", row.as_of, row.source)


def _sum(key: _Key, batches: Sequence[Listed], limit: Limit | None, since: float, now: float) -> LaneSum:
    opened = [batch for batch in batches if batch.open]
    weights = [weight for weight in map(weight_of, opened) if weight is not None]
    spans = [span for batch in batches if (span := _span(batch, since, now)) is not None]
    share = None if limit is None else _utilisation(spans, limit.tokens)
    return LaneSum(
        *key,
        limit=limit,
        enqueued=sum(weights),
        open=len(opened),
        unweighed=len(opened) - len(weights),
        utilisation=share,
        partial=share is not None and any(span.tokens is None for span in spans),
        refusals=sum(map(_refused, batches)),
    )


def weight_of(batch: Listed) -> int | None:
    """Give the tokens that a batch weighs in its queue; None where nobody says.

    They are what it was billed where every row was answered: what carpool expected may be an upper bound.
    """
    status = batch.status
    whole = status.status == "completed" and status.answered == status.succeeded
    return (status.input_tokens if whole else None) or batch.tokens


class _Span(NamedTuple):
    start: float
    end: float
    tokens: int | None


def _span(batch: Listed, since: float, now: float) -> _Span | None:
    """Give when a batch was in progress, as far as it was since `since`."""
    end = now if batch.open else batch.ended_at
    if batch.in_progress_at is None or end is None:
        return None
    start = max(batch.in_progress_at, since)
    return _Span(start, max(start, end), weight_of(batch))


def _utilisation(spans: Sequence[_Span], limit: int) -> float | None:
    """Give the share of the limit in use, from the first admission to the last end."""
    whole = limit * (max(span.end for span in spans) - min(span.start for span in spans)) if spans else 0
    used = [span.tokens * (span.end - span.start) for span in spans if span.tokens is not None]
    return sum(used) / whole if whole and used else None

"""Metrics: counters and histograms of what ended, gauges of what is under way."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.util.types import AttributeValue

from ..event import Event
from ..models import Lane, Queue
from .names import ENDS, ERROR, MODEL, OVER, PROVIDER, TOKEN_TYPE, attributes_of, error_of

# Those of the conventions end after 82 seconds: a batch may take a day.
_SECONDS = [1, 5, 15, 60, 180, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 57_600, 86_400, 172_800]
_TOKENS = [4**power for power in range(14)]  # those of the conventions
_ROWS = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 50_000]
_LOOK = frozenset({"held", "late", "strangers", "spent", "hint", "broken"})


class _Batch(NamedTuple):
    queue: Queue
    rows: int
    tokens: int


class Metering:
    """Measure; all methods may be called by several pools at once, each in a thread of its own."""

    def __init__(self, meter: Meter, provider: str) -> None:
        self._provider = provider
        self._lock = threading.Lock()
        self._pending = Counter[Lane]()
        self._batches: dict[str, _Batch] = {}  # at the provider, by client key
        self._enqueued: dict[str, _Batch] = {}  # those of them that have not ended
        self._queues: dict[Queue, None] = {}  # that ever held anything: an empty one is told of as such
        self._limits: dict[Queue, int] = {}
        self._calls = meter.create_counter("carpool.calls", "{call}", "Calls that ended, by outcome and source")
        self._seconds = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "From a call's acceptance to its end",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens that an answer was billed",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._cost = meter.create_counter("carpool.cost", "{USD}", "What answers cost")
        self._over = meter.create_counter("carpool.batches", "{batch}", "Batches that are over, by their last status")
        self._size = meter.create_histogram(
            "carpool.batch.size", "{request}", "Requests in a batch", explicit_bucket_boundaries_advisory=_ROWS
        )
        self._turn = meter.create_histogram(
            "carpool.batch.duration",
            "s",
            "From a batch's creation to its end at the provider",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._refusals = meter.create_counter("carpool.refusals", "{refusal}", "Batches refused for lack of room")
        self._looks = meter.create_counter("carpool.warnings", "{event}", "Events that deserve a look, by kind")
        gauges: dict[tuple[str, str, str], _Read] = {
            ("carpool.calls.pending", "{call}", "Calls and submissions under way"): self._read_pending,
            ("carpool.requests.submitted", "{request}", "Requests in batches at the provider"): self._read_submitted,
            ("carpool.queue.enqueued", "{token}", "Tokens that our batches weigh in the queue"): self._read_enqueued,
            ("carpool.queue.limit", "{token}", "The enqueued-token limit, where it is known"): self._read_limits,
        }
        for (name, unit, text), read in gauges.items():
            meter.create_observable_gauge(name, [self._observed(read)], unit, text)

    def take(self, event: Event) -> None:
        """Take an event."""
        kind = event.kind
        if kind == "accepted" or kind in ENDS or kind == "billed":
            self._take_call(event)
        elif event.batch is not None:
            self._take_batch(event)
        elif kind == "limited":
            self._limit(event)
        if kind in _LOOK:
            self._looks.add(1, {"carpool.kind": kind})

    # --- calls

    def _take_call(self, event: Event) -> None:
        if event.lane is None:
            return
        if event.call is not None:
            with self._lock:
                self._pending[event.lane] += 1 if event.kind == "accepted" else -1
        if event.kind == "accepted":
            return
        about = attributes_of(event.lane, self._provider)
        if event.usage is not None and event.source != "journal":
            self._tokens.record(event.usage.input_tokens, about | {TOKEN_TYPE: "input"})
            self._tokens.record(event.usage.output_tokens, about | {TOKEN_TYPE: "output"})
        if event.cost:
            self._cost.add(event.cost, about)
        if event.call is not None:
            self._calls.add(1, about | {"carpool.outcome": event.kind, "carpool.source": event.source or ""})
            error = error_of(event)
            self._seconds.record(event.seconds or 0.0, about if error is None else about | {ERROR: error})

    # --- batches

    def _take_batch(self, event: Event) -> None:
        if event.lane is None or event.batch is None:
            return
        about: dict[str, AttributeValue] = {MODEL: event.lane.model, PROVIDER: self._provider}
        if event.kind == "packed":
            self._size.record(event.rows or 0, about)
        elif event.kind == "refused":
            self._refusals.add(1, about)
        elif event.kind in ("created", "found") or (event.kind == "recovered" and event.batch_id is not None):
            batch = _Batch(event.lane.queue, event.rows or 0, event.tokens or 0)
            with self._lock:
                self._queues[batch.queue] = None
                self._batches[event.batch] = self._enqueued[event.batch] = batch
        elif event.kind == "ended":
            self._turn.record(event.seconds or 0.0, about | {"carpool.status": event.status or ""})
            with self._lock:
                self._enqueued.pop(event.batch, None)
        elif event.kind in OVER:
            self._over.add(1, about | {"carpool.status": event.status or event.kind})
            with self._lock:
                self._enqueued.pop(event.batch, None)
                self._batches.pop(event.batch, None)

    def _limit(self, event: Event) -> None:
        if event.lane is not None:
            with self._lock:
                if event.tokens is None:
                    self._limits.pop(event.lane.queue, None)
                else:
                    self._limits[event.lane.queue] = event.tokens

    # --- gauges, read by whoever exports

    def _observed(self, read: "_Read") -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                return [Observation(number, attributes) for attributes, number in read()]

        return observe

    def _read_pending(self) -> "_Figures":
        totals = Counter[tuple[tuple[str, AttributeValue], ...]]()
        for lane, count in self._pending.items():
            totals[(*attributes_of(lane, self._provider).items(),)] += count
        return [(dict(attributes), count) for attributes, count in totals.items()]

    def _read_submitted(self) -> "_Figures":
        return self._sums((batch.queue, batch.rows) for batch in self._batches.values())

    def _read_enqueued(self) -> "_Figures":
        return self._sums((batch.queue, batch.tokens) for batch in self._enqueued.values())

    def _sums(self, parts: Iterable[tuple[Queue, int]]) -> "_Figures":
        totals = dict.fromkeys(self._queues, 0)
        for queue, count in parts:
            totals[queue] += count
        return [(self._of_queue(queue), count) for queue, count in totals.items()]

    def _read_limits(self) -> "_Figures":
        return [(self._of_queue(queue), tokens) for queue, tokens in self._limits.items()]

    def _of_queue(self, queue: Queue) -> dict[str, AttributeValue]:
        return {MODEL: queue.model, PROVIDER: self._provider, "carpool.long_prompts": queue.long}


_Figures: TypeAlias = Iterable[tuple[dict[str, AttributeValue], int]]
_Read: TypeAlias = Callable[[], _Figures]

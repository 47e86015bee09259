"""Spans: of calls, and of the batches in which they travel."""

from collections.abc import Callable, Iterator

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from ..event import Event, Kind
from .names import CACHED, ENDS, ERROR, INPUT, MODEL, OUTPUT, OVER, PROVIDER, attributes_of, error_of, operation_of

_LINKS = 32  # from a batch's span to calls in it: a span keeps 128 at most, and a batch holds 50,000
_NANO = 1_000_000_000


class Tracing:
    """Make spans; all methods may be called by several pools at once, each in a thread of its own."""

    def __init__(self, tracer: Tracer, provider: str) -> None:
        self._tracer = tracer
        self._provider = provider
        self._calls: dict[tuple[str, int], Span] = {}  # by pool and call
        self._batches: dict[str, Span] = {}  # by client key
        self._keys: dict[str, str] = {}  # by remote id
        self._on: dict[Kind, Callable[[Event], None]] = {
            "accepted": self._accepted,
            "resumed": self._followed,
            "joined": self._followed,
            "packed": self._begin,
            "recovered": self._begin,
            **dict.fromkeys(ENDS, self._ended),
            **dict.fromkeys(OVER, self._over),
        }

    @property
    def open(self) -> int:
        """Count the spans that have not ended."""
        return len(self._calls) + len(self._batches)

    def take(self, event: Event) -> None:
        """Take an event."""
        self._on.get(event.kind, self._mark)(event)

    # --- calls

    def _accepted(self, event: Event) -> None:
        assert event.lane is not None and event.call is not None  # noqa: S101, PT018 - of each call
        attributes = attributes_of(event.lane, self._provider) | {"carpool.custom_id": event.custom_id or ""}
        if event.tags:
            attributes["carpool.tags"] = event.tags
        name = f"{operation_of(event.lane)} {event.lane.model}"
        # In the context that is current here: the hook is called in the caller's own.
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=_time(event))
        self._calls[event.pool, event.call] = span

    def _followed(self, event: Event) -> None:
        span = self._calls.get((event.pool, event.call or 0))
        if span is not None:
            span.set_attribute("carpool.custom_id", event.custom_id or "")
            span.add_event(event.kind, timestamp=_time(event))

    def _ended(self, event: Event) -> None:
        span = self._calls.pop((event.pool, event.call or 0), None)
        if span is None:  # nobody awaited the request
            return
        span.set_attribute("carpool.outcome", event.kind)
        span.set_attributes(dict(_facts(event)))
        batch = self._batches.get(self._keys.get(event.batch_id or "", ""))
        if batch is not None:
            span.add_link(batch.get_span_context())
        error = error_of(event)
        if error is not None:
            span.set_attribute(ERROR, error)
            span.set_status(StatusCode.ERROR, event.code or error)
        span.end(_time(event))

    # --- batches

    def _begin(self, event: Event) -> None:
        assert event.lane is not None and event.batch is not None  # noqa: S101, PT018 - of each batch
        attributes: dict[str, AttributeValue] = {
            MODEL: event.lane.model,
            PROVIDER: self._provider,
            "carpool.endpoint": event.lane.endpoint,
            "carpool.batch": event.batch,
            "carpool.rows": event.rows or 0,
        }
        # A trace of its own: it belongs to no caller more than to the others.
        span = self._tracer.start_span(
            f"batch {event.lane.model}",
            context=Context(),
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            links=[*self._links(event)],
            start_time=_time(event),
        )
        self._batches[event.batch] = span
        self._mark(event)

    def _links(self, event: Event) -> Iterator[Link]:
        """Link a batch to the first calls in it."""
        left = _LINKS
        for first, last in event.numbers:
            for number in range(first, min(last + 1, first + left)):
                left -= 1
                span = self._calls.get((event.pool, number))
                if span is not None:
                    yield Link(span.get_span_context())
            if left <= 0:
                return

    def _mark(self, event: Event) -> None:
        """Note what happens to a batch on its span."""
        key = event.batch or self._keys.get(event.batch_id or "", "")
        batch = self._batches.get(key)
        if batch is None or event.kind == "billed":
            return
        if event.batch_id is not None and event.batch_id not in self._keys:
            self._keys[event.batch_id] = key
            batch.set_attribute("carpool.batch_id", event.batch_id)
        facts: dict[str, AttributeValue] = {f"carpool.{name}": value for name, value in _marks(event)}
        batch.add_event(event.kind, facts, _time(event))

    def _over(self, event: Event) -> None:
        self._mark(event)
        batch = self._batches.pop(event.batch or "", None)
        if batch is not None:
            self._keys.pop(event.batch_id or "", None)
            batch.set_attributes(dict(_facts(event)))
            batch.set_attribute("carpool.status", event.status or event.kind)
            if event.status in ("failed", "expired") or event.kind == "given_up":
                batch.set_status(StatusCode.ERROR, event.status or event.kind)
            batch.end(_time(event))


def _facts(event: Event) -> Iterator[tuple[str, AttributeValue]]:
    """Give what is known at an end."""
    if event.usage is not None:
        yield INPUT, event.usage.input_tokens
        yield OUTPUT, event.usage.output_tokens
        yield CACHED, event.usage.cached_tokens
    for name in ("custom_id", "batch_id", "source", "cost", "status_code", "code"):
        value = getattr(event, name)
        if value is not None:
            yield f"carpool.{name}", value


def _marks(event: Event) -> Iterator[tuple[str, AttributeValue]]:
    for name in ("status", "rows", "tokens", "code", "status_code"):
        value = getattr(event, name)
        if value is not None:
            yield name, value


def _time(event: Event) -> int:
    return int(event.at * _NANO)

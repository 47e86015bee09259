"""Spans and metrics, read back from OpenTelemetry's own SDK: of pools on virtual time, and of one in a thread."""

import contextvars
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import generate_latest
from virtual import CHAT, EMBEDDINGS, InMemory, body, site, world

import carpool
from carpool.otel import Telemetry
from carpool.settings import Ports
from carpool.testing import Answer, Emulator, Pace, echo

SLOW = Pace(validating=5, running=60, finalizing=5)
on_virtual_time = pytest.mark.usefixtures("no_tasks_left")


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Seen:
    """Hold what was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("test")
        self.hook = Telemetry(self.tracers, self.meters)

    def spans(self, name: str) -> list[ReadableSpan]:
        found = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return sorted(found, key=lambda span: span.start_time or 0)

    def points(self, name: str) -> list[Any]:
        exported = self.reader.get_metrics_data()
        assert exported is not None
        scopes = [scope for resource in exported.resource_metrics for scope in resource.scope_metrics]
        found = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return [point for metric in found for point in metric.data.data_points]

    def values(self, name: str) -> list[float]:
        return [point.value for point in self.points(name)]


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.tracers.shutdown()
    seen.meters.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def answer(endpoint: str, given: dict[str, Any]) -> Answer | bytes:
    refused = "bad words" in str(given)
    return Answer(400, {"error": {"message": "bad words", "code": "bad_request"}}) if refused else echo(endpoint, given)


@pytest.mark.anyio
@on_virtual_time
async def test_a_call_is_a_span_in_its_callers_trace_linked_to_the_span_of_its_batch(seen: Seen) -> None:
    async with world(pool={"on_event": seen.hook}, pace=SLOW) as w:
        with seen.tracer.start_as_current_span("caller"), carpool.options(tags=["search"]):
            await w.ask("some words")
        await anyio.sleep(10)
        assert repr(seen.hook) == "<Telemetry with 0 spans open>"
    (call,), (batch,), (caller,) = seen.spans("chat gpt-5-mini"), seen.spans("batch gpt-5-mini"), seen.spans("caller")
    assert call.context is not None
    assert batch.context is not None
    assert call.parent is not None
    assert caller.context is not None
    assert (call.kind, call.parent.span_id, call.status.status_code) == (
        *(SpanKind.CLIENT, caller.context.span_id, StatusCode.UNSET),
    )
    known = attributes(call)
    assert known.pop("carpool.cost") > 0
    assert known == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "carpool.custom_id": known["carpool.custom_id"],
        "carpool.batch_id": w.emulator.books().batches[0].id,
        "carpool.outcome": "answered",
        "carpool.source": "batch",
        "carpool.status_code": 200,
        "carpool.tags": ("search",),
    }
    assert (batch.parent, batch.context.trace_id != call.context.trace_id) == (None, True)
    assert [link.context.span_id for link in call.links] == [batch.context.span_id]
    assert [link.context.span_id for link in batch.links] == [call.context.span_id]
    assert [event.name for event in batch.events] == [
        *("packed", "uploaded", "created", "status", "status", "ended", "collected", "done")
    ]
    assert attributes(batch)["carpool.status"] == "completed"
    assert call.end_time is not None
    assert batch.end_time is not None
    assert 60 < (call.end_time - (call.start_time or 0)) / 1e9 < 120


@pytest.mark.anyio
@on_virtual_time
async def test_errors_and_callers_that_go(seen: Seen) -> None:
    async with world(pool={"on_event": seen.hook}, answer=answer, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "bad words")
        with anyio.move_on_after(20), carpool.options(timeout=10):
            await w.ask("late")
        with anyio.move_on_after(1):
            await w.pool.request(CHAT, body("gone"))
    spans = {attributes(span)["carpool.outcome"]: span for span in seen.spans("chat gpt-5-mini")}
    bad, late, gone = spans["failed"], spans["expired"], spans["left"]
    assert (bad.status.status_code, bad.status.description) == (StatusCode.ERROR, "bad_request")
    assert attributes(bad)["error.type"] == "RequestRejected"
    assert attributes(late)["error.type"] == "RequestExpired"
    assert (gone.status.status_code, attributes(gone)["carpool.outcome"]) == (StatusCode.UNSET, "left")
    assert "bad words" not in "".join(span.to_json() for span in (bad, late, gone, *seen.spans("batch gpt-5-mini")))
    outcomes = {point.attributes["carpool.outcome"]: point.value for point in seen.points("carpool.calls")}
    assert outcomes == {"failed": 1, "expired": 1, "left": 1}


@pytest.mark.anyio
@on_virtual_time
async def test_what_is_under_way_and_what_came_of_it_is_measured(seen: Seen) -> None:
    settings = {
        "on_event": seen.hook,
        "limits": {"gpt-5-mini": 20_000},
        "counter": lambda endpoint, model, given: 1_000,
        "prices": {"*": {"input": 2e6, "batch": 0.5}},
    }
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, [f"text {number}" for number in range(40)])
        await anyio.sleep(30)
        (lane,) = w.pool.stats().lanes
        assert seen.values("carpool.calls.pending") == [40]
        assert seen.values("carpool.queue.limit") == [20_000]
        assert seen.values("carpool.queue.enqueued") == [lane.enqueued]
        assert 0 < seen.values("carpool.requests.submitted")[0] < 40
    assert seen.values("carpool.calls.pending") == [0]
    assert seen.values("carpool.requests.submitted") == seen.values("carpool.queue.enqueued") == [0]
    assert seen.values("carpool.calls") == [40]
    assert seen.values("carpool.cost") == [pytest.approx(w.pool.stats().cost.paid)]
    assert sum(seen.values("carpool.batches")) == w.pool.stats().batches
    used = {point.attributes["gen_ai.token.type"]: point.sum for point in seen.points("gen_ai.client.token.usage")}
    assert used["input"] == w.pool.stats().cost.input_tokens
    (duration,) = seen.points("gen_ai.client.operation.duration")
    assert (duration.count, duration.max > 60) == (40, True)
    assert sum(point.sum for point in seen.points("carpool.batch.size")) == 40
    assert all(point.min >= 60 for point in seen.points("carpool.batch.duration"))


@pytest.mark.anyio
@on_virtual_time
async def test_refusals_and_warnings_are_counted(seen: Seen) -> None:
    counted = {"counter": lambda endpoint, model, given: 1_000}
    emulated: dict[str, Any] = {"count": lambda given: 1_000, "enqueued_tokens": {"*": 20_000}, "pace": SLOW}
    async with world(pool={"on_event": seen.hook, **counted}, **emulated) as w:
        await w.ask_all([f"text {number}" for number in range(30)])
    assert seen.values("carpool.refusals") == [w.emulator.books().refusals()]
    async with world(pool={"on_event": seen.hook, "canary": 2}, models=["other"]) as w:
        await w.ask("one")
    assert {point.attributes["carpool.kind"]: point.value for point in seen.points("carpool.warnings")} == {"held": 1}
    assert seen.values("carpool.queue.limit") == [20_000]


@pytest.mark.anyio
@on_virtual_time
async def test_links_from_a_batch_are_bounded(seen: Seen) -> None:
    async with world(pool={"on_event": seen.hook}) as w:
        vectors = [{"model": "embed", "input": f"{number}"} for number in range(100)]
        await w.pool.gather(vectors, endpoint=EMBEDDINGS)
    (batch,) = seen.spans("batch embed")
    assert len(batch.links) == 32
    assert len(seen.spans("embeddings embed")) == 100


@pytest.mark.anyio
@on_virtual_time
async def test_what_an_earlier_process_paid_for_is_not_counted_again(seen: Seen, tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.interrupted(on_event=seen.hook) as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(20)
            tasks.cancel_scope.cancel()
        for _ in range(2):
            async with at.open(on_event=seen.hook) as w:
                await w.ask("one")
    _, resumed, again = seen.spans("chat gpt-5-mini")
    assert [event.name for event in resumed.events] == ["resumed"]
    assert (attributes(resumed)["carpool.source"], len(resumed.links)) == ("batch", 1)
    assert (attributes(again)["carpool.source"], attributes(again)["carpool.cost"], again.links) == ("journal", 0, ())
    assert sum(point.count for point in seen.points("gen_ai.client.token.usage")) == 2
    left, recovered = seen.spans("batch gpt-5-mini")
    assert (left.status.status_code, recovered.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert recovered.events[0].name == "recovered"


FAST = carpool.Timing(linger=0.05, poll_min=0.02, poll_max=0.05, lookup=0.3)
user = contextvars.ContextVar("user", default="nobody")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_in_a_pool_of_another_thread_spans_are_in_their_callers_traces_too(seen: Seen, tmp_path: Path) -> None:
    heard: list[str] = []

    def hook(event: carpool.Event) -> None:
        seen.hook(event)
        if event.kind == "accepted":
            heard.append(user.get())

    user.set("mine")
    with Emulator() as emulator:
        settings: dict[str, Any] = {"timing": FAST, "thread": True, "on_event": hook, "journal": tmp_path}
        async with carpool.Pool("any", emulator.url, **settings) as pool:
            with seen.tracer.start_as_current_span("caller"):
                await pool.request(CHAT, body("one"))
                await pool.submit(CHAT, body("kept"))
                await pool.submit(CHAT, body("kept once"), key="key")
                stream = pool.map([body("two")], endpoint=CHAT)
                client = pool.http_client(sync=True)
                url = f"{emulator.url}/chat/completions"
                await anyio.to_thread.run_sync(lambda: client.post(url, json=body("three")))
                client.close()
            async with stream as outcomes:
                assert [outcome.ok async for outcome in outcomes] == [True]
    (caller,) = seen.spans("caller")
    assert caller.context is not None
    parents = Counter(span.parent and span.parent.span_id for span in seen.spans("chat gpt-5-mini"))
    assert parents == {caller.context.span_id: 5}
    assert heard == ["mine"] * 5


def test_prometheus_reads_it() -> None:
    reader = PrometheusMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    hook = Telemetry(trace.NoOpTracerProvider(), meters)
    try:
        anyio.run(_one_call, hook)
        text = generate_latest().decode()
    finally:
        meters.shutdown()
    lines = [line.split("{")[0] for line in text.splitlines() if "gpt-5-mini" in line]
    assert {"carpool_calls_total", "carpool_calls_pending", "gen_ai_client_token_usage_sum"} <= set(lines)


async def _one_call(hook: Telemetry) -> None:
    async with Emulator().inline() as served:
        ports = Ports(transport=InMemory(served.app))
        async with carpool.Pool("any", "http://emulator/v1", timing=FAST, on_event=hook, _ports=ports) as pool:
            await pool.request(CHAT, body("one"))


def test_providers_that_are_not_given_are_the_global_ones() -> None:
    hook = Telemetry()
    hook(carpool.Event("opened", 0.0, "p"))
    assert isinstance(metrics.get_meter_provider(), metrics.MeterProvider)
    assert repr(hook) == "<Telemetry with 0 spans open>"

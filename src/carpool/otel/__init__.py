"""OpenTelemetry: a hook for `Pool(on_event=...)` that makes spans and metrics. Needs the extra `otel`.

Names and attributes follow the GenAI semantic conventions, as of `open-telemetry/semantic-conventions-genai` in
November 2026 (status: development), which build on the semantic conventions 1.42; what is carpool's own begins with
`carpool.`. No span, and no metric, holds anything of a request's body, of an answer, or of a provider's message.
"""

from importlib.metadata import version

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError:
    raise ModuleNotFoundError("carpool.otel needs opentelemetry-api: install carpool with its extra otel") from None

from ..event import Event
from .metering import Metering
from .tracing import Tracing

__all__ = ["Telemetry"]


class Telemetry:
    """Turn the events of pools into spans and metrics: `Pool(on_event=carpool.otel.Telemetry())`.

    A call is a span of kind CLIENT, whose parent is the span that was current where the call was made; it is linked to
    the span of the batch that answered it, which is a trace of its own. The providers are the global ones unless they
    are given; `provider` is the value of `gen_ai.provider.name`. One object serves any number of pools, in any threads.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        provider: str = "openai",
    ) -> None:
        release = version("carpool")
        tracer = trace.get_tracer("carpool", release, tracer_provider)
        self._tracing = Tracing(tracer, provider)
        self._metering = Metering(metrics.get_meter("carpool", release, meter_provider), provider)

    def __call__(self, event: Event) -> None:
        """Take an event of a pool."""
        self._tracing.take(event)
        self._metering.take(event)

    def __repr__(self) -> str:
        return f"<Telemetry with {self._tracing.open} spans open>"

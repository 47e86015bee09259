"""What the conventions call things."""

from opentelemetry.util.types import AttributeValue

from ..event import Event, Kind
from ..models import Lane

OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
INPUT, OUTPUT, CACHED = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
)
TOKEN_TYPE, ERROR = "gen_ai.token.type", "error.type"

# The last ones are carpool's own: the conventions have no names for these yet.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/moderations": "moderation",
    "/v1/images/generations": "image_generation",
    "/v1/images/edits": "image_edit",
}
ENDS: frozenset[Kind] = frozenset({"answered", "failed", "expired", "left"})  # of calls
OVER: frozenset[Kind] = frozenset({"done", "given_up"})  # batches


def operation_of(lane: Lane) -> str:
    """Name what an endpoint does."""
    return _OPERATIONS.get(lane.endpoint, lane.endpoint)


def attributes_of(lane: Lane, provider: str) -> dict[str, AttributeValue]:
    """Give the attributes that spans of calls and metrics have in common."""
    return {OPERATION: operation_of(lane), PROVIDER: provider, MODEL: lane.model}


def error_of(event: Event) -> str | None:
    """Name the class of the error that a call ended with, None where it ended without one."""
    return event.error if event.kind in ("failed", "expired") else None

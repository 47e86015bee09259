"""Await single LLM calls; they ride together through the provider's Batch API at half the price."""

from .batched import batched, pool_of
from .config import Timing
from .errors import (
    AuthenticationFailed,
    CarpoolError,
    ConfigurationError,
    JournalError,
    LimitExceeded,
    PoolClosed,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    ResultMissing,
    Unbatchable,
)
from .models import Request, Response, Usage
from .options import options
from .pool import Pool, Stats
from .transports import error_of

__all__ = [
    "AuthenticationFailed",
    "CarpoolError",
    "ConfigurationError",
    "JournalError",
    "LimitExceeded",
    "Pool",
    "PoolClosed",
    "Request",
    "RequestCancelled",
    "RequestExpired",
    "RequestFailed",
    "RequestRejected",
    "Response",
    "ResultMissing",
    "Stats",
    "Timing",
    "Unbatchable",
    "Usage",
    "batched",
    "error_of",
    "options",
    "pool_of",
]

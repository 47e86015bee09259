"""Await single LLM calls; they ride together through the provider's Batch API at half the price."""

from .batched import batched, pool_of
from .config import Retry, Timing
from .errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CarpoolError,
    ConfigurationError,
    JournalError,
    LimitExceeded,
    OutputInvalid,
    PoolClosed,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    ResultMissing,
    Unbatchable,
)
from .models import Notice, Request, Response, Usage
from .options import options
from .outcomes import Outcome
from .pool import Pool
from .run import run
from .stats import Stats
from .transports import error_of

__all__ = [
    "AuthenticationFailed",
    "BudgetExceeded",
    "CarpoolError",
    "ConfigurationError",
    "JournalError",
    "LimitExceeded",
    "Notice",
    "Outcome",
    "OutputInvalid",
    "Pool",
    "PoolClosed",
    "Request",
    "RequestCancelled",
    "RequestExpired",
    "RequestFailed",
    "RequestRejected",
    "Response",
    "ResultMissing",
    "Retry",
    "Stats",
    "Timing",
    "Unbatchable",
    "Usage",
    "batched",
    "error_of",
    "options",
    "pool_of",
    "run",
]

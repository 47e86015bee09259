"""Await single LLM calls; they ride together through the provider's Batch API at half the price."""

import logging

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
    PoolFull,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    ResultMissing,
    Unbatchable,
)
from .event import Event
from .limits import Limits
from .models import Request, Response, Usage
from .options import options
from .outcomes import Outcome
from .pool import Pool
from .run import run
from .stats import Stats
from .transports import error_of

# Quiet, unless the program says where records go: those of carpool's rooms are named carpool.<room>.
logging.getLogger("carpool").addHandler(logging.NullHandler())

__all__ = [
    "AuthenticationFailed",
    "BudgetExceeded",
    "CarpoolError",
    "ConfigurationError",
    "Event",
    "JournalError",
    "LimitExceeded",
    "Limits",
    "Outcome",
    "OutputInvalid",
    "Pool",
    "PoolClosed",
    "PoolFull",
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

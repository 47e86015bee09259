"""Doors for clients that speak HTTP: what can ride in a batch joins the pool, the rest passes or is refused.

The families `httpx2` and `httpx` are alike and do not mix: each request is answered in its own. A family is imported
when it is asked for.
"""

from .clients import AsyncHttpx, AsyncHttpx2, Family, Httpx, Httpx2, client_like, new_client, pool_behind
from .replies import error_of
from .routing import Door, Unfit

__all__ = [
    "AsyncHttpx",
    "AsyncHttpx2",
    "Door",
    "Family",
    "Httpx",
    "Httpx2",
    "Unfit",
    "client_like",
    "error_of",
    "new_client",
    "pool_behind",
]

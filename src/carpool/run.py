"""Streams for code that is not asynchronous."""

from typing import Unpack

from .account import Key
from .bulk import Source
from .outcomes import Outcome
from .pool import Pool
from .settings import PoolSettings
from .thread import Thread


def run(
    requests: Source,
    *,
    endpoint: str | None = None,
    api_key: Key | None = None,
    base_url: str | None = None,
    **settings: Unpack[PoolSettings],
) -> list[Outcome]:
    """Give the outcomes of all requests, in their order; blocks until the last has come.

    It opens a pool with these settings in a thread of its own, so that it may be called where an event loop runs, such
    as in a notebook, which it blocks. `requests` are those of `Pool.map`, and are read in that thread. A request that
    fails is an `Outcome`; what ends the pool is raised, and so is what the source raises.
    """
    pool = Pool(api_key, base_url, **settings)
    thread = Thread()
    try:
        ended = thread.wait(_run, pool, requests, endpoint)
    finally:
        thread.stop_blocking()
    if isinstance(ended, BaseException):
        raise ended
    return ended


async def _run(pool: Pool, requests: Source, endpoint: str | None) -> list[Outcome] | BaseException:
    try:
        async with pool, pool.map(requests, endpoint=endpoint) as outcomes:
            return [outcome async for outcome in outcomes]
    except (KeyboardInterrupt, SystemExit) as exc:  # the source's own; raised here it would break the event loop off
        return exc

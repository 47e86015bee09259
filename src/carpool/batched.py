"""The drop-in: a client in, the same client out, and its calls ride."""

from types import TracebackType
from typing import Any, Generic, TypeVar, Unpack

from .errors import ConfigurationError
from .pool import Pool
from .sdk import read_client
from .settings import PoolSettings
from .transports import pool_behind

C = TypeVar("C")


class Batched(Generic[C]):
    """Open a pool for one client, as an async context manager, or a plain one."""

    def __init__(self, client: C, settings: PoolSettings) -> None:
        facts = read_client(client)
        if facts.sync:
            settings = {**settings, "thread": True}
        self._pool = Pool(_account=facts.account, **settings)
        self._client = self._pool.wrap(client)

    async def __aenter__(self) -> C:
        await self._pool.start()
        return self._client

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pool.__aexit__(exc_type, exc, traceback)

    def __enter__(self) -> C:
        self._pool.__enter__()
        return self._client

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.__exit__(exc_type, exc, traceback)


def batched(client: C, **settings: Unpack[PoolSettings]) -> Batched[C]:
    """Let the calls of an SDK's client ride: `async with batched(AsyncOpenAI()) as client:`.

    The pool has the client's base URL, key, organisation, project and default headers, and lives as long as the block;
    the `settings` are those of `Pool`. A blocking client's pool runs in a thread of its own, as does any in a plain
    `with`. The client that was given is left as it was. Raises `ConfigurationError` for one that cannot be batched.
    """
    if {"api_key", "base_url"} & settings.keys():
        raise ConfigurationError("batched() takes key and base URL from the client: configure them there.")
    return Batched(client, settings)


def pool_of(client: Any) -> Pool:
    """Give the pool that a client's calls ride in; `ConfigurationError` where they do not ride."""
    pool = pool_behind(client)
    if not isinstance(pool, Pool):
        raise ConfigurationError(f"The calls of this {type(client).__name__} do not ride in a pool.")
    return pool

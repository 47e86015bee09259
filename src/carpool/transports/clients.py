"""Transports and clients of both families."""

import logging
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import anyio
import httpx2

from ..errors import CarpoolError, ConfigurationError, RequestExpired, Unbatchable
from ..models import Response
from ..naming import OWN_HEADER
from .replies import EXTENSION, headers_of, refusal
from .routing import Door, live_timeout, plan, shown

if TYPE_CHECKING:
    import httpx

Family: TypeAlias = Literal["httpx2", "httpx"]
AsyncHttpx2: TypeAlias = httpx2.AsyncClient
Httpx2: TypeAlias = httpx2.Client
AsyncHttpx: TypeAlias = "httpx.AsyncClient"
Httpx: TypeAlias = "httpx.Client"

log: logging.Logger = logging.getLogger("carpool.transports")

# Attributes of a client: its pool, and what gives the client by which passes what does not ride.
_POOL, _INNER = "carpool_pool", "carpool_inner"


class _Ride:
    """Do what both kinds of transport do; `inner` gives the client by which passes what does not ride."""

    def __init__(self, door: Door, module: Any, inner: Callable[[], Any]) -> None:
        self._door = door
        self._module = module
        self._inner = inner

    def _answer(self, response: Response) -> Any:
        stream = self._module.ByteStream(response.content)
        return self._module.Response(response.status_code, headers=headers_of(response), stream=stream)

    def _refuse(self, error: CarpoolError) -> Any:
        status, headers, content = refusal(error)
        stream = self._module.ByteStream(content)
        return self._module.Response(status, headers=headers, stream=stream, extensions={EXTENSION: error})

    def _may_pass(self, error: CarpoolError) -> bool:
        """Tell whether a call that cannot ride is to be sent live."""
        return isinstance(error, Unbatchable) and (self._door.live or self._door.unfit == "live")

    def _passing(self, request: Any, why: str) -> Any:
        """Prepare a request that passes: our own headers stay here, and an emulator takes the provider's place."""
        base_url, live_url = self._door.account.base_url, self._door.live_url()
        url = str(request.url)
        for name in [name for name in request.headers if name.startswith(OWN_HEADER)]:
            del request.headers[name]
        # A connection that was kept would belong to this event loop, and the next request may come from another.
        request.headers["connection"] = "close"
        if live_url is not None:
            if not url.startswith(base_url + "/"):
                raise ConfigurationError(f"Nothing is sent to {shown(url)} in the mode emulate.")
            request.url = self._module.URL(live_url + url[len(base_url) :])
            request.headers["host"] = request.url.netloc.decode("ascii")
            request.headers["authorization"] = "Bearer emulated"
        elif why:
            level = logging.INFO if self._door.live else logging.WARNING  # where all is live, that was said at once
            log.log(level, "live, at full price (%s): %s %s", why, request.method, shown(url))
        return request


_UNFIT = "it cannot ride in a batch"
_ASKED = "as was asked for"
_TIMED_OUT = "The timeout of a live call ended before its answer came."


class _AsyncRide(_Ride):
    async def handle_async_request(self, request: Any) -> Any:
        try:
            self._door.live_url()  # nothing rides or passes where the pool is not open
            trip = plan(self._door, request.method, str(request.url), request.headers.raw)
            if trip is not None and not trip.options.live:
                return self._answer(await self._door.ask(trip.request(await request.aread())))
            why = "" if trip is None else _ASKED
        except CarpoolError as exc:
            if not self._may_pass(exc):
                return self._refuse(exc)
            why = _UNFIT
        try:
            with anyio.fail_after(live_timeout(self._door, request.headers.raw) if why else None):
                return await self._inner().send(self._passing(request, why), stream=True)
        except CarpoolError as exc:
            return self._refuse(exc)
        except TimeoutError:
            return self._refuse(RequestExpired(_TIMED_OUT))


class _BlockingRide(_Ride):
    def handle_request(self, request: Any) -> Any:
        try:
            self._door.live_url()  # nothing rides or passes where the pool is not open
            trip = plan(self._door, request.method, str(request.url), request.headers.raw)
            if trip is not None and not trip.options.live:
                return self._answer(self._door.ask_blocking(trip.request(request.read())))
            why = "" if trip is None else _ASKED
        except CarpoolError as exc:
            if not self._may_pass(exc):
                return self._refuse(exc)
            why = _UNFIT
        timeout: float | None = None
        try:
            timeout = live_timeout(self._door, request.headers.raw) if why else None
            if timeout is not None:
                request.extensions = {**request.extensions, "timeout": self._module.Timeout(timeout).as_dict()}
            return self._inner().send(self._passing(request, why), stream=True)
        except CarpoolError as exc:
            return self._refuse(exc)
        except self._module.TimeoutException:
            if timeout is None:
                raise
            return self._refuse(RequestExpired(_TIMED_OUT))


class _AsyncOpen:
    """Never be closed: a framework that finds its client closed replaces it by one that calls live, silently."""

    is_closed = False

    async def aclose(self) -> None:
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


class _BlockingOpen:
    """Never be closed, as above."""

    is_closed = False

    def close(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def new_client(door: Door, pool: object, family: Family, *, sync: bool) -> Any:
    """Make an HTTP client whose calls ride; raises `ConfigurationError` where the family is not installed."""
    inner = _maker(family, sync=sync, trust_env=not door.emulated)
    return _client(door, pool, family, inner, sync=sync, follow_redirects=True, timeout=600.0)


def _maker(family: Family, *, sync: bool, trust_env: bool) -> Callable[[], Any]:
    """Say how to get a plain client; it is made when something passes, since it reads certificates first.

    A blocking one is for all threads; of the others each thread has one, as they know no locks.
    """
    module = _module(family)
    limits = module.Limits(max_connections=None)  # to wait for one would tie event loops to each other
    made = SimpleNamespace() if sync else threading.local()

    def get() -> Any:
        if not hasattr(made, "client"):
            made.client = (module.Client if sync else module.AsyncClient)(limits=limits, trust_env=trust_env)
        return made.client

    return get


def client_like(inner: Any, door: Door, pool: object) -> Any:
    """Make an HTTP client whose calls ride, and which passes the rest on to one that is configured already."""
    family: Family = "httpx2" if _is_of(inner, "httpx2") else "httpx"
    sync = isinstance(inner, _module(family).Client)
    made = getattr(inner, _INNER, lambda: inner)  # it may ride in another pool, or have ridden
    return _client(
        door,
        pool,
        family,
        _maker(family, sync=sync, trust_env=False) if door.emulated else made,  # its proxy would see the key
        sync=sync,
        base_url=inner.base_url,
        headers=inner.headers,
        params=inner.params,
        cookies=inner.cookies,
        timeout=inner.timeout,
        follow_redirects=inner.follow_redirects,
    )


def pool_behind(client: Any) -> Any:
    """Give the pool that a client's calls ride in; None for none. It may be an SDK's client, or an HTTP client."""
    return getattr(client, _POOL, None) or getattr(getattr(client, "_client", None), _POOL, None)


def _client(door: Door, pool: object, family: Family, inner: Callable[[], Any], *, sync: bool, **settings: Any) -> Any:
    transport, client = _classes(family, sync=sync)
    made = client(transport=transport(door, _module(family), inner), trust_env=False, **settings)
    setattr(made, _POOL, pool)
    setattr(made, _INNER, inner)
    return made


@cache
def _classes(family: Family, *, sync: bool) -> tuple[Any, Any]:
    module = _module(family)
    if sync:
        return (
            type("CarpoolTransport", (_BlockingRide, module.BaseTransport), {}),
            type("CarpoolClient", (_BlockingOpen, module.Client), {}),
        )
    return (
        type("AsyncCarpoolTransport", (_AsyncRide, module.AsyncBaseTransport), {}),
        type("AsyncCarpoolClient", (_AsyncOpen, module.AsyncClient), {}),
    )


def _is_of(client: Any, family: Family) -> bool:
    return any(kind.__module__.partition(".")[0] == family for kind in type(client).__mro__)


def _module(family: Family) -> Any:
    if family not in ("httpx2", "httpx"):
        raise ConfigurationError(f'family must be "httpx2" or "httpx"; got {family!r}.')
    try:
        return import_module(family)
    except ModuleNotFoundError:
        raise ConfigurationError(f'The family "{family}" is not installed: pip install {family}.') from None

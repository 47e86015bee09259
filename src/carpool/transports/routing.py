"""Which requests ride in a batch, which pass, and which are refused."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from ..account import NAMES, Account
from ..errors import ConfigurationError, Unbatchable
from ..models import Request, Response
from ..naming import OWN_HEADER
from ..options import Options, checked_timeout, current_options

Unfit: TypeAlias = Literal["refuse", "live"]

# What is posted there runs no model, or in a batch of its own. Anything else that is posted costs the full price.
_FREE = frozenset({"batches", "containers", "files", "uploads", "vector_stores"})
OWN_HEADERS = tuple(f"{OWN_HEADER}{end}".encode() for end in ("", "-key", "-timeout"))
_KEY = b"authorization"
_JSON = b"application/json"

_UNCOUNTED = (
    "The pool has a budget, and what a client sends live is not counted in it. Ask the pool itself, or leave the "
    "budget out."
)

_READ = (*OWN_HEADERS, _KEY, b"content-type", b"content-encoding")

Headers: TypeAlias = dict[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Say whose requests come in, and where they go.

    They must carry the base URL, the organisation and the project of `account`, and its key, unless answers are
    `emulated`. `ask` and `ask_blocking` let one ride; `live_url` gives the base URL that what passes is sent to in
    place of the account's own, None for the same, and raises `PoolClosed` where the pool is not open. With `live`
    everything passes. `timeout` is for calls that are sent live and have none of their own, in seconds. Where the pool
    is `budgeted` nothing that costs may pass: it would not be counted.
    """

    account: Account
    ask: Callable[[Request], Awaitable[Response]]
    ask_blocking: Callable[[Request], Response]
    live_url: Callable[[], str | None]
    unfit: Unfit
    live: bool
    emulated: bool
    budgeted: bool
    timeout: float | None
    marks: dict[bytes, bytes] = field(init=False, repr=False)  # what these headers say, in a request that has them
    lengths: frozenset[int] = field(init=False, repr=False)  # of the names of all headers that are looked at

    def __post_init__(self) -> None:
        marks = {name.lower().encode(): b"" for name in NAMES}
        marks |= {name.encode(): value.encode() for name, value in self.account.marks.items()}
        if isinstance(self.account.key, str) and not self.emulated:
            marks[_KEY] = b"Bearer " + self.account.key.encode()
        object.__setattr__(self, "marks", marks)
        object.__setattr__(self, "lengths", frozenset(map(len, (*marks, *_READ))))


class Trip(NamedTuple):
    """Name the endpoint that a request rides to, and how; with `options.live` it passes."""

    endpoint: str
    options: Options

    def request(self, body: bytes) -> Request:
        """Give what to ask the pool for."""
        return Request(self.endpoint, body, key=self.options.key, timeout=self.options.timeout)


def plan(door: Door, method: str, url: str, raw_headers: Iterable[tuple[bytes, bytes]]) -> Trip | None:
    """Say how a request rides; None where it passes, since it costs nothing.

    Raises `Unbatchable` where it cannot ride, and `ConfigurationError` where it is another account's.
    """
    endpoint = _endpoint(method, url, door.account.base_url)
    if endpoint is None:
        return None
    # The lengths tell most of them apart, for a third of what it takes to look at them all.
    headers = {name.lower(): value for name, value in raw_headers if len(name) in door.lengths}
    for name, mark in door.marks.items():
        if headers.get(name, mark) != mark:
            raise _foreign(name, headers[name], mark)
    options = _options(headers)
    if options.live or door.live:
        if door.budgeted:
            raise ConfigurationError(_UNCOUNTED)
        return Trip(endpoint, options._replace(live=True))
    if "?" in endpoint:
        raise Unbatchable(f"The URL of {endpoint.partition('?')[0]} has a query, which no batch carries. Leave it out.")
    kind = headers.get(b"content-type", _JSON)
    if (kind != _JSON and not kind.lower().startswith(_JSON)) or b"content-encoding" in headers:
        raise Unbatchable(
            f"The body is {kind.decode('latin-1').partition(';')[0]}, and a batch carries plain JSON only: files and "
            "audio cannot ride."
        )
    return Trip(endpoint, options)


@lru_cache(maxsize=1_024)
def _endpoint(method: str, url: str, base_url: str) -> str | None:
    """Give the endpoint that a request would ride to, None where it passes."""
    if method in ("GET", "HEAD", "OPTIONS", "DELETE"):
        return None
    if method != "POST":
        raise Unbatchable(f"No batch carries a {method}. Use POST.")
    if not url.startswith(base_url + "/"):
        raise ConfigurationError(
            f"The call goes to {shown(url)}, and the pool is for {base_url}. Use one pool for each base URL; only "
            "calls of the shape of OpenAI's can ride."
        )
    path = url[len(base_url) + 1 :]
    if "%" in path.partition("?")[0]:
        raise Unbatchable(f"The path of {shown(url)} is encoded: where it leads cannot be told. Write it plainly.")
    return None if path.partition("/")[0].partition("?")[0] in _FREE else f"/v1/{path}"


def _foreign(name: bytes, given: bytes, ours: bytes) -> ConfigurationError:
    """Say that a call is of another account; never by its key."""
    if name == _KEY:
        return ConfigurationError("The call carries another API key than the pool has. Use one pool for each account.")
    if name.decode() in (known.lower() for known in NAMES):
        said = f"{name.decode()} {given.decode('latin-1')}, and the pool is for {ours.decode() or 'none'}"
    else:
        said = f"another {name.decode()} than the pool"  # it may be secret
    return ConfigurationError(f"The call carries {said}. Use one pool for each account.")


def live_timeout(door: Door, raw_headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Give how many seconds a call may take that is sent live."""
    timeout = _options({name.lower(): value for name, value in raw_headers}).timeout
    return door.timeout if timeout is None else timeout


def _options(headers: Headers) -> Options:
    """Read what the headers say that never leave this process; else what the blocks around the caller say."""
    options = current_options()
    if headers.keys().isdisjoint(OWN_HEADERS):
        return options
    mode, key, timeout = (_text(headers.get(name)) for name in OWN_HEADERS)
    if key == "":
        raise ConfigurationError("The header x-carpool-key is empty. Name a key, or leave it out.")
    if mode not in (None, "live"):
        raise ConfigurationError(f'The header x-carpool must be "live", or be left out; got {mode!r}.')
    return options._replace(
        key=key if key is not None else options.key,
        timeout=_seconds(timeout) if timeout is not None else options.timeout,
        live=mode == "live" or options.live,
    )


def shown(url: str) -> str:
    """Give a URL without what may be secret: a query, a user name and a password."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _seconds(text: str) -> float:
    try:
        return checked_timeout(float(text))
    except ValueError:
        raise ConfigurationError(f"The header x-carpool-timeout must be a number of seconds; got {text!r}.") from None

"""A pool's settings, checked once: each of the functions raises `ConfigurationError` for what makes no sense."""

import os
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypedDict, get_args

from . import config
from .account import Account
from .config import DEFAULT_RETRY, Canary, Escalate, Mode, Retry, Timing
from .errors import ConfigurationError
from .event import Event
from .journal import Journal
from .limits import KnownLimits, Limits, Tier
from .ports import RunSync
from .prices import Prices
from .resume import Reuse
from .tokens import Counter, Tiktoken
from .transports import Unfit
from .wire import Transport

if TYPE_CHECKING:  # these come of what settings make
    from .progress import Reporter
    from .stats import Stats

Progress: TypeAlias = "Callable[[Stats], object] | Reporter | Literal[False] | None"

WhenFull: TypeAlias = Literal["wait", "refuse"]

_SHARE = 0.1  # of a canary that may be refused


class Ports(NamedTuple):
    """Replace what touches the world: threads, sockets, and the journal's database."""

    run_sync: RunSync | None = None
    transport: Transport | None = None
    journal: Journal | None = None


class Settings(NamedTuple):
    """Hold a pool's settings, checked."""

    account: Account
    limits: KnownLimits
    timing: Timing
    counter: Counter
    folder: Path | None
    reuse: Reuse
    retention: float
    keep_remote_files: bool
    mode: Mode
    ports: Ports
    retry: Retry
    canary: Canary | None
    escalate: Escalate | None
    prices: Prices
    budget: float | None
    on_event: Callable[[Event], object] | None
    max_pending: int
    max_spool: int
    when_full: WhenFull
    progress: Progress


def checked_mode(mode: Mode | None) -> Mode:
    """Give the mode, or what CARPOOL_MODE says where it is None."""
    chosen = mode if mode is not None else os.environ.get("CARPOOL_MODE") or "batch"
    if chosen not in get_args(Mode):
        where = "mode" if mode is not None else "CARPOOL_MODE"
        raise ConfigurationError(f'{where} must be "batch", "live" or "emulate"; got {chosen!r}.')
    return chosen  # type: ignore[return-value]  # it is one of them


class PoolSettings(TypedDict, total=False):
    """Name the settings of a pool, but for its account."""

    tier: Tier | None
    limits: Mapping[str, int] | Limits | None
    timing: Timing | None
    counter: Counter | None
    journal: str | os.PathLike[str] | None
    reuse: Reuse
    retention: float
    timeout: float | None
    escalate: Escalate | None
    retry: Retry | None
    canary: int | tuple[int, float] | None
    prices: Mapping[str, Mapping[str, float]] | None
    budget: float | None
    on_event: Callable[[Event], object] | None
    max_pending: int
    max_spool: int
    when_full: WhenFull
    progress: Progress
    mode: Mode | None
    thread: bool
    unbatchable: Unfit
    keep_remote_files: bool


def checked_escalate(escalate: Any) -> Escalate | None:
    """Give how calls are sent whose timeouts come near."""
    if escalate not in (None, *get_args(Escalate)):
        raise ConfigurationError(f'escalate must be None, "live" or "flex"; got {escalate!r}.')
    return escalate  # type: ignore[no-any-return]


def checked_canary(canary: Any) -> Canary | None:
    """Give what goes first: so many requests, or these and the share of them that may be refused."""
    if canary is None:
        return None
    requests, share = canary if isinstance(canary, tuple) and len(canary) == 2 else (canary, _SHARE)
    is_count = isinstance(requests, int) and not isinstance(requests, bool) and requests > 0
    if not is_count or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ConfigurationError(
            f"canary must be a number of requests, or a pair of it and the share that may be refused, such as "
            f"(20, 0.1); got {canary!r}."
        )
    return Canary(requests, share)


def checked_timing(timing: Any) -> Timing:
    """Give how long to wait for what."""
    if timing is not None and not isinstance(timing, Timing):
        raise ConfigurationError(f"timing must be a carpool.Timing; got {timing!r}.")
    return timing or config.DEFAULT_TIMING


def checked_retry(retry: Any) -> Retry:
    """Give how often requests are sent."""
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigurationError(f"retry must be a carpool.Retry; got {retry!r}.")
    return retry or DEFAULT_RETRY


def checked_hook(on_event: Any) -> Callable[[Event], object] | None:
    """Give what hears of events."""
    if on_event is not None and not _is_plain(on_event):
        raise ConfigurationError(f"on_event must be a plain function that takes an Event; got {on_event!r}.")
    return on_event  # type: ignore[no-any-return]


def checked_progress(progress: Any) -> Progress:
    """Give what shows how far the pool has come."""
    is_reporter = all(hasattr(progress, name) for name in ("update", "close", "pause"))
    if progress is not None and progress is not False and not is_reporter and not _is_plain(progress):
        raise ConfigurationError(
            f"progress must be None, False, or a plain function that takes Stats; got {progress!r}."
        )
    return progress  # type: ignore[no-any-return]


def checked_count(name: str, number: Any) -> int:
    """Give a whole number above 0."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigurationError(f"{name} must be a whole number above 0; got {number!r}.")
    return number


def checked_folder(journal: Any) -> Path | None:
    """Give the folder of a journal, None for none."""
    if journal is None:
        return None
    path = os.fspath(journal) if isinstance(journal, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise ConfigurationError(f"journal must be the path of a folder, as a str or a Path, or None; got {journal!r}.")
    return Path(path).absolute()  # the process may change its working directory while answers are written


def checked_flag(name: str, flag: Any) -> bool:
    """Give True or False."""
    if not isinstance(flag, bool):
        raise ConfigurationError(f"{name} must be True or False; got {flag!r}.")
    return flag


def checked_limit(timeout: Any) -> float | None:
    """Give the seconds that something may take, None for no limit."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout >= 0):
        raise ConfigurationError(f"timeout must be a number of seconds, 0 or more, or None; got {timeout!r}.")
    return timeout  # type: ignore[no-any-return]


def checked_when_full(when_full: Any) -> WhenFull:
    """Give what becomes of calls for which there is no room."""
    if when_full not in get_args(WhenFull):
        raise ConfigurationError(f'when_full must be "wait" or "refuse"; got {when_full!r}.')
    return when_full  # type: ignore[no-any-return]


def checked_unfit(unbatchable: Any) -> Unfit:
    """Give what becomes of calls that cannot ride."""
    if unbatchable not in get_args(Unfit):
        raise ConfigurationError(f'unbatchable must be "refuse" or "live"; got {unbatchable!r}.')
    return unbatchable  # type: ignore[no-any-return]


def checked_reuse(reuse: Any) -> Reuse:
    """Give which requests of an earlier time a call may take."""
    if reuse not in get_args(Reuse):
        raise ConfigurationError(f'reuse must be "always", "undelivered" or "never"; got {reuse!r}.')
    return reuse  # type: ignore[no-any-return]


def checked_retention(retention: Any) -> float:
    """Give the seconds for which delivered answers are kept."""
    if not isinstance(retention, int | float) or not retention >= 0:
        raise ConfigurationError(f"retention must be a number of seconds, 0 or more; got {retention!r}.")
    return retention


def checked_counter(counter: Any) -> Counter:
    """Give what counts tokens."""
    if counter is None:
        return Tiktoken()
    if not _is_plain(counter):
        raise ConfigurationError("counter must be a plain function (endpoint, model, body) that gives a number.")
    return counter  # type: ignore[no-any-return]  # what it gives is checked when it is called


def _is_plain(function: Any) -> bool:
    """Tell whether something can be called, and gives no coroutine."""
    return callable(function) and not any(map(iscoroutinefunction, (function, type(function).__call__)))

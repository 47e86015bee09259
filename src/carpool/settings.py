"""A pool's settings, checked once: each of the functions raises `ConfigurationError` for what makes no sense."""

import os
from collections.abc import Mapping
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, get_args

from .account import Account
from .config import Mode, Timing
from .errors import ConfigurationError
from .journal import Journal
from .limits import Limits, Tier
from .ports import RunSync
from .resume import Reuse
from .tokens import Counter, Tiktoken
from .transports import Unfit
from .wire import Transport


class Ports(NamedTuple):
    """Replace what touches the world: threads, sockets, and the journal's database."""

    run_sync: RunSync | None = None
    transport: Transport | None = None
    journal: Journal | None = None


class Settings(NamedTuple):
    """Hold a pool's settings, checked."""

    account: Account
    limits: Limits
    timing: Timing
    counter: Counter
    folder: Path | None
    reuse: Reuse
    retention: float
    keep_remote_files: bool
    mode: Mode
    ports: Ports


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
    limits: Mapping[str, int] | None
    timing: Timing | None
    counter: Counter | None
    journal: str | os.PathLike[str] | None
    reuse: Reuse
    retention: float
    timeout: float | None
    mode: Mode | None
    thread: bool
    unbatchable: Unfit
    keep_remote_files: bool


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
    if not callable(counter) or any(map(iscoroutinefunction, (counter, type(counter).__call__))):
        raise ConfigurationError("counter must be a plain function (endpoint, model, body) that gives a number.")
    return counter  # type: ignore[no-any-return]  # what it gives is checked when it is called

"""Settings of single calls, for those who call through a framework and cannot pass them: a context variable."""

from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from .errors import ConfigurationError
from .models import Request


class Options(NamedTuple):
    """Say how one call travels: known by `key`, given up after `timeout` seconds, sent `live` and not in a batch."""

    key: str | int | None = None
    timeout: float | None = None
    priority: int = 0
    tags: tuple[str, ...] = ()
    live: bool = False


PLAIN = Options()
_NUMBERS = 2**63  # a journal's database keeps no larger ones
_LONGEST = 1e9  # seconds, thirty years
_HIGHEST = 100  # each priority has batches of its own: few are of use
_current: ContextVar[Options] = ContextVar("carpool.options", default=PLAIN)


class Block:
    """Hold settings for the calls made in a `with` block; as a decorator it would not hold in an `async def`."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self._changes = changes
        self._tokens: list[Token[Options]] = []

    def __enter__(self) -> None:
        self._tokens.append(_current.set(_current.get()._replace(**self._changes)))

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._tokens.pop())


def options(
    *,
    timeout: float | None = None,
    priority: int | None = None,
    tags: Iterable[str] | None = None,
    live: bool | None = None,
) -> Block:
    """Set how the calls made in a block travel, through whatever client: `with carpool.options(timeout=3_600):`.

    A call that was not answered `timeout` seconds after it was made ends with `RequestExpired`. Where a model's queue
    is limited, what has a higher `priority` (-100 to 100) goes first, in batches of its own. `tags` are names under
    which `Stats` counts the call, and which its batch's metadata tells. With `live` it is sent at once, at full price.
    What is None stays as it is outside the block. Raises `ConfigurationError` for what makes no sense.
    """
    checked: dict[str, Any] = {}
    if timeout is not None:
        checked["timeout"] = checked_timeout(timeout)
    if priority is not None:
        checked["priority"] = checked_priority(priority)
    if tags is not None:
        checked["tags"] = checked_tags(tags)
    if live is not None:
        checked["live"] = live
    return Block(checked)


current_options: Callable[[], Options] = _current.get  # what the blocks around the caller set


def of_request(request: Request, others: Options) -> Options:
    """Give what a request says for itself, and for the rest what is said otherwise."""
    if request.timeout is None and request.priority is None and request.tags is None:  # as most
        key = request.key
        return others if key is None else Options(_checked_key(key), *others[1:])
    said: dict[str, Any] = {}
    if request.key is not None:
        said["key"] = _checked_key(request.key)
    if request.timeout is not None:
        said["timeout"] = checked_timeout(request.timeout)
    if request.priority is not None:
        said["priority"] = checked_priority(request.priority)
    if request.tags is not None:
        said["tags"] = checked_tags(request.tags)
    return others._replace(**said) if said else others


def _checked_key(key: Any) -> str | int:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool) and 0 <= key < _NUMBERS):
        return key
    raise ConfigurationError(f"The key of a request must be a text, or a whole number below 2**63; got {key!r}.")


def checked_timeout(timeout: Any) -> float:
    """Give a timeout that can be used; `ConfigurationError` for what is none."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= _LONGEST:
        raise ConfigurationError(f"timeout must be a number of seconds above 0, at most 1e9; got {timeout!r}.")
    return float(timeout)


def checked_priority(priority: Any) -> int:
    """Give a priority that can be used; `ConfigurationError` for what is none."""
    if not isinstance(priority, int) or isinstance(priority, bool) or not -_HIGHEST <= priority <= _HIGHEST:
        raise ConfigurationError(
            f"priority must be a whole number from -{_HIGHEST} to {_HIGHEST}, the higher the sooner; got {priority!r}."
        )
    return priority


def checked_tags(tags: Any) -> tuple[str, ...]:
    """Give tags that can be used; `ConfigurationError` for what are none."""
    names: list[Any] = list(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"tags must be names, such as ['search', 'team-a']; got {tags!r}.")
    return tuple(dict.fromkeys(names))

"""The published enqueued-token limits, by model family and tier, each with its source and date.

The numbers lie in `limits.toml`. A pool begins with them; what a refusal says takes their place, for published is not
actual (contracts A9).
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec

from .errors import ConfigurationError
from .models import Queue

Tier: TypeAlias = Literal["free", "tier-1", "tier-2", "tier-3", "tier-4", "tier-5", "build", "launch", "grow"]
TIERS: tuple[Tier, ...] = get_args(Tier)
BYTES_A_TOKEN = 4  # English has 4.8 (measured)
LONG = 128_000 * BYTES_A_TOKEN  # bytes: no shorter body counts in a long-context pool

# A snapshot is called after its family and a day: "-MMDD" up to early 2024, "-YYYY-MM-DD" since.
_MONTH, _DAY = "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
_SNAPSHOT = re.compile(rf"(?P<family>.+)-(?:20[0-9][0-9]-{_MONTH}-{_DAY}|{_MONTH}{_DAY})")


class TableLimit(NamedTuple):
    """Hold one published limit: the prompt tokens that a family's batches may have queued in a tier.

    `tokens` 0 means not offered. `above` is 0, or the prompt tokens above which a request counts here, in the
    long-context pool. `as_of` is the first day on which the source can have said so.
    """

    family: str
    tier: Tier
    tokens: int
    as_of: date
    source: str
    above: int


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    families: tuple[str, ...]
    as_of: date
    source: str
    limits: dict[Tier, int]
    above: int = 0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    aliases: dict[str, str]
    table: tuple[_Table, ...]


@cache
def _file() -> _File:
    text = resources.files("carpool").joinpath("limits.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _File)


@cache
def table() -> tuple[TableLimit, ...]:
    """Give every published limit, old ones too, in the order of the file."""
    return tuple(
        TableLimit(family, tier, tokens, each.as_of, each.source, each.above)
        for each in _file().table
        for family in each.families
        for tier, tokens in each.limits.items()
    )


@cache
def _families() -> frozenset[str]:
    return frozenset(row.family for row in table())


def family_of(model: str) -> str | None:
    """Name the family of a model: itself, less the day of a snapshot, or as the aliases say; None when not listed.

    Any other suffix makes another model. A fine-tuned model (`ft:...`) has no family: that it has its base's limit is
    unverified, and a pool that knows no limit feels its way to it, where one that trusts a wrong limit does not.
    """
    family = _file().aliases.get(model) or undated(model)
    return family if family in _families() else None


def undated(model: str) -> str:
    """Give the name of a model less the day of a snapshot."""
    snapshot = _SNAPSHOT.fullmatch(model)
    return snapshot["family"] if snapshot else model


def table_limit(model: str, tier: str, *, long: bool = False, as_of: date | None = None) -> TableLimit | None:
    """Look up the newest limit of a model in a tier, `long` for its long-context pool; None when none is known.

    With `as_of`, the newest not dated after it. A tier that the newest table leaves out keeps its last number, with the
    date of that number: a tier that ended is listed with 0.
    """
    family = family_of(model)
    return _newest(
        row
        for row in table()
        if (row.family, row.tier, row.above > 0) == (family, tier, long) and (as_of is None or row.as_of <= as_of)
    )


def long_above(model: str) -> int | None:
    """Give the prompt tokens above which a request counts in the model's long-context pool; None without one."""
    family = family_of(model)
    pool = _newest(row for row in table() if row.family == family and row.above)
    return None if pool is None else pool.above


def _newest(rows: Iterable[TableLimit]) -> TableLimit | None:
    return max(rows, key=lambda row: row.as_of, default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """Name an account's enqueued-token limits, and the share of them that is one pool's.

    `tokens` are by model, family or "*" for all others. A pool keeps to `share` (above 0, at most 1) of every limit,
    whoever names it, and of the creations an hour: for pools that share an account and no journal, such as those of
    four machines, each of which has 0.25. Raises `ConfigurationError` for what makes no sense. That the limit is one of
    prompt tokens in a model's queue, and of 2,000 creations an hour, is from OpenAI's guide "Batch API".
    """

    tokens: Mapping[str, int] | None = None
    share: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _checked_limits(self.tokens))
        _check_share(self.share)


class KnownLimits:
    """Know the user's settings `tier` and `limits`, and say what they come to for a queue.

    `share` is for limits that name none. Raises `ConfigurationError` for a tier that does not exist, or limits that are
    no tokens by model.
    """

    def __init__(
        self, tier: str | None = None, limits: Mapping[str, int] | Limits | None = None, *, share: float = 1.0
    ) -> None:
        given = limits if isinstance(limits, Limits) else Limits(limits, share=share)
        self.tier = _checked_tier(tier)
        self.share: float = given.share
        self._limits = given.tokens or {}

    def of(self, queue: Queue) -> Iterator[tuple[int, Literal["user", "table"]]]:
        """Give the limits of a queue, in tokens: the user's own number, and the table's for the tier."""
        number = user_limit(self._limits, queue.model)
        if number is not None:
            yield number, "user"
        row = table_limit(queue.model, self.tier, long=queue.long) if self.tier else None
        if row is not None:
            yield row.tokens, "table"

    def is_long(self, model: str, size: int) -> bool:
        """Tell whether a body of so many bytes, more than LONG, counts in the model's long-context pool.

        By an estimate: one that is a little off is counted in the wrong pool, which costs a refused batch at most.
        """
        above = long_above(model)
        return above is not None and size > BYTES_A_TOKEN * above


def user_limit(limits: Mapping[str, int], model: str) -> int | None:
    """Find the user's number of tokens for a model: under its name, else its family's, else "*"."""
    names = (model, family_of(model) or model, "*")
    return next((limits[name] for name in names if name in limits), None)


def _checked_tier(tier: str | None) -> Tier | None:
    """Check the setting `tier`, or raise `ConfigurationError`; None means that it is not known."""
    if tier is None:
        return None
    for known in TIERS:
        if tier == known:
            return known
    raise ConfigurationError(f"tier must be one of {', '.join(TIERS)}, or None; got {tier!r}")


def _check_share(share: Any) -> None:
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 < share <= 1:
        raise ConfigurationError(f"share must be a number above 0, at most 1; got {share!r}")


def _checked_limits(limits: Mapping[str, int] | None) -> dict[str, int]:
    """Copy the setting `limits`, tokens by model, family or "*", or raise `ConfigurationError`."""
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        raise ConfigurationError(f'limits must be a mapping such as {{"gpt-4o": 90_000}}; got {limits!r}')
    for name, tokens in limits.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"limits must be named by models or families; got {name!r}")
        if type(tokens) is not int or tokens < 0:  # True is an int to isinstance
            raise ConfigurationError(f"limits[{name!r}] must be a whole number of tokens, 0 or more; got {tokens!r}")
    return dict(limits)

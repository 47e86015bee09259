"""Settings, frozen and checked once."""

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypeAlias

from .errors import ConfigurationError

Mode: TypeAlias = Literal["batch", "live", "emulate"]
Escalate: TypeAlias = Literal["live", "flex"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Set how long to wait for what, in seconds; `poll_fraction` is a share of a batch's age.

    A lane's batch is packed when no call has come for `linger`, or for three times as long as calls that trickle have
    lately kept one another waiting; `max_linger` after the first, unless creations are scarce; and sooner for calls
    with a timeout, of which a tenth may pass so, but no less than `linger`. A batch is checked every `poll_fraction` of
    its age, between `poll_min` and `poll_max`. After a lost reply to a creation the listings are searched for `lookup`
    before it is repeated. Without a journal, a batch that nobody has awaited for `abandon` is cancelled. Raises
    `ConfigurationError` for what makes no sense.
    """

    linger: float = 1.0
    max_linger: float = 30.0
    poll_min: float = 2.0
    poll_max: float = 60.0
    poll_fraction: float = 0.05
    lookup: float = 10.0
    abandon: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ConfigurationError(f"Timing.{field.name} must be a number of seconds, 0 or more; got {value!r}")
        if self.poll_fraction > 1:
            raise ConfigurationError(f"Timing.poll_fraction is a share, 1 at most; got {self.poll_fraction!r}")
        if self.linger > self.max_linger:
            raise ConfigurationError("Timing.linger must not be longer than Timing.max_linger")
        if not 0 < self.poll_min <= self.poll_max:
            raise ConfigurationError("Timing.poll_min must be above 0 and not longer than Timing.poll_max")


DEFAULT_TIMING = Timing()


class Canary(NamedTuple):
    """Let the first `requests` of a lane go alone; the others follow unless more than a `share` of these is refused."""

    requests: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Set how often a request may fail before that is final.

    One whose row fails by the provider's fault (408, 429, 5xx, no answer in time, no row at all), or whose batch does,
    is sent until that has happened `max_attempts` times; one whose completion window ends first, until that has
    happened `max_expiries` times. Refusals for lack of room count as nothing; what is refused for good is sent once.
    Raises `ConfigurationError` for what is no whole number of 1 or more.
    """

    max_attempts: int = 3
    max_expiries: int = 5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"Retry.{field.name} must be a whole number, 1 or more; got {value!r}")


DEFAULT_RETRY = Retry()

"""Settings, frozen and checked once."""

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from .errors import ConfigurationError

Mode: TypeAlias = Literal["batch", "live", "emulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Set how long to wait for what, in seconds; `poll_fraction` is a share of a batch's age.

    A lane's batch is packed when no call has come for `linger`, or `max_linger` after the first. A batch is checked
    every `poll_fraction` of its age, between `poll_min` and `poll_max`. After a lost reply to a creation the listings
    are searched for `lookup` before it is repeated.
    """

    linger: float = 1.0
    max_linger: float = 30.0
    poll_min: float = 2.0
    poll_max: float = 60.0
    poll_fraction: float = 0.05
    lookup: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ConfigurationError(f"Timing.{field.name} must be a number of seconds, 0 or more; got {value!r}")
        if self.linger > self.max_linger:
            raise ConfigurationError("Timing.linger must not be longer than Timing.max_linger")
        if not 0 < self.poll_min <= self.poll_max:
            raise ConfigurationError("Timing.poll_min must be above 0 and not longer than Timing.poll_max")

"""How long batches take: a distribution fitted to those that ended and to those that still run.

Those that end first are the quick ones. So what still runs counts as well, as lasting longer than it does so far: the
fit is that of censored data, by expectation and maximisation. All times are in seconds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

WINDOW = 86_400.0  # what is not over after 24 hours ends all the same (contracts A4)
_GRACE = 60.0
_LEAST_TIME = 0.01
_LEAST, _MOST = 0.2, 1.5  # deviations: batches are never all alike
_ROUNDS = 10
_PRECISE = 1.01
_ROOT2, _ROOT2PI = math.sqrt(2), math.sqrt(2 * math.pi)
_LOGISTIC = math.sqrt(3) / math.pi  # the scale of a logistic distribution whose deviation is 1
_NEVER = 1e-300


class Fit(NamedTuple):
    """Describe the logarithm of durations: its mean, its standard deviation, and how far the mean may be off."""

    mean: float
    sd: float
    doubt: float

    @property
    def average(self) -> float:
        """Give the duration to be expected."""
        return math.exp(min(self.mean + self.sd**2 / 2, math.log(WINDOW)))

    def of_one(self, age: float = 0.0, times: int = 1) -> "Ending":
        """Say when a batch of this age ends, or the last of so many."""
        return Ending(self.mean, math.hypot(self.sd, self.doubt), age, times)

    def longest(self, times: float, chance: float) -> float:
        """Give the seconds below which the longest of so many durations lies at this chance."""
        each = chance ** (1 / times)
        return math.exp(self.mean + math.hypot(self.sd, self.doubt) * _LOGISTIC * math.log(each / (1 - each)))


UNKNOWN = Fit(0.0, 0.5, 100.0)


class Seen(NamedTuple):
    """Hold what was seen of so many batches: the logarithm of a duration, which may be off, or of an age."""

    log: float
    doubt: float = 0.0
    running: bool = False
    times: float = 1.0


def fit(seen: Sequence[Seen], prior: Fit = UNKNOWN) -> Fit:
    """Fit durations to what was seen; the deviation of `prior` counts as two observations."""
    ended = [one for one in seen if not one.running]
    running = [one for one in seen if one.running]
    trust, known = prior.doubt**-2, sum(one.times for one in ended)
    count = known + sum(one.times for one in running)
    first = sum(one.times * one.log for one in ended)
    second = sum(one.times * (one.log**2 + one.doubt**2) for one in ended)
    mean, sd = (first / known if known and prior is UNKNOWN else prior.mean), prior.sd
    for _ in range(_ROUNDS if running else 2):
        moments = [(one.times, *_moments(one.log, mean, sd)) for one in running]
        total = first + sum(times * log for times, log, _ in moments)
        mean = (trust * prior.mean + total / sd**2) / (trust + count / sd**2)
        spread = second - 2 * mean * first + known * mean**2
        spread += sum(times * ((log - mean) ** 2 + variance) for times, log, variance in moments)
        sd = min(max(math.sqrt(max(2 * prior.sd**2 + spread, 0.0) / (2 + count)), _LEAST), _MOST)
    return Fit(mean, sd, (trust + known / sd**2) ** -0.5)


def _moments(age: float, mean: float, sd: float) -> tuple[float, float]:
    """Give mean and variance of the logarithm of a duration that is above that of an age."""
    at = min((age - mean) / sd, 8.0)  # beyond it a float has no tail left
    hazard = 2 * math.exp(-(at**2) / 2) / _ROOT2PI / math.erfc(at / _ROOT2)
    return max(mean + sd * hazard, age), sd**2 * max(1 + at * hazard - hazard**2, 0.0)


class Ending(NamedTuple):
    """Say when a batch ends whose age has passed, or the last of so many.

    The tail is that of a log-logistic distribution of this deviation: the longer a batch has taken beyond what is
    usual, the longer it takes on.
    """

    mean: float
    sd: float
    age: float = 0.0
    times: int = 1
    bounded: bool = True  # by the window

    def chance(self, seconds: float) -> float:
        """Give the chance that one of them is over within so many seconds."""
        if self.bounded and self.age + seconds >= max(WINDOW, self.age + _GRACE):
            return 1.0
        left = self._beyond(self.age + seconds) / (self._beyond(self.age) if self.age > 0 else 1.0)
        return max(1 - left, _NEVER)

    def within(self, chance: float) -> float:
        """Give the seconds within which one of them is over at this chance."""
        left = (1 - chance) * (self._beyond(self.age) if self.age > 0 else 1.0)
        seconds = math.exp(self.mean + self.sd * _LOGISTIC * math.log(1 / left - 1)) - self.age
        return max(min(seconds, max(WINDOW - self.age, _GRACE)) if self.bounded else seconds, _LEAST_TIME)

    def _beyond(self, seconds: float) -> float:
        """Give the chance of a longer duration."""
        return 1 / (1 + math.exp(min((math.log(seconds) - self.mean) / (self.sd * _LOGISTIC), 500.0)))


def between(low: float, high: float, deviations: float) -> Ending:
    """Give the ending for which these two lie so many standard deviations from the middle."""
    low, high = math.log(max(low, 0.01)), math.log(max(high, 0.01))
    return Ending((low + high) / 2, max((high - low) / 2 / deviations, 0.05), bounded=False)


def at_the_earliest(endings: Sequence[Ending], chance: float) -> float:
    """Give the seconds within which all are over at this chance, if they are alike: where one is quick, all are."""
    return max(one.within(chance) for one in endings)


def at_the_latest(endings: Sequence[Ending], chance: float) -> float:
    """Give the seconds within which all are over at this chance, if each has a fate of its own; to a hundredth."""
    number, wanted = sum(one.times for one in endings), math.log(chance)
    low, high = at_the_earliest(endings, chance), at_the_earliest(endings, chance ** (1 / number))
    while high > low * _PRECISE:
        middle = math.sqrt(low * high)
        over = sum(one.times * math.log(one.chance(middle)) for one in endings) >= wanted
        low, high = (low, middle) if over else (middle, high)
    return high

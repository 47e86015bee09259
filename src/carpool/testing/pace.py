"""How long the steps of a batch take."""

import math
from dataclasses import dataclass

STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Fix the seconds that each step of a batch takes; 0 is at once.

    The rows run evenly over `running` seconds, or over as long as their prompt tokens take at `tokens_per_second`,
    whichever is longer. A batch that is unfinished `window` seconds after its creation expires.
    Raises ValueError for a negative or meaningless number.
    """

    validating: float = 0.0
    running: float = 0.0
    finalizing: float = 0.0
    cancelling: float = 0.0
    window: float = 86_400.0
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("validating", "running", "finalizing", "cancelling"):
            seconds = getattr(self, name)
            if not 0 <= seconds < math.inf:
                raise ValueError(f"Pace.{name} is a number of seconds, 0 or more, not {seconds}")
        if not self.window > 0:
            raise ValueError(f"Pace.window is a number of seconds above 0, not {self.window}")
        if self.tokens_per_second is not None and not self.tokens_per_second > 0:
            raise ValueError(f"Pace.tokens_per_second is above 0 or None, not {self.tokens_per_second}")

    def schedule(self, rows: int, tokens: int) -> "Schedule":
        """Give the schedule of a batch of so many rows and prompt tokens."""
        paid = tokens / self.tokens_per_second if self.tokens_per_second is not None else 0.0
        return Schedule(rows, max(self.running, paid))


@dataclass(frozen=True)
class Schedule:
    """Say which rows are due; `elapsed` is the seconds since the batch began to run."""

    rows: int
    duration: float

    def due(self, elapsed: float) -> int:
        """Give the number of rows that are due."""
        if elapsed >= self.duration - 1e-9:
            return self.rows
        # The small number is the error of floats: a row due at 3.0 s is due at 2.9999999996 s.
        return int(self.rows * elapsed / self.duration + 1e-6)

    def due_at(self, number: int) -> float:
        """Give the elapsed seconds at which row `number` (from 0) may run, rounded up to a hundredth of the whole.

        Rounded, because a sleep for each of 50,000 rows would cost more than the rows.
        """
        if not self.duration:
            return 0.0
        return math.ceil(STEPS * (number + 1) / self.rows - 1e-9) * self.duration / STEPS

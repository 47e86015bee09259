"""What the programs are put through, and the emulator of each case."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import workload

if TYPE_CHECKING:
    from carpool.testing import Emulator

WARM = 100  # calls before the measure
TURNS = 10  # times the limit that the work of the limited case is
RUNNING = 4.0  # seconds that a batch takes there: 20 looks, as in `benchmarks.limited`


@dataclass(frozen=True, kw_only=True)
class Case:
    """Describe a case: `burst` calls come at once, `pause` seconds after those before, and wait for `patience`."""

    name: str
    what: str
    calls: int
    burst: int = 10**9
    pause: float = 0.0
    patience: float = 90.0
    limited: bool = False
    faulty: bool = False

    def fits(self, calls: int) -> int:
        """Give how many calls surely fit below the limit at once, 0 where there is none."""
        return max(1, calls // TURNS * 9 // 10) if self.limited else 0

    def work(self, url: str, calls: int) -> tuple[Any, ...]:
        """Give the fields of a program's work."""
        return (url, 0, calls, min(self.burst, calls), self.pause, self.fits(calls), self.patience)

    def warm_up(self, url: str) -> tuple[Any, ...]:
        """Give those of its warm-up, which knows no limit and no failure."""
        return (url, 0, WARM, WARM, 0.0, 0, 30.0)

    def emulator(self, calls: int, seed: int) -> "Emulator":
        """Make the server."""
        from carpool.testing import Emulator

        settings: dict[str, Any] = {"answer": workload.answer, "seed": seed}
        if self.limited:
            settings |= _limit(calls)
        if self.faulty:
            settings |= _faults()
        return Emulator(**settings)


CASES = (
    Case(name="no limits", what="all calls at once, every batch done at once", calls=50_000, patience=200.0),
    Case(
        name="a limit",
        what=f"all calls at once, {TURNS} times the enqueued-token limit, a batch takes {RUNNING:g} s",
        calls=2_000,
        patience=120.0,
        limited=True,
    ),
    Case(
        name="faults",
        what="100 calls each half second before the emulator's fault mix, a batch takes 1 s",
        calls=2_000,
        burst=100,
        pause=0.5,
        faulty=True,
    ),
)


def _limit(calls: int) -> dict[str, Any]:
    from carpool.testing import Pace

    from ..limited_server import count

    tokens = sum(count(workload.payload(number)) for number in range(calls))
    return {
        "pace": Pace(validating=0.05, running=RUNNING),
        "enqueued_tokens": {"*": math.ceil(tokens / TURNS)},
        "count": count,
    }


def _faults() -> dict[str, Any]:
    """Give the mix of `benchmarks.soak`: nothing that is billed gets lost, so that whoever pays twice need not have.

    But for its lags, by which a new file or batch is not found at once: they leave no answer to whoever does not wait.
    """
    from carpool.testing import Faults, Pace, Troubles

    return {
        "pace": Pace(validating=0.05, running=1.0, finalizing=0.025),
        "faults": Faults(
            lost_reply=0.005,
            lost_create=0.03,
            lost_upload=0.02,
            truncated=0.02,
            cut=0.02,
            server_error=0.01,
            too_many=0.01,
            reset=0.01,
        ),
        "troubles": Troubles(
            failing={500: 0.002, 429: 0.001},
            timed_out=0.001,
            doubled=0.001,
            foreign=0.001,
            expiring=0.03,
            cancelled=0.02,
            failed_validation=0.02,
            silent_rest=0.5,
        ),
    }

"""What a soak does: all of it follows from its length, its rate and its seed."""

import json
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, NamedTuple, Self

import carpool
from carpool.testing import Emulator, Faults, Pace, Troubles

from .. import workload

STEADY, RESTLESS = "steady", "restless"
NAMES = (STEADY, RESTLESS)
_FULL = 120.0  # seconds, from which on a soak is long enough to restart the steady service too


class Restart(NamedTuple):
    """Name a service that is to be stopped by a signal, and started again, so many seconds after the beginning."""

    at: float
    name: str
    signal: signal.Signals


@dataclass(frozen=True)
class Plan:
    """Fix how long requests come, in minutes, how many a second, and the seed of everything drawn."""

    minutes: float = 10.0
    rate: float = 50.0
    seed: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `text` gives."""
        return cls(**json.loads(text))

    @property
    def text(self) -> str:
        """Write it down for another process."""
        return json.dumps(asdict(self))

    @property
    def seconds(self) -> float:
        """Give how long requests come."""
        return 60 * self.minutes

    @property
    def calls(self) -> int:
        """Give how many requests come."""
        return round(self.seconds * self.rate)

    @property
    def running(self) -> float:
        """Give the seconds that a batch runs."""
        return min(8.0, self.seconds / 15)

    @property
    def grace(self) -> float:
        """Give the seconds that a service has to leave when it is told to: less than a batch takes."""
        return self.running / 2

    @property
    def limit(self) -> int:
        """Give the enqueued tokens allowed: somewhat more than are enqueued, so that the queue matters."""
        return round(self.rate * self.tokens * (self.running + 1.5) * 1.3)

    @property
    def tokens(self) -> float:
        """Give the tokens of a request, in the mean."""
        numbers = range(min(self.calls, 1_000))
        return sum(tokens_of(request(self.body(number))) for number in numbers) / max(1, len(numbers))

    @property
    def settled(self) -> float:
        """Give when nothing may grow any more: after 2 minutes of 10."""
        return self.seconds / 5

    @property
    def after(self) -> float:
        """Give the seconds after the last request in which the last answer must come."""
        return 30.0 + 6 * self.running

    @property
    def timing(self) -> carpool.Timing:
        """Give the timing of the pools: a day's, shortened, but for the lingering.

        An hour's creations are no more than they always are: two processes keep to them with a batch in four seconds
        each, from the beginning to the end.
        """
        turn = self.running / 4
        return carpool.Timing(linger=turn, max_linger=2 * turn, poll_min=turn / 4, poll_max=turn, lookup=2.0)

    def restarts(self) -> Iterator[Restart]:
        """Stop the restless service all along, by turns killed and told to leave; the steady one early on only.

        It then has time until `settled` to meet what it will meet: all that is asked while the other one is away.
        """
        signals = signal.SIGKILL, signal.SIGTERM
        if self.seconds >= _FULL:
            early = zip((self.seconds / 40, self.seconds / 20), signals, strict=True)
            yield from (Restart(at, STEADY, by) for at, by in early)
        pause = min(20.0, self.seconds / 4)
        for turn in count():
            at = (turn + 0.75) * pause
            if at > self.seconds - pause / 2:
                return
            yield Restart(at, RESTLESS, signals[turn % 2])

    def body(self, number: int) -> str:
        """Write what a client asks: no two ask the same."""
        words = 60 + (number * 37 + self.seed) % 80
        return f"Soak {self.seed}, request {number}. " + "word " * words

    def emulator(self) -> Emulator:
        """Make the provider, whose faults strike requests, rows and batches; it loses no answer that it bills."""
        return Emulator(
            pace=Pace(validating=self.running / 20, running=self.running, finalizing=self.running / 40),
            enqueued_tokens={"*": self.limit},
            count=tokens_of,
            listing_lag=0.5,
            creation_lag=0.2,
            file_lag=0.01,
            faults=Faults(
                lost_reply=0.005,
                lost_create=0.03,
                lost_upload=0.02,
                truncated=0.02,
                cut=0.02,
                server_error=0.01,
                too_many=0.01,
                reset=0.01,
            ),
            troubles=Troubles(
                failing={500: 0.002, 429: 0.001},
                timed_out=0.001,
                doubled=0.001,
                foreign=0.001,
                expiring=0.03,
                cancelled=0.02,
                failed_validation=0.02,
                silent_rest=0.5,
            ),
            seed=self.seed,
        )


def request(text: str) -> dict[str, Any]:
    """Make a body of a client's text."""
    return {"model": workload.MODEL, "messages": [{"role": "user", "content": text}]}


def tokens_of(body: dict[str, Any]) -> int:
    """Count prompt tokens, as the provider and the pools of a soak do: exact, and for next to nothing."""
    return 7 + len(body["messages"][0]["content"]) // 4

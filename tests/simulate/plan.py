"""What happens in a simulated world: all of it follows from a seed, and can be written down, read and made smaller."""

import random
from collections.abc import Iterator
from typing import Literal, Self

import msgspec

Backend = Literal["asyncio", "trio"]
How = Literal["kill", "leave"]
What = Literal["batches", "errors"]


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Stop a service `at` seconds from the beginning, and start it again so many seconds after its end."""

    at: float
    service: int
    how: How
    pause: float


class Full(msgspec.Struct, frozen=True, kw_only=True):
    """Let the disk be full `at` seconds from the beginning, for so many seconds."""

    at: float
    seconds: float


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    """Let nobody look from `at` seconds from the beginning, for so many seconds: the key is refused.

    At batches, or at their files of errors.
    """

    at: float
    seconds: float
    what: What = "batches"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Fix a world; times are in seconds, chances from 0 to 1.

    Calls come at a `rate` a second, some of them `bad`, in `lanes` models; `keyed` ones bear a key and are asked for
    again at another of the services, after `patience` at the latest; the share `twins` of these is asked for by two
    clients at once, the share `submitted` is submitted, the others wait for `timeout`, 0 is as long as it takes, and
    may `escalate`. Of the queue's limit `use` is used in the mean: where it is more than 1 the calls pile up. The pools
    may use the share `told` of it, or with 0 have to learn it; at `lowered`, unless that is 0, it becomes less. A batch
    runs for `running`; so many `creations` are allowed in an hour, and a `stale` listing does not tell what becomes of
    them; batches, or files, are `locked` at times. A slow step of the disk, which is `full` at times, takes up to
    `disk`, one of the network up to `net`; requests that change nothing are sent `twice`. `faults`, `troubles` and
    `lags` are the emulator's, `failing` rows are by status.
    """

    seed: int
    backend: Backend
    services: int
    keyed: bool
    calls: int
    rate: float
    bad: float
    lanes: int
    told: float
    use: float
    lowered: float = 0.0
    timeout: float = 0.0
    escalate: bool = False
    full: tuple[Full, ...] = ()
    locked: tuple[Locked, ...] = ()
    submitted: float = 0.0
    twins: float = 0.0
    stale: bool = False
    running: float
    creations: int
    disk: float
    net: float
    twice: float
    patience: float
    stops: tuple[Stop, ...]
    faults: dict[str, float]
    troubles: dict[str, float]
    failing: dict[int, float]
    lags: dict[str, float]

    @property
    def text(self) -> str:
        """Write it down, to be run again."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `text` gives."""
        return msgspec.json.decode(text, type=cls)

    @property
    def seconds(self) -> float:
        """Give how long requests come, in the mean."""
        return self.calls / self.rate

    @property
    def longest(self) -> float:
        """Give after how long all must have ended: each may need a batch of its own, and these are rationed.

        A tenth of an hour's may be had at once, the rest drips in.
        """
        locked = sum(lock.seconds + _LOOKS[lock.what] for lock in self.locked)
        rationed = max(0, self.calls - self.creations / 10) * 4_000 / self.creations
        return self.seconds + locked + rationed + PATIENCE


PATIENCE = 600.0  # seconds after the last request in which the last answer must have come
# Seconds that it may take until what could not be looked at is looked at again, and some more.
_LOOKS: dict[What, float] = {"batches": 600.0, "errors": 4_200.0}
_RARELY = 0.06
_FAULTS = {
    "lost_reply": 0.01,
    "lost_create": 0.05,
    "lost_upload": 0.03,
    "truncated": 0.04,
    "cut": 0.04,
    "server_error": 0.02,
    "too_many": 0.02,
    "reset": 0.02,
}
_TROUBLES = {
    "timed_out": 0.004,
    "missing": 0.002,
    "doubled": 0.004,
    "foreign": 0.004,
    "torn": 0.002,
    "expiring": 0.05,
    "cancelled": 0.03,
    "failed_validation": 0.03,
}
_FAILING = {500: 0.004, 429: 0.002, 0: 0.001}
_LAGS = {"listing_lag": 0.5, "creation_lag": 0.2, "file_lag": 0.05}
_HARSH = (0.0, 1.0, 1.0, 3.0)


def draw(seed: int, *, small: bool = False) -> Plan:
    """Draw a world: one service whose work goes on in the next, or several on one folder at a time."""
    chance = random.Random(f"plan/{seed}")
    running = chance.choice((3.0, 8.0, 8.0))
    timeout = running * chance.choice((1.0, 1.5, 4.0)) if chance.random() < 0.3 else 0.0
    escalate = timeout > 0 and chance.random() < 0.7
    services = chance.choice((1, 1, 2) if escalate else (1, 2, 2, 2, 3))
    rate, calls = chance.choice((4.0, 8.0, 15.0)), chance.choice((15, 30, 45) if small else (60, 120, 250))
    told = chance.choice((0.0, 0.0, 1.0, 0.7, 0.7))
    faults, troubles = chance.choice(_HARSH), chance.choice(_HARSH)
    return Plan(
        seed=seed,
        backend=chance.choice(("asyncio", "trio")),
        services=services,
        keyed=services > 1 or chance.random() < 0.5,
        calls=calls,
        rate=rate,
        bad=chance.choice((0.0, 0.05)),
        lanes=chance.choice((1, 1, 2)),
        told=told,
        use=chance.choice((0.4, 0.65, 0.8, 0.9, 1.5, 2.5)),
        running=running,
        creations=chance.choice((2_000, 2_000, 600)),
        disk=chance.choice((0.0, 0.0, 0.1, 1.0, 2.0)),
        net=chance.choice((0.0, 0.01, 0.1, 0.5)),
        twice=chance.choice((0.0, 0.05)),
        patience=chance.choice((90.0, 90.0, 30.0)),
        stops=tuple(_stops(chance, services, calls / rate + running, running)),
        faults={name: rate * faults for name, rate in _FAULTS.items()},
        troubles={name: rate * troubles for name, rate in _TROUBLES.items()},
        failing={status: rate * troubles for status, rate in _FAILING.items()},
        lags=_LAGS,
        lowered=round(calls / rate * chance.uniform(0.2, 0.8), 3) if chance.random() < (0.4 if told else 0.15) else 0.0,
        timeout=timeout,
        escalate=escalate,
        full=tuple(_full(chance, calls / rate)) if chance.random() < 0.15 else (),
        submitted=0.5 if chance.random() < 0.25 else 0.0,
        twins=0.3 if services > 1 and chance.random() < 0.5 else 0.0,
        stale=chance.random() < 0.1,
        locked=tuple(_locked(random.Random(f"locked/{seed}"), calls / rate)),
    )


def _full(chance: random.Random, until: float) -> Iterator[Full]:
    """Draw when the disk is full."""
    for _ in range(chance.choice((1, 2))):
        yield Full(at=round(chance.uniform(0.1, 1.0) * until, 3), seconds=chance.choice((0.05, 1.0, 10.0)))


def _locked(chance: random.Random, until: float) -> Iterator[Locked]:
    """Draw when nobody may look: for longer than callers are left without word, which takes long to run."""
    drawn = chance.random()
    if drawn < _RARELY:
        yield Locked(at=round(chance.uniform(0.1, 1.0) * until, 3), seconds=1_000.0)
    elif drawn < 1.5 * _RARELY:
        yield Locked(at=round(chance.uniform(0.1, 1.0) * until, 3), seconds=1_000.0, what="errors")


def _stops(chance: random.Random, services: int, until: float, running: float) -> list[Stop]:
    """Draw when services stop: mostly one at a time, the first less often than the others."""
    every = chance.choice((0.4, 1.0, 2.0, 4.0)) * running
    stops: list[Stop] = []
    at = every * chance.uniform(0.2, 1.0)
    while at < until:
        all_at_once = chance.random() < 0.15
        for service in range(services) if all_at_once else (min(services - 1, chance.randrange(services + 1)),):
            how: How = "kill" if chance.random() < 0.6 else "leave"
            pause = chance.choice((0.1, 0.5, 2.0)) * chance.random()
            stops.append(Stop(at=round(at, 3), service=service, how=how, pause=round(pause, 3)))
        at += every * chance.uniform(0.4, 1.6)
    return stops

"""Histories of a pool, simulated: batches of random durations, in queues with and without limits."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from carpool.engine.batch import BatchStats
from carpool.engine.lane import LaneStats
from carpool.models import Lane
from carpool.stats import Stats

START = 1e9
TOKENS = 100  # a row

Durations: TypeAlias = Callable[[random.Random, float], float]  # of a batch that is created so long after the start
Counting: TypeAlias = Callable[[float], float | None]  # the share of rows that is counted, by the share of the duration


def lognormal(median: float, sd: float) -> Durations:
    return lambda chance, _: min(median * math.exp(chance.gauss(0, sd)), 86_400.0)


def drifting(median: float, sd: float, factor: float, over: float) -> Durations:
    """Become slower or faster by a factor, over so many seconds."""
    return lambda chance, at: min(median * factor ** min(at / over, 1) * math.exp(chance.gauss(0, sd)), 86_400.0)


def mixed(fast: float, slow: float, share: float) -> Durations:
    """Let some batches take far longer."""
    return lambda chance, _: (slow if chance.random() < share else fast) * math.exp(chance.gauss(0, 0.3))


def steady(share: float) -> float | None:
    return share


def late(share: float) -> float | None:
    return max(0.0, (share - 0.6) / 0.4)


def stalling(share: float) -> float | None:
    return min(0.97, share / 0.7)


def silent(_share: float) -> float | None:
    return None


@dataclass
class _Remote:
    number: int
    rows: int
    began: float
    lasts: float
    seen: float
    done: float | None = None

    def check(self, now: float, counting: Counting) -> bool:
        """Look at it as the client does: every twentieth of its age, between 2 and 60 seconds; tells of its end."""
        if now - self.seen < min(max(0.05 * (now - self.began), 2.0), 60.0):
            return False
        self.seen = now
        self.done = counting(min((now - self.began) / self.lasts, 1.0))
        return now >= self.began + self.lasts


@dataclass
class LaneWorld:
    """Give a lane rows to answer, in batches of `size`, `abreast` of which find room; None is no limit."""

    rows: int
    durations: Durations
    size: int = 10_000
    abreast: int | None = None
    counting: Counting = silent
    model: str = "gpt-5-mini"
    answered: int = 0
    open: list[_Remote] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = self.rows
        self.lane = Lane("/v1/chat/completions", self.model)

    def step(self, now: float, chance: random.Random) -> None:
        for remote in [one for one in self.open if one.check(now, self.counting)]:
            self.open.remove(remote)
            self.answered += remote.rows
        while self.waiting and (self.abreast is None or len(self.open) < self.abreast):
            rows = min(self.size, self.waiting)
            self.waiting -= rows
            lasts = max(self.durations(chance, now - START), 5.0)
            self.open.append(_Remote(self.waiting, rows, now, lasts, now))

    def stats(self) -> LaneStats:
        rows = sum(remote.rows for remote in self.open)
        limit = None if self.abreast is None else round(self.abreast * self.size * TOKENS / 0.95)
        enqueued = rows * TOKENS
        return LaneStats(
            self.lane, self.waiting, rows, len(self.open), limit, enqueued=enqueued, answered=self.answered
        )

    def batches(self) -> Iterator[BatchStats]:
        for one in self.open:
            done = None if one.done is None else round(one.done * one.rows)
            name = f"{self.model}-{one.number}"
            tokens = one.rows * TOKENS
            yield BatchStats(
                name, name, self.lane, "running", "in_progress", one.rows, one.rows, tokens, one.began, done
            )


class Look(NamedTuple):
    """Say how things stand at a time."""

    at: float
    stats: Stats


def history(lanes: list[LaneWorld], seed: int, step: float) -> Iterator[Look]:
    """Give what is seen every so many seconds until all is answered."""
    chance = random.Random(seed)
    now = START
    while True:
        for lane in lanes:
            lane.step(now, chance)
        rows, answered = sum(lane.rows for lane in lanes), sum(lane.answered for lane in lanes)
        open_ = tuple(batch for lane in lanes for batch in lane.batches())
        yield Look(now, Stats(rows, answered, 0, 0, tuple(lane.stats() for lane in lanes), open=open_))
        if not open_ and not any(lane.waiting for lane in lanes):
            return
        now += step

"""What is kept of a program in a case, and the bars that its costs are held to."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..records import Bar
from .cases import CASES

BARS = {"autobatcher": 3.0, "batchling": 10.0}  # times carpool's CPU a call that these take, at least
ENOUGH = 20_000  # calls of a run from which on the bars are judged: with fewer, what is paid once decides


@dataclass(frozen=True, kw_only=True)
class Record:
    """Say what a program took in a case.

    `calls`, `answered`, `billed` answers, of them those billed `twice` and those that the provider `lost` are of all
    its `runs` together; CPU in microseconds a call, wall time in seconds, peak memory in bytes and HTTP calls are
    medians of its runs, and `cpu_runs` the CPU of each. A program that had to be stopped has none but the HTTP calls.
    `failures` counts what callers got in place of their answer.
    """

    program: str
    version: str
    case: str
    runs: int
    calls: int
    answered: int
    billed: int
    twice: int
    lost: int
    cpu_us: float | None
    cpu_runs: tuple[float, ...]
    wall_s: float | None
    peak_bytes: float | None
    http_calls: float
    failures: dict[str, int]
    note: str
    bars: tuple[Bar, ...] = ()


def ratios(records: Sequence[Record]) -> dict[str, float]:
    """Give how many times carpool's CPU a call others took without limits, where all was answered.

    It is the median of the ratios of each turn.
    """
    costs = {
        record.program: record.cpu_runs
        for record in records
        if record.case == CASES[0].name and record.answered == record.calls
    }
    ours = costs.pop("carpool", ())
    return {name: _ratio(theirs, ours) for name, theirs in costs.items() if ours}


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(theirs, ours, strict=True))


def judged(records: Sequence[Record]) -> list[Record]:
    """Give the records with the bars that they can be judged by."""
    seen = ratios([record for record in records if record.calls >= ENOUGH * record.runs])
    bars = {
        (name, CASES[0].name): (Bar(f"CPU of {name}, of carpool's", seen[name], least=least),)
        for name, least in BARS.items()
        if name in seen
    }
    return [replace(record, bars=bars.get((record.program, record.case), ())) for record in records]

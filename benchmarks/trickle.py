"""When calls that come one by one are packed: rules beside each other, then a week of it with the whole engine.

    python -m benchmarks.trickle [--days 7]

A rule is told of each call and says for how long to wait for the next, which `Timing.max_linger` bounds. Times are
virtual: a provider in memory takes two minutes for a batch, and all else takes a moment.
"""

import argparse
import math
import random
import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush, merge
from itertools import count, pairwise
from typing import NamedTuple, Protocol

from carpool.config import Timing
from carpool.engine.arrivals import Arrivals
from carpool.engine.commands import Check, Collect, Command, Create, Upload
from carpool.engine.commands import Record as RecordFact
from carpool.engine.engine import Engine
from carpool.engine.events import Accepted, Answered, Checked, Collected, Created, Event, Tick, Uploaded
from carpool.models import BatchStatus, FileLimits, Lane, PackedBatch, Row, Run

from .records import Bar, Record, markdown, show

TIMING = Timing(poll_min=30.0)  # looking more often would be most of the work
FILES = FileLimits(requests=50_000, bytes=190_000_000, inputs=50_000, creations_per_hour=2_000)
HOUR, DAY = 3_600.0, 86_400.0
LANE = Lane("/v1/chat/completions", "gpt-5-mini")


class Figures(NamedTuple):
    """Count the batches an hour, and say how many seconds calls waited to be packed."""

    batches: float
    median: float
    worst: float


def figures(packed_at: Sequence[float], waits: Sequence[float], seconds: float) -> Figures:
    """Sum up what was packed in so many seconds."""
    return Figures(len(packed_at) / (seconds / HOUR), statistics.median(waits), max(waits))


# --- how calls come


RATES = (0.01, 0.05, 0.2, 1, 3, 10, 100)


def poisson(rate: float, seconds: float, seed: int = 1) -> Iterator[float]:
    """Give the times of calls that come by chance, so many a second."""
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


def bursts(calls: int, every: float, within: float, seconds: float) -> Iterator[float]:
    """Give the times of calls that come many together, again and again."""
    chance = random.Random(2)
    for burst in range(math.ceil(seconds / every)):
        yield from sorted(burst * every + chance.random() * within for _ in range(calls))


def rising(seconds: float) -> Iterator[float]:
    """Give the times of calls that come a thousand times as often in the end, 10 a second."""
    chance = random.Random(3)
    at = 0.0
    while at < seconds:
        yield at
        at += chance.expovariate(0.01 * 1_000 ** (at / seconds))


def now_and_then(seconds: float) -> Iterator[float]:
    """Give the times of calls that come for ten minutes of each hour, one in two seconds."""
    for hour in range(int(seconds / HOUR)):
        yield from (hour * HOUR + at for at in poisson(0.5, 600.0, hour))


PATTERNS: dict[str, tuple[float, Callable[[float], Iterable[float]]]] = {
    **{f"{rate:g} a second": (DAY if rate < 3 else HOUR, partial(poisson, rate)) for rate in RATES},
    "10,000 at once": (HOUR, lambda span: bursts(10_000, span, 0.5, span)),
    "20 within 2 s, once an hour": (DAY, lambda span: bursts(20, HOUR, 2.0, span)),
    "100 each minute": (DAY, lambda span: bursts(100, 60.0, 0.3, span)),
    "rising from 0.01 to 10": (8 * HOUR, rising),
    "10 minutes an hour": (DAY, now_and_then),
}


# --- rules


class Rule(Protocol):
    """Say when what waits is packed."""

    def came(self, now: float) -> None:
        """Hear of a call."""
        ...

    def patience(self) -> float:
        """Give for how many seconds to wait for the next."""
        ...

    def answered(self) -> None:
        """Hear of an answer."""
        ...


class Linger:
    """Wait for the same time always: what was done before there was a rule."""

    def __init__(self, seconds: float = TIMING.linger) -> None:
        self._seconds = seconds

    def came(self, now: float) -> None:
        """Take no note."""

    def patience(self) -> float:
        """Give the time."""
        return self._seconds

    def answered(self) -> None:
        """Take no note."""


class Gaps(Linger):
    """Wait for three mean gaps of the last calls, a gap being what lies between any two."""

    def __init__(self) -> None:
        super().__init__()
        self._last_at = -math.inf
        self._mean = 2 * TIMING.max_linger

    def came(self, now: float) -> None:
        """Take a quarter of the newest gap into the mean."""
        self._mean += (min(now - self._last_at, 2 * TIMING.max_linger) - self._mean) / 4
        self._last_at = now

    def patience(self) -> float:
        """Give three mean gaps, unless the next call comes too late in any case."""
        return TIMING.linger if self._mean > TIMING.max_linger else max(TIMING.linger, 3 * self._mean)


class Pauses:
    """Wait as the engine does."""

    def __init__(self) -> None:
        self._arrivals = Arrivals(TIMING)
        self._row = 0
        self._at = 0.0

    def came(self, now: float) -> None:
        """Hear of a call."""
        self._row, self._at = self._row + 1, now
        self._arrivals.clear()
        self._arrivals.came(self._row, now)

    def patience(self) -> float:
        """Give the time."""
        return self._arrivals.due(self._row) - self._at

    def answered(self) -> None:
        """Hear of an answer."""
        self._arrivals.freed()


RULES: dict[str, Callable[[], Rule]] = {
    "linger alone": Linger,
    "max_linger always": lambda: Linger(TIMING.max_linger),
    "3 mean gaps": Gaps,
    "3 mean pauses (carpool)": Pauses,
}


def pack(rule: Rule, calls: Iterable[float]) -> tuple[list[float], list[float]]:
    """Let a rule pack calls; gives when it did, and how long each call waited."""
    packed_at: list[float] = []
    waits: list[float] = []
    waiting: list[float] = []
    due = math.inf
    for at in merge(calls, [math.inf]):
        if due < at:
            packed_at.append(due)
            waits += [due - came for came in waiting]
            waiting = []
        if at < math.inf:
            rule.came(at)
            waiting.append(at)
            due = min(at + rule.patience(), waiting[0] + TIMING.max_linger)
    return packed_at, waits


def ask_in_turn(rule: Rule, takes: float, seconds: float) -> tuple[list[float], list[float]]:
    """Let one caller call again when it has its answer, which comes so many seconds after the packing."""
    packed_at: list[float] = []
    waits: list[float] = []
    at = 0.0
    while at < seconds:
        rule.came(at)
        waits.append(min(rule.patience(), TIMING.max_linger))
        packed_at.append(at + waits[-1])
        at = packed_at[-1] + takes
        rule.answered()
    return packed_at, waits


def compare() -> dict[str, dict[str, Figures]]:
    """Give the figures of each rule for each way in which calls come."""
    table = {
        name: {rule: figures(*pack(make(), calls(span)), span) for rule, make in RULES.items()}
        for name, (span, calls) in PATTERNS.items()
    }
    table["one caller, answers in 5 s"] = {
        rule: figures(*ask_in_turn(make(), 5.0, HOUR), HOUR) for rule, make in RULES.items()
    }
    return table


# --- the whole engine


class Shell:
    """Stand between an engine and a provider that has room for everything; `waits` are those of all calls."""

    def __init__(self, takes: float = 120.0, files: FileLimits = FILES) -> None:
        self.engine = Engine("p", TIMING, files)
        self.now = 0.0
        self.packed_at: list[float] = []
        self.created_at: list[float] = []
        self.waits = array("d")
        self.lanes = array("H")  # of the calls in `waits`
        self._takes = takes
        self._came = array("d")
        self._lane_numbers: dict[Lane, int] = {}
        self._batches: dict[str, tuple[PackedBatch, float]] = {}  # and when they were created
        self._coming: list[tuple[float, int, Event]] = []
        self._number = count()

    def run(self, calls: Iterable[tuple[float, Lane]]) -> None:
        """Accept calls at their times, and go on until all are answered."""
        for at, lane in calls:
            self._until(at)
            self.now = at
            row = len(self._came)
            self._came.append(at)
            self._tell(Accepted(lane, Run(row, 0, array("Q", (row,)), array("I", (1_000,)))))
        self._until(math.inf)
        assert len(self.waits) == len(self._came), "some were never packed"

    def _until(self, end: float) -> None:
        while (at := min(self.engine.deadline(), self._coming[0][0] if self._coming else math.inf)) < end:
            self.now = max(self.now, at)
            self._tell(heappop(self._coming)[2] if self._coming and self._coming[0][0] <= at else Tick())

    def _tell(self, event: Event) -> None:
        events = [event]
        while events:
            for command in self.engine.handle(events.pop(0), self.now):
                if isinstance(command, RecordFact):
                    events.append(command.fact)
                else:
                    self._perform(command)

    def _later(self, seconds: float, event: Event) -> None:
        heappush(self._coming, (self.now + seconds, next(self._number), event))

    def _perform(self, command: Command) -> None:
        match command:
            case Upload(batch=batch):
                self._note(batch)
                self._later(0.5, Uploaded(batch.key, f"file-{batch.key}"))
            case Create(batch=batch):
                self.created_at.append(self.now)
                self._batches[batch.key] = batch, self.now
                self._later(0.2, Created(batch.key, self._status(batch.key)))
            case Check(remote_ids=remote_ids):
                self._later(0.2, Checked(remote_ids, [*map(self._status, remote_ids)]))
            case Collect(key=key):
                rows = [row for run in self._batches.pop(key)[0].runs for row in run.rows]
                self._later(0.5, Answered(key, [Row(f"p-{row}", 200, "", b"{}") for row in rows]))
                self._later(0.5, Collected(key))

    def _status(self, key: str) -> BatchStatus:
        if self.now - self._batches[key][1] < self._takes:
            return BatchStatus(key, key, "in_progress")
        return BatchStatus(key, key, "completed", output_file_id="out")

    def _note(self, batch: PackedBatch) -> None:
        self.packed_at.append(self.now)
        lane = self._lane_numbers.setdefault(batch.lane, len(self._lane_numbers))
        for run in batch.runs:
            self.waits.extend(self.now - self._came[row] for row in run.rows)
            self.lanes.extend([lane] * len(run))


def trickle(days: float, rate: float = 0.2) -> Shell:
    """Let calls trickle into one lane for so many days."""
    shell = Shell()
    shell.run((at, LANE) for at in poisson(rate, days * DAY))
    return shell


def many_lanes(lanes: int, seconds: float, per_hour: int, rate: float = 0.2) -> Shell:
    """Let calls trickle into many lanes at once, whose batches are more than may be created in an hour."""
    shell = Shell(files=FileLimits(FILES.requests, FILES.bytes, FILES.inputs, per_hour))
    chance = random.Random(4)
    names = [Lane(LANE.endpoint, f"model-{number}") for number in range(lanes)]
    shell.run((at, chance.choice(names)) for at in poisson(lanes * rate, seconds))
    return shell


def busiest_hour(times: Sequence[float]) -> int:
    """Count the batches created in the hour that saw most."""
    first, most = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - HOUR:
            first += 1
        most = max(most, last - first + 1)
    return most


def bars(shell: Shell, seconds: float) -> tuple[Bar, ...]:
    """Hold a trickle of 0.2 calls a second to its bars: all within the settings, and few batches."""
    found = figures(shell.packed_at, shell.waits, seconds)
    apart = min(after - before for before, after in pairwise(shell.packed_at))
    return (
        Bar("longest wait, s", found.worst, most=TIMING.max_linger + 1e-6),
        Bar("seconds between batches", apart, least=TIMING.linger),
        Bar("batches an hour", found.batches, most=125),
        Bar("median wait, s", found.median, most=20),
    )


def results(*, days: float = 7.0, quick: bool = False) -> list[Record]:
    """Play the rules, then the whole engine: one lane for some days, and 200 for an hour."""
    days = min(days, 1.0) if quick else days
    records = [Record(f"{name}: {rule}", one._asdict()) for name, row in compare().items() for rule, one in row.items()]
    shell = trickle(days)
    week = figures(shell.packed_at, shell.waits, days * DAY)
    name = f"the engine: {days:g} days at 0.2 a second"
    records.append(Record(name, week._asdict(), bars(shell, days * DAY)))
    crowd = many_lanes(200, HOUR, 2_000)
    most = busiest_hour(crowd.created_at)
    many = Figures(most, statistics.median(crowd.waits), max(crowd.waits))
    bar = Bar("creations in the busiest hour", most, most=2_000)
    name = "the engine: 200 models at 0.2 a second each, an hour"
    return [*records, Record(name, many._asdict(), (bar,))]


def table(records: Sequence[Record]) -> str:
    """Draw the table of the rules, and beside it what the engine did."""
    cells: dict[str, list[str]] = {}
    for record in records:
        one = (record.number("batches"), record.number("median"), record.number("worst"))
        cells.setdefault(record.case.split(": ")[0], []).append("{:.0f} / {:.1f} / {:.1f}".format(*one))
    engine = cells.pop("the engine", [])
    text = "Batches an hour / median / worst wait to be packed, in seconds\n\n"
    text += markdown(("calls", *RULES), [(name, *row) for name, row in cells.items()])
    names = [record.case.split(": ")[1] for record in records[-len(engine) :]]
    return text + "\n\n" + markdown(("the whole engine", ""), zip(names, engine, strict=True))


def main() -> None:
    """Print the tables; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=7.0)
    show(results(days=parser.parse_args().days), table)


if __name__ == "__main__":
    main()

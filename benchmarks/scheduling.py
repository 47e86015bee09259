"""How full a queue with a limit is kept, on virtual time, beside an oracle and two simple policies.

    python -m benchmarks.scheduling [--seeds 5] [--picture FOLDER]

The provider is in memory: it validates, counts tokens, refuses what does not fit, takes its time with each batch and
may release tokens late. The oracle is given the same room and told everything at once: it knows the limit, what others
have queued and when a batch ends; it fills the last token, uploads in no time, and of several sizes of batches it
takes the best.
"""

import argparse
import math
import random
import statistics
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from carpool.config import Timing
from carpool.engine.commands import Check, Collect, Command, Create, Settle, Upload
from carpool.engine.commands import Count as CountTokens
from carpool.engine.commands import Record as RecordFact
from carpool.engine.engine import Engine
from carpool.engine.events import Accepted, Answered, Checked, Collected, Counted, Created, Event, Tick, Uploaded
from carpool.models import BatchStatus, FileLimits, Lane, NoRoom, PackedBatch, Row, Run

from . import charts
from .records import Bar, Record, markdown, show

LANE = Lane("/v1/chat/completions", "gpt-5-mini")
TIMING = Timing()
FILES = FileLimits(requests=50_000, bytes=190_000_000, inputs=50_000, creations_per_hour=2_000)
BYTES_A_TOKEN = 4.8  # English (measured)
UPLOAD, COUNTING = 20e6, 13.6e6  # bytes a second


@dataclass(frozen=True)
class Scenario:
    """Describe an account and its work; times in seconds, tokens as the provider counts them.

    A batch takes `base`, times a draw of which `tail` is the spread, and its tokens at `rate` a second. `others` have
    queued a share of the limit from time to time. The provider counts `counts` tokens for one of ours.
    """

    name: str
    limit: int = 2_000_000
    rows: int = 20_000
    mean: int = 1_000
    base: float = 600.0
    tail: float = 0.1
    rate: float = 10_000.0
    validation: float = 5.0
    late: float = 0.0
    counts: float = 1.0
    reports: bool = True  # whether finished batches say what they cost
    others: tuple[tuple[float, float, float], ...] = ()  # from, to, share of the limit

    def others_at(self, at: float) -> float:
        """Give the tokens that others have queued."""
        return sum(share * self.limit for begin, end, share in self.others if begin <= at < end)


SCENARIOS = (
    Scenario("quiet"),
    Scenario("heavy tail", tail=0.8),
    Scenario("late releases", late=60.0),
    Scenario("others come and go", others=((1_500.0, 3_500.0, 0.5), (5_000.0, 6_000.0, 0.3))),
    Scenario("others come and go, untold", others=((1_500.0, 3_500.0, 0.5), (5_000.0, 6_000.0, 0.3)), reports=False),
    Scenario("others are there first", others=((0.0, 1_800.0, 1.0),)),
    Scenario("counts 40 % more", counts=1.4),
    Scenario("counts 40 % more, untold", counts=1.4, reports=False),
    Scenario("counts 30 % less", counts=0.7),
    Scenario("small limit", limit=90_000, rows=1_000),
    Scenario("large limit", limit=200_000_000, rate=1e6),
)


class Change(NamedTuple):
    """Note what this account has queued after a change."""

    at: float
    tokens: float
    kind: str  # admitted, refused, released


class Remote:
    """Play the provider on virtual time: `later` has things done, `run` does them in turn."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.queued = 0.0
        self.changes: list[Change] = []
        self.ended_at = 0.0
        self.creations = 0
        self.status: dict[int, str] = {}
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something done after so many seconds."""
        heappush(self._events, (self.now + seconds, next(self._number), do))

    def run(self, deadline: Callable[[], float] = lambda: math.inf, tick: Callable[[], None] = lambda: None) -> None:
        """Let time pass until nothing is left to do."""
        while self._events or deadline() < math.inf:
            if self._events and self._events[0][0] <= deadline():
                self.now, _, do = heappop(self._events)
                do()
            else:
                self.now = max(self.now, deadline())
                tick()

    def create(
        self, tokens: float, *, validation: float | None = None, over: Callable[[bool], None] | None = None
    ) -> int:
        """Create a batch; `over` is told at once when it is refused, or ends well."""
        self.creations += 1
        number = self.creations
        self.status[number] = "validating"
        pause = self.scenario.validation if validation is None else validation
        validate = partial(self._validate, number, tokens, over or (lambda good: None))
        if pause:
            self.later(pause, validate)
        else:
            validate()
        return number

    def _validate(self, number: int, tokens: float, over: Callable[[bool], None]) -> None:
        scenario = self.scenario
        if self.queued + tokens + scenario.others_at(self.now) > scenario.limit:
            self.status[number] = "failed"
            self._note(0.0, "refused")
            over(False)
            return
        self.status[number] = "in_progress"
        self._note(tokens, "admitted")
        takes = scenario.base * self._chance.lognormvariate(0.0, scenario.tail) + tokens / scenario.rate

        def end() -> None:
            self.status[number] = "completed"
            self.ended_at = self.now
            self.later(scenario.late, lambda: self._note(-tokens, "released"))
            over(True)

        self.later(takes, end)

    def _note(self, tokens: float, kind: str) -> None:
        self.queued += tokens
        self.changes.append(Change(self.now, self.queued, kind))


# --- the policies


class Work(NamedTuple):
    """Hold the requests: tokens and bytes of each, by our count."""

    tokens: "array[int]"
    sizes: "array[int]"


def make_work(scenario: Scenario, seed: int) -> Work:
    """Draw requests of very different lengths."""
    chance = random.Random(f"work/{seed}")
    tokens = array(
        "I", (max(1, int(chance.lognormvariate(0, 0.7) * scenario.mean / 1.28)) for _ in range(scenario.rows))
    )
    return Work(tokens, array("I", (int(count * BYTES_A_TOKEN) + 150 for count in tokens)))


def carpool(remote: Remote, work: Work) -> None:
    """Let the engine decide."""
    Shell(remote, work).run()


class Shell:
    """Stand between an engine and the remote: every step takes its time."""

    def __init__(self, remote: Remote, work: Work) -> None:
        self.engine = Engine("p", TIMING, FILES)
        self.remote = remote
        self.work = work
        self.numbers: dict[str, int] = {}  # remote numbers by client key
        self.batches: dict[str, PackedBatch] = {}  # by remote id
        self.settled = 0

    def run(self) -> None:
        """Accept everything at once and go on until everything is settled."""
        rows = array("Q", range(1, len(self.work.tokens) + 1))
        self.tell(Accepted(LANE, Run(1, 0, rows, self.work.sizes)))
        self.remote.run(self.engine.deadline, lambda: self.tell(Tick()))
        if self.settled != len(rows):
            raise AssertionError(f"{self.settled} of {len(rows)} were answered")

    def tell(self, event: Event) -> None:
        """Feed the engine."""
        events = [event]
        while events:
            for command in self.engine.handle(events.pop(0), self.remote.now):
                if isinstance(command, RecordFact):
                    events.append(command.fact)
                else:
                    self.perform(command)

    def perform(self, command: Command) -> None:
        """Do what the engine says."""
        match command:
            case Upload(batch=batch):
                self.later(0.3 + batch.size / UPLOAD, Uploaded(batch.key, f"file-{batch.key}"))
            case Create(batch=batch):
                self.remote.later(0.2, lambda: self.create(batch))
            case Check(remote_ids=remote_ids):
                self.remote.later(0.2, lambda: self.check(remote_ids))
            case CountTokens(lane=lane, runs=runs):
                counted = tuple(self.count(run) for run in runs)
                self.later(sum(run.size for run in runs) / COUNTING, Counted(lane, counted))
            case Collect(key=key, status=status):
                rows = [row for run in self.batches[status.id].runs for row in run.rows]
                self.later(1.0, Answered(key, [Row(f"p-{row}", 200, "", b"{}") for row in rows]))
                self.later(1.0, Collected(key))
            case Settle(numbers=numbers):
                self.settled += len(numbers)

    def later(self, seconds: float, event: Event) -> None:
        """Tell of an event after so many seconds."""
        self.remote.later(seconds, lambda: self.tell(event))

    def tokens_of(self, runs: Iterable[Run]) -> int:
        """Count as the provider does not, but as we do."""
        return sum(self.work.tokens[row - 1] for run in runs for row in run.rows)

    def count(self, run: Run) -> Run:
        """Count rows."""
        tokens = array("I", (self.work.tokens[row - 1] for row in run.rows))
        return Run(run.segment, run.offset, run.rows, run.sizes, run.inputs, tokens)

    def create(self, batch: PackedBatch) -> None:
        """Create a batch."""
        number = self.remote.create(self.tokens_of(batch.runs) * self.remote.scenario.counts)
        self.numbers[batch.key] = number
        self.batches[f"batch-{number}"] = batch
        self.tell(Created(batch.key, self.status(f"batch-{number}")))

    def check(self, remote_ids: Iterable[str]) -> None:
        """Ask how batches stand."""
        ids = tuple(remote_ids)
        self.tell(Checked(ids, [self.status(remote_id) for remote_id in ids]))

    def status(self, remote_id: str) -> BatchStatus:
        """Say how a batch stands, with what it cost in the end."""
        scenario, batch = self.remote.scenario, self.batches[remote_id]
        status = self.remote.status[int(remote_id.removeprefix("batch-"))]
        rows = sum(map(len, batch.runs))
        done = status == "completed"
        return BatchStatus(
            remote_id,
            batch.key,
            status,
            output_file_id="out" if done else None,
            answered=rows if done else None,
            succeeded=rows if done else None,
            input_tokens=int(self.tokens_of(batch.runs) * scenario.counts) if done and scenario.reports else None,
            no_room=NoRoom(scenario.limit) if status == "failed" else None,
        )


def cut(work: Work, most: float, counts: float) -> list[float]:
    """Cut the work into batches of at most so many tokens, as the provider counts."""
    batches, weight = [], 0.0
    for tokens in work.tokens:
        if weight and weight + tokens * counts > most:
            batches.append(weight)
            weight = 0.0
        weight += tokens * counts
    return [*batches, weight]


def all_at_once(remote: Remote, work: Work) -> None:
    """Create batches of a fifth of the limit together, and each that is refused again a minute later."""

    def create(tokens: float) -> None:
        remote.create(tokens, over=lambda good: None if good else remote.later(60.0, lambda: create(tokens)))

    for tokens in cut(work, remote.scenario.limit / 5, remote.scenario.counts):
        create(tokens)
    remote.run()


def one_at_a_time(remote: Remote, work: Work) -> None:
    """Create the next batch, which is as large as the limit allows, when the one before it was seen to have ended."""
    batches = iter(cut(work, 0.95 * remote.scenario.limit, remote.scenario.counts))

    def create(tokens: float | None) -> None:
        if tokens is not None:
            over = lambda good: remote.later(30.0, lambda: create(next(batches, None) if good else tokens))  # noqa: E731
            remote.create(tokens, over=over)

    create(next(batches))
    remote.run()


def oracle(remote: Remote, work: Work, size: float) -> None:
    """Use all room in the moment it is there."""
    scenario = remote.scenario
    batches = cut(work, size, scenario.counts)

    def fill() -> None:
        while batches and remote.queued + batches[-1] + scenario.others_at(remote.now) <= scenario.limit:
            remote.create(batches.pop(), validation=0.0, over=lambda good: remote.later(scenario.late, fill))

    for _, end, _ in scenario.others:
        remote.later(end, fill)
    fill()
    remote.run()


# --- the figures


class Figures(NamedTuple):
    """Sum up one run; `utilisation` is from first to last admission, `late_refusals` are those of the second half."""

    makespan: float
    utilisation: float
    refusals: int
    late_refusals: int
    batches: int


def figures(remote: Remote) -> Figures:
    """Sum up what the provider saw; room that others took is none."""
    admitted = [change.at for change in remote.changes if change.kind == "admitted"]
    refused = [change.at for change in remote.changes if change.kind == "refused"]
    begin, end = admitted[0], admitted[-1]
    used = had = 0.0
    edges = [edge for span in remote.scenario.others for edge in span[:2]]
    levels = {change.at: change.tokens for change in remote.changes}  # the last of an instant
    level, before = 0.0, begin
    for at in sorted({*levels, *edges}):
        if begin <= at <= end:
            used += level * (at - before)
            had += (remote.scenario.limit - remote.scenario.others_at(before)) * (at - before)
            before = at
        level = levels.get(at, level)
    late = sum(at > remote.ended_at / 2 for at in refused)
    return Figures(remote.ended_at, used / had if had else 1.0, len(refused), late, remote.creations)


Policy = Callable[[Remote, Work], None]
POLICIES: dict[str, Policy] = {"carpool": carpool, "all at once": all_at_once, "one at a time": one_at_a_time}
SIZES = (4, 8, 16, 32)  # batches to a limit, of which the oracle takes what serves it best


def run(policy: Policy, scenario: Scenario, seed: int) -> Remote:
    """Let a policy do the work of a scenario."""
    remote = Remote(scenario, seed)
    policy(remote, make_work(scenario, seed))
    return remote


def best(scenario: Scenario, seed: int) -> float:
    """Give the oracle's makespan."""
    return min(run(partial(oracle, size=scenario.limit / parts), scenario, seed).ended_at for parts in SIZES)


def compare(
    scenario: Scenario, seeds: int, policies: Iterable[str] = tuple(POLICIES)
) -> dict[str, tuple[float, Figures]]:
    """Give each policy's makespan beside the oracle's, and its figures: medians."""
    ideal = [best(scenario, seed) for seed in range(seeds)]
    table = {}
    for name in policies:
        runs = [figures(run(POLICIES[name], scenario, seed)) for seed in range(seeds)]
        ratio = statistics.median(one.makespan / other for one, other in zip(runs, ideal, strict=True))
        table[name] = ratio, Figures(*(statistics.median(column) for column in zip(*runs, strict=True)))
    return table


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw the enqueued tokens of each scenario over time, beside the limit."""
    path = folder / "scheduling.png"
    with charts.drawn(path, rows=4, columns=3, size=(18, 14)) as axes:
        for axis, scenario in zip(axes, SCENARIOS, strict=False):
            _draw(axis, scenario)
        axes[0].legend()
        axes[-1].axis("off")
    return [path]


def _draw(axis: Any, scenario: Scenario) -> None:
    remotes = {name: run(policy, scenario, 0) for name, policy in POLICIES.items()}
    for name, remote in remotes.items():
        times = [change.at / 60 for change in remote.changes if change.kind != "refused"]
        levels = [change.tokens / 1e6 for change in remote.changes if change.kind != "refused"]
        axis.step(times, levels, where="post", label=name, linewidth=1.5 if name == "carpool" else 0.7)
        refused = [change for change in remote.changes if change.kind == "refused"]
        if name == "carpool":
            axis.plot([r.at / 60 for r in refused], [r.tokens / 1e6 for r in refused], "rx", label="refused")
    end = max(remote.ended_at for remote in remotes.values())
    edges = sorted({0.0, *(edge for span in scenario.others for edge in span[:2]), end})
    room = [(scenario.limit - scenario.others_at(at)) / 1e6 for at in edges]
    axis.step([at / 60 for at in edges], room, where="post", color="black", linestyle="--", label="limit")
    axis.set(title=scenario.name, xlabel="minutes", ylabel="million tokens enqueued")


def bars(scenario: Scenario, ratio: float, one: Figures) -> tuple[Bar, ...]:
    """Hold a run to the bars of its scenario."""
    if scenario.name == "quiet":
        return (
            Bar("makespan, of the oracle's", ratio, most=1.10),
            Bar("utilisation", one.utilisation, least=0.90),
            Bar("refusals", one.refusals, most=1),
        )
    longer = Bar("makespan, of the oracle's", ratio, most=1.25)
    if scenario.counts != 1.0:
        late = Bar("refusals in the second half", one.late_refusals, most=0)
        return (longer, Bar("refusals", one.refusals, most=8), late)
    return (longer,)


def results(*, seeds: int = 5, quick: bool = False) -> list[Record]:
    """Run all scenarios with all policies; only the engine is held to bars."""
    return [
        Record(
            f"{scenario.name}: {name}",
            {"ratio": ratio, **one._asdict()},
            bars(scenario, ratio, one) if name == "carpool" else (),
        )
        for scenario in SCENARIOS
        for name, (ratio, one) in compare(scenario, 2 if quick else seeds).items()
    ]


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    head = (
        "scenario",
        "policy",
        "makespan, of the oracle's",
        "utilisation",
        "refusals",
        "in the second half",
        "batches",
    )
    rows = [
        (
            *record.case.split(": "),
            f"{record.number('ratio'):.2f}",
            f"{record.number('utilisation'):.2f}",
            *(f"{record.number(name):g}" for name in ("refusals", "late_refusals", "batches")),
        )
        for record in records
    ]
    return markdown(head, rows)


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    records = results(seeds=options.seeds)
    if options.picture:
        draw(records, options.picture)
    show(records, table)


if __name__ == "__main__":
    main()

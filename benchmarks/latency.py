"""From a batch's end to its caller's continuation, against the calls made, on virtual time.

    python -m benchmarks.latency [--batches 1 10 100 1000] [--lives 1000]

The engine and the provider's own flows stand before an account in memory, which answers listings and single calls; each
call takes a round trip. Batches live for 5 seconds to 24 hours, most of them briefly. They open all at once, or within
two hours, when fewer are open together. They are alone on the account or among thousands of others: these come all the
time, or all together right after ours. Beside the calls made stand those that a single call for each batch, whenever it
is due, would make. A pool whose one batch is its first has heard no webhook before that ends.
"""

import argparse
import math
import random
import statistics
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import accumulate, count, islice, pairwise
from typing import NamedTuple, NoReturn, TypeVar

import msgspec

from carpool.config import Timing
from carpool.engine.cadence import check_pause, spread
from carpool.engine.commands import Check, Collect, Command, Create, Settle, Upload
from carpool.engine.commands import Record as Noted
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Accepted,
    Answered,
    Checked,
    Collected,
    Created,
    Event,
    Flush,
    Limited,
    Tick,
    Uploaded,
    Woken,
)
from carpool.models import BatchStatus, Call, FileLimits, Flow, Lane, Reply, Row, Run, Standings
from carpool.providers.openai import OpenAI

from .records import Bar, Figure, Record, markdown, say, show

T = TypeVar("T")

TIMING = Timing()
FILES = FileLimits(requests=50_000, bytes=190_000_000, inputs=50_000, creations_per_hour=10**9)
LANE = Lane("/v1/chat/completions", "gpt-5-mini")
TRIP = 0.2  # seconds that a call takes
DELIVERY = 0.5  # seconds from an end to its webhook
VALIDATION = 3.0
HOUR, DAY = 3_600.0, 86_400.0
SHORTEST = 5.0
EPOCH = 1_700_000_000.0
PAGE = 100
AGES = (0.0, 40.0, 1_200.0, math.inf)  # the pause begins to grow, and is at its longest
NAMES = ("to 40 s", "to 20 min", "above")


class Case(NamedTuple):
    """Describe a scene of so many `batches`; so many `lives` are seen, in as many runs as that takes."""

    batches: int
    opened: str = "at once"
    others: str = "none"
    webhooks: bool = False
    lives: int = 1_000
    longest: float = DAY

    def __str__(self) -> str:
        webhooks = ", webhooks" if self.webhooks else ""
        return f"{self.batches:,} {self.opened}, others: {self.others}{webhooks}"


CASES = (
    *(Case(number, opened) for number in (1, 10, 100, 1_000) for opened in ("at once", "in 2 hours")),
    *(Case(number, opened, "among") for number in (1, 10, 100, 1_000) for opened in ("at once", "in 2 hours")),
    *(Case(number, "at once", "above") for number in (1, 10, 100, 1_000)),
    *(Case(number, "in 2 hours", others, True) for number in (1, 10, 100, 1_000) for others in ("none", "among")),
)


class Batch(NamedTuple):
    """Say when a batch was created and when it ended, when that was seen, and when its caller went on."""

    key: str
    created: float
    ended: float
    seen: float
    answered: float

    @property
    def age(self) -> float:
        """Give its age at its end."""
        return self.ended - self.created


# --- the account


class Account:
    """Answer for the batches of an account as the provider does, and count what is asked."""

    def __init__(self) -> None:
        self.now = EPOCH
        self.listings = self.singles = 0
        self._batches: list[tuple[float, float, bytes]] = []  # created, ended, metadata; the oldest first

    def add(self, ends_at: float = 0.0, metadata: bytes = b"{}") -> bytes:
        """Create a batch that ends then, and show it."""
        self._batches.append((self.now, ends_at, metadata))
        return self._show(len(self._batches) - 1)

    def answer(self, call: Call) -> Reply:
        """Answer a call."""
        if call.method == "POST":
            asked = msgspec.json.decode(call.json or b"")
            return Reply(200, self.add(float(asked["input_file_id"]), msgspec.json.encode(asked["metadata"])))
        if call.path == "/batches":
            self.listings += 1
            return Reply(200, self._page(call.query.get("after"), int(call.query["limit"])))
        self.singles += 1
        return Reply(200, self._show(_number(call.path)))

    def _page(self, after: str | None, limit: int) -> bytes:
        end = len(self._batches) if after is None else _number(after)
        start = max(0, end - limit)
        batches = b",".join(map(self._show, range(end - 1, start - 1, -1)))
        return b'{"object":"list","data":[%b],"has_more":%b}' % (batches, b"true" if start else b"false")

    def _show(self, number: int) -> bytes:
        created, ended, metadata = self._batches[number]
        over = self.now >= ended
        status = b"completed" if over else b"in_progress" if self.now >= created + VALIDATION else b"validating"
        return (
            b'{"id":"batch_%d","object":"batch","endpoint":"/v1/chat/completions","input_file_id":"file",'
            b'"status":"%b","output_file_id":%b,"created_at":%d,"request_counts":{"completed":%d},"metadata":%b}'
            % (number, status, b'"out"' if over else b"null", created, over, metadata)
        )


def _number(text: str) -> int:
    return int(text.rpartition("_")[2])


# --- the pool


class Shell:
    """Stand between an engine and an account; each batch holds one row, which is awaited."""

    def __init__(self, *, webhooks: bool = False) -> None:
        self.account = Account()
        self.batches: list[Batch] = []
        self._webhooks = webhooks
        self._provider = OpenAI()
        self._engine = Engine("p", TIMING, FILES)
        self._ends: list[float] = []  # by row
        self._rows: dict[str, int] = {}
        self._keys: dict[str, str] = {}  # by remote id
        self._created: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._tell(Limited(LANE.queue, 10**12, "user"))

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Have something done after so many seconds."""
        heappush(self._coming, (self.account.now + seconds, next(self._order), do))

    def run(self, calls: int) -> None:
        """Go on until so many calls were made and answered."""
        while len(self.batches) < calls:
            at = self._coming[0][0] if self._coming else math.inf
            due = self._engine.deadline()
            self.account.now = max(self.account.now, min(at, due))
            if at <= due:
                heappop(self._coming)[2]()
            else:
                self._tell(Tick())

    def ask(self, life: float) -> None:
        """Make a call that travels alone, in a batch that lives for so long."""
        row = len(self._ends)
        self._ends.append(self.account.now + TRIP / 2 + life)
        self._tell(Accepted(LANE, Run(1, row, array("Q", (row,)), array("I", (1,)))))
        self._tell(Flush())

    def _tell(self, event: Event) -> None:
        events = [event]
        while events:
            for command in self._engine.handle(events.pop(0), self.account.now):
                if isinstance(command, Noted):
                    events.append(command.fact)
                else:
                    self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Upload(batch=batch):
                (self._rows[batch.key],) = (row for run in batch.runs for row in run.rows)
                self.later(0.0, partial(self._tell, Uploaded(batch.key, repr(self._ends[self._rows[batch.key]]))))
            case Create(batch=batch, file_id=file_id):
                self._send(self._provider.create(batch, file_id), partial(self._opened, batch.key))
            case Check():
                check = self._provider.look(command.remote_ids, command.place, command.others)
                self._send(check, partial(self._checked, command))
            case Collect(key=key):
                self._seen[key] = self.account.now
                row = Row(f"p-{self._rows[key]}", 200, "", b"{}")
                self.later(TRIP, partial(self._tell, Answered(key, [row])))
                self.later(TRIP, partial(self._tell, Collected(key)))
            case Settle(batch_id=remote_id):
                key = self._keys[remote_id]
                end = self._ends[self._rows[key]]
                self.batches.append(Batch(key, self._created[key], end, self._seen[key], self.account.now))

    def _opened(self, key: str, status: BatchStatus) -> None:
        self._keys[status.id] = key
        self._created[key] = self.account.now - TRIP / 2
        if self._webhooks:
            end = self._ends[self._rows[key]]
            self.later(end + DELIVERY - self.account.now, partial(self._tell, Woken((status.id,))))
        self._tell(Created(key, status))

    def _checked(self, check: Check, standings: Standings) -> None:
        self._tell(Checked(check.remote_ids, standings.statuses, check.place, standings.pages))

    def _send(self, flow: Flow[T], done: Callable[[T], None], reply: Reply | None = None) -> None:
        """Let a flow go on; its call is answered in the middle of the round trip."""
        try:
            call = next(flow) if reply is None else flow.send(reply)
        except StopIteration as stop:
            done(stop.value)
        else:
            self.later(TRIP / 2, partial(self._answer, flow, done, call))

    def _answer(self, flow: Flow[T], done: Callable[[T], None], call: Call) -> None:
        self.later(TRIP / 2, partial(self._send, flow, done, self.account.answer(call)))


# --- a scene


def play(case: Case, lives: Sequence[float], seed: int) -> Shell:
    """Let batches of these lives come to their ends."""
    chance = random.Random(f"{case}/{seed}")
    shell = Shell(webhooks=case.webhooks)
    if case.others != "none":
        for _ in range(2_000):
            shell.account.add()
    within = 0.0 if case.opened == "at once" else 2 * HOUR
    opening = sorted(chance.random() * within for _ in lives)
    for at, life in zip(opening, lives, strict=True):
        shell.later(at, partial(shell.ask, life))
    if case.others == "among":
        _come(shell, chance)
    if case.others == "above":
        for _ in range(3_000):
            shell.later(60 + chance.random() * 60, shell.account.add)
    shell.run(len(lives))
    return shell


def _come(shell: Shell, chance: random.Random, rate: float = 1_000 / HOUR) -> None:
    """Let others create a batch now, and go on to."""
    shell.account.add()
    shell.later(chance.expovariate(rate), partial(_come, shell, chance, rate))


def draw_lives(case: Case) -> Iterator[list[float]]:
    """Give the lives of each run, spread evenly within each age, so that few show what many would."""
    chance = random.Random(str(case))
    lives: list[float] = []
    for share, shortest, longest in ((0.6, SHORTEST, AGES[1]), (0.25, *AGES[1:3]), (0.15, AGES[2], case.longest)):
        number = round(share * case.lives)
        places = [(place + chance.random()) / number for place in range(number)]
        short = longest == AGES[1]  # where the pauses are alike, and not a share of the age
        lives += [
            shortest + (longest - shortest) * place if short else shortest * (longest / shortest) ** place
            for place in places
        ]
    chance.shuffle(lives)
    rest = iter(lives)
    while some := list(islice(rest, case.batches)):
        yield some


def most_open(batches: Iterable[Batch]) -> int:
    """Count the batches that were open together, at most."""
    turns = sorted(turn for batch in batches for turn in ((batch.created, 1), (batch.ended, -1)))
    return max(accumulate(change for _, change in turns))


def single_calls(batches: Iterable[Batch]) -> int:
    """Count the calls of a client that asks for each batch by itself, whenever it is due."""
    calls = 0
    for batch in batches:
        asked_at = opened = batch.created + TRIP / 2
        for draw in count(1):
            pause = check_pause(asked_at - opened, TIMING, spread(batch.key, draw))
            calls += 1
            if asked_at + pause + TRIP / 2 >= batch.ended:
                break
            asked_at += pause + TRIP
    return calls


def rounds(batches: Iterable[Batch]) -> int:
    """Count the calls of a client that asks for all open batches that it knows at once, whenever one of them is due."""
    calls = 0
    heard = {batch: (batch.created + TRIP / 2, 1) for batch in batches}  # when, and the draw that comes
    while heard:
        at = min(_due(batch, last, draw) for batch, (last, draw) in heard.items())
        calls += 1
        heard = {
            batch: (max(last, at + TRIP), draw + 1) if _is_known(batch, at) else (last, draw)
            for batch, (last, draw) in heard.items()
            if batch.ended > at + TRIP / 2 or not _is_known(batch, at)
        }
    return calls


def _is_known(batch: Batch, at: float) -> bool:
    return batch.created + TRIP / 2 <= at


def _due(batch: Batch, heard: float, draw: int) -> float:
    opened = batch.created + TRIP / 2
    return heard + check_pause(heard - opened, TIMING, spread(batch.key, draw))


# --- the figures


def measure(case: Case) -> Record:
    """Play a scene, and sum up."""
    say(str(case))
    shells = [play(case, lives, seed) for seed, lives in enumerate(draw_lives(case))]
    batches = [batch for shell in shells for batch in shell.batches]
    by_age = [[one for one in batches if shortest <= one.age < longest] for shortest, longest in pairwise(AGES)]
    calls = sum(shell.account.listings + shell.account.singles for shell in shells)
    single = sum(single_calls(shell.batches) for shell in shells)
    figures: dict[str, Figure] = {
        f"lag {name} s": statistics.median(one.answered - one.ended for one in some) if some else None
        for name, some in zip(NAMES, by_age, strict=True)
    }
    figures["open"] = max(most_open(shell.batches) for shell in shells)
    figures |= {"calls": calls, "listings": sum(shell.account.listings for shell in shells), "single calls": single}
    slowest = max(statistics.median(map(_share, some)) for some in by_age if some)
    bars = [Bar("lag, of its bound", slowest, most=1.0), Bar("calls, of single ones", calls / single, most=1.0)]
    if case.batches <= PAGE and case.others == "none" and not case.webhooks:  # with them some are asked for rarely
        figures["rounds"] = passed = sum(rounds(shell.batches) for shell in shells)
        bars.append(Bar("calls a round", calls / passed, most=1.0))
    return Record(str(case), figures, tuple(bars))


def _share(batch: Batch) -> float:
    """Give how long it took to see an end, but for the round trip, as a share of the bound."""
    return (batch.seen - batch.ended - TRIP) / max(0.03 * batch.age, TIMING.poll_min / 2)


def results(numbers: Collection[int] = (1, 10, 100, 1_000), lives: int = 1_000) -> list[Record]:
    """Play all scenes of so many batches."""
    return [measure(case._replace(lives=lives)) for case in CASES if case.batches in numbers]


def table(records: Sequence[Record]) -> str:
    """Draw the figures; the lags, in seconds, are medians from end to continuation."""
    lags = (f"lag, age {name}" for name in NAMES)
    head = ("batches", "open together, at most", *lags, "calls", "of which listings", "single calls", "rounds")
    names = ("open", *(f"lag {name} s" for name in NAMES), "calls", "listings", "single calls", "rounds")
    return markdown(head, ([each.case, *(_cell(each.figures.get(name)) for name in names)] for each in records))


def _cell(figure: Figure) -> str:
    return "" if figure is None else f"{figure:,.1f}" if isinstance(figure, float) else f"{figure:,}"


def main() -> NoReturn:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100, 1_000])
    parser.add_argument("--lives", type=int, default=1_000)
    options = parser.parse_args()
    show(results(options.batches, options.lives), table)


if __name__ == "__main__":
    main()

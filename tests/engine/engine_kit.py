"""Drive an engine by hand: the shell's place is taken by the test."""

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import TypeVar

from carpool.config import Timing
from carpool.engine.commands import Check, Command, Create, Fail, Record, Settle, Upload
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Accepted,
    Answered,
    Checked,
    Collected,
    Created,
    Event,
    Fact,
    Failed,
    Flush,
    NotFound,
    Packed,
    Tick,
    Uploaded,
)
from carpool.models import BatchProblem, BatchStatus, Failure, FileLimits, Lane, Row, Run

T = TypeVar("T")

POOL = "p"
LANE = Lane("/v1/chat/completions", "gpt-5-mini")
OTHER = Lane("/v1/chat/completions", "gpt-5-nano")
TIMING = Timing()
LIMITS = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=1_000_000)
NOW = 1_700_000_000.0
FACTS = (Accepted, Packed, Uploaded, Created, Answered, Collected, Checked, NotFound, Failed)


def make_run(
    rows: Iterable[int],
    *,
    segment: int = 1,
    offset: int = 0,
    size: int | Sequence[int] = 10,
    inputs: int | Sequence[int] | None = None,
) -> Run:
    """Make a run; one `size` or number of `inputs` counts for every row."""
    numbers = array("Q", rows)
    count = len(numbers)
    return Run(
        segment,
        offset,
        numbers,
        array("I", [size] * count if isinstance(size, int) else size),
        None if inputs is None else array("I", [inputs] * count if isinstance(inputs, int) else inputs),
    )


def answer(number: int, *, pool: str = POOL) -> Row:
    """Make a row that answers request `number`."""
    return Row(f"{pool}-{number}", 200, "req", b"{}")


def refused(kind: str, message: str = "no", **more: int | str) -> Failure:
    """Make a failure."""
    return Failure(kind, message, **more)  # type: ignore[arg-type]


def problem(code: str, line: int | None = None, message: str = "bad") -> BatchProblem:
    """Make an entry of a failed batch's errors."""
    return BatchProblem(code, message, line)


def rows_of(runs: Iterable[Run]) -> list[int]:
    """List row numbers."""
    return [row for run in runs for row in run.rows]


class Shell:
    """Tell an engine of events, feed its records back at once, and keep time and facts."""

    def __init__(self, timing: Timing = TIMING, limits: FileLimits = LIMITS, now: float = NOW) -> None:
        self.engine = Engine(POOL, timing, limits)
        self.now = now
        self.facts: list[tuple[Fact, float]] = []
        self._offset = 0

    def tell(self, event: Event, *, after: float = 0.0) -> list[Command]:
        """Tell of an event that comes `after` seconds, and give the commands other than records."""
        self.now += after
        if isinstance(event, FACTS):
            self.facts.append((event, self.now))
        commands: list[Command] = []
        for command in self.engine.handle(event, self.now):
            commands += self.tell(command.fact) if isinstance(command, Record) else [command]
        return commands

    def accept(
        self,
        *rows: int,
        lane: Lane = LANE,
        segment: int = 1,
        size: int = 10,
        inputs: int | None = None,
        after: float = 0.0,
    ) -> list[Command]:
        """Let rows join a lane, side by side in its spool."""
        run = make_run(rows, segment=segment, offset=self._offset, size=size, inputs=inputs)
        self._offset += run.size
        return self.tell(Accepted(lane, run), after=after)

    def wait(self) -> list[Command]:
        """Let time pass until something is due."""
        assert self.engine.deadline() < math.inf, "nothing is due"
        self.now = max(self.now, self.engine.deadline())
        return self.tell(Tick())

    @property
    def pause(self) -> float:
        """Give the seconds until something is due."""
        return self.engine.deadline() - self.now

    def packed(self, *rows: int) -> Upload:
        """Bring rows as far as the upload."""
        return only(self.accept(*rows) + self.tell(Flush()), Upload)

    def uploaded(self, *rows: int) -> Create:
        """Bring rows as far as the creation."""
        key = self.packed(*rows).batch.key
        return only(self.tell(Uploaded(key, f"file-{key}")), Create)

    def opened(self, *rows: int) -> str:
        """Bring rows as far as an open batch, and give its key."""
        key = self.uploaded(*rows).batch.key
        self.tell(Created(key, status(key, "validating")))
        return key

    def ended(self, *rows: int, answered: int | None = None) -> str:
        """Bring rows as far as a completed batch whose files are being read, and give its key."""
        key = self.opened(*rows)
        self.check(key, "completed", output="out", answered=answered)
        return key

    def check(self, key: str, name: str, **more: object) -> list[Command]:
        """Let the provider be asked, and say `name`."""
        while not of(self.wait(), Check):
            pass
        return self.tell(Checked((remote(key),), [status(key, name, **more)]))

    def answered(self, key: str, *rows: int) -> list[Command]:
        """Let answers of these rows come."""
        return self.tell(Answered(key, [answer(row) for row in rows]))


def remote(key: str) -> str:
    """Give the remote id that `status` gives a batch."""
    return f"batch_{key}"


def status(key: str, name: str, **more: object) -> BatchStatus:
    """Make a status: `output`, `errors` are files, `answered` a count, `problems` a tuple."""
    return BatchStatus(
        remote(key),
        key,
        name,
        output_file_id=more.get("output"),  # type: ignore[arg-type]
        error_file_id=more.get("errors"),  # type: ignore[arg-type]
        answered=more.get("answered"),  # type: ignore[arg-type]
        problems=more.get("problems", ()),  # type: ignore[arg-type]
    )


def of(commands: Iterable[Command], kind: type[T]) -> list[T]:
    """Pick the commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


def only(commands: Iterable[Command], kind: type[T]) -> T:
    """Pick the one command of a kind."""
    (command,) = of(commands, kind)
    return command


def settled(commands: Iterable[Command]) -> list[int]:
    """List the rows that were given an answer."""
    return [number for command in of(commands, Settle) for number in command.numbers]


def failures(commands: Iterable[Command]) -> dict[int, str]:
    """Give the kinds of failure that rows were told of."""
    return {number: command.failure.kind for command in of(commands, Fail) for number in command.numbers}

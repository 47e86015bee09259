"""Drive an engine by hand: the shell's place is taken by the test."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import TypeVar, get_args

from carpool.config import Canary, Retry, Timing
from carpool.engine.commands import (
    Check,
    Claim,
    Collect,
    Command,
    Count,
    Create,
    Delete,
    Discard,
    Fail,
    Find,
    LetGo,
    Record,
    SendLive,
    Settle,
    Tell,
    Upload,
)
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Accepted,
    Answered,
    Checked,
    Claimed,
    Collected,
    Counted,
    Created,
    Done,
    Escalate,
    Event,
    Fact,
    Failed,
    Flush,
    Limited,
    LiveEnded,
    NotFound,
    Tick,
    Uncountable,
    Uploaded,
)
from carpool.engine.lane import LaneStats
from carpool.engine.limit import Source
from carpool.engine.stages import is_end
from carpool.engine.verdicts import has_files
from carpool.models import (
    BatchProblem,
    BatchStatus,
    Failure,
    FileLimits,
    Lane,
    NoRoom,
    PackedBatch,
    Row,
    Run,
)

T = TypeVar("T")

POOL = "p"
LANE = Lane("/v1/chat/completions", "gpt-5-mini")
OTHER = Lane("/v1/chat/completions", "gpt-5-nano")
TIMING = Timing()
ONCE = Retry(max_attempts=1, max_expiries=1)  # nothing that failed is sent again
LIMITS = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=1_000_000)
NOW = 1_700_000_000.0
AMPLE = 10**12  # tokens: a limit that is far away
FACTS: tuple[type[Fact], ...] = get_args(Fact)


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


def with_tokens(run: Run, tokens: Iterable[int]) -> Run:
    """Give a run whose rows were counted."""
    return Run(run.segment, run.offset, run.rows, run.sizes, run.inputs, array("I", tokens))


def answer(number: int, *, pool: str = POOL) -> Row:
    """Make a row that answers request `number`."""
    return Row(f"{pool}-{number}", 200, "req", b"{}")


def failed_row(number: int, status_code: int = 500, code: str = "", *, pool: str = POOL) -> Row:
    """Make a row that tells of a failure of request `number`."""
    return Row(f"{pool}-{number}", status_code, "req", b"{}", code, "it failed")


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
    """Tell an engine of events, feed its records back at once, and keep time, facts and books.

    `ends` counts how often each row came to an end, `live` the rows sent live, `discarded` the segments; `notices` are
    all that was told. Where there is a journal, `claim` says what it answers: there is room.
    """

    def __init__(
        self,
        timing: Timing = TIMING,
        limits: FileLimits = LIMITS,
        now: float = NOW,
        *,
        tokens: int | None = AMPLE,
        numbered: int = 0,
        retry: Retry = ONCE,
        canary: Canary | None = None,
        keeps: bool = False,
    ) -> None:
        self.engine = Engine(POOL, timing, limits, numbered, retry=retry, canary=canary, keeps=keeps)
        self.now = now
        self.facts: list[tuple[Fact, float]] = []
        self.ends = Counter[int]()
        self.live = Counter[int]()
        self.discarded: list[int] = []
        self.notices: list[Tell] = []
        self.claim: Callable[[Claim], Claimed] | None = granted
        self._offset = 0
        self._ended: dict[str, BatchStatus] = {}
        if tokens is not None:
            for lane in (LANE, OTHER):
                self.tell(Limited(lane.queue, tokens, "user"))

    def tell(self, event: Event, *, after: float = 0.0) -> list[Command]:
        """Tell of an event that comes `after` seconds, and give the commands other than records."""
        if isinstance(event, Checked):
            ended = [status for status in event.statuses if is_end(status.status) and has_files(status)]
            self._ended |= {status.id: status for status in ended}
        self.now += after
        if isinstance(event, FACTS):
            self.facts.append((event, self.now))
        commands: list[Command] = []
        for command in self.engine.handle(event, self.now):
            self._note(command)
            match command:
                case Record(fact=fact):
                    commands += self.tell(fact)
                case Claim() if self.claim is not None:
                    commands += self.tell(self.claim(command))
                case _:
                    commands.append(command)
        return commands

    def _note(self, command: Command) -> None:
        match command:
            case Settle(numbers=numbers) | Fail(numbers=numbers):
                self.ends.update(numbers)
            case SendLive(runs=runs):
                self.live.update(rows_of(runs))
            case Discard(segment=segment):
                self.discarded.append(segment)
            case Tell():
                self.notices.append(command)

    def limit(self, tokens: int | None, source: Source = "user", *, lane: Lane = LANE) -> list[Command]:
        """Say how many tokens may be enqueued."""
        return self.tell(Limited(lane.queue, tokens, source))

    def stats(self, lane: Lane = LANE) -> LaneStats:
        """Give the figures of a lane."""
        (stats,) = (stats for stats in self.engine.lanes() if stats.lane == lane)
        return stats

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
        return self._look_again(self.tell(Tick()))

    def _look_again(self, commands: list[Command]) -> list[Command]:
        """Say of batches that ended, and are looked at again since their files fell short, what was said before."""
        rest: list[Command] = []
        for command in commands:
            known = [self._ended[id_] for id_ in _asked(command) if id_ in self._ended]
            rest += self.tell(Checked(tuple(status.id for status in known), known)) if known else [command]
        return rest

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

    def count(self, commands: Iterable[Command], tokens: int | None = None) -> list[Command]:
        """Count what is to be counted, a token a byte or so many a row; gives the commands with what follows."""
        rest: list[Command] = []
        for command in commands:
            if isinstance(command, Count):
                runs = [with_tokens(run, run.sizes if tokens is None else [tokens] * len(run)) for run in command.runs]
                rest += self.count(self.tell(Counted(command.lane, tuple(runs))), tokens)
            else:
                rest.append(command)
        return rest

    def refuse(self, key: str, stated: int | None = None) -> list[Command]:
        """Let the provider be asked, and say that there was no room."""
        return self.check(key, "failed", no_room=NoRoom(stated))

    def answered(self, key: str, *rows: int) -> list[Command]:
        """Let answers of these rows come."""
        return self.tell(Answered(key, [answer(row) for row in rows]))

    def finish(self, key: str, *rows: Row, end: str = "completed") -> list[Command]:
        """Let a batch end whose files hold these rows; gives what follows."""
        commands = self.tell(Checked((remote(key),), [status(key, end, output="out" if rows else None)]))
        if rows:
            commands += self.tell(Answered(key, list(rows))) + self.tell(Collected(key))
        return commands

    def is_over(self, key: str) -> bool:
        """Tell whether a batch is done."""
        return any(isinstance(fact, Done) and fact.key == key for fact, _ in self.facts)

    def read_out(self, key: str, *rows: Row) -> list[Command]:
        """Let the files of a batch that has ended hold these rows and no more, as often as they are read."""
        said = self.tell(Answered(key, list(rows))) + self.tell(Collected(key))
        while not self.is_over(key):
            assert only(self.until(Collect), Collect).key == key
            said += self.tell(Answered(key, list(rows))) + self.tell(Collected(key))
        return said

    def until(self, kind: type[Command], commands: Iterable[Command] = ()) -> list[Command]:
        """Let time pass until there is a command of this kind; gives all there were."""
        said = list(commands)
        while not of(said, kind):
            said += self.wait()
        return said

    def reopened(self, commands: Iterable[Command] = ()) -> str:
        """Bring the batch that is packed next as far as open, and give its key."""
        key = of(self.until(Upload, commands), Upload)[-1].batch.key
        commands = self.tell(Uploaded(key, f"file-{key}"))
        only(self.until(Create, commands), Create)
        self.tell(Created(key, status(key, "validating")))
        return key

    def escalate(self, *rows: int) -> list[Command]:
        """Ask for rows to be sent live."""
        return self.tell(Escalate(frozenset(rows)))

    def live_ended(self, row: int, status_code: int | None = 200) -> list[Command]:
        """Let the live call of a row end with this status, None where no answer came."""
        if status_code is None:
            return self.tell(LiveEnded(row))
        return self.tell(LiveEnded(row, Row(f"{POOL}-{row}", status_code, "live", b"{}"), "live.jsonl"))


def granted(claim: Claim, *, others: int = 0) -> Claimed:
    """Say that there is room for a batch, beside what others hold."""
    return Claimed(claim.key, claim.queue, granted=True, others=others)


def _asked(command: Command) -> tuple[str, ...]:
    return command.remote_ids if isinstance(command, Check) else ()


def remote(key: str) -> str:
    """Give the remote id that `status` gives a batch."""
    return f"batch_{key}"


def status(key: str, name: str, **more: object) -> BatchStatus:
    """Make a status: `output`, `errors` are files; the rest is called as in `BatchStatus`."""
    return BatchStatus(
        remote(key),
        key,
        name,
        output_file_id=more.get("output"),  # type: ignore[arg-type]
        error_file_id=more.get("errors"),  # type: ignore[arg-type]
        answered=more.get("answered", None if more.get("output") or more.get("errors") else 0),  # type: ignore[arg-type]
        problems=more.get("problems", ()),  # type: ignore[arg-type]
        no_room=more.get("no_room"),  # type: ignore[arg-type]
        succeeded=more.get("succeeded"),  # type: ignore[arg-type]
        input_tokens=more.get("input_tokens"),  # type: ignore[arg-type]
    )


class World:
    """Let an engine run on virtual time against a provider that refuses what does not fit its queue.

    `tokens` says what a row comes to by our count, `counts` what by the provider's, or how many of its tokens are one
    of ours. Others have `others` tokens in the queue. A refusal `states` the limit, and comes `at_once` or after the
    validation. Uploads and looks take a moment, a batch `validates`, then `takes` its seconds; its tokens are released
    `late`.
    """

    def __init__(
        self,
        limit: float,
        tokens: Callable[[int], int],
        shell: Shell | None = None,
        *,
        counts: Callable[[int], int] | float = 1.0,
        states: bool = True,
        at_once: bool = False,
        reports: bool = True,
        countable: bool = True,
        takes: float = 600.0,
        validates: float = 5.0,
        late: float = 0.0,
    ) -> None:
        self.shell = shell or Shell(tokens=None)
        self.limit = limit
        self.tokens = tokens
        self.counts = counts if callable(counts) else lambda row: tokens(row) * counts
        self.others = 0
        self.states = states
        self.at_once = at_once
        self.reports = reports
        self.countable = countable
        self.takes = takes
        self.validates = validates
        self.late = late
        self.queued = 0.0
        self.peak = 0.0
        self.uploads: list[tuple[float, PackedBatch]] = []
        self.creations: list[tuple[float, PackedBatch]] = []
        self.ends: list[float] = []
        self.refusals: list[float] = []
        self.counted_at: list[float] = []
        self.deleted: list[str] = []
        self.settled: list[int] = []
        self.failed: dict[int, Failure] = {}
        self._batches: dict[str, PackedBatch] = {}  # by remote id
        self._standing: dict[str, BatchStatus] = {}
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._number = self._events = 0

    def accept(self, rows: Iterable[int], *, lane: Lane = LANE, size: int = 10, segment: int = 1) -> None:
        """Let rows join a lane."""
        self.perform(self.shell.accept(*rows, lane=lane, size=size, segment=segment))

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something done after so many seconds."""
        self._number += 1
        heappush(self._coming, (self.shell.now + seconds, self._number, do))

    @property
    def next_at(self) -> float:
        """Give the time at which something happens next."""
        return min(self.shell.engine.deadline(), self._coming[0][0] if self._coming else math.inf)

    def step(self) -> None:
        """Let the next thing happen; a thousand of them in one instant are a spin."""
        at = max(self.shell.now, self.next_at)
        self._events = self._events + 1 if at == self.shell.now else 0
        assert self._events < 1_000, "the engine spins"
        self.shell.now = at
        if self._coming and self._coming[0][0] <= at:
            heappop(self._coming)[2]()
        else:
            self.perform(self.shell.tell(Tick()))

    def run(self, seconds: float = math.inf) -> None:
        """Let so much time pass, or all that is needed."""
        end = self.shell.now + seconds
        while self.next_at <= end and self.next_at < math.inf:
            self.step()
        if self.next_at < math.inf:
            self.shell.now = end

    def perform(self, commands: Iterable[Command]) -> None:
        """Do what the engine says."""
        for command in commands:
            match command:
                case Upload(batch=batch):
                    self.uploads.append((self.shell.now, batch))
                    self._tell_later(1.0, Uploaded(batch.key, f"file-{batch.key}"))
                case Create(batch=batch):
                    self.later(0.1, partial(self._create, batch))
                case Check(remote_ids=remote_ids):
                    self.later(0.1, partial(self._check, remote_ids))
                case Count(lane=lane, runs=runs):
                    self.counted_at.append(self.shell.now)
                    counted = tuple(with_tokens(run, map(self.tokens, run.rows)) for run in runs)
                    self._tell_later(0.1, Counted(lane, counted) if self.countable else Uncountable(lane))
                case Collect(key=key, status=status):
                    rows = rows_of(self._batches[status.id].runs)
                    self._tell_later(0.1, Answered(key, list(map(answer, rows))))
                    billed = (len(rows), self.weigh(self._batches[status.id])) if command.add_up else (0, 0)
                    self._tell_later(0.1, Collected(key, *billed))
                case Delete(file_ids=file_ids):
                    self.deleted += file_ids
                case Settle(numbers=numbers):
                    self.settled += numbers
                case Fail(numbers=numbers, failure=failure):
                    self.failed |= dict.fromkeys(numbers, failure)

    def weigh(self, batch: PackedBatch) -> int:
        """Count the tokens of a batch as the provider does."""
        return int(sum(map(self.counts, rows_of(batch.runs))))

    def _tell_later(self, seconds: float, event: Event) -> None:
        self.later(seconds, lambda: self.perform(self.shell.tell(event)))

    def _fits(self, batch: PackedBatch) -> bool:
        return self.queued + self.others + self.weigh(batch) <= self.limit

    def _create(self, batch: PackedBatch) -> None:
        self.creations.append((self.shell.now, batch))
        if self.at_once and not self._fits(batch):
            self.refusals.append(self.shell.now)
            failure = Failure("full", "no room", 429, limit=int(self.limit) if self.states else None)
            self.perform(self.shell.tell(Failed((batch.key,), failure)))
            return
        self._batches[remote(batch.key)] = batch
        self._standing[remote(batch.key)] = status(batch.key, "validating")
        self.later(self.validates, partial(self._validate, batch))
        self.perform(self.shell.tell(Created(batch.key, status(batch.key, "validating"))))

    def _validate(self, batch: PackedBatch) -> None:
        weight = self.weigh(batch)
        if not self._fits(batch):
            self.refusals.append(self.shell.now)
            no_room = NoRoom(int(self.limit) if self.states else None)
            self._standing[remote(batch.key)] = status(batch.key, "failed", no_room=no_room)
            return
        self.queued += weight
        self.peak = max(self.peak, self.queued)
        self._standing[remote(batch.key)] = status(batch.key, "in_progress")
        self.later(self.takes, partial(self._end, batch, weight))

    def _release(self, weight: int) -> None:
        self.queued -= weight

    def _end(self, batch: PackedBatch, weight: int) -> None:
        self.later(self.late, partial(self._release, weight))
        self.ends.append(self.shell.now)
        rows = len(rows_of(batch.runs))
        self._standing[remote(batch.key)] = status(
            batch.key,
            "completed",
            output="out",
            answered=rows,
            succeeded=rows,
            input_tokens=weight if self.reports else None,
        )

    def _check(self, remote_ids: tuple[str, ...]) -> None:
        news = [self._standing[remote_id] for remote_id in remote_ids]
        self.perform(self.shell.tell(Checked(remote_ids, news)))


def run_together(one: World, other: World) -> None:
    """Let two pools run on one account, each of which finds taken what the other has queued."""
    while (at := min(one.next_at, other.next_at)) < math.inf:
        one.others, other.others = int(other.queued), int(one.queued)
        (one if one.next_at == at else other).step()


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


def lost_for_long(shell: Shell, key: str, until: float) -> list[tuple[float, Command]]:
    """Let no creation be replied to, and no listing show any; gives what was commanded, and when."""
    said: list[tuple[float, Command]] = []
    commands = shell.tell(Failed((key,), refused("lost")))
    while shell.engine.holds(key) and (shell.now < until or any(isinstance(one, Create | Find) for one in commands)):
        said += [(shell.now, command) for command in commands]
        if of(commands, Create):
            commands = shell.tell(Failed((key,), refused("lost")))
        elif of(commands, Find):
            commands = shell.tell(NotFound((key,), shell.now))
        else:
            commands = shell.wait()
    return said


def failures(commands: Iterable[Command]) -> dict[int, str]:
    """Give the kinds of failure that rows were told of."""
    told = [command for command in commands if isinstance(command, Fail | LetGo)]
    return {number: command.failure.kind for command in told for number in command.numbers}

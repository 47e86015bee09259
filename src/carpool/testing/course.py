"""The course of one batch from its creation to its end, on the clock and in the task group of whoever runs it."""

import inspect
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import anyio
import anyio.lowlevel

from .account import TERMINAL, Account, Batch
from .answers import Answering, Body, failure, whole
from .books import Notes
from .pace import Pace, Schedule
from .rows import CANCELLED, EXPIRED, TIMED_OUT, answered, digest, parse, unanswered, usage_of
from .store import BLOCK, Content, Read, Store
from .validation import Count, Validation

RefuseAt = Literal["validation", "creation"]
SLICE = 0.01


@dataclass
class Setting:
    """Hold what all batches share; `clock` gives the epoch's seconds, `scopes` what a cancellation cancels."""

    account: Account
    store: Store
    notes: Notes
    pace: Pace
    answer: Answering
    concurrency: int
    clock: Callable[[], float]
    count: Count | None = None
    models: frozenset[str] | None = None
    most: int = 50_000
    seed: int = 0
    refuse_at: RefuseAt = "validation"
    scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)

    def validation(self, endpoint: str) -> Validation:
        """Give the validation of a file of which nothing is read yet."""
        return Validation(endpoint, models=self.models, count=self.count, most=self.most)

    def wide(self) -> bool:
        """Tell whether answers are awaited, so that several may be under way at once."""
        call = getattr(self.answer, "__call__", None)  # noqa: B004 - the method itself is inspected
        return inspect.iscoroutinefunction(self.answer) or inspect.iscoroutinefunction(call)

    async def reply(self, endpoint: str, body: Body) -> tuple[int, bytes, Mapping[str, str]]:
        """Ask for the answer to one request; raises TimeoutError alone."""
        try:
            given = self.answer(endpoint, body)
            return whole(await given if inspect.isawaitable(given) else given)
        except TimeoutError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a user's answer raises is the failure of its row
            return failure(exc)


async def validate(file_id: str, endpoint: str, setting: Setting) -> Validation | None:
    """Read a whole input file; None where there is none."""
    file = setting.account.files.get(file_id)
    if file is None:
        return None
    validation = setting.validation(endpoint)
    with file.content.reading() as read:
        await _read_into(validation, read, file.content.size)
    return validation


async def run_batch(batch: Batch, setting: Setting, validation: Validation | None = None) -> None:
    """Take a batch from validating to a terminal status; a validation given is that of its file, done already."""
    file = setting.account.files.get(batch.input_file_id)
    if file is None:
        await anyio.sleep(setting.pace.validating)
        if batch.status == "validating":
            setting.account.fail_without_file(batch, setting.clock())
        await _end_cancelled(batch, setting)
        return
    with file.content.reading() as read:
        course = Course(batch, setting, read, file.content.size, validation)
        with anyio.CancelScope(deadline=anyio.current_time() + setting.pace.window) as scope:
            setting.scopes[batch.id] = scope
            if batch.status == "cancelling":
                scope.cancel()
            await course.run()
        del setting.scopes[batch.id]
        if batch.status not in TERMINAL:
            await course.cut_short()


async def _end_cancelled(batch: Batch, setting: Setting) -> None:
    if batch.status == "cancelling":
        await anyio.sleep(setting.pace.cancelling)
        setting.account.advance(batch, "cancelled", setting.clock())


class Course:
    """Hold the state of one batch while it runs."""

    def __init__(self, batch: Batch, setting: Setting, read: Read, size: int, validation: Validation | None) -> None:
        self._batch = batch
        self._setting = setting
        self._read = read
        self._size = size
        self._output = setting.store.create()
        self._errors = setting.store.create()
        self._done = bytearray()
        self._name = (batch.id,)
        self._validated = validation is not None
        self._validation = validation or setting.validation(batch.endpoint)

    async def run(self) -> None:
        """Take every step in turn; a cancellation of the scope around it leaves what was done so far."""
        setting, batch = self._setting, self._batch
        began = anyio.current_time()
        await self._validate()
        await anyio.sleep_until(began + setting.pace.validating)
        if not setting.account.admit(batch, self._validation, setting.clock()):
            self._output.discard()
            self._errors.discard()
            return
        await self._run_rows()
        setting.account.advance(batch, "finalizing", setting.clock())
        await anyio.sleep(setting.pace.finalizing)
        self._end("completed")

    async def cut_short(self) -> None:
        """End as expired or cancelled: what ran stays, the rest is told in the error file."""
        cancelled = self._batch.status == "cancelling"
        if cancelled:
            await anyio.sleep(self._setting.pace.cancelling)
        await self._tell_rest(CANCELLED if cancelled else EXPIRED)
        self._end("cancelled" if cancelled else "expired")

    def _end(self, status: str) -> None:
        now = self._setting.clock()
        self._setting.account.attach(self._batch, self._output, self._errors, now)
        self._setting.account.advance(self._batch, status, now)

    async def _validate(self) -> None:
        if not self._validated:
            await _read_into(self._validation, self._read, self._size)
        self._done = bytearray(len(self._validation.starts))

    async def _run_rows(self) -> None:
        rows = len(self._done)
        schedule = self._setting.pace.schedule(rows, self._validation.tokens)
        order = _order(rows, random.Random(f"{self._setting.seed}/{self._batch.number}"))  # noqa: S311 - no secret
        began = anyio.current_time()
        numbered = enumerate(order)
        if not self._setting.wide():
            await self._run_numbered(numbered, schedule, began)
            return
        async with anyio.create_task_group() as group:
            for _ in range(min(self._setting.concurrency, rows)):
                group.start_soon(self._run_numbered, numbered, schedule, began)

    async def _run_numbered(self, order: Iterator[tuple[int, int]], schedule: Schedule, began: float) -> None:
        pause = Pause()
        due = 0
        for number, row in order:
            if number >= due:
                await anyio.sleep_until(began + schedule.due_at(number))
                due = schedule.due(anyio.current_time() - began)
            await self._run_row(row)
            if pause.due():
                await pause.take()

    def _line(self, row: int) -> bytes:
        return self._read(self._validation.starts[row], self._validation.sizes[row])

    async def _run_row(self, row: int) -> None:
        line = parse(self._line(row))
        name = f"{self._batch.number:x}{row:08x}"
        # Before the answer: a callable may change the body that it is given.
        body_name = digest(line.body)
        try:
            status, body, _ = await self._setting.reply(self._batch.endpoint, line.body)
        except TimeoutError:
            self._settle(row, False, self._errors, unanswered(name, line.custom_id, TIMED_OUT), None)
        else:
            # 0 is no status, yet users saw it on rows counted as completed (contracts A7, rule 8).
            good = 200 <= status < 300 or status == 0
            content = answered(name, line.custom_id, status, body)
            self._settle(row, good, self._output if good else self._errors, content, body)
        self._setting.notes.ran(line.custom_id, body_name, self._name)

    def _settle(self, row: int, good: bool, file: Content, content: bytes, body: bytes | None) -> None:
        self._done[row] = 1
        file.write(content)
        usage = usage_of(body) if good and body is not None else None
        self._setting.account.settle(self._batch, good, usage)

    async def _tell_rest(self, error: tuple[str, str]) -> None:
        pause = Pause()
        for row, done in enumerate(self._done):
            if not done and not self._validation.errors:
                custom_id = parse(self._line(row)).custom_id
                self._errors.write(unanswered(f"{self._batch.number:x}{row:08x}", custom_id, error))
            if pause.due():
                await pause.take()


class Pause:
    """Let others run after each slice of work, so that the server stays responsive."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE

    def due(self) -> bool:
        """Tell whether the slice is used up; by the machine's clock, as virtual time stands still meanwhile."""
        return time.perf_counter() >= self._until

    async def take(self) -> None:
        """Give way once and begin the next slice."""
        await anyio.lowlevel.checkpoint()
        self._until = time.perf_counter() + SLICE


async def _read_into(validation: Validation, read: Read, size: int) -> None:
    pause = Pause()
    for line in _lines(read, size):
        validation.read(line)
        if pause.due():
            await pause.take()
    validation.finish()


def _lines(read: Read, size: int) -> Iterator[bytes]:
    rest = b""
    for offset in range(0, size, BLOCK):
        lines = (rest + read(offset, BLOCK)).split(b"\n")
        rest = lines.pop()
        yield from lines
    if rest:
        yield rest


def _order(rows: int, chance: random.Random) -> Iterator[int]:
    """Give every row once, in an order that needs no list: steps of a stride that shares no divisor with the number."""
    stride = next(step for step in iter(lambda: chance.randrange(1, rows + 1), 0) if math.gcd(step, rows) == 1)
    start = chance.randrange(rows)
    return ((start + number * stride) % rows for number in range(rows))

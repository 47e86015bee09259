"""The course of one batch from its creation to its end, on the clock and in the task group of whoever runs it."""

import math
import random
from collections.abc import Iterator, Mapping
from itertools import islice

import anyio

from .account import TERMINAL, Batch
from .answers import Whole
from .pace import Schedule
from .reading import Pause, read_into
from .refusals import SERVER_ERROR
from .rows import CANCELLED, EXPIRED, TIMED_OUT, answered, digest, parse, unanswered, usage_of
from .setting import Setting
from .store import Content, Read
from .troubles import Mishap
from .validation import Validation, problem


async def validate(file_id: str, endpoint: str, setting: Setting) -> Validation | None:
    """Read a whole input file; None where there is none."""
    file = setting.account.files.get(file_id)
    if file is None:
        return None
    validation = setting.validation(endpoint)
    with file.content.reading() as read:
        await read_into(validation, read, file.content.size)
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
        with anyio.CancelScope(deadline=anyio.current_time() + course.window) as scope:
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
        self._later: list[tuple[Content, bytes]] = []
        self._done = bytearray()
        self._name = (batch.id,)
        self._trouble, self._silent = setting.luck.of_batch(batch.number)
        self._mishaps: Mapping[int, Mishap] = {}
        self._validated = validation is not None
        self._validation = validation or setting.validation(batch.endpoint)

    @property
    def window(self) -> float:
        """The seconds after which it expires."""
        return math.inf if self._trouble == "stuck" else self._setting.pace.window

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
        if self._trouble is not None:
            await self._break_off()
            return
        setting.account.advance(batch, "finalizing", setting.clock())
        await anyio.sleep(setting.pace.finalizing)
        self._end("completed")

    async def _break_off(self) -> None:
        if self._trouble == "stuck":
            await anyio.sleep_forever()
        if self._trouble == "cancelled":
            self._setting.account.cancel(self._batch.id, self._setting.clock())

    async def cut_short(self) -> None:
        """End as expired or cancelled: what ran stays, the rest is told in the error file."""
        cancelled = self._batch.status == "cancelling"
        if cancelled:
            await anyio.sleep(self._setting.pace.cancelling)
        if cancelled or not self._silent:
            await self._tell_rest(CANCELLED if cancelled else EXPIRED)
        self._end("cancelled" if cancelled else "expired")

    def _end(self, status: str) -> None:
        now = self._setting.clock()
        for file, line in self._later:
            file.write(line)
        self._setting.account.attach(self._batch, self._output, self._errors, now)
        self._setting.account.advance(self._batch, status, now)

    async def _validate(self) -> None:
        if not self._validated:
            await read_into(self._validation, self._read, self._size)
        if self._trouble == "failed_validation" and not self._validation.errors:
            self._validation.errors.append(problem("server_error", SERVER_ERROR))
        rows = len(self._validation.starts)
        self._done = bytearray(rows)
        self._mishaps = self._setting.luck.of_rows(self._batch.number, rows)

    async def _run_rows(self) -> None:
        rows = len(self._done)
        schedule = self._setting.pace.schedule(rows, self._validation.tokens)
        order = _order(rows, random.Random(f"{self._setting.seed}/{self._batch.number}"))  # noqa: S311 - no secret
        began = anyio.current_time()
        numbered = enumerate(islice(order, rows if self._trouble is None else rows // 2))
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
        mishap = self._mishaps.get(row)
        if mishap is not None and mishap.spares:
            self._settle(row, line.custom_id, mishap.answer(), None)
            return
        # Before the answer: a callable may change the body that it is given.
        body_name = digest(line.body)
        answer = await self._setting.reply(self._batch.endpoint, line.body)
        self._settle(row, line.custom_id, answer, mishap)
        paid = answer is not None and 200 <= answer[0] < 300
        lost = mishap is not None and mishap.loses
        self._setting.notes.ran(line.custom_id, body_name, self._name, paid, lost)

    def _settle(self, row: int, custom_id: str, answer: Whole | None, mishap: Mishap | None) -> None:
        name = f"{self._batch.number:x}{row:08x}"
        usage, good = None, False
        if answer is None:
            content = unanswered(name, custom_id, TIMED_OUT)
        else:
            status, body, _ = answer
            # 0 is no status, yet users saw it on rows counted as completed (contracts A7, rule 8).
            good = 200 <= status < 300 or status == 0
            content = answered(name, custom_id, status, body)
            usage = usage_of(body) if good else None
        self._done[row] = 1
        file = self._output if good else self._errors
        if mishap is None:
            file.write(content)
        else:
            self._spoil(file, content, name, mishap)
        self._setting.account.settle(self._batch, good, usage)

    def _spoil(self, file: Content, content: bytes, name: str, mishap: Mishap) -> None:
        now, later = mishap.spoil(content, name, self._batch.endpoint)
        file.write(now)
        if later:
            self._later.append((file, later))

    async def _tell_rest(self, error: tuple[str, str]) -> None:
        pause = Pause()
        for row, done in enumerate(self._done):
            if not done and not self._validation.errors:
                custom_id = parse(self._line(row)).custom_id
                self._errors.write(unanswered(f"{self._batch.number:x}{row:08x}", custom_id, error))
            if pause.due():
                await pause.take()


def _order(rows: int, chance: random.Random) -> Iterator[int]:
    """Give every row once, in an order that needs no list: steps of a stride that shares no divisor with the number."""
    stride = next(step for step in iter(lambda: chance.randrange(1, rows + 1), 0) if math.gcd(step, rows) == 1)
    start = chance.randrange(rows)
    return ((start + number * stride) % rows for number in range(rows))

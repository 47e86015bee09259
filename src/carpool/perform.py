"""Carry out the engine's steps: drive a provider's flow over the wire, and report how it went."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Self, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
from msgspec import structs

from .engine.commands import Cancel, Check, Collect, Count, Create, Delete, Discard, Find, Step, Upload
from .engine.events import (
    Answered,
    Checked,
    Cleared,
    Collected,
    Counted,
    Created,
    Event,
    Failed,
    NotFound,
    Uncountable,
    Uploaded,
)
from .models import NO_REPLY, Call, CallFailed, Failure, Flow, Lane, Reply, Row, Run, Usage
from .providers import Provider
from .providers.jsonl import Lines
from .spool import Spool
from .tokens import Counter, NoVocabulary
from .wire import Wire

T = TypeVar("T")
Chore: TypeAlias = Cancel | Delete | Discard

log: logging.Logger = logging.getLogger("carpool.perform")

_CHORE = 60.0  # seconds
_LINE = 2**28  # bytes: a longer line is no row, and is not waited for
_SLICE = 500  # rows parsed and settled at once: some milliseconds of the event loop


async def drive(flow: Flow[T], send: Callable[[Call], Awaitable[Reply]]) -> T:
    """Run a flow to its result; `CallFailed` when it fails."""
    try:
        call = next(flow)
        while True:
            call = flow.send(await send(call))
    except StopIteration as stop:
        result: T = stop.value
        return result


class Performer:
    """Carry out one command at a time or many at once.

    `feed` takes what comes of them, and `lose` the reason why answers cannot be kept; `tags_of` names the tags of the
    calls in rows. `paid` says that they cost something.
    """

    def __init__(
        self,
        provider: Provider,
        wire: Wire,
        spool: Spool,
        counter: Counter,
        feed: Callable[[Event], None],
        lose: Callable[[OSError], None],
        tags_of: Callable[[Sequence[Run]], tuple[str, ...]],
        *,
        keep_remote_files: bool,
        paid: bool,
    ) -> None:
        self._provider = provider
        self._wire = wire
        self._spool = spool
        self._counter = counter
        self._feed = feed
        self._lose = lose
        self._tags_of = tags_of
        self._keep_remote_files = keep_remote_files
        self._warned = not paid or spool.keeps
        self.leaving = False  # nobody waits for counts any more
        # Less than the wire's connections, so that checks and cancellations never wait for files.
        self._uploads = anyio.CapacityLimiter(8)
        self._downloads_at_once = anyio.CapacityLimiter(8)
        self._counts_at_once = anyio.CapacityLimiter(1)  # a second thread would gain almost nothing (measured)
        self.uncancelled: set[str] = set()
        self._read: dict[str, dict[str, _Bill]] = {}  # files that need not be read again while others fail, by batch
        self._kept: set[str] = set()  # downloads of which rows were taken

    async def step(self, command: Step) -> None:
        """Carry out a step; whatever goes wrong is reported to the engine."""
        try:
            match command:
                case Upload():
                    await self._upload(command)
                case Create():
                    await self._create(command)
                case Find():
                    await self._find(command)
                case Check():
                    await self._check(command)
                case Collect():
                    await self._collect(command)
        except CallFailed as exc:
            failure = exc.failure
        except OSError as exc:
            failure = Failure("disk", f"Requests cannot be kept on disk: {exc}. {self._spool.remedy}")
        except Exception as exc:
            log.exception("%s failed by a fault of carpool's own", type(command).__name__)
            failure = Failure("failed", f"A fault of carpool's own: {exc!r}")
        else:
            return
        level = logging.INFO if failure.kind == "busy" else logging.WARNING  # refused for now: it is tried again
        log.log(level, "%s of %s: %s", type(command).__name__, ", ".join(command.keys), failure.message)
        self._feed(Failed(command.keys, failure))

    async def count(self, command: Count) -> None:
        """Count tokens; where that fails the engine goes on with estimates."""
        try:
            async with self._counts_at_once:
                measure = partial(self._measure, command.lane)
                runs = await self._spool.measure(command.lane, command.runs, measure)
        except NoVocabulary:
            self._feed(Uncountable(command.lane))  # the counter itself has said so, once
        except Exception as exc:  # noqa: BLE001 - the user's own counter, or the disk: neither is a reason to stop
            # Its text may quote a prompt.
            log.warning("tokens cannot be counted, and are estimated: %s", type(exc.__cause__ or exc).__name__)
            self._feed(Uncountable(command.lane))
        else:
            self._feed(Counted(command.lane, runs))

    def _measure(self, lane: Lane, body: bytes) -> int:
        if self.leaving:
            raise NoVocabulary("The pool is being left.")
        try:
            return self._counter(lane.endpoint, lane.model, body)
        except BaseException as exc:  # a panic of Rust is no Exception, and would end the pool
            if isinstance(exc, Exception):
                raise  # `count` goes on with estimates
            raise RuntimeError("the counter broke down") from exc

    async def chore(self, command: Chore) -> None:
        """Carry out what nobody waits for, within a minute; a failure is logged."""
        try:
            pause = command.pause if isinstance(command, Delete) else 0.0
            with anyio.move_on_after(_CHORE + pause):
                await self._chore(command)
        except Exception as exc:  # noqa: BLE001 - a chore is nobody's answer: whatever happens to it, the pool goes on
            log.warning("%r: %r", command, exc)

    async def _chore(self, command: Chore) -> None:
        match command:
            case Cancel():
                self.uncancelled.add(command.remote_id)
                if await self._tidy(self._provider.cancel(command.remote_id)):
                    self.uncancelled.discard(command.remote_id)
                    log.warning("cancelled batch %s", command.remote_id)
            case Delete():
                gone = self._keep_remote_files or await self._delete(command)
                if gone and command.key is not None:
                    self._feed(Cleared(command.key))
            case Discard():
                await self._spool.discard(command.segment)

    async def _delete(self, command: Delete) -> bool:
        gone = [await self._tidy(self._provider.delete(file_id)) for file_id in command.file_ids]
        gone += [await self._tidy(self._provider.delete(file_id)) for file_id in await self._strays(command)]
        return all(gone)

    async def _strays(self, command: Delete) -> set[str]:
        """Look for uploads that no reply told of."""
        if command.sought is None:
            return set()
        await anyio.sleep(command.pause)
        return set(await drive(self._provider.uploads(command.sought), self._wire.send)).difference(command.file_ids)

    async def _upload(self, command: Upload) -> None:
        if not self._warned:
            self._warned = True
            log.warning("no journal: should this process die, answers to what it submitted are lost, though paid for")
        async with self._uploads:
            await self._spool.write(command.batch.runs)
            file_id = await drive(self._provider.upload(command.batch), self._wire.send)
        self._feed(Uploaded(command.batch.key, file_id))

    async def _create(self, command: Create) -> None:
        batch = structs.replace(command.batch, tags=self._tags_of(command.batch.runs))
        status = await drive(self._provider.create(batch, command.file_id), self._wire.send)
        log.info("batch %s of %d bytes created as %s", command.batch.key, command.batch.size, status.id)
        self._feed(Created(command.batch.key, status))

    async def _find(self, command: Find) -> None:
        missing = dict.fromkeys(command.keys)
        silent: list[str] = []
        for status in await drive(self._provider.find(command.files, command.since), self._wire.send):
            if status.key in missing:
                del missing[status.key]
                if status.status == NO_REPLY:
                    silent.append(status.key)
                else:
                    self._feed(Created(status.key, status))
        if silent:
            self._feed(Failed(tuple(silent), Failure("lost", "The listing of batches broke off.")))
        if missing:
            self._feed(NotFound(tuple(missing), command.at))

    async def _check(self, command: Check) -> None:
        check = self._provider.look(command.remote_ids, command.place, command.others)
        statuses, pages = await drive(check, self._wire.send)
        self._feed(Checked(command.remote_ids, statuses, command.place, pages))

    async def _collect(self, command: Collect) -> None:
        bills = self._read.pop(command.key, {})
        failed: CallFailed | None = None
        for call in self._provider.collect(command.status):
            if call.path not in bills:
                try:
                    async with self._downloads_at_once:
                        bills[call.path] = await self._download(command, call)
                except CallFailed as exc:  # what is in the other is not kept back
                    failed = failed or exc
        if failed is not None:
            whole = command.status.succeeded or 0
            self._read[command.key] = {path: bill for path, bill in bills.items() if bill.holds(whole)}
            raise failed
        total = _Bill.sum(bills.values())
        self._feed(Collected(command.key, total.rows, total.tokens, total.cut))

    def forget(self, key: str, batch_id: str | None) -> None:
        """Note that a batch is over."""
        self._read.pop(key, None)
        self.uncancelled.discard(batch_id or "")

    async def _download(self, command: Collect, call: Call) -> "_Bill":
        """Settle the rows of a file as they come; where there is a journal, save them first.

        A saved file of which no row was taken is removed: they had come before, or never did.
        """
        file = _File(command.key, self._spool.new_download() if self._spool.keeps else None)
        bill = _Bill(self._provider.usage if command.add_up else None)
        try:
            await self._take_in(file, call, bill)
        finally:
            if file.name in self._kept:
                self._kept.discard(file.name)
            elif file.name is not None and file.saved:
                with anyio.CancelScope(shield=True), suppress(OSError):
                    await self._spool.discard_download(file.name)
        return bill

    async def _take_in(self, file: "_File", call: Call, bill: "_Bill") -> None:
        """Read a file, cut on "\\n" alone; where it ends in the middle of a line, it goes on, or should."""

        async def receive(chunk: bytes) -> None:
            await self._save(file, chunk)
            await self._answer(file, file.lines.feed(chunk), bill)
            if file.lines.held > _LINE:
                raise CallFailed(Failure("lost", f"a file with a line of more than {_LINE:,} bytes"))

        reply = await self._wire.send(call, receive)
        if not 200 <= reply.status < 300:
            raise CallFailed(self._provider.refused(reply))
        unread = file.unread
        await self._answer(file, file.lines.close(), bill)
        if file.unread:
            log.warning("%d lines in the files of batch %s are no rows; the first: %s", file.unread, file.key, file.why)
        bill.cut = file.unread > unread

    def keep(self, file: str) -> None:
        """Note that rows of a download were taken."""
        self._kept.add(file)

    async def _save(self, file: "_File", chunk: bytes) -> None:
        if file.name is not None:
            try:
                await self._spool.save(file.name, file.saved, chunk)
            except OSError as exc:
                # The answers are in hand and paid for: a full disk must not keep them from their callers.
                self._lose(exc)
        file.saved += len(chunk)

    async def _answer(self, file: "_File", lines: list[bytes], bill: "_Bill") -> None:
        parse = self._provider.parse_row
        for start in range(0, len(lines), _SLICE):
            rows: list[Row] = []
            for line in lines[start : start + _SLICE]:
                try:
                    rows.append(parse(line, file.read))
                except ValueError as exc:
                    file.note(line, exc)
                file.read += len(line) + 1
            self._feed(Answered(file.key, rows, file.name))
            bill.add(rows)
            await anyio.lowlevel.checkpoint()

    async def _tidy(self, call: Call) -> bool:
        reply = await self._wire.send(call)
        done = 200 <= reply.status < 300 or reply.status in (404, 409)  # gone, or over already
        if not done:
            log.warning("%s %s: %s", call.method, call.path, self._provider.refused(reply).message)
        return done


class _File:
    """Follow the download of one file of a batch; `name` is None where it is not kept."""

    def __init__(self, key: str, name: str | None) -> None:
        self.key = key
        self.name = name
        self.lines = Lines()
        self.saved = self.read = 0  # bytes
        self.unread = 0  # lines that are no rows
        self.why = ""

    def note(self, line: bytes, exc: ValueError) -> None:
        """Note that a line is no row; an empty one is nothing."""
        if line.strip():
            self.unread += 1
            self.why = self.why or str(exc)


class _Bill:
    """Add up what the rows of a file say that they were billed, where somebody wants to know."""

    def __init__(self, usage: Callable[[Row], Usage | None] | None) -> None:
        self._usage = usage
        self.lines = 0
        self.rows = self.tokens = 0  # of those that say
        self.cut = False  # the file ended in the middle of a line

    @classmethod
    def sum(cls, bills: Iterable[Self]) -> Self:
        """Add up those of several files."""
        total = cls(None)
        for bill in bills:
            total.rows += bill.rows
            total.tokens += bill.tokens
            total.cut |= bill.cut
        return total

    def holds(self, rows: int) -> bool:
        """Tell whether a file came whole, as far as can be told, and held so many rows."""
        return not self.cut and self.lines >= rows

    def add(self, rows: list[Row]) -> None:
        """Add rows; those that do not say are not counted."""
        self.lines += len(rows)
        if self._usage is not None:
            billed = [usage.input_tokens for usage in map(self._usage, rows) if usage is not None]
            self.rows += sum(tokens > 0 for tokens in billed)
            self.tokens += sum(billed)

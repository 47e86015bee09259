"""A run: INPUT is read, the pool answers, OUTPUT is written; it is stopped in many ways, and goes on in one."""

import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from ...config import Mode
from ...errors import CarpoolError
from ...pool import Pool
from ...providers.openai import OpenAI
from ...settings import checked_mode
from ...waiter import current_runtime
from ..remote import key
from .beside import Seen, folder_of
from .endings import Refused, Stopped, ending_of, unwritable, why
from .output import Output
from .reading import Input
from .resuming import Begun
from .rows import ASKED, MADE_UP, Bad, Parser, Row, Rows
from .stopping import Stop
from .stream import Stream
from .tally import Result, Tally

_FOR_GOOD = 1e9  # seconds, thirty years: the answers are the user's to throw away


class Order(NamedTuple):
    """Say what is to be done; `settings` are those of the pool, but for its journal. A dry run needs no `output`."""

    output: Path | None
    endpoint: str | None
    ordered: bool
    texts: bool
    strict: bool
    settings: dict[str, Any]

    @property
    def mode(self) -> Mode:
        """Say how it is answered."""
        return checked_mode(self.settings.get("mode"))

    @property
    def mark(self) -> bytes:
        """Say what ids in OUTPUT begin with."""
        return MADE_UP if self.mode == "emulate" else ASKED


class Ended(NamedTuple):
    """Say how a run ended: `why` it did before its end, "" where all rows are in OUTPUT."""

    code: int
    why: str
    result: Result


async def run(order: Order, source: Input, tally: Tally, stop: Stop) -> Ended:
    """Answer what OUTPUT does not hold yet; raises `Refused` or `Stopped` where that cannot begin."""
    if order.output is None:
        raise Refused("Name the file for the answers: -o OUTPUT.")
    if source.is_at(order.output):
        raise Refused("INPUT and OUTPUT are the same file.")
    output = Output.take(order.output, order.mark, texts=order.texts)
    try:
        return await _Run(order, source, output, tally).through(stop)
    finally:
        await output.close()


class _Run:
    def __init__(self, order: Order, source: Input, output: Output, tally: Tally) -> None:
        self._order = order
        self._source = source
        self._output = output
        self._tally = tally
        self._begun = Begun()
        self._seen: Seen | None = None
        self._opened = False
        self._scope = anyio.CancelScope()
        self._cause: Exception | None = None
        self._mode = order.mode

    async def through(self, stop: Stop) -> Ended:
        """Run to the end, or until something stops it."""
        start = anyio.current_time()
        done = False
        with self._scope:
            stop.then(partial(_post, current_runtime().post, self._leave))
            try:
                await self._go()
                done = True
            except Stopped as exc:
                self._cause = exc
        with suppress(Stopped):  # by which it was stopped
            await self._output.flush()
        if isinstance(self._cause, Refused):
            raise self._cause
        result = self._result(anyio.current_time() - start)
        if done:
            return Ended(1 if result.failed and result.rows > result.earlier else 0, "", result)
        code, why = (stop.code, stop.name) if self._cause is None else (3, str(self._cause))
        return Ended(code, f"Stopped: {why} {_after(self._mode, begun=self._opened)}", result)

    def _leave(self) -> None:
        self._tally.say("stopping; Ctrl-C once more ends it at once")
        self._scope.cancel()

    def _result(self, seconds: float) -> Result:
        begun, output = self._begun, self._output
        return Result(begun.rows + output.rows, begun.failed + output.failed, begun.rows, seconds)

    def _break(self, cause: Exception) -> None:
        self._cause = self._cause or cause
        self._scope.cancel()

    # --- what is to be done

    async def _go(self) -> None:
        if self._order.strict:
            await self._source.keep(self._output.path.parent)
            await _check(self._source, self._order.endpoint, self._tally)
        self._begun = await self._output.begun()
        if self._order.ordered and not self._begun.ordered:
            raise Refused("OUTPUT was begun with --as-completed: give that again, or name another OUTPUT.")
        if self._order.texts or self._mode == "batch":
            self._seen = Seen(self._output.path, self._output.mark, len(self._begun.seen))
        async with aclosing(self._rows()) as parts:
            first = await anext(parts, None)
            if first is None:
                await self._output.open(self._begun)
            else:
                await self._answer(parts, first)
        await self._output.finish()

    async def _rows(self) -> AsyncGenerator[Rows, None]:
        """Give the rows that OUTPUT does not hold."""
        parser = Parser(self._order.endpoint)
        try:
            async with aclosing(self._source.lines()) as parts:
                async for lines in parts:
                    rows = parser.feed(lines)
                    self._tally.names.add(rows)
                    new = self._begun.without(rows)
                    if self._seen is not None:
                        self._seen.add(rows)
                    if new:
                        yield new
            self._begun.check_end(parser.number)
        except Refused as exc:
            self._break(exc)
            raise

    async def _noted(self, parts: AsyncIterator[Rows], first: Rows) -> AsyncGenerator[Rows, None]:
        """Give the same, once it is written down what they are."""
        rows: Rows | None = first
        try:
            while rows is not None:
                if self._seen is not None:
                    await self._seen.write()
                yield rows
                rows = await anext(parts, None)
        except Stopped as exc:
            self._break(exc)
            raise

    # --- the pool

    async def _answer(self, parts: AsyncIterator[Rows], first: Rows) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._output.keep_writing, self._break)
            try:
                await self._through_pool(parts, first)
            except (Refused, Stopped) as exc:
                self._cause = self._cause or exc
            except CarpoolError as exc:
                self._cause = self._cause or Stopped(why(exc))
            finally:
                tasks.cancel_scope.cancel()
        if self._cause is not None:
            raise self._cause

    async def _through_pool(self, parts: AsyncIterator[Rows], first: Rows) -> None:
        order = self._order
        stream = Stream(self._output, self._tally, ordered=order.ordered, texts=order.texts)
        async with AsyncExitStack() as stack:
            pool = await self._open(stack)
            answers = pool.map if order.ordered else pool.as_completed
            try:
                async with (
                    aclosing(self._noted(parts, first)) as noted,
                    aclosing(stream.requests(noted)) as requests,
                    answers(requests, keep_requests=False) as outcomes,
                ):
                    async for outcome in outcomes:
                        stream.settle(outcome)
                        if self._output.is_full:
                            await self._output.flush()
                stream.finish()
                await self._output.flush()
            finally:
                if self._mode != "emulate":
                    self._tally.cost = pool.stats().cost

    async def _open(self, stack: AsyncExitStack) -> Pool:
        folder = folder_of(self._output.path)
        try:
            if key() is None and self._mode != "emulate":
                raise Refused("OPENAI_API_KEY is not set.")
            if self._begun.rows and not folder.exists() and self._mode == "batch":
                self._tally.say(f"{folder} is missing: what was under way is not known any more, and is paid for again")
            pool = Pool(journal=folder, retention=_FOR_GOOD, **self._order.settings)
            await stack.enter_async_context(pool)
            self._opened = True
            _collect_seldom(stack)
            if self._seen is not None:
                self._seen.begin()
        except CarpoolError as exc:
            raise ending_of(exc) from None
        except OSError as exc:
            raise unwritable(str(folder), exc) from None
        await self._output.open(self._begun)
        return pool


def _collect_seldom(stack: AsyncExitStack) -> None:
    """Look for garbage seldom: what there is by now stays, and rows make none."""
    stack.callback(gc.set_threshold, *gc.get_threshold())
    stack.callback(gc.unfreeze)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _check(source: Input, endpoint: str | None, tally: Tally) -> None:
    """Look at all rows, and refuse INPUT where one of them is bad."""
    parser, provider = Parser(endpoint), OpenAI()
    async with aclosing(source.lines()) as parts:
        async for lines in parts:
            for row in parser.feed(lines):
                if problem := _problem(row, provider):
                    tally.tell_bad(row.line, problem)
    if tally.bad:
        raise Refused(f"{tally.name} has bad lines ({tally.bad:,}), and with --strict nothing is sent.")


def _after(mode: Mode, *, begun: bool) -> str:
    if not begun:
        return "Nothing more was sent; the same command goes on from here."
    if mode == "batch":
        return "What was sent runs on; the same command goes on from here."
    return "The same command goes on from here, and asks again for what is not in OUTPUT."


def _problem(row: Row | Bad, provider: OpenAI) -> str:
    if isinstance(row, Bad):
        return row.why
    try:
        provider.encode(row.url, row.body)
    except CarpoolError as exc:
        return str(exc)
    return ""


def _post(post: Any, func: Any) -> None:
    with suppress(RuntimeError):  # the event loop is over
        post(func)

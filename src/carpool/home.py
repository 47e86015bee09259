"""Where a pool lives: in the event loop of those who call it, or in a thread of its own."""

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol, Self, TypeVar

import anyio

from .bridge import Crossing
from .bulk import Far, FarStream, Reader, Stream, here
from .durable import Entry as Submission
from .durable import Inbox
from .errors import ConfigurationError, PoolClosed
from .models import Body, Response
from .options import Options
from .session import Session
from .settings import Settings
from .thread import Thread, check_process
from .waiter import Waiter

T = TypeVar("T")

_LINE = 1_000  # calls of other event loops that wait for room, with their bodies in memory

Entry = tuple[int | Crossing, Waiter]


class Home(Protocol):
    """Let calls in, and callers go."""

    session: Session

    def accept(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call; what is given back is awaited, and handed to `leave` where that fails."""
        ...

    @property
    def is_crowded(self) -> bool:
        """Tell whether a call that comes now has to wait for room."""
        ...

    async def accept_in_turn(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call when there is room; raises `PoolFull` where nobody may wait."""
        ...

    @property
    def is_behind(self) -> bool:
        """Tell whether so many calls wait for room that whoever makes many is to wait for the first of them."""
        ...

    async def submit(self, endpoint: str, body: Body, options: Options, key: str | None) -> str:
        """Wait until a request is recorded, whose outcome is kept; gives its custom_id."""
        ...

    def outcomes(self) -> Inbox:
        """Give somebody a share of the outcomes of what was submitted."""
        ...

    def leave(self, entries: Iterable[Entry]) -> None:
        """Note that the callers of these went, and that answers did not reach them."""
        ...

    def call(self, func: Callable[[], T]) -> T:
        """Do something in the pool's event loop, at once."""
        ...

    def wake(self, batch_id: str) -> None:
        """Take note that the provider says that a batch has ended; from any thread."""
        ...

    async def stream(self, reader: Reader, *, ordered: bool) -> Far:
        """Begin a stream, whose source `reader` reads."""
        ...

    async def close(self) -> None:
        """Settle every caller, and close; when cancelled, leave as by an exception."""
        ...

    async def drain(self, timeout: float | None, *, submit: bool) -> None:
        """Close within `timeout` seconds, and leave what is not settled by then."""
        ...

    async def abandon(self) -> None:
        """Close at once."""
        ...


def look_at(waiters: Iterable[Waiter]) -> list[Response]:
    """Give the answers there; errors are looked at too, since asyncio would complain of those that nobody saw."""
    settled = [waiter for waiter in waiters if waiter.done() and not waiter.cancelled()]
    return [waiter.result() for waiter in settled if waiter.exception() is None]


class Here:
    """Live in the event loop in which the pool was opened."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._callers = session.collector.callers
        self._intake = session.collector.intake
        self._admission = session.collector.admission
        self._here = session.runtime.here
        self._process = os.getpid()

    def _check(self) -> None:
        if self._here():
            return
        check_process(self._process)
        self._callers.admit()
        raise ConfigurationError(
            "The pool was opened in another event loop than this call is made in. Open it with thread=True, to use it "
            "from several event loops and threads."
        )

    def accept(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call."""
        if not self._here():
            self._check()
        return self._intake.accept(endpoint, body, options)

    @property
    def is_crowded(self) -> bool:
        """Tell whether a call that comes now has to wait for room."""
        return self._admission.is_crowded

    async def accept_in_turn(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call when there is room; what is wrong with it is said at once."""
        self._check()
        self._callers.admit()
        call = self._intake.encode(endpoint, body)
        made_at = self.session.collector.now()
        async with self._admission.turn(self._intake.latest(endpoint, options, made_at)) as has_room:
            if not has_room:
                self._intake.late(endpoint, options)
            return self._intake.accept_encoded(call, options, made_at)

    @property
    def is_behind(self) -> bool:
        """Tell whether to wait for earlier calls: no, each waits for its own turn."""
        return False

    async def submit(self, endpoint: str, body: Body, options: Options, key: str | None) -> str:
        """Wait until a request is recorded; what is wrong with it is said at once."""
        self._check()
        self.session.submissions.admit()
        call = self._intake.encode(endpoint, body)
        self.session.errands.catch_up()  # an outcome may have been acked before
        waiter = self.session.runtime.new_waiter()
        self.session.submit(Submission(call, options, key, waiter, self._intake.context))
        return (await waiter).custom_id

    def outcomes(self) -> Inbox:
        """Give somebody a share of the outcomes of what was submitted."""
        self._check()
        return Inbox(self.session.taker(), here, self.session.errands)

    def leave(self, entries: Iterable[Entry]) -> None:
        """Note that the callers of these went."""
        left = list(entries)
        self._intake.leave(number for number, _ in left if isinstance(number, int))
        self._intake.take_back([response.custom_id for response in look_at(waiter for _, waiter in left)])

    def call(self, func: Callable[[], T]) -> T:
        """Do something at once."""
        self._check()
        self.session.errands.catch_up()  # it was asked for before
        return func()

    def wake(self, batch_id: str) -> None:
        """Take note that a batch has ended."""
        self.session.wake(batch_id)

    async def stream(self, reader: Reader, *, ordered: bool) -> Far:
        """Begin a stream, whose source `reader` reads."""
        self._check()
        return FarStream(self.session.stream(reader, ordered=ordered), here, self.session.errands)

    async def close(self) -> None:
        """Settle every caller, and close."""
        self._check()
        await self.session.close()

    async def drain(self, timeout: float | None, *, submit: bool) -> None:
        """Close within `timeout` seconds, and leave what is not settled by then."""
        self._check()
        await self.session.drain(timeout, submit=submit)

    async def abandon(self) -> None:
        """Close at once."""
        self._check()
        await self.session.abandon()


class Away:
    """Live in an event loop of its own, in a thread of its own, and be called from any other."""

    def __init__(self, thread: Thread, session: Session) -> None:
        self._thread = thread
        self.session = session

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Start the thread, and open a session in it."""
        thread = Thread()
        try:
            return cls(thread, await thread.run(Session.open, settings))
        except BaseException:
            await thread.stop()
            raise

    @classmethod
    def open_blocking(cls, settings: Settings) -> Self:
        """Start the thread, and open a session in it, where there is no event loop."""
        thread = Thread()
        try:
            return cls(thread, thread.wait(Session.open, settings))
        except BaseException:
            thread.stop_blocking()
            raise

    def accept(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call."""
        self._thread.check()
        return self.session.bridge.send(self.session.collector.intake.encode(endpoint, body), options)

    @property
    def is_crowded(self) -> bool:
        """Tell whether a call that comes now has to wait here: no, it waits in the pool's event loop."""
        return False

    async def accept_in_turn(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call."""
        return self.accept(endpoint, body, options)

    @property
    def is_behind(self) -> bool:
        """Tell whether so many calls wait for room that whoever makes many is to wait for the first of them."""
        return self.session.collector.admission.length >= _LINE

    def ask(self, endpoint: str, body: Body, options: Options) -> Response:
        """Take a call, and block this thread until its answer is here."""
        self._thread.check()
        return self.session.bridge.ask(self.session.collector.intake.encode(endpoint, body), options)

    async def submit(self, endpoint: str, body: Body, options: Options, key: str | None) -> str:
        """Wait until a request is recorded; what is wrong with it is said at once."""
        self._thread.check()
        self.session.submissions.admit()
        intake = self.session.collector.intake
        call = intake.encode(endpoint, body)
        crossing, waiter = self.session.bridge.crossing(call, options)
        entry = Submission(call, options, key, crossing, intake.context)
        try:
            self.session.errands.put(partial(self.session.submit, entry))
        except RuntimeError:
            crossing.left = True  # it may be refused all the same, of which nobody is to hear
            raise PoolClosed("The pool is closed. Open a new one for more requests.") from None
        return (await waiter).custom_id

    def outcomes(self) -> Inbox:
        """Give somebody a share of the outcomes of what was submitted."""
        self._thread.check()
        return Inbox(self.session.taker(), self._thread.run, self.session.errands)

    def leave(self, entries: Iterable[Entry]) -> None:
        """Note that the callers of these went."""
        left = list(entries)
        self.session.bridge.leave([crossing for crossing, _ in left if isinstance(crossing, Crossing)])
        look_at(waiter for _, waiter in left)

    def call(self, func: Callable[[], T]) -> T:
        """Do something, and wait for it: some milliseconds where the pool is busy."""
        return self._thread.call(func)

    def wake(self, batch_id: str) -> None:
        """Take note that a batch has ended."""
        self._thread.check()
        self.session.wake(batch_id)

    async def stream(self, reader: Reader, *, ordered: bool) -> Far:
        """Begin a stream, whose source `reader` reads."""
        stream = await self._thread.run(self._stream, reader, ordered)
        return FarStream(stream, self._thread.run, self.session.errands)

    async def _stream(self, reader: Reader, ordered: bool) -> Stream:
        return self.session.stream(reader, ordered=ordered)

    async def close(self) -> None:
        """Settle every caller, and end the thread; when cancelled, leave as by an exception."""
        await self._end_by(self.session.close)

    async def drain(self, timeout: float | None, *, submit: bool) -> None:
        """Close within `timeout` seconds, leave what is not settled by then, and end the thread."""
        await self._end_by(partial(self.session.drain, timeout, submit=submit))

    async def abandon(self) -> None:
        """Close at once, and end the thread."""
        with anyio.CancelScope(shield=True):
            await self._end_by(self.session.abandon)

    async def _end_by(self, how: Callable[[], Awaitable[None]]) -> None:
        try:
            with suppress(PoolClosed):  # it is closed already
                await self._thread.run(how)
        finally:
            await self._thread.stop()

    def close_blocking(self) -> None:
        """Settle every caller, and end the thread, where there is no event loop."""
        self._end_blocking_by(self.session.close)

    def abandon_blocking(self) -> None:
        """Close at once, and end the thread, where there is no event loop."""
        self._end_blocking_by(self.session.abandon)

    def _end_blocking_by(self, how: Callable[[], Awaitable[None]]) -> None:
        try:
            with suppress(PoolClosed):
                self._thread.wait(how)
        finally:
            self._thread.stop_blocking()

"""Where a pool lives: in the event loop of those who call it, or in a thread of its own."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol, Self, TypeVar

import anyio

from .bridge import Crossing
from .bulk import Far, FarStream, Reader, Stream, here
from .errors import ConfigurationError, PoolClosed
from .models import Body, Response
from .options import Options
from .session import Session
from .settings import Settings
from .thread import Thread
from .waiter import Waiter

T = TypeVar("T")
Entry = tuple[int | Crossing, Waiter]


class Home(Protocol):
    """Let calls in, and callers go."""

    session: Session

    def accept(self, endpoint: str, body: Body, options: Options) -> Entry:
        """Take a call; what is given back is awaited, and handed to `leave` where that fails."""
        ...

    def leave(self, entries: Iterable[Entry]) -> None:
        """Note that the callers of these went, and that answers did not reach them."""
        ...

    def call(self, func: Callable[[], T]) -> T:
        """Do something in the pool's event loop, at once."""
        ...

    async def stream(self, reader: Reader, *, ordered: bool) -> Far:
        """Begin a stream, whose source `reader` reads."""
        ...

    async def close(self) -> None:
        """Settle every caller, and close; when cancelled, leave as by an exception."""
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
        self._here = session.runtime.here

    def _check(self) -> None:
        if self._here():
            return
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

    async def stream(self, reader: Reader, *, ordered: bool) -> Far:
        """Begin a stream, whose source `reader` reads."""
        self._check()
        return FarStream(self.session.stream(reader, ordered=ordered), here, self.session.errands)

    async def close(self) -> None:
        """Settle every caller, and close."""
        self._check()
        await self.session.close()

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

    def ask(self, endpoint: str, body: Body, options: Options) -> Response:
        """Take a call, and block this thread until its answer is here."""
        self._thread.check()
        return self.session.bridge.ask(self.session.collector.intake.encode(endpoint, body), options)

    def leave(self, entries: Iterable[Entry]) -> None:
        """Note that the callers of these went."""
        left = list(entries)
        self.session.bridge.leave([crossing for crossing, _ in left if isinstance(crossing, Crossing)])
        look_at(waiter for _, waiter in left)

    def call(self, func: Callable[[], T]) -> T:
        """Do something, and wait for it: some milliseconds where the pool is busy."""
        return self._thread.call(func)

    async def stream(self, reader: Reader, *, ordered: bool) -> Far:
        """Begin a stream, whose source `reader` reads."""
        stream = await self._thread.run(self._stream, reader, ordered)
        return FarStream(stream, self._thread.run, self.session.errands)

    async def _stream(self, reader: Reader, ordered: bool) -> Stream:
        return self.session.stream(reader, ordered=ordered)

    async def close(self) -> None:
        """Settle every caller, and end the thread; when cancelled, leave as by an exception."""
        await self._end_by(self.session.close)

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

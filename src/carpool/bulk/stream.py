"""The half of a stream that lives in the pool's event loop: requests join their lanes, outcomes wait to be taken."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Protocol

import anyio
import anyio.lowlevel

from ..errors import CarpoolError, PoolClosed
from ..models import Encoded, Request
from ..spans import Bound, Entry, Sink, rows_of
from .shelf import Shelf

log: logging.Logger = logging.getLogger("carpool.bulk")


class Port(Protocol):
    """Let requests in, and say when there is room for more."""

    def encode(self, request: Request) -> Encoded:
        """Check a request, and encode it; from any thread."""
        ...

    def join(self, asked: Sequence[Bound], index: int, sink: Sink) -> None:
        """Let requests join their lanes, and settle those with which something is wrong; raises what ends the pool."""
        ...

    @property
    def refusal(self) -> CarpoolError | None:
        """Say why nothing is let in any more."""
        ...

    @property
    def has_room(self) -> bool:
        """Tell whether the look-ahead may grow, in memory and on disk."""
        ...

    @property
    def left(self) -> int:
        """Count the calls that may still join the pool."""
        ...

    def waits(self, under_way: int) -> bool:
        """Tell whether a stream, with so many under way, is to wait in line; for bytes not with none."""
        ...

    async def turn(self, is_over: Callable[[], bool]) -> bool:
        """Wait in line; gives whether room for a call is held now, until `joined`, or it was over before."""
        ...

    def joined(self) -> None:
        """Let go of the room that was held."""
        ...

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds that depends on what the pool does, or the pool is over."""
        ...

    def changed(self) -> None:
        """Let those who wait look again."""
        ...

    def start(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do something beside."""
        ...

    def leave(self, sink: Sink) -> None:
        """Give up the calls of a stream that are not settled."""
        ...

    def take_back(self, rows: Sequence[int]) -> None:
        """Note that answers in these rows reached nobody: equal calls may have them."""
        ...


class Reader(Protocol):
    """Stand for the half where the source is read, and outcomes are looked at; from any thread.

    The stream was made in its `context`.
    """

    @property
    def context(self) -> Context:
        """Give the context in which the stream was made."""
        ...

    def stop(self) -> None:
        """Read no further."""
        ...

    def unseen(self) -> list[Entry]:
        """Take out the outcomes that nobody looked at."""
        ...


class Stream:
    """Let requests in while at most `most` are under way, and hand their outcomes out; `ordered` as they were asked."""

    def __init__(self, port: Port, shelf: Shelf, reader: Reader, most: int, *, ordered: bool) -> None:
        self.encode: Callable[[Request], Encoded] = port.encode
        self.outlives: bool = False  # the pool is over, and nobody else touches this any more
        self._port = port
        self._shelf = shelf
        self._reader = reader
        self._most = most
        self._ordered = ordered
        self._came = 0  # requests
        self._complete = False  # all requests have come
        self._short: CarpoolError | None = None  # why these are not all
        self._error: CarpoolError | None = None  # why nothing is settled any more
        self._unloading = False
        self._out: list[Entry] = []
        self._seen = 0  # outcomes: whoever took them came back for others
        self._news = anyio.Event()

    # --- requests

    def accept(self, asked: Sequence[Bound], index: int) -> None:
        """Let requests join their lanes, the first of which has this position."""
        if self._is_closed:
            return
        try:
            self._port.join(asked, index, self)
            self._came = index + len(asked)
        except CarpoolError as exc:
            self._cut(exc)
        except Exception as exc:
            log.exception("requests of a stream were lost by a fault of carpool's own")
            self.end(CarpoolError(f"A fault of carpool's own: {exc!r}"))

    def complete(self, came: int) -> None:
        """Note that so many requests came, and no others will."""
        if not self._is_closed:
            self._came = came
            self._complete = True
            self._news.set()

    async def room(self, came: int) -> int:
        """Wait until more requests may come than so many; gives how many, 0 where none may any more."""
        await anyio.lowlevel.checkpoint()
        await self._port.until(lambda: self._is_closed or self._room(came) > 0)
        held = self._port.waits(came - self._seen) and await self._port.turn(lambda: self._is_closed)
        if not self._is_closed and (refusal := self._port.refusal) is not None:
            self._cut(refusal)
        left = self._port.left + held
        if held:
            self._port.joined()
        return 0 if self._is_closed else max(1, min(self._room(came), left))

    def _room(self, came: int) -> int:
        under_way = came - self._seen
        # Where nothing is under way something may come in any case: it may be what brings others forward.
        if not under_way:
            return self._most
        may_come = self._port.left or self._port.waits(under_way)
        return self._most - under_way if self._port.has_room and may_come else 0

    @property
    def _is_closed(self) -> bool:
        return self._short is not None or self._error is not None

    def _cut(self, error: CarpoolError) -> None:
        """Take no others; what came is still settled."""
        self._short = error
        self._complete = True
        self._reader.stop()
        self._news.set()

    # --- outcomes

    def settle(self, entries: Sequence[Entry]) -> None:
        """Take what came of requests."""
        if self._ordered:
            self._shelf.put(entries)
        else:
            self._shelf.append(entries)
        self._news.set()
        if self._shelf.is_full and not self._unloading:
            self._unloading = True
            self._port.start(self._unload)

    async def _unload(self) -> None:
        try:
            await self._shelf.unload()
        finally:
            self._unloading = False
            self._news.set()

    def end(self, error: CarpoolError) -> None:
        """Hear that nothing comes any more."""
        self._error = self._error or error
        self._reader.stop()
        self._news.set()

    async def ready(self, most: int) -> bool:
        """Wait for outcomes, and lay so many out at most; false when all were taken. Raises what ended the pool."""
        self._note_seen()
        while not self._out:
            if self._shelf.is_due:
                await self._shelf.load()
                self._out += self._shelf.take(most)
            elif self._is_over():
                return False
            else:
                await self._wait_for_news()
        return True

    def _note_seen(self) -> None:
        seen = self._shelf.next - len(self._out)
        if seen > self._seen:
            self._seen = seen
            self._port.changed()

    def _is_over(self) -> bool:
        """Tell whether all there will be was taken; raises why it is not all there was to be."""
        if self._complete and self._shelf.next == self._came:
            if self._short is not None:
                raise self._short
            return True
        if self._error is not None:
            raise self._error
        return False

    async def _wait_for_news(self) -> None:
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    def take(self) -> list[Entry]:
        """Take what is laid out; from any thread."""
        taken, self._out = self._out, []
        return taken

    # --- the end

    def leave(self) -> None:
        """Give up what is not settled."""
        if not self.outlives:
            self._port.leave(self)
        self.abandon(PoolClosed("The stream was left."))

    def abandon(self, error: CarpoolError) -> None:
        """Note that nobody takes what is left: equal calls may have it."""
        if not self.outlives:
            left = [*rows_of(self._reader.unseen()), *rows_of(self.take()), *self._shelf.rows()]
            self._port.take_back(left)
        self.end(error)
        self.close()

    def outlive(self, error: CarpoolError) -> None:
        """Hear that the pool is over: what is here can still be taken."""
        self.end(error)
        self.outlives = True

    def ready_at_last(self, most: int) -> bool:
        """Lay outcomes out where nothing else comes any more; from any thread."""
        if not self._out and self._shelf.is_due:
            self._shelf.load_here()
            self._out += self._shelf.take(most)
        return bool(self._out) or not self._is_over()

    def close(self) -> None:
        """Let go of what was not taken; from any thread, when the pool is over."""
        self._reader.stop()
        self._shelf.close()

"""A source is read as far as there is room, by a task of its own in the event loop of those who gave it."""

import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol, TypeAlias

import anyio

from ..errors import CarpoolError, ConfigurationError
from ..models import Encoded, Request
from ..options import PLAIN, Options
from ..outcomes import Outcome
from ..spans import Bound, Entry
from ..waiter import Runtime, current_runtime
from .rows import Asked, as_request
from .stream import Reader

log: logging.Logger = logging.getLogger("carpool.bulk")

Source: TypeAlias = Iterable[Asked] | AsyncIterable[Asked]

_SLICE = 500  # requests that are handed over together, and after which it is asked whether there is room
_LARGE = 2**20  # bytes, likewise
_LONG = 0.005  # seconds, likewise


class Far(Protocol):
    """Reach the half of a stream that lives in the pool's event loop."""

    def encode(self, request: Request) -> Encoded:
        """Check a request, and encode it."""
        ...

    def accept(self, asked: Sequence[Bound], index: int) -> None:
        """Let requests join their lanes soon, the first of which has this position."""
        ...

    def complete(self, came: int) -> None:
        """Note that so many requests came, and no others will."""
        ...

    async def room(self, came: int) -> int:
        """Wait until more requests may come than so many; gives how many, 0 where none may any more."""
        ...

    async def ready(self, most: int) -> bool:
        """Wait for outcomes, and lay so many out at most; false when all were taken. Raises what ended the pool."""
        ...

    def take(self) -> list[Entry]:
        """Take what is laid out."""
        ...

    async def leave(self) -> None:
        """Give up what is not settled, at once."""
        ...

    def leave_soon(self) -> None:
        """Give up what is not settled; from any thread, at any moment."""
        ...


class Reading:
    """Read a source; `begin` opens the other half, `options` says how each request travels.

    What is read travels as the blocks say that are around its making. `kept` are the requests that are under way, by
    their positions, None where they are not kept; `given` are outcomes that were fetched and not looked at.
    """

    def __init__(
        self,
        begin: Callable[[Reader], Awaitable[Far]],
        source: Source,
        endpoint: str | None,
        options: Callable[[Request], Options],
        *,
        keep: bool,
    ) -> None:
        check_iterable(source, or_async=True)
        self.kept: dict[int, Asked] | None = {} if keep else None
        self.given: deque[Outcome] = deque()
        self.error: BaseException | None = None  # of the source's own
        self._begin = begin
        self._source = source
        self._endpoint = endpoint
        self._options = options
        self.context: Context = copy_context()
        self._far: Far | None = None
        self._slice: list[Bound] = []  # not handed over yet
        self._came = self._size = self._allowed = 0
        self._since = 0.0
        self._runtime: Runtime | None = None
        self._task: object = None  # the event loop keeps only a weak reference to it
        self._scope: anyio.CancelScope | None = None
        self._iterator: Any = None
        self._stopped = False
        self._over = anyio.Event()
        self._beginning = anyio.Lock()

    async def start(self) -> Far:
        """Begin to read, once, and give the other half."""
        async with self._beginning:
            if self._far is None:
                self._far = await self._begin(self)
                self._runtime = current_runtime()
                self._scope = anyio.CancelScope()
                self._task = self.context.run(self._runtime.spawn, self._run, self._over.set)
            return self._far

    # --- the end

    def stop(self) -> None:
        """Read no further; from any thread."""
        self._stopped = True
        if self._runtime is not None and self._scope is not None:
            with suppress(RuntimeError):  # its event loop is over, and with it the task
                self._runtime.post(self._scope.cancel)

    def unseen(self) -> list[Entry]:
        """Take out the outcomes that nobody looked at; from any thread."""
        unseen: list[Entry] = []
        with suppress(IndexError):  # one by one, as somebody may be looking
            while True:
                outcome = self.given.pop()
                if outcome.response is not None:
                    unseen.append((outcome.index, outcome.response))
        return unseen

    async def leave(self) -> None:
        """Give up what is not settled, and wait for the end of the task, where it runs in this event loop."""
        with anyio.CancelScope(shield=True):
            async with self._beginning:
                self._stopped = True
            if self._far is not None and self._runtime is not None:
                await self._far.leave()
                if self._runtime.here():
                    await self._over.wait()
        self.kept = None if self.kept is None else {}

    def leave_soon(self) -> None:
        """Give up what is not settled; from any thread, at any moment."""
        if self._far is not None:
            self._far.leave_soon()

    # --- the task

    async def _run(self) -> None:
        assert self._far is not None and self._scope is not None  # noqa: S101, PT018 - it was begun
        try:
            with self._scope:
                if not self._stopped and await self._read(self._far):
                    self._end(self._far)
        except BaseException as exc:
            self._fail(self._far, exc)
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                raise
        finally:
            await self._close()

    async def _read(self, far: Far) -> bool:
        """Read to the end; gives whether that was reached."""
        if not await self._room(far):
            return False
        if isinstance(self._source, AsyncIterable):
            self._iterator = aiter(self._source)
            async for asked in self._iterator:
                if self._allowed <= 0 and not await self._room(far):
                    return False
                if not self._slice and self._runtime is not None:
                    self._runtime.post(partial(self._pause, far))
                if self._take(asked, far) and not await self._room(far):
                    return False
        else:
            self._iterator = iter(self._source)
            for asked in self._iterator:
                if self._take(asked, far) and not await self._room(far):
                    return False
        return True

    def _take(self, asked: Asked, far: Far) -> bool:
        """Take a request; gives whether there are as many as are handed over together."""
        if self.kept is not None:
            self.kept[self._came + len(self._slice)] = asked
        try:
            request = as_request(asked, self._endpoint)
            call = far.encode(request)
            self._slice.append((call, self._options(request)))
            self._size += len(call.body)
        except CarpoolError as exc:
            self._slice.append((exc, PLAIN))
        self._allowed -= 1
        return self._allowed <= 0 or self._size >= _LARGE or time.monotonic() - self._since >= _LONG

    def _pause(self, far: Far) -> None:
        """While the source waits for its next request let the others go; what room there is others may have."""
        if self._slice:
            self._hand_over(far)
            self._allowed = 0

    async def _room(self, far: Far) -> bool:
        self._hand_over(far)
        self._allowed = min(_SLICE, await far.room(self._came))
        self._since = time.monotonic()
        return self._allowed > 0

    def _hand_over(self, far: Far) -> None:
        asked, self._slice = self._slice, []
        if asked:
            far.accept(asked, self._came)
            self._came += len(asked)
        self._size = 0

    def _end(self, far: Far) -> None:
        self._hand_over(far)
        far.complete(self._came)

    def _fail(self, far: Far, error: BaseException) -> None:
        if self._stopped:
            log.warning("the source of a stream failed when it was left: %r", error)
        self.error = error  # raised where outcomes are awaited
        self._end(far)

    async def _close(self) -> None:
        """Let a generator end; it cannot go on from where it was read to."""
        try:
            if isinstance(self._iterator, AsyncGenerator):
                await self._iterator.aclose()
            elif isinstance(self._iterator, Generator):
                self._iterator.close()
        except Exception as exc:  # noqa: BLE001 - the user's own, which nobody awaits
            log.warning("the source of a stream failed when it was closed: %r", exc)
        finally:
            self._over.set()


def check_iterable(source: object, *, or_async: bool = False) -> None:
    """Raise `ConfigurationError` for what holds no requests, such as a single body."""
    good = hasattr(source, "__iter__") or (or_async and hasattr(source, "__aiter__"))
    if not good or isinstance(source, str | bytes | Mapping):
        kinds = "an iterable, or an async one" if or_async else "an iterable"
        raise ConfigurationError(f"Requests must be {kinds}, not a {type(source).__name__}.")

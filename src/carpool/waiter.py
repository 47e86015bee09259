"""The few things that asyncio and trio do differently: a caller's waiter, a task that belongs to no caller, and the way
into an event loop from another thread.

An `anyio.Event` for each request would cost 49 us and 5 KB, a plain future costs 0.4 us and 155 bytes.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .models import Response

if TYPE_CHECKING:
    import trio


log: logging.Logger = logging.getLogger("carpool.waiter")

_NAME = "carpool"


class Settled(Protocol):
    """Take one answer; a `concurrent.futures.Future` does."""

    def done(self) -> bool:
        """Tell whether it is settled, or its caller gone."""
        ...

    def set_result(self, result: Response, /) -> None:
        """Settle it with an answer."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Settle it with an error."""
        ...


class Waiter(Settled, Protocol):
    """Await one answer; an `asyncio.Future` is one."""

    def __await__(self) -> Generator[Any, Any, Response]:
        """Wait for the answer; raises the error it was settled with."""
        ...

    def cancelled(self) -> bool:
        """Tell whether its caller went before it was settled."""
        ...

    def exception(self) -> BaseException | None:
        """Give the error it was settled with."""
        ...

    def result(self) -> Response:
        """Give the answer it was settled with."""
        ...


class TrioWaiter:
    """Park the one task that awaits it until it is settled."""

    __slots__ = ("_error", "_result", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._result: Response | None = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, Response]:
        from trio import lowlevel

        if not self.done():
            self._task = lowlevel.current_task()
            yield from lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105 - as await does
        if self._error is not None:
            raise self._error
        assert self._result is not None  # noqa: S101 - rescheduled by one of the two setters only
        return self._result

    def done(self) -> bool:
        return self._result is not None or self._error is not None

    def cancelled(self) -> bool:
        return False  # a caller that goes leaves no mark: trio unparks it itself

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Response:
        assert self._result is not None  # noqa: S101 - asked for where there is one
        return self._result

    def set_result(self, result: Response, /) -> None:
        self._result = result
        self._wake()

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self._wake()

    def _wake(self) -> None:
        if self._task is not None:
            from trio import lowlevel

            lowlevel.reschedule(self._task)

    def _abort(self, _: object) -> "trio.lowlevel.Abort":
        from trio import lowlevel

        self._task = None
        return lowlevel.Abort.SUCCEEDED


class Runtime(NamedTuple):
    """Make waiters, and start a task that belongs to no caller; who starts it keeps what `spawn` gives.

    The second argument of `spawn` is called when the task is over, even where asyncio ended it before its first step.
    `post` lets the event loop call something soon, from any thread; it raises RuntimeError when the loop is over.
    `here` tells whether the caller runs in this event loop; `time` gives its clock's seconds, also outside of a task.
    """

    new_waiter: Callable[[], Waiter]
    spawn: Callable[[Callable[[], Coroutine[Any, Any, None]], Callable[[], None]], object]
    post: Callable[[Callable[[], object]], object]
    here: Callable[[], bool]
    time: Callable[[], float]


def current_runtime() -> Runtime:
    """Give the half for the event loop that runs here."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _trio_runtime()

    def here() -> bool:
        try:
            return asyncio.get_running_loop() is loop
        except RuntimeError:
            return False

    def spawn(run: Callable[[], Coroutine[Any, Any, None]], over: Callable[[], None]) -> object:
        task = loop.create_task(run(), name=_NAME)
        task.add_done_callback(lambda _: over())
        return task

    return Runtime(loop.create_future, spawn, loop.call_soon_threadsafe, here, loop.time)


def _trio_runtime() -> Runtime:
    from trio import lowlevel

    token = lowlevel.current_trio_token()

    def spawn(run: Callable[[], Coroutine[Any, Any, None]], over: Callable[[], None]) -> object:
        async def whole() -> None:  # a trio task always takes its first step
            try:
                await run()
            finally:
                try:
                    over()
                except Exception:  # asyncio logs it too; here it would end the event loop
                    log.exception("the end of a task was not taken note of")

        return lowlevel.spawn_system_task(whole, name=_NAME, context=copy_context())

    return Runtime(
        TrioWaiter,
        spawn,
        token.run_sync_soon,
        lambda: lowlevel.in_trio_run() and lowlevel.current_trio_token() is token,
        lowlevel.current_clock().current_time,
    )

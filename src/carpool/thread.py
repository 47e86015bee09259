"""An event loop in a thread of its own."""

import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from .errors import PoolClosed

T = TypeVar("T")


def check_process(process: int) -> None:
    """Raise `PoolClosed` in another process, which was forked from it."""
    if os.getpid() != process:
        raise PoolClosed("The pool was opened in another process, before this one was forked. Open one in each.")


class Thread:
    """Run an event loop in a thread, until it is stopped; a daemon, so that who forgets it can still exit."""

    def __init__(self) -> None:
        self._opened: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=self._run, name="carpool", daemon=True)
        self._thread.start()
        self._portal = self._opened.result()
        self._process = os.getpid()

    def check(self) -> None:
        """Raise `PoolClosed` in a forked process, which has no such thread."""
        check_process(self._process)

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend="asyncio", backend_options={"use_uvloop": find_spec("uvloop") is not None})
        except BaseException as exc:
            if self._opened.done():
                raise
            self._opened.set_exception(exc)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._opened.set_result(portal)
            await portal.sleep_until_stopped()

    async def run(self, func: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await something in the thread's event loop; where the caller is cancelled, it is cancelled too.

        `stop` then waits for its end.
        """
        future = self._begin(func, *args)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())  # also when it is cancelled, which `wait` might not hear of
        try:
            # A thread of its own: those of the default limiter may all be waiting for answers of the pool.
            await anyio.to_thread.run_sync(done.wait, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def wait(self, func: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await something in the thread's event loop, and block this thread meanwhile."""
        future = self._begin(func, *args)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _begin(self, func: Callable[..., Awaitable[T]], *args: Any) -> "Future[T]":
        self.check()
        try:
            return self._portal.start_task_soon(func, *args)
        except RuntimeError:
            raise PoolClosed("The pool is closed. Open a new one for more requests.") from None

    def call(self, func: Callable[[], T]) -> T:
        """Do something in the thread's event loop, and wait for it; here, where that loop is over."""
        self.check()
        try:
            future = self._portal.start_task_soon(func)
        except RuntimeError:
            return func()
        return future.result()

    async def stop(self) -> None:
        """End the event loop, and wait for the thread."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop_blocking, limiter=anyio.CapacityLimiter(1))

    def stop_blocking(self) -> None:
        """End the event loop, and wait for the thread."""
        if os.getpid() != self._process:
            return
        with suppress(RuntimeError):  # it is over
            self._portal.start_task_soon(self._portal.stop)
        self._thread.join()

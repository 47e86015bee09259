"""What runs beside the callers and belongs to none of them."""

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

import anyio
import anyio.abc


class Background:
    """Run steps side by side until it is ended, and tell those who wait whenever one is over."""

    def __init__(self) -> None:
        self._tasks: anyio.abc.TaskGroup | None = None
        self._context = Context()
        self._ended = False
        self._changed = anyio.Event()
        self._finished = anyio.Event()
        self.busy: int = 0  # steps under way
        self._listener: Callable[[], None] | None = None

    async def run(self, main: Callable[[], Awaitable[None]], started: anyio.Event) -> None:
        """Run `main`, and the steps that are started meanwhile, to the end; not where it was ended before it began."""
        self._context = copy_context()
        try:
            async with anyio.create_task_group() as self._tasks:
                started.set()
                if not self._ended:
                    await main()
        finally:
            self._tasks = None
            self.changed()

    def start(self, step: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a step; it is dropped where the background does not run."""
        if self._group is not None:
            self.busy += 1
            self._spawn(self._group, self._run, step, *args)

    async def _run(self, step: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await step(*args)
        finally:
            self.busy -= 1
            self.changed()

    def watch(self, step: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start what goes on as long as the background does, and does not count as a step."""
        if self._group is not None:
            self._spawn(self._group, step, *args)

    def _spawn(self, group: anyio.abc.TaskGroup, step: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start a task in the pool's own context: a hook may look at the pool in the context of its caller, on trio."""
        self._context.copy().run(group.start_soon, step, *args)

    @property
    def _group(self) -> anyio.abc.TaskGroup | None:
        # A task that joins a group already cancelled, when all others have left it, is never told so by anyio on
        # asyncio: at its first checkpoint it would spin for ever.
        group = self._tasks
        return None if group is None or group.cancel_scope.cancel_called else group

    def changed(self) -> None:
        """Let those who wait look again."""
        self._changed.set()
        if self._listener is not None:
            self._listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have somebody called whenever those who wait are to look again."""
        self._listener = listener

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, or the background is over."""
        while self._tasks is not None and not condition():
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()

    def end(self) -> None:
        """Cancel whatever runs, and whatever would."""
        self._ended = True
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    @property
    def runs(self) -> bool:
        """Tell whether it has begun, and not ended yet."""
        return self._tasks is not None

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended, and is cleaned up."""
        return self._finished.is_set()

    def finish(self) -> None:
        """Note that nothing is left to be cleaned up."""
        self._finished.set()

    async def stop(self) -> None:
        """End it, and wait until it is cleaned up."""
        self.end()
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

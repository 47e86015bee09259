"""Calling a hook: in order, one event after another, and so that nothing it does can do harm."""

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from inspect import iscoroutine

from ..event import Event

log: logging.Logger = logging.getLogger("carpool.observe")


class Teller:
    """Give events to a hook, synchronously; while it is `hold`ing, and while the hook runs, they wait their turn.

    So a hook may call the pool: the engine is never in the middle of a step.
    """

    def __init__(self, hook: Callable[[Event], object]) -> None:
        self._hook = hook
        self._waiting: deque[tuple[Event, Context | None]] = deque()
        self._held = 0
        self._telling = False
        self._complained: set[str] = set()
        self._over = False

    def tell(self, event: Event, context: Context | None = None) -> None:
        """Give an event to the hook, in the context of whoever caused it where that is known."""
        if self._over:
            return
        self._waiting.append((event, context))
        if not self._held and not self._telling:
            self._tell_all()

    def hold(self) -> None:
        """Let events wait until as many times `let_go` is called."""
        self._held += 1

    def let_go(self) -> None:
        """Let events go that waited."""
        self._held -= 1
        if not self._held and not self._telling and self._waiting:
            self._tell_all()

    def close(self) -> None:
        """Say nothing any more."""
        self._over = True

    def _tell_all(self) -> None:
        self._telling = True
        try:
            while self._waiting:
                self._tell(*self._waiting.popleft())
        finally:
            self._telling = False

    def _tell(self, event: Event, context: Context | None) -> None:
        try:
            came = self._hook(event) if context is None else context.run(self._hook, event)
            if came is not None and iscoroutine(came):
                came.close()
                raise TypeError("on_event must be a plain function: what it gives is not awaited.")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the user's own, as of a future that was cancelled: it must not end the pool
            if event.kind not in self._complained:
                self._complained.add(event.kind)
                log.exception("on_event failed at %r; at the next of this kind nothing is logged", event.kind)

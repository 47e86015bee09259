"""Calls that do not ride: sent at once, at full price, because somebody said so."""

import logging
from collections.abc import Callable, Collection

import anyio

from .callers import Callers
from .models import CallFailed, Encoded
from .outcomes import error_of_failure, error_of_row, response_of
from .perform import drive
from .providers import Provider
from .wire import Wire

log = logging.getLogger("carpool")


class Live:
    """Send calls at once, by steps that `start` starts, and settle their callers.

    `everything` says that each call goes this way.
    """

    def __init__(
        self, provider: Provider, wire: Wire, callers: Callers, start: Callable[..., None], *, everything: bool
    ) -> None:
        self.everything = everything
        self._level = logging.INFO if everything else logging.WARNING  # where all is live, that was said at once
        self._provider = provider
        self._wire = wire
        self._callers = callers
        self._start = start
        self._scopes: dict[int, anyio.CancelScope] = {}
        # Less than the wire's connections: batches go on meanwhile.
        self._at_once = anyio.CapacityLimiter(20)

    def begin(self, number: int, call: Encoded) -> None:
        """Let a call be sent."""
        scope = self._scopes[number] = anyio.CancelScope()
        self._start(self._send, number, call, scope)

    def leave(self, numbers: Collection[int]) -> list[int]:
        """Cancel the calls whose callers went, and give those that are none of these."""
        others = [number for number in numbers if number not in self._scopes]
        if len(others) < len(numbers):
            for number in numbers:
                if number in self._scopes:
                    self._scopes[number].cancel()
        return others

    async def _send(self, number: int, call: Encoded, scope: anyio.CancelScope) -> None:
        """Send one call; it is not repeated where it may have run."""
        try:
            with scope:
                async with self._at_once:
                    log.log(self._level, "live, at full price: POST %s", call.endpoint)
                    row = await drive(self._provider.live(call), self._wire.send)
                if row.ok:
                    self._callers.give(number, response_of(row, ""))
                else:
                    self._callers.refuse(number, error_of_row(row, ""))
        except CallFailed as exc:
            self._callers.refuse(number, error_of_failure(exc.failure, "", None))
        finally:
            del self._scopes[number]

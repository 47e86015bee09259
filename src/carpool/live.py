"""Calls that do not ride: sent at once, at full price, because somebody said so."""

import logging
from collections.abc import Callable, Collection

import anyio

from .callers import Callers
from .errors import BudgetExceeded, CarpoolError, RequestCancelled
from .models import CallFailed, Encoded, Lane, Usage
from .outcomes import error_of_failure, error_of_row, response_of
from .perform import drive
from .providers import Provider
from .spending import Spending
from .wire import Wire

_SPENT = "The budget was spent before the call was sent. Raise it to go on."

log: logging.Logger = logging.getLogger("carpool.live")


class Live:
    """Send calls at once, by steps that `start` starts, and settle their callers.

    `spent` hears when one was paid for; `at_once` bounds those under way. `everything` says that each call goes this
    way.
    """

    def __init__(
        self,
        provider: Provider,
        wire: Wire,
        callers: Callers,
        start: Callable[..., None],
        spending: Spending,
        spent: Callable[[], None],
        at_once: anyio.CapacityLimiter,
        *,
        everything: bool,
    ) -> None:
        self.everything = everything
        self._level = logging.INFO if everything else logging.WARNING  # where all is live, that was said at once
        self._provider = provider
        self._wire = wire
        self._callers = callers
        self._start = start
        self._spending = spending
        self._spent = spent
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._at_once = at_once

    def __len__(self) -> int:
        return len(self._scopes)

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

    def cancel(self) -> None:
        """Cancel all calls, on purpose."""
        for number, scope in self._scopes.items():
            self._callers.refuse(number, RequestCancelled("The request was cancelled by Pool.cancel."))
            scope.cancel()

    async def _send(self, number: int, call: Encoded, scope: anyio.CancelScope) -> None:
        """Send one call; it is not repeated where it may have run."""
        try:
            with scope:
                async with self._at_once:
                    if self._callers.are_out_of_money:
                        self._callers.refuse(number, BudgetExceeded(_SPENT))
                        return
                    log.log(self._level, "live, at full price: POST %s", call.endpoint)
                    row = await drive(self._provider.live(call), self._wire.send)
                if row.ok:
                    usage = self._provider.usage(row) or Usage(0, 0, 0)
                    lane = Lane(call.endpoint, call.model)
                    self._spending.add(lane, 1, usage, live=True)
                    self._spent()
                    self._callers.give(number, response_of(row, ""), lane)
                else:
                    self._callers.refuse(number, error_of_row(row, ""))
        except CallFailed as exc:
            self._callers.refuse(number, error_of_failure(exc.failure, "", None))
        except Exception as exc:  # the others go on
            log.exception("a live call failed by a fault of carpool's own")
            self._callers.refuse(number, CarpoolError(f"A fault of carpool's own: {exc!r}"))
        finally:
            self._callers.release((number,))  # its caller may have gone
            del self._scopes[number]

"""Whoever looks on: what happens to calls, to batches and to the pool, told to the hook."""

import logging
from collections.abc import Callable, Sequence

from ..engine.commands import Bill, Cancel, Command, Tell
from ..engine.engine import Engine
from ..engine.events import Accepted, Barred, Claimed, Escalated, Learned, Limited, Recovered
from ..engine.events import Event as EngineEvent
from ..engine.lane import LaneStats
from ..event import Event, Kind
from ..models import Lane, Queue
from ..prices import Prices
from ..providers import Provider
from .batches import BatchesSeen
from .calls import CallsSeen, Money
from .stretches import stretches_of
from .teller import Teller

log: logging.Logger = logging.getLogger("carpool.events")


def begin(
    hook: Callable[[Event], object] | None,
    pool: str,
    engine: Engine,
    provider: Provider,
    prices: Prices,
    now: Callable[[], float],
    *,
    flexible: bool,
) -> "Observer | None":
    """Make what tells the hook, where there is one, and the log, where it wants to know; else None: nothing is made."""
    if log.isEnabledFor(logging.DEBUG):
        hook = _write if hook is None else _write_and(hook)
    return None if hook is None else Observer(hook, pool, engine, provider, prices, now, flexible=flexible)


def _write(event: Event) -> None:
    log.debug("%r", event)


def _write_and(hook: Callable[[Event], object]) -> Callable[[Event], object]:
    def both(event: Event) -> object:
        _write(event)
        return hook(event)

    return both


class Observer:
    """Tell of what a collector does; all methods belong to the pool's event loop."""

    def __init__(
        self,
        hook: Callable[[Event], object],
        pool: str,
        engine: Engine,
        provider: Provider,
        prices: Prices,
        now: Callable[[], float],
        *,
        flexible: bool,
    ) -> None:
        self._pool = pool
        self._now = now
        self._lanes: Callable[[], tuple[LaneStats, ...]] = engine.lanes
        self._teller = Teller(hook)
        self._batches = BatchesSeen(pool, self._teller, engine.holds)
        money = Money(provider.usage, prices, flexible=flexible)
        self.calls: CallsSeen = CallsSeen(pool, self._teller, now, money, self._batches.spent)
        self._known: set[Lane] = set()
        self._limits: dict[Queue, int | None] = {}
        self.hold: Callable[[], None] = self._teller.hold
        self.let_go: Callable[[], None] = self._teller.let_go
        self.replay: Callable[[EngineEvent, float], None] = self._batches.replay

    # --- the engine's

    def saw(self, event: EngineEvent, commands: Sequence[Command], now: float) -> None:
        """Tell what an event that the engine heard means, and to what commands it led."""
        self._batches.saw(event, commands, now)
        match event:
            case Accepted(lane=lane):
                if lane not in self._known:  # its limit was heard of before it
                    self._known.add(lane)
                    self._look_at_limits(now)
            case Limited() | Learned() | Recovered() | Claimed():
                self._look_at_limits(now)
            case Escalated(lane=lane, runs=runs):
                numbers, rows = stretches_of(runs), sum(map(len, runs))
                self._tell("escalated", "Their time runs out: they are sent live.", lane, numbers=numbers, rows=rows)
            case Barred(failure=failure):
                self._tell("spent", failure.message)
        for command in commands:
            self._does(command, now)

    def _does(self, command: Command, now: float) -> None:
        """Tell of a command that is to be carried out."""
        match command:
            case Cancel(remote_id=remote_id):
                self._batches.cancelled(remote_id, now)
            case Bill(batch_id=batch_id, lane=lane, rows=rows):
                self.calls.billed(batch_id, lane, rows)
            case Tell(kind=kind, message=message, lane=lane, batch_id=batch_id):
                self._tell(kind, message, lane, batch_id=batch_id)

    def _look_at_limits(self, now: float) -> None:
        """Tell of limits that are others than before."""
        for lane in self._lanes():
            queue = lane.lane.queue
            if lane.limit != self._limits.get(queue):
                self._limits[queue] = lane.limit
                self._tell("limited", "", lane.lane, tokens=lane.limit, code=lane.limit_source)

    # --- the pool's

    def opened(self, address: str) -> None:
        """Tell that the pool is open."""
        self._tell("opened", f"The pool is open, for {address}.")

    def hint(self, message: str) -> None:
        """Tell what was logged as a warning, and deserves a look."""
        self._tell("hint", message)

    def broken(self, message: str) -> None:
        """Tell that nothing can be recorded any more."""
        self._tell("broken", message)

    def draining(self) -> None:
        """Tell that no more calls are taken, and others are still settled."""
        self._tell("draining", "No more calls are taken; what is under way is settled.")

    def closed(self) -> None:
        """Tell that the pool is closed, and nothing after it."""
        self._batches.closed(self._now())
        self._tell("closed", "The pool is closed.")
        self._teller.close()

    def _tell(self, kind: Kind, message: str, lane: Lane | None = None, **more: object) -> None:
        self._teller.tell(Event(kind, self._now(), self._pool, message, lane, **more))  # type: ignore[arg-type]

"""Between threads: calls travel to the pool's event loop, and answers back to where they are awaited, many at a time.

To wake an event loop costs some microseconds, so it is woken once for all that gathered meanwhile.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import anyio

from .errors import CarpoolError, PoolClosed
from .intake import Intake
from .models import Encoded, Response
from .options import Options
from .waiter import Runtime, Waiter, current_runtime

_OVER = "The pool's event loop ended before the answer came."


class Crossing:
    """Hold a call that comes from elsewhere, and then its outcome; `arrive` is called once it has one."""

    __slots__ = ("_arrive", "call", "left", "number", "options", "outcome", "waiter")

    def __init__(
        self, call: Encoded, options: Options, arrive: Callable[["Crossing"], None], waiter: Waiter | None = None
    ) -> None:
        self.call: Encoded | None = call
        self.options = options
        self.waiter = waiter
        self.number: int | None = None  # once it has joined its lane
        self.outcome: Response | BaseException | None = None
        self.left = False
        self._arrive = arrive

    def done(self) -> bool:
        """Tell whether it is settled, or its caller gone."""
        return self.left or self.outcome is not None

    def set_result(self, result: Response, /) -> None:
        """Settle it with an answer."""
        self.outcome = result
        self._arrive(self)

    def set_exception(self, exception: BaseException, /) -> None:
        """Settle it with an error."""
        self.outcome = exception
        self._arrive(self)


class Side:
    """Wake those who await in one event loop; `lose` hears of crossings that came when it was over."""

    def __init__(self, runtime: Runtime, lose: Callable[[list[Crossing]], None]) -> None:
        self.runtime = runtime
        self._lose = lose
        self._lock = threading.Lock()
        self._arrived: list[Crossing] = []

    def put(self, crossing: Crossing) -> None:
        """Let a settled crossing wake its caller; from any thread."""
        with self._lock:
            self._arrived.append(crossing)
            if len(self._arrived) > 1:
                return
        try:
            self.runtime.post(self._deliver)
        except RuntimeError:
            self._lose(self._take())

    def _take(self) -> list[Crossing]:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        return arrived

    def _deliver(self) -> None:
        for crossing in self._take():
            waiter, outcome = crossing.waiter, crossing.outcome
            if waiter is None or waiter.done() or crossing.left:
                continue
            if isinstance(outcome, Response):
                waiter.set_result(outcome)
            elif outcome is not None:
                waiter.set_exception(outcome)


class Bridge:
    """Hand calls over to an intake that lives in the event loop behind `post`; all methods are for any thread.

    It is made, and `run`, in that event loop: what is handed over is taken there by a task, as whatever the pool does
    belongs in one.
    """

    def __init__(self, intake: Intake, post: Callable[[Callable[[], object]], object]) -> None:
        self._intake = intake
        self._post = post
        self._lock = threading.Lock()
        self._sent: list[Crossing] = []
        self._left: list[Crossing] = []
        self._woken = False
        self._wake = anyio.Event()
        self._refusal: CarpoolError | None = None
        self._sides = threading.local()

    # --- handing over

    def send(self, call: Encoded, options: Options) -> tuple[Crossing, Waiter]:
        """Hand over a call, to be awaited in the event loop that runs here."""
        side = self._side()
        waiter = side.runtime.new_waiter()
        crossing = Crossing(call, options, side.put, waiter)
        self._hand_over(self._sent, [crossing])
        return crossing, waiter

    def ask(self, call: Encoded, options: Options) -> Response:
        """Hand over a call, and block this thread until its answer is here."""
        arrived = threading.Event()
        crossing = Crossing(call, options, lambda _: arrived.set())
        self._hand_over(self._sent, [crossing])
        try:
            arrived.wait()
        except BaseException:
            self.leave([crossing])
            raise
        if isinstance(crossing.outcome, Response):
            return crossing.outcome
        assert crossing.outcome is not None  # noqa: S101 - it has arrived
        raise crossing.outcome

    def leave(self, crossings: list[Crossing]) -> None:
        """Note that the callers of these went."""
        for crossing in crossings:
            crossing.left = True
        with suppress(PoolClosed):  # there is nobody to be told
            self._hand_over(self._left, crossings)

    def _side(self) -> Side:
        side: Side | None = getattr(self._sides, "here", None)
        if side is None or not side.runtime.here():
            side = self._sides.here = Side(current_runtime(), self.leave)
        return side

    def _hand_over(self, to: list[Crossing], crossings: list[Crossing]) -> None:
        with self._lock:
            if self._refusal is not None:
                raise PoolClosed(*self._refusal.args)
            to += crossings
            if self._woken:
                return
            self._woken = True
        try:
            self._post(lambda: self._wake.set())
        except RuntimeError:
            self.close(PoolClosed(_OVER))

    # --- in the pool's event loop

    async def run(self) -> None:
        """Take what is handed over, whenever there is something."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            self._pass_on()

    def _pass_on(self) -> None:
        sent, left = self._take()
        # First, as an equal call among those that join may take what others left.
        self._intake.leave(crossing.number for crossing in left if crossing.number is not None)
        outcomes = [crossing.outcome for crossing in left]
        self._intake.take_back([outcome.custom_id for outcome in outcomes if isinstance(outcome, Response)])
        for crossing in sent:
            self._join(crossing)

    def _take(self) -> tuple[list[Crossing], list[Crossing]]:
        with self._lock:
            taken = self._sent[:], self._left[:]
            self._sent.clear()
            self._left.clear()
            self._woken = False
        return taken

    def _join(self, crossing: Crossing) -> None:
        call, crossing.call = crossing.call, None
        if call is None or crossing.left:
            return
        try:
            crossing.number = self._intake.join(call, crossing.options, crossing)
        except Exception as exc:  # noqa: BLE001 - it is the caller's, as where nothing is handed over
            crossing.set_exception(exc)

    def close(self, error: CarpoolError) -> None:
        """Refuse what was handed over and did not join, and whatever comes."""
        with self._lock:
            self._refusal = self._refusal or error
        sent, _ = self._take()
        for crossing in sent:
            crossing.set_exception(PoolClosed(*error.args))

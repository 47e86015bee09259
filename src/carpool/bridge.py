"""Between threads: calls travel to the pool's event loop, and answers back to where they are awaited, many at a time.

To wake an event loop costs some microseconds, so it is woken once for all that gathered meanwhile.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from weakref import WeakSet

import anyio
import anyio.lowlevel

from .admission import Admission, Place
from .errors import CarpoolError, PoolClosed
from .intake import Intake
from .models import Encoded, Response
from .options import Options
from .waiter import Runtime, Waiter, current_runtime

_AT_ONCE = 500  # calls, or answers: some milliseconds of an event loop
_TURNS = 3  # of an event loop, in which a caller that is woken goes
_FAREWELL = 1.0  # seconds that those elsewhere are given for it
_OVER = "The pool's event loop ended before the answer came."


class Crossing:
    """Hold a call that comes from elsewhere, and then its outcome; `arrive` is called once it has one."""

    __slots__ = ("_arrive", "call", "context", "left", "made_at", "number", "options", "outcome", "place", "waiter")

    def __init__(
        self,
        call: Encoded,
        options: Options,
        arrive: Callable[["Crossing"], None],
        waiter: Waiter | None = None,
        context: Context | None = None,
    ) -> None:
        self.context: Context | None = context
        self.call: Encoded | None = call
        self.options: Options = options
        self.waiter: Waiter | None = waiter
        self.number: int | None = None  # once it has joined its lane
        self.outcome: Response | BaseException | None = None
        self.left: bool = False
        self.place: Place | None = None  # while it waits in line
        self.made_at: float | None = None  # where it does
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

    def _put_back(self, arrived: list[Crossing]) -> None:
        """Leave some to the next step."""
        with self._lock:
            self._arrived[:0] = arrived
        try:
            self.runtime.post(self._deliver)
        except RuntimeError:
            self._lose(self._take())

    def _deliver(self) -> None:
        arrived = self._take()
        if len(arrived) > _AT_ONCE:
            self._put_back(arrived[_AT_ONCE:])
        for crossing in arrived[:_AT_ONCE]:
            waiter, outcome = crossing.waiter, crossing.outcome
            if waiter is None or waiter.done() or crossing.left:
                continue
            if isinstance(outcome, Response):
                waiter.set_result(outcome)
            elif outcome is not None:
                waiter.set_exception(outcome)

    def let_go(self, gone: Callable[[], object], turns: int = _TURNS) -> None:
        """Call `gone` when those who were woken here have had a turn; at once where all is over."""
        try:
            self.runtime.post(lambda: self._take_turn(gone, turns))
        except RuntimeError:
            gone()

    def _take_turn(self, gone: Callable[[], object], turns: int) -> None:
        if turns:
            self.let_go(gone, turns if self._arrived else turns - 1)
        else:
            gone()


class Bridge:
    """Hand calls over to an intake that lives in the event loop behind `post`; all methods are for any thread.

    It is made, and `run`, in that event loop: what is handed over is taken there by a task, as whatever the pool does
    belongs in one.
    """

    def __init__(
        self,
        intake: Intake,
        admission: Admission,
        post: Callable[[Callable[[], object]], object],
        now: Callable[[], float],
    ) -> None:
        self._intake = intake
        self._now = now
        self._admission = admission
        self._post = post
        self._lock = threading.Lock()
        self._sent: list[Crossing] = []
        self._left: list[Crossing] = []
        self._asked: list[Crossing] = []  # that waited in line
        self._woken = False
        self._wake = anyio.Event()
        self._refusal: CarpoolError | None = None
        self._sides = threading.local()
        self._all = WeakSet[Side]()

    # --- handing over

    def send(self, call: Encoded, options: Options) -> tuple[Crossing, Waiter]:
        """Hand over a call, to be awaited in the event loop that runs here."""
        side = self._side()
        waiter = side.runtime.new_waiter()
        crossing = Crossing(call, options, side.put, waiter, self._intake.context)
        self._hand_over(self._sent, [crossing])
        return crossing, waiter

    def crossing(self, call: Encoded, options: Options) -> tuple[Crossing, Waiter]:
        """Make what may be settled in the pool's event loop, and is awaited in that which runs here."""
        side = self._side()
        waiter = side.runtime.new_waiter()
        return Crossing(call, options, side.put, waiter), waiter

    def ask(self, call: Encoded, options: Options) -> Response:
        """Hand over a call, and block this thread until its answer is here."""
        arrived = threading.Event()
        crossing = Crossing(call, options, lambda _: arrived.set(), None, self._intake.context)
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
        with suppress(CarpoolError):  # there is nobody to be told
            self._hand_over(self._left, crossings)

    def _side(self) -> Side:
        side: Side | None = getattr(self._sides, "here", None)
        if side is None or not side.runtime.here():
            side = self._sides.here = Side(current_runtime(), self.leave)
            with self._lock:
                self._all.add(side)
        return side

    def _hand_over(self, to: list[Crossing], crossings: list[Crossing]) -> None:
        with self._lock:
            if self._refusal is not None:
                raise type(self._refusal)(*self._refusal.args)
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
        sent, left = self._take(_AT_ONCE)
        # First, as an equal call among those that join may take what others left.
        self._intake.leave(crossing.number for crossing in left if crossing.number is not None)
        for place in [crossing.place for crossing in left if crossing.place is not None]:
            self._admission.leave(place)
        outcomes = [crossing.outcome for crossing in left]
        self._intake.take_back([outcome.custom_id for outcome in outcomes if isinstance(outcome, Response)])
        for crossing in sent:
            self._join(crossing)
        self._join_asked()

    def _take(self, most: int | None = None) -> tuple[list[Crossing], list[Crossing]]:
        with self._lock:
            taken = self._sent[:most], self._left[:]
            del self._sent[:most]
            self._left.clear()
            self._woken = bool(self._sent)
            if self._woken:  # others wait for the next step
                self._wake.set()
        return taken

    def _join(self, crossing: Crossing) -> None:
        """Let a call join, or wait in line."""
        try:
            if self._admission.is_crowded and crossing.call is not None:
                self._stand_in_line(crossing, crossing.call.endpoint)
            else:
                self._join_now(crossing)
        except Exception as exc:  # noqa: BLE001 - it is the caller's, as where nothing is handed over
            crossing.place = None
            crossing.set_exception(exc)

    def _stand_in_line(self, crossing: Crossing, endpoint: str) -> None:
        crossing.made_at = self._now()
        crossing.place = Place(
            partial(self._come, crossing), partial(self._turn_away, crossing), partial(self._late, crossing, endpoint)
        )
        self._admission.enter(crossing.place, self._intake.latest(endpoint, crossing.options, crossing.made_at))

    def _come(self, crossing: Crossing) -> None:
        """Let a call join for which there is room now, in a step of its own: others may just be settled."""
        self._asked.append(crossing)
        self._wake.set()

    def _turn_away(self, crossing: Crossing, error: CarpoolError) -> None:
        crossing.place = None
        crossing.set_exception(type(error)(*error.args))

    def _late(self, crossing: Crossing, endpoint: str) -> None:
        """Let a call join that is sent live now, or end it."""
        crossing.place = None
        try:
            self._intake.late(endpoint, crossing.options)
            self._join_now(crossing)
        except Exception as exc:  # noqa: BLE001 - as above
            crossing.set_exception(exc)

    def _join_asked(self) -> None:
        asked, self._asked = self._asked, []
        for crossing in asked:
            place, crossing.place = crossing.place, None
            try:
                self._join_now(crossing)
            except Exception as exc:  # noqa: BLE001 - as above
                crossing.set_exception(exc)
            if place is not None:
                self._admission.joined(place)

    def _join_now(self, crossing: Crossing) -> None:
        call, crossing.call = crossing.call, None
        context, crossing.context = crossing.context, None
        if call is not None and not crossing.done():
            crossing.number = self._intake.join(call, crossing.options, crossing, context, crossing.made_at)

    async def let_go(self) -> None:
        """Let callers go that were settled, and hear which answers did not reach them, for a second at most."""
        with self._lock:
            sides = list(self._all)
        for _ in range(2):  # those who are woken have the next turn, in which trio lets anyone be first
            await anyio.lowlevel.checkpoint()
        gone = [anyio.Event() for _ in sides]
        for side, event in zip(sides, gone, strict=True):
            side.let_go(partial(self._tell, event.set))
        with anyio.move_on_after(_FAREWELL):
            for event in gone:
                await event.wait()
        self._pass_on()

    def _tell(self, what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the event loop is over
            self._post(what)

    def close(self, error: CarpoolError) -> None:
        """Refuse what was handed over and did not join, and whatever comes."""
        with self._lock:
            self._refusal = self._refusal or error
        sent, _ = self._take()
        asked, self._asked = self._asked, []
        for crossing in (*sent, *asked):
            if crossing.outcome is None:
                crossing.set_exception(type(error)(*error.args))

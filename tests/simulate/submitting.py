"""Clients who submit, and services that take what came of it, and mostly say so."""

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import anyio

import carpool

from .plan import Plan
from .process import Process

Settled: TypeAlias = "carpool.Response | carpool.RequestFailed"

_ACKED = 0.9  # the share of what is given that is acked
_RECORDING = 10.0  # times the longest step of the disk: until then what was acked may be unrecorded


def is_submitted(number: int, plan: Plan) -> bool:
    """Tell whether a call is submitted, and not awaited."""
    return plan.keyed and random.Random(f"submitted/{plan.seed}/{number}").random() < plan.submitted


class Desk:
    """Take outcomes in, and tell clients; `settle` is told what came of a call the first time."""

    def __init__(self, plan: Plan, settle: Callable[[int, Settled], None]) -> None:
        self._plan = plan
        self._settle = settle
        self._chance = random.Random(f"desk/{plan.seed}")
        self._news: dict[int, anyio.Event] = {}
        self._came: dict[int, str] = {}  # what was given that is to stay
        self._acked: dict[str | None, tuple[Process, float]] = {}  # by row
        self._given = Counter[tuple[int, str | None]]()  # by process and row
        self.ids: dict[int, str | None] = {}
        self.faults: list[str] = []

    async def wait(self, number: int, patience: float) -> None:
        """Wait for something to come of a call."""
        with anyio.move_on_after(patience):
            await self._news.setdefault(number, anyio.Event()).wait()

    def take(self, process: Process, outcome: carpool.Outcome) -> None:
        """Take what came of a submission."""
        if outcome.key is None:
            self.faults.append(f"nobody knows what the outcome {outcome.custom_id} is of: {outcome!r}")
            return
        number = int(outcome.key.removeprefix("key "))
        self._given[id(process), outcome.custom_id] += 1
        if self._given[id(process), outcome.custom_id] > 1:
            self.faults.append(f"the outcome of call {number} was given twice by one process")
        if self._is_done(outcome.custom_id):
            process, at = self._acked[outcome.custom_id]
            self.faults.append(f"the outcome of call {number} was given again, though it was acked at {at:.3f}")
        came: Settled | carpool.CarpoolError | None = outcome.response or outcome.error
        if isinstance(came, carpool.Response | carpool.RequestRejected):
            self._stay(number, came, outcome.custom_id)
        elif not isinstance(came, carpool.RequestFailed):  # how often it was tried is not kept
            self.faults.append(f"of call {number}, which was submitted, came {came!r}")
        if not isinstance(came, carpool.Response | carpool.RequestRejected) or self._chance.random() < _ACKED:
            outcome.ack()
            self._acked[outcome.custom_id] = process, anyio.current_time()
        self._news.pop(number, anyio.Event()).set()

    def _stay(self, number: int, came: "carpool.Response | carpool.RequestRejected", custom_id: str | None) -> None:
        text = came.text if isinstance(came, carpool.Response) else came.message
        before = self._came.setdefault(number, text)
        if before != text:
            self.faults.append(f"of call {number} came {before[-5:]!r}, and later {text[-5:]!r}")
        self.ids.setdefault(number, custom_id)
        self._settle(number, came)

    def _is_done(self, custom_id: str | None) -> bool:
        """Tell whether an outcome was acked, and that was recorded."""
        process, at = self._acked.get(custom_id, (None, 0.0))
        if process is None or self._plan.full or process.left_at <= at:  # it is said that it will be given again
            return False
        return process.died_at > at + _RECORDING * self._plan.disk

    def missing(self, process: Process) -> list[int]:
        """Give the calls that came to something, was not acked, and that a process has not given either."""
        return [
            number
            for number, custom_id in self.ids.items()
            if custom_id not in self._acked and not self._given[id(process), custom_id]
        ]

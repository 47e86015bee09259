"""The world of a plan: a provider, services on one folder that come and go, and clients who ask until they know."""

import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

import carpool
from carpool.testing import Books, Emulator, Faults, Pace, Troubles

from .calls import CHAT, Answers, body_of, count, tokens_of
from .kernel import Kernel
from .plan import Plan, Stop
from .process import Gone, Process

_PATIENCE = 600.0  # seconds after the last request in which the last answer must have come
_SLACK = 20.0  # seconds beyond its grace in which a service must have left, on a disk that is fast
_REST = 60.0  # seconds after which nothing is left of those that were killed


@dataclass
class Seen:
    """Tell what came of a plan; `settled` and `again` give answers, or the errors, by the numbers of calls."""

    settled: dict[int, carpool.Response | carpool.RequestFailed] = field(default_factory=dict)
    again: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    books: Books | None = None
    final: Books | None = None  # once all were asked for again
    retried: int = 0
    seconds: float = 0.0


class World:
    """Run a plan once."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder / "journal"
        self._kernel = Kernel()
        self.seen = Seen()
        self._all: list[Process] = []
        self._at: list[Process | None] = [None] * plan.services
        self._pauses = [0.1] * plan.services
        self._settled = anyio.Event()
        mean = sum(tokens_of(body_of(number, plan)) for number in range(plan.calls)) / plan.calls
        held = plan.rate / plan.lanes * (plan.running + 1.5)
        self._limit = max(200, round(mean * held / plan.use))
        self._emulator = Emulator(
            answer=Answers(),
            pace=Pace(validating=plan.running / 20, running=plan.running, finalizing=plan.running / 40),
            enqueued_tokens={"*": self._limit},
            count=tokens_of,
            faults=Faults(**plan.faults),  # type: ignore[arg-type]  # rates
            troubles=Troubles(failing=plan.failing, silent_rest=0.5, **plan.troubles),
            seed=plan.seed,
            **plan.lags,  # type: ignore[arg-type]  # floats
        )

    @property
    def _timing(self) -> carpool.Timing:
        turn = self._plan.running / 4
        lookup = max(2.0, 5 * self._plan.net)
        return carpool.Timing(linger=turn / 2, max_linger=turn, poll_min=turn / 4, poll_max=turn, lookup=lookup)

    def _note(self, what: str) -> None:
        self.seen.trace.append(f"{anyio.current_time():9.3f} {what}")

    async def run(self) -> Seen:
        """Run it to the end, and ask for everything once more."""
        with self._kernel.watching():
            async with self._emulator.inline() as served, anyio.create_task_group() as self._outside:
                self._app = served.app
                await self._live()
                self.seen.seconds = anyio.current_time()
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(_REST)
                self.seen.books = served.books()
                await self._ask_again()
                self._outside.cancel_scope.cancel()
        self.seen.final = served.books()
        for process in self._all:
            self._look_at_ends(process)
        return self.seen

    # --- services

    async def _live(self) -> None:
        """Let services and clients do what they do, until all is settled."""
        async with anyio.create_task_group() as services:
            for which in range(self._plan.services):
                await services.start(self._serve, which)
            with anyio.move_on_after(self._plan.seconds + _PATIENCE):
                async with anyio.create_task_group() as clients:
                    clients.start_soon(self._stop)
                    clients.start_soon(self._come, clients)
                    await self._settled.wait()
                    clients.cancel_scope.cancel()
            services.cancel_scope.cancel()
        for process in self._all:
            process.kill()

    def _new(self) -> Process:
        plan = self._plan
        process = Process(
            self._kernel,
            self._folder,
            self._app,
            self._outside,
            random.Random(f"process/{plan.seed}/{len(self._all)}"),
            disk=plan.disk,
            net=plan.net,
            twice=plan.twice,
            timing=self._timing,
            counter=count,
            limits={"*": self._limit} if plan.told else None,
        )
        self._all.append(process)
        return process

    async def _serve(self, which: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Start a service again and again."""
        while True:
            process = self._at[which] = self._new()
            self._note(f"service {which} starts")
            if await process.start():
                self._note(f"service {which} serves")
            if len(self._all) <= self._plan.services:
                task_status.started()
            await process.over.wait()
            self._note(f"service {which} is over")
            self._at[which] = None
            await anyio.sleep(self._pauses[which])

    async def _stop(self) -> None:
        for stop in self._plan.stops:
            await anyio.sleep(max(0.0, stop.at - anyio.current_time()))
            process = self._at[stop.service]
            if process is not None:
                self._note(f"service {stop.service}: {stop.how}")
                self._pauses[stop.service] = stop.pause
                self._end(process, stop)

    def _end(self, process: Process, stop: Stop) -> None:
        if stop.how == "kill" or not process.serves:
            process.kill()
        else:
            self._outside.start_soon(self._let_leave, process)

    async def _let_leave(self, process: Process) -> None:
        grace = self._plan.running / 2
        start = anyio.current_time()
        await process.leave(grace)
        took = anyio.current_time() - start
        if took > grace + _SLACK * (1 + self._plan.disk):
            self.seen.faults.append(f"a service took {took:.1f} s to leave")

    def _look_at_ends(self, process: Process) -> None:
        """See that each accepted call came to one end, if the process did not die before."""
        for call in process.accepted | process.ends:
            ends = process.ends[call]
            if process.accepted[call] != 1 or ends > 1 or (not ends and not process.dead):
                self.seen.faults.append(f"call {call} was accepted {process.accepted[call]} times, and ended {ends}")

    # --- clients

    async def _come(self, clients: anyio.abc.TaskGroup) -> None:
        chance = random.Random(f"clients/{self._plan.seed}")
        at = anyio.current_time()
        for number in range(self._plan.calls):
            at += chance.expovariate(self._plan.rate)
            await anyio.sleep(max(0.0, at - anyio.current_time()))
            clients.start_soon(self._ask, number)

    async def _ask(self, number: int) -> None:
        """Ask until there is an answer, or an error that will stay."""
        chance = random.Random(f"client/{self._plan.seed}/{number}")
        which = number
        while (why := await self._try(which % self._plan.services, number)) is not None:
            self._note(f"call {number} at {which % self._plan.services}: {why}")
            self.seen.retried += 1
            which += 1
            await anyio.sleep(0.3 * chance.uniform(0.5, 1.5))
        if len(self.seen.settled) == self._plan.calls:
            self._settled.set()

    async def _try(self, which: int, number: int) -> str | None:
        """Ask one service; gives why to ask again."""
        process = self._at[which]
        if process is None or not process.serves:
            return "no connection"
        with anyio.move_on_after(self._plan.patience):
            try:
                self.seen.settled[number] = await process.ask(self._request(number))
            except carpool.RequestRejected as exc:
                self.seen.settled[number] = exc
            except (Gone, carpool.PoolClosed) as exc:
                return type(exc).__name__
            except carpool.RequestFailed as exc:
                if len(exc.attempts) < 3:
                    self.seen.faults.append(f"call {number} failed too early: {exc!r}, {exc.attempts}")
                return repr(exc)
            except carpool.CarpoolError as exc:
                self.seen.faults.append(f"call {number} was told {exc!r}")
                return repr(exc)
            return None
        return "no patience"

    def _request(self, number: int) -> carpool.Request:
        return carpool.Request(CHAT, body_of(number, self._plan), key=f"key {number}" if self._plan.keyed else None)

    # --- afterwards

    async def _ask_again(self) -> None:
        """Ask for all answers once more, in a process that was not there before."""
        process = self._new()
        await process.start()

        async def ask(number: int) -> None:
            with suppress(carpool.CarpoolError):
                self.seen.again[number] = (await process.ask(self._request(number))).text

        with anyio.move_on_after(_PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number, settled in self.seen.settled.items():
                    if isinstance(settled, carpool.Response):
                        tasks.start_soon(ask, number)
        process.kill()

"""The world of a plan: a provider, services on one folder that come and go, and clients who ask until they know."""

import random
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.abc

import carpool
from carpool.models import OUT_OF_REACH
from carpool.testing import Books, Emulator, Faults, Pace, Troubles

from .calls import CHAT, Answers, body_of, count, tokens_of
from .kernel import Kernel
from .plan import PATIENCE, Plan, Stop, What
from .process import Gone, Process
from .submitting import Desk, is_submitted

_SLACK = 20.0  # seconds beyond its grace in which a service must have left, on a disk that is fast
_REST = 60.0  # seconds after which nothing is left of those that were killed
_LOWER = 0.5  # times the limit, where it becomes less
_RECORDING = 10.0  # times the longest step of the disk: until then a live answer may be unrecorded
_LATE = 0.1  # seconds by which the end of a timeout may be missed


@dataclass
class Seen:
    """Tell what came of a plan; `settled` and `again` give answers, or the errors, by the numbers of calls, and `twins`
    what another client was told at that time, where it is not the same.

    `asked` says how often a call was taken by a service, `failed` how often its request ended without an answer,
    `lived` how often an answer to it came live to a service, `unkept` how often that died before it can have recorded
    it, `injected` what was done to the world; of `unrecorded` calls such an answer was given.
    """

    settled: dict[int, carpool.Response | carpool.RequestFailed] = field(default_factory=dict)
    again: dict[int, str] = field(default_factory=dict)
    twins: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    books: Books | None = None
    final: Books | None = None  # once all were asked for again
    asked: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    lived: Counter[int] = field(default_factory=Counter)
    unkept: Counter[int] = field(default_factory=Counter)
    unrecorded: set[int] = field(default_factory=set)
    injected: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    seconds: float = 0.0

    @property
    def lost(self) -> dict[int, str | None]:
        """Give what came of calls that were answered when they were asked for again, where it is not the same."""
        return {
            number: text
            for number, settled in self.settled.items()
            if isinstance(settled, carpool.Response) and number not in self.unrecorded
            for text in (self.again.get(number), self.twins.get(number, settled.text))
            if text != settled.text
        }


class World:
    """Run a plan once."""

    def __init__(self, plan: Plan, folder: Path, injected: Counter[str]) -> None:
        self._plan = plan
        self._folder = folder / "journal"
        self._kernel = Kernel()
        self.seen = Seen(injected=injected)
        self._all: list[Process] = []
        self._at: list[Process | None] = [None] * plan.services
        self._pauses = [0.1] * plan.services
        self._locked: What | None = None
        self._settled = anyio.Event()
        self._turns = defaultdict[tuple[int, int], anyio.Lock](anyio.Lock)
        self._desk = Desk(plan, self._settle)
        self._given_live: dict[int, tuple[Process, float]] = {}
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

    @property
    def _told(self) -> dict[str, int] | None:
        return {"*": int(self._plan.told * self._limit)} if self._plan.told else None

    def _note(self, what: str) -> None:
        what = what.replace(str(self._folder), "FOLDER")  # whose name is another each time
        self.seen.trace.append(f"{anyio.current_time():9.3f} {what}")

    async def run(self) -> Seen:
        """Run it to the end, and ask for everything once more."""
        self.seen.injected["stale listing"] += self._plan.stale
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
            self._look_at_live_answers(process)
        for number, (process, at) in self._given_live.items():
            if self._plan.full or self._is_lost(process, at):
                self.seen.unrecorded.add(number)
        return self.seen

    def _look_at_live_answers(self, process: Process) -> None:
        for number, at in process.lived:
            self.seen.lived[number] += 1
            self.seen.unkept[number] += self._is_lost(process, at)

    def _is_lost(self, process: Process, at: float) -> bool:
        """Tell whether what came to a process may not be recorded."""
        late = _RECORDING * self._plan.disk + sum(full.seconds for full in self._plan.full)
        return process.died_at <= at + late

    # --- services

    async def _live(self) -> None:
        """Let services and clients do what they do, until all is settled."""
        async with anyio.create_task_group() as services:
            for which in range(self._plan.services):
                await services.start(self._serve, which)
            with anyio.move_on_after(self._plan.longest):
                async with anyio.create_task_group() as clients:
                    clients.start_soon(self._stop)
                    clients.start_soon(self._lower)
                    clients.start_soon(self._fill)
                    clients.start_soon(self._lock)
                    clients.start_soon(self._come, clients)
                    await self._settled.wait()
                    clients.cancel_scope.cancel()
            services.cancel_scope.cancel()
        for process in self._all:
            process.kill()

    def _new(self, *, patient: bool = False) -> Process:
        plan = self._plan
        process = Process(
            self._kernel,
            self._folder,
            self._app,
            self._outside,
            random.Random(f"process/{plan.seed}/{len(self._all)}"),
            disk=plan.disk,
            net=plan.net,
            live=plan.running / 4,
            twice=plan.twice,
            stale=plan.stale,
            locked=lambda: self._locked,
            injected=self.seen.injected,
            timing=self._timing,
            counter=count,
            limits=self._told,
            timeout=None if patient else plan.timeout or None,
            escalate="live" if plan.escalate else None,
        )
        self._all.append(process)
        return process

    async def _serve(self, which: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Start a service again and again."""
        while True:
            told = self._told
            process = self._at[which] = self._new()
            self._note(f"service {which} starts")
            if await process.start():
                self._note(f"service {which} serves")
                if self._told is not None and self._told != told:  # else nobody tells what came to be meanwhile
                    await process.set_limits(self._told)
                self._outside.start_soon(process.take, partial(self._desk.take, process))
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

    async def _lower(self) -> None:
        """Lower the limit, and tell the services where they are told of it."""
        if self._plan.lowered:
            await anyio.sleep(self._plan.lowered)
            self._limit = round(_LOWER * self._limit)
            self._emulator.set_limit("*", self._limit)
            self._note(f"the limit is {self._limit}")
            self.seen.injected["limit lowered"] += 1
            for process in self._at:
                if self._plan.told and process is not None and process.serves:
                    await process.set_limits(self._told)

    async def _fill(self) -> None:
        """Fill the disk, and free it; a service that met it is started again."""
        for full in sorted(self._plan.full, key=lambda one: one.at):
            await anyio.sleep(max(0.0, full.at - anyio.current_time()))
            self._note("the disk is full")
            self.seen.injected["full disk"] += 1
            self._kernel.full = self._kernel.was_full = True
            await anyio.sleep(full.seconds)
            self._kernel.full = False
            self._note("the disk has room")

    async def _lock(self) -> None:
        """Let nobody look at batches, or at files of errors, for a while."""
        for lock in self._plan.locked:
            await anyio.sleep(max(0.0, lock.at - anyio.current_time()))
            self._note(f"{lock.what} are locked")
            self.seen.injected["locked out"] += 1
            self._locked = lock.what
            await anyio.sleep(lock.seconds)
            self._locked = None
            self._note(f"{lock.what} are shown again")

    def _end(self, process: Process, stop: Stop) -> None:
        self.seen.injected[stop.how] += 1
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
            submitted = is_submitted(number, self._plan)
            clients.start_soon(self._submit if submitted else self._ask, number, number)
            if random.Random(f"twin/{self._plan.seed}/{number}").random() < self._plan.twins:
                self.seen.injected["asked twice at once"] += 1
                clients.start_soon(self._submit if submitted else self._take_turns, number, number + 1)

    async def _ask(self, number: int, which: int) -> None:
        """Ask until there is an answer, or an error that will stay, one service first."""
        chance = random.Random(f"client/{self._plan.seed}/{number}")
        while (why := await self._take_turns(number, which)) is not None:
            self._note(f"call {number} at {which % self._plan.services}: {why}")
            self.seen.retried += 1
            which += 1
            await anyio.sleep((30.0 if self._locked else 0.3) * chance.uniform(0.5, 1.5))

    def _settle(self, number: int, settled: carpool.Response | carpool.RequestFailed) -> None:
        first = self.seen.settled.setdefault(number, settled)
        if isinstance(first, carpool.Response) and getattr(settled, "text", first.text) != first.text:
            self.seen.twins[number] = settled.text if isinstance(settled, carpool.Response) else repr(settled)
        if len(self.seen.settled) == self._plan.calls:
            self._settled.set()

    async def _submit(self, number: int, which: int) -> None:
        """Submit until it is known what came of it, to one service first; under its key it counts once."""
        chance = random.Random(f"client/{self._plan.seed}/{number}/{which}")
        while number not in self.seen.settled:
            process = self._at[which % self._plan.services]
            which += 1
            if process is None or not process.serves:
                await anyio.sleep(0.3 * chance.uniform(0.5, 1.5))
                continue
            self.seen.asked[number] += 1
            with suppress(Gone, carpool.PoolClosed):
                try:
                    await process.submit(self._request(number))
                except carpool.JournalError as exc:
                    self._start_again(process, exc)
                else:
                    await self._desk.wait(number, self._plan.patience)
            await anyio.sleep(0.3 * chance.uniform(0.5, 1.5))
            self.seen.retried += 1

    async def _take_turns(self, number: int, which: int) -> str | None:
        """Ask a service if it is still to be asked once no other client does: there these would be two requests."""
        async with self._turns[number, which % self._plan.services]:
            return None if number in self.seen.settled else await self._try(number, which % self._plan.services)

    async def _try(self, number: int, which: int) -> str | None:
        """Ask one service; gives why to ask again."""
        process = self._at[which]
        if process is None or not process.serves:
            return "no connection"
        self.seen.asked[number] += 1
        start = anyio.current_time()
        with anyio.move_on_after(self._plan.patience):
            try:
                response = await process.ask(self._request(number))
                if not response.batch_id:
                    self._given_live.setdefault(number, (process, anyio.current_time()))
                self._settle(number, response)
            except carpool.RequestRejected as exc:
                self._settle(number, exc)
            except carpool.JournalError as exc:
                self._start_again(process, exc)
                return repr(exc)
            except self._passing as exc:
                return type(exc).__name__
            except carpool.RequestFailed as exc:
                return self._why_failed(number, exc, anyio.current_time() - start)
            except carpool.CarpoolError as exc:
                self.seen.faults.append(f"call {number} was told {exc!r}")
                return repr(exc)
            return None
        return "no patience"

    def _why_failed(self, number: int, exc: carpool.RequestFailed, took: float) -> str:
        if exc.code == OUT_OF_REACH and self._plan.locked:
            return repr(exc)
        self.seen.failed[number] += exc.custom_id is not None  # or its caller's time was over, not the request
        if isinstance(exc, carpool.RequestExpired) and self._is_timely(took):
            return "its time was over"
        if len(exc.attempts) < 3:
            self.seen.faults.append(f"call {number} failed too early, after {took:.2f} s: {exc!r}, {exc.attempts}")
        return repr(exc)

    @property
    def _passing(self) -> tuple[type[Exception], ...]:
        """Give what a client may be told that asks again."""
        return (Gone, carpool.PoolClosed, *((carpool.AuthenticationFailed,) if self._plan.locked else ()))

    def _start_again(self, process: Process, exc: carpool.JournalError) -> None:
        """Have a service leave that can keep nothing any more, where the disk was full."""
        if not self._kernel.was_full:
            self.seen.faults.append(f"a client was told {exc!r}")
        if process.serves:
            process.serves = False
            self._outside.start_soon(self._let_leave, process)

    def _is_timely(self, took: float) -> bool:
        """Tell whether a call may expire by its own timeout; a live call that came to nothing ends it before that."""
        timeout = self._plan.timeout
        return timeout > 0 and (self._plan.escalate or took > timeout - _LATE) and took < timeout + _LATE

    def _request(self, number: int) -> carpool.Request:
        return carpool.Request(CHAT, body_of(number, self._plan), key=f"key {number}" if self._plan.keyed else None)

    # --- afterwards

    async def _ask_again(self) -> None:
        """Ask for all answers once more, in a process that was not there before."""
        process = self._new(patient=True)
        await process.start()
        self._outside.start_soon(process.take, partial(self._desk.take, process))
        settled = self.seen.settled.items()
        answered = {number: came for number, came in settled if isinstance(came, carpool.Response)}

        async def ask(number: int) -> None:
            with suppress(carpool.CarpoolError):
                if not is_submitted(number, self._plan):
                    self.seen.again[number] = (await process.ask(self._request(number))).text
                elif await process.submit(self._request(number)) == self._desk.ids[number]:
                    self.seen.again[number] = answered[number].text

        with anyio.move_on_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in answered:
                    tasks.start_soon(ask, number)
        await anyio.sleep(_REST if self._plan.submitted else 0.0)
        missing = self._desk.missing(process)
        if missing:
            self._desk.faults.append(f"{len(missing)} outcomes were not acked, nor given again: {missing[:5]}")
        self.seen.faults += self._desk.faults
        process.kill()

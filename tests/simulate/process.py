"""A process with one pool, that can be killed: nothing of it has any effect from then on, and nothing is cleaned up."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

import carpool
from carpool.settings import Ports

from .kernel import Holdings, Kernel
from .network import Network
from .plan import What

URL = "http://emulator/v1"
_ENDS = frozenset({"answered", "failed", "expired", "left"})
_OFTEN = 0.08  # the share of steps that are slow


class Dead(Exception):
    """Stop what a dead process was about to do."""


class Gone(Exception):
    """Tell a client that the connection broke."""


class Process:
    """Run a pool on a folder; steps of the disk, of the network and live answers take up to so many seconds."""

    def __init__(
        self,
        kernel: Kernel,
        folder: Path,
        app: Any,
        outside: anyio.abc.TaskGroup,
        chance: random.Random,
        *,
        disk: float,
        net: float,
        live: float,
        twice: float,
        stale: bool,
        locked: Callable[[], What | None],
        injected: Counter[str],
        **settings: Any,
    ) -> None:
        self._kernel = kernel
        self._outside = outside
        self._chance = chance
        self._disk, self._net, self._live, self._twice = disk, net, live, twice
        self._injected = injected
        self.lived: list[tuple[int, float]] = []  # calls whose answer came live, and when
        self._holdings = Holdings()
        self._scopes: dict[anyio.CancelScope, None] = {}  # in their order, unlike a set
        self.dead = False
        self.died_at = self.left_at = math.inf
        self.serves = False
        self.over = anyio.Event()
        self.accepted = Counter[int]()
        self.ends = Counter[int]()
        ports = Ports(run_sync=self._run_sync, transport=Network(self, app, outside, stale=stale, locked=locked))
        self.pool = carpool.Pool(
            "any", URL, journal=folder, progress=False, on_event=self._hear, _ports=ports, **settings
        )

    # --- what is outside of it

    async def _run_sync(self, func: Callable[..., Any], /, *args: object) -> Any:
        """Run a function as a thread would: whoever waits for it cannot be cancelled."""
        await anyio.lowlevel.checkpoint()
        with anyio.CancelScope(shield=True):
            await self._pass(self._disk, "slow disk")
            result = self._kernel.call(self._holdings, func, *args)
            await self._pass(self._disk, "slow disk")
            return result

    async def travel(self) -> None:
        """Wait as long as a way takes."""
        await self._pass(self._net, "slow network")

    async def think(self) -> None:
        """Wait as long as a live answer takes."""
        await anyio.sleep(self._live * self._chance.random())
        await self.travel()

    async def _pass(self, longest: float, what: str) -> None:
        if longest:
            slow = self._chance.random() < _OFTEN
            self._injected[what] += slow
            await anyio.sleep(longest * (self._chance.random() if slow else 0.01))
        if self.dead:
            raise Dead

    def answered_live(self, number: int) -> None:
        """Note that a call is answered live."""
        self.lived.append((number, anyio.current_time()))

    def repeats(self) -> bool:
        """Draw whether a request is sent twice."""
        repeats = self._chance.random() < self._twice
        self._injected["sent twice"] += repeats
        return repeats

    def _hear(self, event: carpool.Event) -> None:
        if event.kind == "accepted" and event.call is not None:
            self.accepted[event.call] += 1
        elif event.kind in _ENDS and event.call is not None:
            self.ends[event.call] += 1

    # --- its life

    async def start(self) -> bool:
        """Open the pool; gives whether it lived to see that."""
        with self._mortal():
            try:
                await self.pool.start()
            except carpool.JournalError:
                if not self._kernel.was_full:
                    raise
                self.kill()
        self.serves = not self.dead
        return self.serves

    async def ask(self, request: carpool.Request) -> carpool.Response:
        """Await an answer; raises `Gone` when the process dies first."""
        with self._mortal():
            try:
                return await self.pool.request(request)
            except carpool.CarpoolError:
                if not self.dead:
                    raise
        raise Gone

    async def submit(self, request: carpool.Request) -> str:
        """Submit a request; raises `Gone` when the process dies first."""
        with self._mortal():
            try:
                return await self.pool.submit(request)
            except carpool.CarpoolError:
                if not self.dead:
                    raise
        raise Gone

    async def take(self, hear: Callable[[carpool.Outcome], None]) -> None:
        """Hear what came of submissions."""
        with self._mortal(), suppress(carpool.JournalError):  # whoever asks is told it too
            async with self.pool.outcomes() as outcomes:
                async for outcome in outcomes:
                    hear(outcome)

    async def set_limits(self, limits: dict[str, int] | None) -> None:
        """Keep within other limits from now on."""
        with self._mortal():
            await self.pool.set_limits(limits)

    async def leave(self, grace: float) -> None:
        """Leave within a grace."""
        with self._mortal():
            await self.pool.drain(grace)
            self.left_at = anyio.current_time()
        self.over.set()

    @contextmanager
    def _mortal(self) -> Iterator[None]:
        """Do something until the process dies."""
        with suppress(Dead), anyio.CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield
            except Exception:  # what a process meets whose files and locks are gone, nobody hears of
                if not self.dead:
                    raise
            finally:
                del self._scopes[scope]

    def kill(self) -> None:
        """Die at once."""
        if self.over.is_set():
            return
        self.dead, self.serves = True, False
        self.died_at = anyio.current_time()
        self._holdings.let_go()
        for scope in list(self._scopes):
            scope.cancel()
        self.over.set()
        self._outside.start_soon(self._bury)

    async def _bury(self) -> None:
        """Let the event loop be rid of it."""
        with suppress(Exception), anyio.CancelScope(shield=True):
            await self.pool.__aexit__(Dead, Dead(), None)

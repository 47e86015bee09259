"""The clients of a soak: requests come when they come, and each is asked again elsewhere until it is answered."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2

from .plan import NAMES, Plan

_PATIENCE = 90.0  # seconds for which a client waits for one answer, before it asks the other service
_PAUSE = 0.3  # seconds before it asks again, in the mean


@dataclass
class Tally:
    """Count what came of requests; `latencies` are those of the answered, in seconds, with all their retries."""

    asked: int = 0
    latencies: list[float] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    waiting: dict[str, float] = field(default_factory=dict)  # keys not answered yet, and when they were asked first

    @property
    def answered(self) -> int:
        """Count the requests that were answered rightly."""
        return len(self.latencies)


class Clients:
    """Ask as a plan says; `addresses` tells where each service listens, or did last."""

    def __init__(self, plan: Plan, addresses: dict[str, str]) -> None:
        self._plan = plan
        self._addresses = addresses
        self._chance = random.Random(f"clients/{plan.seed}")
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(_PATIENCE, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        self.tally = Tally()

    async def run(self, until: float) -> None:
        """Send all requests at their times; what is not answered `until` then, on the monotonic clock, is given up."""
        begin = time.monotonic()
        async with self._http:
            calls = set()
            at = begin
            for number in range(self._plan.calls):
                at += self._chance.expovariate(self._plan.rate)
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                calls.add(asyncio.create_task(self._ask(number)))
            await asyncio.wait(calls, timeout=max(0.0, until - time.monotonic()))
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _ask(self, number: int) -> None:
        """Ask until there is an answer."""
        start, key, body = time.monotonic(), f"{self._plan.seed}-{number}", self._plan.body(number)
        self.tally.asked += 1
        self.tally.waiting[key] = start
        which = number % 2
        while (why := await self._try(NAMES[which], key, body)) is not None:
            self.tally.retried[why] += 1
            which = 1 - which
            await asyncio.sleep(_PAUSE * self._chance.uniform(0.5, 1.5))
        del self.tally.waiting[key]
        self.tally.latencies.append(time.monotonic() - start)

    async def _try(self, name: str, key: str, body: str) -> str | None:
        """Ask one service; gives why to ask again."""
        try:
            reply = await self._http.post(f"{self._addresses[name]}/ask/{key}", content=body.encode())
        except httpx2.TransportError as exc:
            return type(exc).__name__
        if reply.status_code != 200:
            return str(reply.status_code)
        if reply.text != body:
            self.tally.wrong.append(f"{key} was given {reply.text[:60]!r}")
        return None

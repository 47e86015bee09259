"""Calls whose time runs out, sent live: each once, a few at a time, and no faster than the server lets us."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import chain

import anyio
from msgspec import structs

from .config import Escalate
from .engine.commands import SendLive
from .engine.events import Event, LiveEnded
from .engine.packing import singles
from .models import OUT_OF_MONEY, Call, CallFailed, Encoded, Failure, Lane, Reply, Row, Run
from .perform import drive
from .providers import Provider
from .spool import Spool

log: logging.Logger = logging.getLogger("carpool.escalation")

_LARGE = 8_000_000  # bytes
_OLD = 86_400.0  # seconds
_PAUSE = 1.0  # seconds after a refusal for now that does not say how long
_SPENT = Failure("budget", "The budget does not allow for sending the request live. Raise it to go on.")
_TOO_LATE = Failure("expired", "The request's timeout ended before it could be sent live.")


class Escalation:
    """Send rows live and tell what came of them; `is_awaited` says whether anybody waits for a row still, `is_spent`
    whether there is no money left; `afford` reserves what a row costs until it has `landed`; `at_once` bounds those
    under way.

    A reply that was lost may have been billed: it is not asked for again. A refusal for now (429) was not, and is.
    """

    def __init__(
        self,
        pool: str,
        tier: Escalate,
        provider: Provider,
        send: Callable[[Call], Awaitable[Reply]],
        spool: Spool,
        feed: Callable[[Event], None],
        is_awaited: Callable[[int], bool],
        lose: Callable[[OSError], None],
        is_spent: Callable[[], bool],
        afford: Callable[[int, str, int], bool],
        landed: Callable[[int], None],
        at_once: anyio.CapacityLimiter,
    ) -> None:
        self._pool = pool
        self._tier = tier
        self._provider = provider
        self._send_call = send
        self._spool = spool
        self._feed = feed
        self._is_awaited = is_awaited
        self._lose = lose
        self._is_spent = is_spent
        self._afford = afford
        self._landed = landed
        self._at_once = at_once
        self.in_hand: set[int] = set()  # rows whose answers came, and which nobody was told of yet
        self._resting_until: dict[str, float] = {}  # by model
        self._short = False  # of money, and that was told
        self._saving = anyio.Lock()
        self._file: str | None = None
        self._saved = 0
        self._begun = 0.0

    async def send(self, command: SendLive) -> None:
        """Send rows, and tell the engine of each."""
        log.warning(
            "%d requests to %s are sent live: their time runs out", sum(map(len, command.runs)), command.lane.model
        )
        rows = chain.from_iterable(map(singles, command.runs))
        async with anyio.create_task_group() as group:
            for _ in range(min(int(self._at_once.total_tokens), sum(map(len, command.runs)))):
                group.start_soon(self._send_some, command.lane, rows)

    async def _send_some(self, lane: Lane, rows: Iterator[Run]) -> None:
        for run in rows:
            try:
                ended = await self._send_one(lane, run)
                self._feed(structs.replace(ended, awaited=self._is_awaited(ended.row)))
            finally:
                self.in_hand.difference_update(run.rows)
                self._landed(run.rows[0])

    async def _send_one(self, lane: Lane, run: Run) -> LiveEnded:
        """Send a row; whatever goes wrong is told to the engine, as others wait for other answers."""
        (number,) = run.rows
        try:
            return await self._answer(lane, run, number)
        except CallFailed as exc:
            return LiveEnded(number, failure=exc.failure)
        except OSError as exc:
            return LiveEnded(
                number, failure=Failure("disk", f"The request cannot be read: {exc}. {self._spool.remedy}")
            )
        except Exception as exc:
            log.exception("a live call failed by a fault of carpool's own")
            return LiveEnded(number, failure=Failure("failed", f"A fault of carpool's own: {exc!r}"))

    async def _answer(self, lane: Lane, run: Run, number: int) -> LiveEnded:
        answer = await self._ask(lane, run, number)
        if answer is None:
            return LiveEnded(number, failure=_SPENT if self._is_spent() else _TOO_LATE)
        if answer.code in OUT_OF_MONEY:
            return LiveEnded(number, failure=Failure("budget", answer.message, answer.status_code, answer.code))
        if answer.status_code in (0, 408) or answer.status_code >= 500:
            log.warning("the live call of %s-%d came to nothing: %s", self._pool, number, answer.message)
            return LiveEnded(number)
        self.in_hand.add(number)
        answer, file = await self._keep(number, answer)
        return LiveEnded(number, answer, file)

    async def _ask(self, lane: Lane, run: Run, number: int) -> Row | None:
        """Give the answer, None where nobody waited for it before the server took the call."""
        await self._spool.write((run,))
        (body,) = await self._spool.bodies(lane, run)
        call = Encoded(lane.endpoint, lane.model, body, 0)
        send = partial(self._send_and_heed, lane.model)
        while await self._may_go(lane.model, number):
            async with self._at_once:  # those that rest hold up nobody
                if self._pause(lane.model) > 0 or not self._is_wanted(number):
                    continue
                self._pay(number, lane.model, len(body))
                row = await drive(self._provider.live(call, self._tier), send)
            if row.status_code != 429 or row.code in OUT_OF_MONEY:
                return row
            self._rest(lane.model, _PAUSE)
        return None

    def _pay(self, number: int, model: str, size: int) -> None:
        """Reserve what a live call costs; raises where that is more than is left."""
        if self._afford(number, model, size):
            return
        if not self._short:
            log.warning("the budget does not allow for all calls to be sent live whose time runs out")
        self._short = True
        raise CallFailed(_SPENT)

    async def _send_and_heed(self, model: str, call: Call) -> Reply:
        reply = await self._send_call(call)
        self._rest(model, reply.rest)
        return reply

    def _rest(self, model: str, seconds: float) -> None:
        until = self._resting_until.get(model, 0.0)
        self._resting_until[model] = max(until, anyio.current_time() + seconds)

    def _pause(self, model: str) -> float:
        """Give how long a model's calls are to rest, which may grow meanwhile."""
        return self._resting_until.get(model, 0.0) - anyio.current_time()

    def _is_wanted(self, number: int) -> bool:
        """Tell whether anybody still awaits a row, and it can be paid."""
        return self._is_awaited(number) and not self._is_spent()

    async def _may_go(self, model: str, number: int) -> bool:
        """Wait as long as the server asked for, and tell whether a row is still wanted."""
        while self._is_wanted(number):
            pause = self._pause(model)
            if pause <= 0:
                return True
            await anyio.sleep(min(pause, _PAUSE))
        return False

    async def _keep(self, number: int, answer: Row) -> tuple[Row, str | None]:
        """Save an answer where there is a journal, as the line that a batch's file would hold."""
        custom_id = f"{self._pool}-{number}"
        if not self._spool.keeps:
            return structs.replace(answer, custom_id=custom_id), None
        line = self._provider.row_line(custom_id, answer)
        async with self._saving:
            file = self._open_file()
            offset, self._saved = self._saved, self._saved + len(line)
            try:
                await self._spool.save(file, offset, line)
            except OSError as exc:
                self._lose(exc)
        return structs.replace(answer, custom_id=custom_id, offset=offset, size=len(line) - 1), file

    def _open_file(self) -> str:
        """Name the file for answers: another one where it is large or old, as what it holds goes when all is old."""
        now = anyio.current_time()
        if self._file is None or self._saved >= _LARGE or now - self._begun >= _OLD:
            self._file, self._saved, self._begun = self._spool.new_download(), 0, now
        return self._file

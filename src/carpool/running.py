"""How a collector lives in its event loop: it keeps time, looks after spool and journal, and is left."""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel

from .adoption import Adoption
from .collector import Collector
from .engine.events import Closing, Escalate, Leave, Recovered, Tick
from .errors import CarpoolError, JournalError, PoolClosed
from .journal import Journal
from .models import Failure
from .providers import Provider
from .recover import follow_key
from .spool import Spool
from .wire import Wire

log: logging.Logger = logging.getLogger("carpool.running")

_FAREWELL = 5.0  # seconds that leaving by an exception may take
_ENDED = "The pool's event loop ended before the answer came."
_CLOSED = "The pool is closed. Open a new one for more requests."
LEFT = "The pool was left by an exception before the answer came."
_AGAIN = "Ask again in the next process."
_STAYS = Failure("closed", f"The pool is being drained, and the call stays in the journal. {_AGAIN}")
_DAY = 86_400.0  # seconds
_SLICE = 500  # callers that are told at once: some milliseconds


class Running:
    """Run a collector until it is left; what processes left that have died is looked for every `look_again` seconds."""

    def __init__(
        self,
        collector: Collector,
        provider: Provider,
        wire: Wire,
        spool: Spool,
        journal: Journal | None,
        look_again: float,
    ) -> None:
        self._collector = collector
        self._background = collector.background
        self._callers = collector.callers
        self._provider = provider
        self._wire = wire
        self._spool = spool
        self._journal = journal
        self._look_again = look_again
        self.let_go: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint  # lets those go who were settled
        self._writing = False

    async def run(self, started: anyio.Event) -> None:
        """Run the background until it is left; a fault in it becomes the error of every caller and ends it."""
        try:
            await self._background.run(self._run, started)
        except Exception as exc:
            log.exception("the pool broke down")
            self._callers.refuse_all(CarpoolError(f"The pool broke down by a fault of carpool's own: {exc!r}"))
        finally:
            self._callers.refuse_all(PoolClosed(_ENDED))
            self._close_submissions()
            await self.clean_up()

    async def _run(self) -> None:
        self._collector.feed(Recovered())
        self._collector.ask_again()
        adoption = self._collector.adoption
        if self._journal is not None and adoption is not None:
            self._background.watch(self._adopt, self._journal, adoption)
            self._background.watch(self._collector.elsewhere.run)
            self._background.watch(self._forget_old, self._journal)
            self._background.watch(self._leave_to_others, self._journal)
        await self._keep_time()

    def watch(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the callers, as long as the pool is open."""
        self._background.watch(step)

    @property
    def why_over(self) -> CarpoolError:
        """Give what whoever comes later is told."""
        refusal = self._callers.refusal
        return PoolClosed(_CLOSED) if refusal is None or isinstance(refusal, PoolClosed) else refusal  # it broke down

    def over(self) -> None:
        """Note that the background has ended, also when it never began."""
        self._callers.refuse_all(PoolClosed(_ENDED))
        self._background.finish()

    async def clean_up(self) -> None:
        """Let go of connections, files and journal."""
        try:
            with anyio.CancelScope(shield=True):
                try:
                    await self._wire.aclose()
                finally:
                    await self._spool.aclose()
                    if self._journal is not None:
                        await self._journal.aclose()
        except Exception:  # whatever it is, whoever closes the pool must not wait for ever, and trio must not crash
            log.exception("the pool could not clean up after itself")
        finally:
            self._background.finish()

    # --- time

    async def _keep_time(self) -> None:
        collector = self._collector
        while True:
            collector.take_in()
            if self._spool.has_chunks and not self._writing:
                self._writing = True
                self._background.start(self._write)
            await collector.wait()
            hurried = collector.intake.take_hurried()
            if hurried:  # no time is left to wait for their batch
                collector.take_in()
                collector.feed(Escalate(hurried))
            collector.intake.expire()
            collector.admission.expire(collector.now())
            collector.feed(Tick())

    async def _write(self) -> None:
        try:
            await self._spool.write()
        except OSError as exc:
            # What was not written is tried again before it is uploaded, and fails its own callers there.
            log.warning("the spool cannot be written: %s", exc)
        finally:
            self._writing = False

    async def _adopt(self, journal: Journal, adoption: Adoption) -> None:
        """Look from time to time for processes that have died since, and whether the key is another."""
        failing = False
        while True:
            await anyio.sleep(self._look_again)
            if not self._collector.adopts:
                return
            try:
                await adoption.look()
            except JournalError as exc:
                if not failing:
                    log.warning("what processes left that have died is not taken over for now: %s", exc)
                failing = True
                continue
            failing = False
            if self._wire.key_may_change:
                await follow_key(journal, self._provider, self._wire)

    async def _forget_old(self, journal: Journal) -> None:
        """Forget day by day what was delivered long ago: a process may live for months."""
        while True:
            await anyio.sleep(_DAY)
            if not self._collector.adopts:
                return
            try:
                await journal.forget_old()
            except JournalError as exc:
                log.warning("what is old in the journal stays there: %s", exc)

    async def _leave_to_others(self, journal: Journal) -> None:
        """Close a journal in which nothing can be recorded any more, once nothing runs that is answered here.

        As if this process had died: else others would wait for what it has under way as long as it lives.
        """
        collector, recorder = self._collector, self._collector.recorder
        background = self._background

        def is_idle() -> bool:
            broken = recorder is not None and recorder.broken is not None
            waits = collector.intake.unknown or any(collector.elsewhere)  # for what others have under way
            return broken and not background.busy and not collector.has_batches and not waits

        await background.until(is_idle)
        log.warning("what is unfinished is left to other processes, and to the next: the journal is closed")
        try:
            await journal.aclose()
        except JournalError as exc:
            log.warning("the journal could not be closed: %s", exc)

    # --- leaving

    async def close(self, *, submit: bool = True) -> None:
        """Submit what waits, settle every caller, give up what nobody awaits, and end the background.

        Unless `submit`, what waits stays in the journal, and its callers are refused. When this is cancelled, or the
        body failed, `abandon` is the way out.
        """
        collector, background = self._collector, self._background
        if not background.runs:  # it broke down
            await self.ended()
            return
        self._callers.refusal = PoolClosed(_CLOSED)
        if collector.observer is not None:
            collector.observer.draining()
        if submit:
            collector.flush()
            collector.feed(Closing())
            await background.until(lambda: not self._callers and not background.busy)
        else:
            await self._stop_submitting()
        collector.take_in()
        collector.performer.leaving = True
        collector.feed(Leave(keep=self._journal is not None))
        await background.until(lambda: not background.busy)
        self._warn_of_uncancelled()
        self._end()
        await background.stop()

    def _warn_of_uncancelled(self) -> None:
        for left in self._collector.performer.uncancelled:
            log.warning("left before batch %s was cancelled: it runs on and is billed", left)

    async def _stop_submitting(self) -> None:
        """Settle what is in batches, or sent already; the callers of all else are told that it stays."""
        collector, background = self._collector, self._background
        collector.submits = False
        collector.feed(Closing(submit=False))
        await self._catch_up()
        for run in collector.waiting:
            for start in range(0, len(run), _SLICE):
                rows = run.rows[start : start + _SLICE]
                collector.leave_to_the_next(rows, _STAYS)
                await anyio.lowlevel.checkpoint()
        await background.until(lambda: not background.busy and not (self._callers and collector.has_batches))
        await self._refuse(PoolClosed(self._drained))

    async def _catch_up(self) -> None:
        """Wait until all calls that came are looked up, and recorded."""
        collector, recorder = self._collector, self._collector.recorder
        collector.take_in()
        await self._background.until(lambda: not collector.intake.unknown)
        collector.take_in()
        await self._background.until(lambda: recorder is None or recorder.idle)

    @property
    def _drained(self) -> str:
        kept = "" if self._journal is None else f" It is kept in {self._journal.place}."
        return f"The pool was drained before the answer came.{kept} {_AGAIN}"

    async def drain(self, timeout: float | None, *, submit: bool) -> str | None:
        """Close, but leave what is not settled in time; gives then what `abandon` is to tell, once all is recorded."""
        with anyio.move_on_after(timeout) as limit:
            await self.close(submit=submit)
        if not limit.cancelled_caught:
            return None
        self._collector.performer.leaving = True
        await self._catch_up()
        return self._drained

    async def ended(self) -> None:
        """Wait until somebody else has left it."""
        await self._background.stop()

    async def abandon(self, why: str = LEFT) -> None:
        """Settle every caller with `PoolClosed`, cancel what runs remotely, best effort, and end the background."""
        self._collector.performer.leaving = True
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_FAREWELL):
                await self._refuse(PoolClosed(why))
                if self._background.runs:
                    await self._say_farewell()
            self._warn_of_uncancelled()
        finally:  # also when asyncio cancels a second time, which no shield keeps out
            self._end()
        await self._background.stop()

    def _end(self) -> None:
        """End the background, in which facts are recorded."""
        self._close_submissions()
        self._background.end()

    def _close_submissions(self) -> None:
        """Give nothing away any more that would be acked in vain."""
        if self._collector.submissions is not None:
            self._collector.submissions.close(self.why_over)

    async def _refuse(self, error: CarpoolError) -> None:
        """Settle everybody with an error, some at a time, and let them say which answers did not reach them."""
        while self._callers.refuse_some(error):
            await anyio.lowlevel.checkpoint()
        self._callers.refuse_all(error)
        await self.let_go()

    async def _say_farewell(self) -> None:
        recorder = self._collector.recorder
        if recorder is not None:
            self._collector.take_in()
            await self._background.until(lambda: recorder.idle and not self._collector.saves)
        else:
            self._collector.feed(Leave())
            await self._background.until(lambda: not self._background.busy)

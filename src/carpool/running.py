"""How a collector lives in its event loop: it keeps time, looks after spool and journal, and is left."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from .collector import Collector
from .engine.events import Closing, Escalate, Leave, Recovered, Tick
from .errors import CarpoolError, JournalError, PoolClosed
from .journal import Journal
from .recorder import Recorder
from .recover import take_over
from .spool import Spool
from .wire import Wire

log = logging.getLogger("carpool")

_FAREWELL = 5.0  # seconds that leaving by an exception may take
_ENDED = "The pool's event loop ended before the answer came."


class Running:
    """Run a collector until it is left; what processes left that have died is looked for every `look_again` seconds."""

    def __init__(
        self, collector: Collector, wire: Wire, spool: Spool, journal: Journal | None, look_again: float
    ) -> None:
        self._collector = collector
        self._background = collector.background
        self._callers = collector.callers
        self._wire = wire
        self._spool = spool
        self._journal = journal
        self._look_again = look_again
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
            await self.clean_up()

    async def _run(self) -> None:
        self._collector.feed(Recovered())
        if self._journal is not None and self._collector.recorder is not None:
            self._background.watch(self._adopt, self._journal, self._collector.recorder)
        await self._keep_time()

    def watch(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the callers, as long as the pool is open."""
        self._background.watch(step)

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
            collector.feed(Tick())

    async def _write(self) -> None:
        try:
            await self._spool.write()
        except OSError as exc:
            # What was not written is tried again before it is uploaded, and fails its own callers there.
            log.warning("the spool cannot be written: %s", exc)
        finally:
            self._writing = False

    async def _adopt(self, journal: Journal, recorder: Recorder) -> None:
        """Look from time to time for processes that have died since."""
        while recorder.broken is None:
            await anyio.sleep(self._look_again)
            try:
                await take_over(self._collector, journal)
            except JournalError as exc:
                recorder.lose(exc)  # what was taken over is told in part, and nobody else will tell it
            else:
                self._collector.feed(Recovered())

    # --- leaving

    async def close(self) -> None:
        """Submit what waits, settle every caller, give up what nobody awaits, and end the background.

        When this is cancelled, or the body failed, `abandon` is the way out.
        """
        collector, background = self._collector, self._background
        self._callers.refusal = PoolClosed("The pool is closed. Open a new one for more requests.")
        collector.flush()
        collector.feed(Closing())
        await background.until(lambda: not self._callers and not background.busy)
        collector.take_in()
        collector.performer.leaving = True
        collector.feed(Leave(keep=self._journal is not None))
        await background.until(lambda: not background.busy)
        await background.stop()

    async def abandon(self) -> None:
        """Settle every caller with `PoolClosed`, cancel what runs remotely, best effort, and end the background."""
        self._collector.performer.leaving = True
        self._callers.refuse_all(PoolClosed("The pool was left by an exception before the answer came."))
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_FAREWELL):
                await self._say_farewell()
            for left in self._collector.performer.uncancelled:
                log.warning("left before batch %s was cancelled: it runs on and is billed", left)
        finally:  # also when asyncio cancels a second time, which no shield keeps out
            self._background.end()
        await self._background.stop()

    async def _say_farewell(self) -> None:
        recorder = self._collector.recorder
        if recorder is not None:
            self._collector.take_in()
            await self._background.until(lambda: recorder.idle)
        else:
            self._collector.feed(Leave())
            await self._background.until(lambda: not self._background.busy)

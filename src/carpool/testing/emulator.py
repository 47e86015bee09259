"""The life of the emulator: in a thread of its own behind a socket, or inline in the caller's event loop."""

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import httpx2
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

from .account import Account, Batch
from .answers import Answering, echo, echo_counted
from .books import Books, Notes
from .checks import (
    check_answer,
    check_limit,
    check_port,
    check_positive,
    check_queue,
    check_seconds,
    check_webhook,
)
from .clock import Clock
from .course import run_batch
from .door import Door
from .faults import Dice, Faults
from .ledger import Ledger, OtherTokens, RoomMessage
from .live import Live
from .pace import Pace
from .server import Lags, Server
from .serving import Thread, listen
from .setting import RefuseAt, Setting
from .store import Store
from .troubles import Luck, Troubles
from .upstream import Upstream
from .validation import Count, Validation
from .webhooks import Endpoint

ORGANIZATION = "org-emulated"
AT_ONCE = Pace()
NO_FAULTS = Faults()
NO_TROUBLES = Troubles()


class Emulator:
    """Emulate the Files and Batches API of OpenAI, and its live endpoints.

    `with` and `async with` (asyncio, trio) serve it at `url` from a thread; `async with emulator.inline()` runs its
    batches in the caller's event loop, with `app` for an ASGI transport. One emulator is used once.

    `answer` gives the answers, unless `upstream`, the URL of an OpenAI-compatible server ending in /v1, does, with
    `upstream_key`; `upstream_concurrency` bounds the answers under way in each batch when they are awaited.
    `enqueued_tokens` are limits by model, "*" for all others; `count` gives the prompt tokens of a body, which the
    usage of `echo` then says too, None for a quarter of its bytes; `other_tokens` are those that others have queued,
    by model or from a callable asked at each admission with the model and the emulator's clock, in seconds since the
    epoch; `release_after` is in seconds. A batch for which there is no room fails at its "validation", or
    `refuse_at` its "creation" with a 429; `room_message` words that from the model and its limit.
    `usage` False leaves the usage out of the batch objects. Lags are seconds, math.inf for ever: `listing_lag` that for
    which a new batch or file is missing from the listings, `creation_lag` that for which a new batch is a 404, and
    `file_lag` that for which a new file cannot be found by a creation. `live_per_minute` bounds the live calls, above
    it they are a 429; None does not. `webhook_url` is told when a batch ends, signed with `webhook_secret`.
    `faults` strike requests, `troubles` batches and their rows, as `seed` has it.
    `api_key` None takes any key; `models` None supports any model; `max_requests` is a batch's.
    Raises ValueError for what makes no sense, and OSError on entering where the port cannot be had.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        answer: Answering = echo,
        upstream: str | None = None,
        upstream_key: str | None = None,
        upstream_concurrency: int = 16,
        pace: Pace = AT_ONCE,
        enqueued_tokens: Mapping[str, int] | None = None,
        count: Count | None = None,
        other_tokens: OtherTokens | None = None,
        release_after: float = 0.0,
        refuse_at: RefuseAt = "validation",
        room_message: RoomMessage | None = None,
        usage: bool = True,
        listing_lag: float = 0.0,
        creation_lag: float = 0.0,
        file_lag: float = 0.0,
        live_per_minute: int | None = None,
        faults: Faults = NO_FAULTS,
        troubles: Troubles = NO_TROUBLES,
        api_key: str | None = None,
        models: Collection[str] | None = None,
        max_requests: int = 50_000,
        max_file_bytes: int = 200_000_000,
        max_body_bytes: int = 64_000_000,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        seed: int = 0,
        _webhook_transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        check_port(port)
        check_webhook(webhook_url, webhook_secret)
        check_answer(answer, upstream)
        check_queue((enqueued_tokens or {}).values(), refuse_at)
        check_seconds(
            release_after=release_after, listing_lag=listing_lag, creation_lag=creation_lag, file_lag=file_lag
        )
        check_positive(
            upstream_concurrency=upstream_concurrency,
            live_per_minute=live_per_minute,
            max_requests=max_requests,
            max_file_bytes=max_file_bytes,
            max_body_bytes=max_body_bytes,
        )
        self._host = host
        self._port = port
        self._upstream = None if upstream is None else partial(Upstream, upstream, upstream_key)
        ledger = Ledger(
            enqueued_tokens,
            others=other_tokens,
            release_after=release_after,
            organization=ORGANIZATION,
            message=room_message,
        )
        self._account = Account(ledger, window=pace.window, organization=ORGANIZATION, seed=seed, usage=usage)
        self._clock = Clock()
        self._notes = Notes()
        note = self._notes.deliveries.append
        self._new_endpoint = (
            None
            if webhook_url is None or webhook_secret is None
            else partial(Endpoint, webhook_url, webhook_secret, self._clock, note, _webhook_transport)
        )
        self._endpoint: Endpoint | None = None
        self._store = Store()
        self._setting = Setting(
            account=self._account,
            store=self._store,
            notes=self._notes,
            pace=pace,
            answer=_answering(answer, count),
            concurrency=upstream_concurrency,
            clock=self._clock,
            luck=Luck(troubles, seed),
            count=count,
            models=None if models is None else frozenset(models),
            most=max_requests,
            seed=seed,
            refuse_at=refuse_at,
        )
        live = Live(self._setting, live_per_minute, max_body_bytes)
        lags = Lags(listing_lag, creation_lag, file_lag)
        server = Server(self._account, self._setting, self._start, live, lags, max_file_bytes, max_body_bytes)
        self.app: ASGIApp = Door(server.app(), self._notes, Dice(faults, seed), api_key)
        self._group: TaskGroup | None = None
        self._used = False
        self._thread: Thread | None = None

    @property
    def url(self) -> str:
        """The base URL, which ends in /v1."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    @property
    def answer(self) -> Answering:
        """What answers; one that is set, from any thread, answers from then on. ValueError beside an upstream."""
        return self._setting.answer

    @answer.setter
    def answer(self, answer: Answering) -> None:
        if self._upstream is not None:
            raise ValueError("answer and upstream exclude each other")
        check_answer(answer, None)
        self._setting.answer = _answering(answer, self._setting.count)

    def books(self) -> Books:
        """Give what was run, called, billed and left so far; from any thread, and after the end too."""
        return self._notes.close(self._account, self._clock())

    def set_limit(self, model: str, tokens: int) -> None:
        """Change the enqueued-token limit of a model, or of "*", from now on; from any thread."""
        check_limit(tokens)
        self._account.ledger.set_limit(model, tokens, self._clock())

    def set_billing_limit(self, *, reached: bool) -> None:
        """Say whether the account's billing hard limit is reached: creations are then refused; from any thread."""
        self._setting.billing_limit_reached = reached

    def inline(self) -> "Inline":
        """Give an async context manager that runs the batches in the current event loop, on its clock."""
        return Inline(self)

    def __enter__(self) -> Self:
        self._launch().wait()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread.join()

    async def __aenter__(self) -> Self:
        thread = self._launch()
        # Looked at, not waited for in a worker thread: that thread would outlive the emulator.
        while not thread.ready():  # noqa: ASYNC110 - no event reaches from a bare thread into any event loop
            await anyio.sleep(0.002)
        thread.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._thread is None:
            return
        self._thread.stop()
        with anyio.CancelScope(shield=True):
            while not self._thread.ended():  # noqa: ASYNC110 - as above
                await anyio.sleep(0.005)
        self._thread.join()

    def _launch(self) -> Thread:
        self.use()
        listener = listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._thread = Thread(self.app, self.open, listener)
        return self._thread

    def use(self) -> None:
        """Mark the emulator as used; raises RuntimeError the second time."""
        if self._used:
            raise RuntimeError("an Emulator is used once: make another one")
        self._used = True

    async def open(self, stack: AsyncExitStack, group: TaskGroup) -> None:
        """Begin to run batches in a task group, until the stack is closed."""
        stack.callback(self._store.close)
        self._clock.start()
        stack.callback(self._clock.stop)
        self._group = group
        if self._upstream is not None:
            self._setting.answer = await stack.enter_async_context(self._upstream())
        if self._new_endpoint is not None:
            self._endpoint = await stack.enter_async_context(self._new_endpoint())

    def _start(self, batch: Batch, validation: Validation | None) -> None:
        if self._group is None:
            raise RuntimeError("the emulator does not run: enter it first")
        self._group.start_soon(self._run, batch, validation)

    async def _run(self, batch: Batch, validation: Validation | None) -> None:
        await run_batch(batch, self._setting, validation)
        if self._endpoint is not None:
            await self._endpoint.tell(batch)


class Inline(AbstractAsyncContextManager[Emulator]):
    """Run an emulator's batches in the current event loop; no thread, no socket."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._group = anyio.create_task_group()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Emulator:
        self._emulator.use()
        await self._group.__aenter__()
        await self._emulator.open(self._stack, self._group)
        return self._emulator

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._group.cancel_scope.cancel()
        try:
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                return await self._group.__aexit__(kind, exc, traceback)
            # The body's own exception stays as it is: the group would wrap it.
            await self._group.__aexit__(None, None, None)
            return None
        finally:
            with anyio.CancelScope(shield=True):
                await self._stack.aclose()


def _answering(answer: Answering, count: Count | None) -> Answering:
    return echo_counted(count) if answer is echo and count is not None else answer

"""The door: settings in, answers out."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import anyio.lowlevel

from .account import Account, Key, check_same, find_account
from .bulk import Asked, Outcomes, Reading, Source, as_request, check_iterable
from .config import Escalate, Mode, Retry, Timing
from .durable import Inbox, checked_key
from .embeddings import embed
from .errors import CarpoolError, ConfigurationError, PoolClosed
from .estimate import Estimate, estimate
from .event import Event
from .formats import body_of
from .home import Away, Entry, Here, Home
from .limits import KnownLimits, Limits, Tier
from .models import Body, Request, Response
from .options import Options, checked_timeout, current_options, of_request
from .prices import Prices
from .providers.openai import OpenAI
from .resume import Reuse
from .sdk import read_client
from .session import Session
from .settings import (
    Ports,
    Progress,
    Settings,
    WhenFull,
    checked_canary,
    checked_count,
    checked_counter,
    checked_escalate,
    checked_flag,
    checked_folder,
    checked_hook,
    checked_limit,
    checked_mode,
    checked_progress,
    checked_retention,
    checked_retry,
    checked_reuse,
    checked_timing,
    checked_unfit,
    checked_when_full,
)
from .spending import checked_budget
from .stats import Stats, line
from .tokens import Counter
from .transports import (
    AsyncHttpx,
    AsyncHttpx2,
    Door,
    Family,
    Httpx,
    Httpx2,
    Unfit,
    client_like,
    new_client,
    pool_behind,
)
from .webhooks import Webhooks

C = TypeVar("C")

_BREATH = 300  # calls accepted by `gather` before others get the event loop: a few milliseconds
_NOWHERE = "wss://websockets-do-not-ride.invalid"
_NOT_OPEN = "The pool is not open. Use `async with Pool(...) as pool:`."


class Pool:
    """Collect single calls into batches, and give each caller its own answer.

    `api_key` and `base_url` are taken from OPENAI_API_KEY and OPENAI_BASE_URL when None, as by the official SDK; the
    key may be a callable, also an async one, asked before each exchange. `keep_remote_files` leaves input, output and
    error files at the provider.

    `journal` is a folder in which requests and answers outlive the process: started again with the same folder, the
    same program pays for nothing twice, and gets each request the answer that was paid for. `reuse` says which of those
    a call may be given: "always" any that no other call of this process was given, "undelivered" only what no caller
    ever received, "never" none. Delivered answers go after `retention` seconds.

    `tier` ("free", "tier-1" to "tier-5", "build", "launch", "grow") looks the enqueued-token limits up in a dated
    table; `limits` gives them by model, family or "*" for all others, in tokens, and is never exceeded; `Limits` may
    also keep the pool to a share. With neither, a limit is learned from the provider's first refusal, which costs
    nothing. Pools with one journal keep within a limit together. `counter` counts prompt tokens in tiktoken's stead: it
    is given endpoint, model and body (bytes of JSON), and called in a worker thread.

    `timeout` is how many seconds a call may wait for its answer, unless it says otherwise. Where that comes near,
    `escalate` "live" sends the call at once, at full price, and "flex" in the flex tier, at the price of a batch but
    perhaps not at all; each once, beside its batch if it is in one: the answer that comes first is given, both are
    billed. `mode` "live" sends every call so, and "emulate" has an emulator make the answers up, for which no key is
    needed; None is what CARPOOL_MODE says, else "batch". `unbatchable` says what becomes of a client's calls that
    cannot ride in a batch: "refuse" them, or send them "live", at full price.

    `retry` says how often is sent what the provider failed to answer. Of a `canary` of so many requests, or these and a
    share, the first of each lane go alone; if more than the share (0.1) is refused, the lane takes no others. `prices`
    adds to the table, by model or "*": {"input": 2.5, "output": 10}, live and in USD per million tokens. When `budget`
    USD are spent, by those prices, calls are refused with `BudgetExceeded`. `on_event`, a plain function, is given an
    `Event` for whatever happens to calls, batches and the pool, in the pool's event loop; it must not block. `progress`
    None shows how far the pool has come: a live view on a terminal or in a notebook, where rich is installed, elsewhere
    a line a minute at level INFO. False shows nothing; a function is given `Stats` about twice a second.

    At most `max_pending` calls are under way at a time, and about `max_spool` bytes on disk wait to be packed. A call
    for which there is no room waits, in the order of coming, or with `when_full` "refuse" raises `PoolFull`; streams
    (`map`, `as_completed`) read no further meanwhile.

    Use it as an async context manager, or with `start` and `aclose`, or `drain`. Leaving it normally submits what waits
    and waits for every caller; leaving by an exception settles them with `PoolClosed` and, unless there is a journal,
    cancels the batches, best effort. It belongs to the event loop it was opened in; with `thread` it runs in a thread
    of its own, for any number of event loops and threads. Used as a plain context manager it always does.

    Raises `ConfigurationError` at once for what makes no sense, and on entering `JournalError` for a folder that cannot
    be used. That a batch costs half and ends within 24 hours is from OpenAI's guide "Batch API".
    """

    def __init__(
        self,
        api_key: Key | None = None,
        base_url: str | None = None,
        *,
        tier: Tier | None = None,
        limits: Mapping[str, int] | Limits | None = None,
        timing: Timing | None = None,
        counter: Counter | None = None,
        journal: str | os.PathLike[str] | None = None,
        reuse: Reuse = "always",
        retention: float = 30 * 86_400.0,
        timeout: float | None = None,
        escalate: Escalate | None = None,
        retry: Retry | None = None,
        canary: int | tuple[int, float] | None = None,
        prices: Mapping[str, Mapping[str, float]] | None = None,
        budget: float | None = None,
        on_event: Callable[[Event], object] | None = None,
        max_pending: int = 1_000_000,
        max_spool: int = 2**30,
        when_full: WhenFull = "wait",
        progress: Progress = None,
        mode: Mode | None = None,
        thread: bool = False,
        unbatchable: Unfit = "refuse",
        keep_remote_files: bool = False,
        _account: Account | None = None,
        _ports: Ports | None = None,
    ) -> None:
        mode = checked_mode(mode)
        key = "emulated" if api_key is None and mode == "emulate" else api_key
        self._account = _account or find_account(key, base_url)
        self._settings = Settings(
            account=self._account,
            limits=KnownLimits(tier, limits),
            timing=checked_timing(timing),
            counter=checked_counter(counter),
            folder=checked_folder(journal),
            reuse=checked_reuse(reuse),
            retention=checked_retention(retention),
            keep_remote_files=checked_flag("keep_remote_files", keep_remote_files),
            mode=mode,
            ports=_ports or Ports(),
            retry=checked_retry(retry),
            canary=checked_canary(canary),
            escalate=checked_escalate(escalate),
            prices=Prices(prices),
            budget=checked_budget(budget),
            on_event=checked_hook(on_event),
            max_pending=checked_count("max_pending", max_pending),
            max_spool=checked_count("max_spool", max_spool),
            when_full=checked_when_full(when_full),
            progress=checked_progress(progress),
        )
        if budget is not None and unbatchable == "live":
            raise ConfigurationError(
                'budget and unbatchable="live" exclude each other: what a client sends live is not counted.'
            )
        self._timeout = None if timeout is None else checked_timeout(timeout)
        self._thread = checked_flag("thread", thread)
        self._door = Door(
            account=self._account,
            ask=self.request,
            ask_blocking=self._request_blocking,
            live_url=self._live_url,
            unfit=checked_unfit(unbatchable),
            live=mode == "live",
            emulated=mode == "emulate",
            budgeted=budget is not None,
            timeout=self._timeout,
        )
        self._started = False
        self._listens = False
        self._home: Home | None = None

    # --- opening and leaving

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.aclose()
        elif self._home is not None:
            await self._home.abandon()

    def __enter__(self) -> Self:
        self._start_once()
        self._home = Away.open_blocking(self._settings)
        self._listen()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert isinstance(self._home, Away)  # noqa: S101 - as it was entered
        if exc_type is None:
            self._home.close_blocking()
        else:
            self._home.abandon_blocking()

    async def start(self) -> None:
        """Open the pool in the running event loop, or its thread; `async with` does it by itself.

        Raises `PoolClosed` where it was opened before, and `JournalError` for a folder that cannot be used, such as one
        of another account.
        """
        self._start_once()
        self._home = await Away.open(self._settings) if self._thread else Here(await Session.open(self._settings))
        self._listen()

    def _start_once(self) -> None:
        if self._started:
            raise PoolClosed("A pool opens once. Make a new one.")
        self._started = True

    async def aclose(self) -> None:
        """Submit what waits, wait for every caller, and close; when cancelled, leave as by an exception.

        Raises `PoolClosed` where the pool was never opened.
        """
        await self._open().close()

    async def drain(self, timeout: float | None = None, *, submit: bool = True) -> None:
        """Take no more calls, settle what ends within `timeout` seconds, and close; after it `aclose` does nothing.

        What waits is submitted, or without `submit` left in the journal, and its callers are told so at once. Callers
        that wait still when the time is up get `PoolClosed`: with a journal nothing is cancelled, what there is is
        recorded, which may take a moment, and the next process goes on; without one the pool is left as by an
        exception, which takes up to 5 seconds. Raises `ConfigurationError` for `submit=False` without a journal.
        """
        if not submit and (self._settings.folder is None or self._settings.mode != "batch"):
            raise ConfigurationError("submit=False leaves what waits to the next process: that needs a journal.")
        await self._open().drain(checked_limit(timeout), submit=submit)

    # --- asking

    @overload
    async def request(self, endpoint: Request) -> Response: ...

    @overload
    async def request(self, endpoint: str, body: Body) -> Response: ...

    async def request(self, endpoint: str | Request, body: Body | None = None) -> Response:
        """Await the answer to one call, a `Request` or an endpoint and a body, which travels in a batch.

        Raises `Unbatchable` or `LimitExceeded` at once, `RequestFailed` when the answer is an error, `PoolClosed`
        outside the pool's life, `PoolFull` where there is no room and nobody may wait. A caller that is cancelled while
        its call waits takes it out of the queue; one whose call was packed into a batch leaves it to run.
        """
        home = self._home or self._open()
        asked = self._asked(endpoint, body)
        number, waiter = await home.accept_in_turn(*asked) if home.is_crowded else home.accept(*asked)
        # The frame would keep these until the answer comes; and a pair, which the garbage collector would follow.
        del endpoint, body, asked
        try:
            return await waiter
        except BaseException:
            self._open().leave([(number, waiter)])
            raise

    def _request_blocking(self, request: Request) -> Response:
        home = self._open()
        # In a worker thread it might keep the pool from threads that it needs, to look up names for one.
        if not isinstance(home, Away) or home.session.runtime.here():
            home.session.collector.callers.admit()
            raise ConfigurationError(
                "A blocking call would hold up the event loop that its pool runs in. Open the pool with thread=True, "
                "or use an async client."
            )
        return home.ask(request.endpoint, body_of(request), self._options(request))

    @overload
    async def gather(
        self,
        requests: Iterable[Asked],
        *,
        endpoint: str | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[Response]: ...

    @overload
    async def gather(
        self, requests: Iterable[Asked], *, endpoint: str | None = None, return_exceptions: bool
    ) -> list[Response | CarpoolError]: ...

    async def gather(
        self, requests: Iterable[Asked], *, endpoint: str | None = None, return_exceptions: bool = False
    ) -> Sequence[Response | CarpoolError]:
        """Await the answers to many calls, in their order; bare bodies need an `endpoint`.

        A `Request` names its own, and so does a row of a batch file.

        Raises the first error after all have settled, or gives errors in their places with `return_exceptions`. When it
        is cancelled, calls that wait are taken out of the queue; those that were packed into a batch run on.
        """
        home = self._open()
        check_iterable(requests)
        entries: list[Entry | CarpoolError] = []
        awaited = 0
        try:
            for request in requests:
                entries.append(await self._try_accept(request, endpoint))
                if home.is_behind:
                    await _outcome(entries[awaited])
                    awaited += 1
                if len(entries) % _BREATH == 0:
                    await anyio.lowlevel.checkpoint()
            outcomes: list[Response | CarpoolError] = []
            failed: CarpoolError | None = None
            for entry in entries:
                outcome = await _outcome(entry)
                outcomes.append(outcome)
                if failed is None and isinstance(outcome, CarpoolError):
                    failed = outcome
                if len(outcomes) % _BREATH == 0:  # of those that are settled none lets others have the event loop
                    await anyio.lowlevel.checkpoint()
            if failed is not None and not return_exceptions:
                raise failed
        except BaseException:
            self._open().leave([entry for entry in entries if not isinstance(entry, CarpoolError)])
            raise
        return outcomes

    def map(self, requests: Source, *, endpoint: str | None = None, keep_requests: bool = True) -> Outcomes:
        """Give the outcomes of a stream of requests, in their order: `async for outcome in pool.map(requests):`.

        `requests` are `Request` objects, rows of a batch file, or bare bodies of the `endpoint`: an iterable or an
        async one, of any length, read as far as `max_pending` requests and `max_spool` bytes waiting on disk allow.
        A request that fails is an `Outcome`, and no end. Without `keep_requests` outcomes come without theirs, and a
        request under way takes some tens of bytes of memory. Leave a stream early by `async with`; what is not answered
        then is given up, as it is by cancellation. Iterating raises what the source raises, and `PoolClosed`.
        """
        return self._stream(requests, endpoint, ordered=True, keep=keep_requests)

    def as_completed(self, requests: Source, *, endpoint: str | None = None, keep_requests: bool = True) -> Outcomes:
        """Give the outcomes of a stream of requests as they come; see `map`."""
        return self._stream(requests, endpoint, ordered=False, keep=keep_requests)

    def _stream(self, requests: Source, endpoint: str | None, *, ordered: bool, keep: bool) -> Outcomes:
        home = self._open()
        begin = partial(home.stream, ordered=ordered)
        return Outcomes(Reading(begin, requests, endpoint, self._options, keep=keep))

    # --- submitting

    @overload
    async def submit(self, endpoint: Request, *, key: str | None = None) -> str: ...

    @overload
    async def submit(self, endpoint: str, body: Body, *, key: str | None = None) -> str: ...

    async def submit(self, endpoint: str | Request, body: Body | None = None, *, key: str | None = None) -> str:
        """Have a request answered, whatever happens to this process: gives its custom_id once it is safe on disk.

        What comes of it is among the `outcomes`, also of a later process on the same journal. What is submitted again
        under the same `key`, by default that of the request, is not submitted twice; without a key it is. It may wait
        for as long as it takes, unless it has a timeout of its own: the pool's is for calls. A caller that is cancelled
        may have submitted it. Raises `ConfigurationError` without a journal, and where something else was submitted
        under the key; `Unbatchable`, `LimitExceeded`, `BudgetExceeded`, `JournalError`, `PoolFull`, `PoolClosed`.
        """
        home = self._open()
        options = current_options()
        if isinstance(endpoint, Request):
            options = of_request(endpoint, options)
            body = body_of(endpoint)
            endpoint = endpoint.endpoint
        if options.live:
            raise ConfigurationError("What is submitted rides in a batch: live=True is for calls that are awaited.")
        named = checked_key(options.key if key is None else key)
        return await home.submit(endpoint, body, options, named)  # type: ignore[arg-type]  # None is refused, too

    def outcomes(self) -> Inbox:
        """Give what came of submissions, also of those to processes that have died: `async for outcome in ...`.

        It goes on until the pool is closed. Say `outcome.ack()` of each that was taken care of: it is not given again.
        Any other is: by the next process, and in this one to whoever iterates when this iterator was left, by
        `async with` or by forgetting it. Each goes to one iterator at a time. Raises `ConfigurationError` without a
        journal.
        """
        return self._open().outcomes()

    async def embed(self, texts: Iterable[str], *, model: str, dimensions: int | None = None, **more: Any) -> Any:
        """Embed texts, many a row: a float32 array of shape (texts, dimensions).

        Without numpy it is a list of `array("f")`. `more` goes into the bodies. Raises `ConfigurationError` or
        `Unbatchable` for texts that cannot be embedded, before anything is sent; the first failure after all have
        settled; and `OutputInvalid` for an answer without its vectors.
        """
        return await embed(self.gather, texts, model=model, dimensions=dimensions, **more)

    async def flush(self) -> None:
        """Submit what waits without lingering; returns before it is submitted. Raises `PoolClosed`."""
        home = self._open()
        home.call(home.session.collector.flush)

    async def set_limits(self, limits: Mapping[str, int] | Limits | None = None, tier: Tier | None = None) -> None:
        """Set the limits anew, from now on, as `Pool(limits=..., tier=...)` does: what is not given is not known.

        The pool's share stays, unless a `Limits` names another. A `tier` takes the place of what refusals said. Batches
        that run are left alone; what waits in line, and is larger than the new limits allow, is packed anew. Raises
        `ConfigurationError` for what makes no sense.
        """
        home = self._open()
        known = KnownLimits(tier, limits, share=home.session.collector.limiting.share)
        home.call(lambda: home.session.collector.set_limits(known))

    async def cancel(self, *batch_ids: str) -> None:
        """Cancel batches, or all there are and all that waits; returns before they have ended.

        What ran is billed (OpenAI's guide "Batch API"), and its callers are given their answers; the rest ends with
        `RequestCancelled`. Raises `ConfigurationError` for ids of which no batch of this pool is under way.
        """
        home = self._open()
        if not all(isinstance(batch_id, str) for batch_id in batch_ids):
            raise ConfigurationError("Batches are cancelled by their ids, each a str such as 'batch_abc123'.")
        wanted = frozenset(batch_ids) or None
        unknown = home.call(lambda: home.session.collector.cancel(wanted))
        if unknown:
            raise ConfigurationError(f"No such batches are under way here: {', '.join(sorted(unknown))}.")

    async def estimate(self, requests: Iterable[Asked], *, endpoint: str | None = None) -> Estimate:
        """Say what requests will come to: tokens, batches and cost; nothing is sent, and the pool need not be open.

        It counts in a worker thread, which takes `requests` one by one, and which a caller that is cancelled leaves
        behind. Raises `Unbatchable` or `LimitExceeded`.
        """
        check_iterable(requests)
        settings = self._settings
        provider = OpenAI()
        named = (as_request(request, endpoint) for request in requests)
        calls = (provider.encode(request.endpoint, body_of(request)) for request in named)
        run_sync = settings.ports.run_sync or partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
        result: Estimate = await run_sync(estimate, calls, settings.counter, settings.prices, provider.limits)
        return result

    def stats(self) -> Stats:
        """Count what was accepted, answered and failed, and what is under way in each lane; what it cost, and by tag.

        Cheap enough for every second: some microseconds for each lane and open batch.
        """
        home = self._open()
        return home.call(home.session.stats)

    # --- webhooks

    def webhooks(self, secret: str | Iterable[str]) -> Webhooks:
        """Give an ASGI application that takes the provider's webhooks: answers come as soon as their batch has ended.

        `secret` is that of the endpoint, or several of which each is good. Without ASGI hand each delivery to its
        `handle(headers, body)`. It may be made before the pool is opened, and be called from any thread. Raises
        `ConfigurationError` for what is no secret. How deliveries are signed is from OpenAI's guide "Webhooks".
        """
        webhooks = Webhooks(secret, lambda batch_id: self._open().wake(batch_id))
        self._listens = True
        self._listen()
        return webhooks

    def _listen(self) -> None:
        if self._listens and self._home is not None:
            self._home.session.listen()

    # --- clients

    def wrap(self, client: C) -> C:
        """Give a copy of an SDK's client whose calls ride in this pool: an OpenAI, AsyncOpenAI, Groq or AsyncGroq.

        What cannot ride is refused, or passes on the client's own connections, as does what costs nothing (models,
        files). Blocking clients are for threads other than the pool's. Raises `ConfigurationError` where the client is
        of another account, or cannot be batched.
        """
        if pool_behind(client) is self:
            return client
        facts = read_client(client)
        check_same(self._account, facts.account, emulated=self._door.emulated)
        replaced: dict[str, Any] = {"http_client": client_like(facts.http, self._door, self)}
        live = self._door.live or self._door.unfit == "live"
        if hasattr(client, "websocket_base_url") and (self._settings.mode == "emulate" or not live):
            replaced["websocket_base_url"] = _NOWHERE  # a websocket would go around the pool, live
        try:
            ours: C = client.with_options(**replaced)  # type: ignore[attr-defined]  # read_client has looked
        except TypeError as exc:
            raise ConfigurationError(
                f"No copy can be made of this {type(client).__name__}: {exc}. Give it http_client=pool.http_client()."
            ) from exc
        return ours

    @overload
    def http_client(self, *, sync: Literal[False] = False) -> AsyncHttpx2: ...

    @overload
    def http_client(self, family: Literal["httpx2"], *, sync: Literal[False] = False) -> AsyncHttpx2: ...

    @overload
    def http_client(self, family: Literal["httpx2"] = "httpx2", *, sync: Literal[True]) -> Httpx2: ...

    @overload
    def http_client(self, family: Literal["httpx"], *, sync: Literal[False] = False) -> AsyncHttpx: ...

    @overload
    def http_client(self, family: Literal["httpx"], *, sync: Literal[True]) -> Httpx: ...

    def http_client(self, family: Family = "httpx2", *, sync: bool = False) -> Any:
        """Make an HTTP client whose calls ride in this pool, for whatever takes one; it never looks closed.

        `family` is the library that it is one of, "httpx2" or "httpx"; `sync` makes a blocking one, for threads other
        than the pool's. Raises `ConfigurationError` where the library is not installed.
        """
        return new_client(self._door, self, family, sync=sync)

    def _live_url(self) -> str | None:
        """Give where what passes is sent in place of the account's own base URL."""
        session = self._open().session
        session.collector.callers.admit()
        return None if session.account is self._account else session.account.base_url

    def __repr__(self) -> str:
        if not hasattr(self, "_home"):
            return "<Pool that was not made>"
        if self._home is None:
            return f"<Pool for {self._account.base_url}, not open>"
        return f"<Pool for {self._account.base_url}: {line(self._home.session.collector)}>"

    def _open(self) -> Home:
        if self._home is None:
            raise PoolClosed(_NOT_OPEN)
        return self._home

    def _options(self, request: Request | None) -> Options:
        """Say how a call travels: as it says itself, else as the blocks around it say, else as the pool does."""
        options = current_options()
        if request is not None:
            options = of_request(request, options)
        if options.timeout is None and self._timeout is not None:
            options = options._replace(timeout=self._timeout)
        return options

    def _asked(self, endpoint: str | Request, body: Body | None) -> tuple[str, Body, Options]:
        if isinstance(endpoint, Request):
            return endpoint.endpoint, body_of(endpoint), self._options(endpoint)
        options = current_options() if self._timeout is None else self._options(None)
        return endpoint, body, options  # type: ignore[return-value]  # None is refused with the other non-objects

    async def _try_accept(self, request: Asked, endpoint: str | None) -> Entry | CarpoolError:
        home = self._open()
        try:
            asked = self._asked(as_request(request, endpoint), None)
            return await home.accept_in_turn(*asked) if home.is_crowded else home.accept(*asked)
        except CarpoolError as exc:
            return exc


async def _outcome(entry: Entry | CarpoolError) -> Response | CarpoolError:
    if isinstance(entry, CarpoolError):
        return entry
    try:
        return await entry[1]
    except CarpoolError as exc:
        return exc

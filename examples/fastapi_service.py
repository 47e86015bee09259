"""Answer HTTP requests through a pool: FastAPI in one uvicorn process, or in several that share a journal folder.

    carpool emulate --port 8000                                            # a provider for trying it out
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=any     # leave the first out for the real one
    uvicorn --app-dir examples --factory fastapi_service:create_app --port 8080 --workers 2 \\
        --timeout-graceful-shutdown 25

    curl localhost:8080/summaries -H "Idempotency-Key: 1" --json '{"text": "A long text."}'

On SIGTERM nothing is lost: no more requests are taken, what ends within GRACE seconds is answered, and all others are
told to try again (503, Retry-After). The next process, or another one that is up, has their answers: whoever tries
again within KEPT seconds, with the same Idempotency-Key, pays once.
"""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from types import FrameType
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import carpool

MODEL = "gpt-5-mini"
KEPT = 300.0  # seconds for which an answer is kept for whoever tries again
GRACE = 20.0  # seconds: less than uvicorn, and whoever sent the signal, will wait
STATUS: dict[type[carpool.CarpoolError], int] = {carpool.PoolClosed: 503, carpool.PoolFull: 429}


class Text(BaseModel):
    """Hold a text to be summarised."""

    text: str


class Summary(BaseModel):
    """Hold a summary, and the batch that it came with."""

    summary: str
    batch: str


def create_app(pool: carpool.Pool | None = None, *, grace: float = GRACE) -> FastAPI:
    """Make the application; it opens and leaves the pool."""
    pool = pool or carpool.Pool(journal=os.environ.get("JOURNAL", "summaries"))
    app = FastAPI(lifespan=lambda app: lifespan(pool, grace))
    once = Once()

    @app.post("/summaries")
    async def summarise(asked: Text, idempotency_key: Annotated[str, Header()]) -> Summary:
        messages = [{"role": "user", "content": f"Summarise in one sentence: {asked.text}"}]
        body = {"model": MODEL, "messages": messages}
        # With a key it is known again, whatever became of the process that it came to before.
        key = key_of(idempotency_key, asked)
        request = carpool.Request("/v1/chat/completions", body, key=key)
        response = await once(key, lambda: pool.request(request))
        return Summary(summary=response.text, batch=response.batch_id)

    @app.get("/pool")
    async def look() -> str:
        return repr(pool)

    @app.exception_handler(carpool.CarpoolError)
    async def refuse(request: Request, exc: Exception) -> JSONResponse:
        status = next((status for kind, status in STATUS.items() if isinstance(exc, kind)), 502)
        headers = {} if status == 502 else {"Retry-After": "2"}
        return JSONResponse({"error": type(exc).__name__, "detail": str(exc)}, status, headers)

    if secret := os.environ.get("OPENAI_WEBHOOK_SECRET"):  # answers then come as soon as their batch has ended
        app.mount("/webhooks", pool.webhooks(secret))
    return app


def key_of(idempotency_key: str, asked: Text) -> str:
    """Make a key of the client's own and of the text: two clients may choose the same, and none gets another's answer.

    Where users are known, put theirs in too.
    """
    return f"{idempotency_key}:{sha256(asked.text.encode()).hexdigest()}"


class Once:
    """Ask once for each key: who tries again, because the connection broke, joins the first try, or has its answer."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Task[carpool.Response]] = {}

    async def __call__(self, key: str, ask: Callable[[], Coroutine[Any, Any, carpool.Response]]) -> carpool.Response:
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(ask())
            self._asked[key].add_done_callback(lambda task: self._forget(key, task))
        return await asyncio.shield(self._asked[key])

    def _forget(self, key: str, task: "asyncio.Task[carpool.Response]") -> None:
        failed = task.cancelled() or task.exception() is not None
        asyncio.get_running_loop().call_later(0 if failed else KEPT, self._asked.pop, key)


@asynccontextmanager
async def lifespan(pool: carpool.Pool, grace: float) -> AsyncIterator[None]:
    """Open the pool, and drain it as soon as a signal comes.

    It cannot wait for its turn: uvicorn ends the lifespan when all requests are answered, and these wait for the pool.
    """
    leaving = asyncio.Event()
    with heard(leaving.set):
        async with pool:
            drained = asyncio.create_task(drain(pool, leaving, grace))
            yield
            leaving.set()  # also where no signal came
            await drained


async def drain(pool: carpool.Pool, leaving: asyncio.Event, grace: float) -> None:
    """Leave the pool within the grace, when it is time."""
    await leaving.wait()
    await pool.drain(grace)


@contextmanager
def heard(leave: Callable[[], object]) -> Iterator[None]:
    """Have something done on SIGINT and SIGTERM, before what uvicorn does."""
    if threading.current_thread() is not threading.main_thread():  # as in tests: signals come elsewhere
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def hear(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(leave)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in before:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

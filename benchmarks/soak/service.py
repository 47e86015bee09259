"""A service of a soak: it answers HTTP requests through a pool; several of them share a journal folder.

    python -m benchmarks.soak.service '{"minutes": 1}' URL FOLDER

It prints its port once it serves. `POST /ask/KEY` with a text gives the answer to that text; asked again with the same
key, here or elsewhere, it is the same request. Told to leave, it takes no more, settles what ends within the plan's
grace, and sends the others away with a 503: the next process goes on with their requests.
"""

import asyncio
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import carpool

from .. import workload
from .plan import Plan, request, tokens_of

_SLACK = 5.0  # seconds beyond the grace that uvicorn waits for answers under way


def count(endpoint: str, model: str, body: bytes) -> int:
    """Count prompt tokens as the provider does."""
    return tokens_of(json.loads(body))


class Service:
    """Answer through a pool until told to leave."""

    def __init__(self, plan: Plan, url: str, folder: Path) -> None:
        self._plan = plan
        self.pool = carpool.Pool("any", url, journal=folder, timing=plan.timing, counter=count, progress=False)
        self.leaving = anyio.Event()
        self.app = Starlette(
            routes=[Route("/ask/{key}", self._ask, methods=["POST"])],
            lifespan=self._life,
        )

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        await self.pool.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._leave)
            yield
            self.leaving.set()

    async def _leave(self) -> None:
        await self.leaving.wait()
        await self.pool.drain(self._plan.grace)

    async def _ask(self, asked: Request) -> Response:
        text = (await asked.body()).decode()
        call = carpool.Request(workload.ENDPOINT, request(text), key=asked.path_params["key"])
        try:
            return await self._answer(asked, call)
        except carpool.PoolClosed:
            return PlainTextResponse("leaving", 503)
        except carpool.RequestFailed as exc:
            return PlainTextResponse(str(exc), 502)

    async def _answer(self, asked: Request, call: carpool.Request) -> Response:
        """Ask for as long as the client is there: what nobody awaits is not sent."""
        response: Response = PlainTextResponse("gone", 499)
        failure: carpool.CarpoolError | None = None

        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await asked.receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                response = PlainTextResponse((await self.pool.request(call)).text)
            except carpool.CarpoolError as exc:
                failure = exc
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return response


class Server(uvicorn.Server):
    """Serve, and begin to leave as soon as a signal says so: uvicorn tells an application when all is answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where it serves."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._service.leaving.set)


def main() -> None:
    """Serve until told to leave."""
    plan, url, folder = Plan.read(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    service = Service(plan, url, folder)
    config = uvicorn.Config(
        service.app,
        port=0,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(plan.grace + _SLACK),
    )
    Server(config, service).run()


if __name__ == "__main__":
    main()

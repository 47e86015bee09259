"""The emulator behind a socket: uvicorn, in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import anyio
import uvicorn
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

Open: TypeAlias = Callable[[AsyncExitStack, TaskGroup], Awaitable[None]]


class Thread:
    """Serve an application by uvicorn in a daemon thread with an event loop of its own; `opened` begins its work."""

    def __init__(self, app: ASGIApp, opened: Open, listener: socket.socket) -> None:
        self._opened = opened
        self._listener = listener
        self._ready = threading.Event()
        self._error: BaseException | None = None
        config = uvicorn.Config(
            app,
            http="h11",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=1,
            backlog=2048,
        )
        self._server = _Uvicorn(config, self._ready.set)
        self._thread = threading.Thread(target=self._run, name="carpool-emulator", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the thread that waits
            self._error = exc
        finally:
            self._listener.close()
            self._ready.set()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack, anyio.create_task_group() as group:
            await self._opened(stack, group)
            await self._server.serve([self._listener])
            group.cancel_scope.cancel()

    def ready(self) -> bool:
        """Tell whether it serves, or failed to."""
        return self._ready.is_set()

    def wait(self) -> None:
        """Wait until it serves; raises what ended it."""
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ask it to end."""
        self._server.end()

    def ended(self) -> bool:
        """Tell whether the thread is gone."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end of the thread; raises what ended it."""
        self._thread.join()
        if self._error is not None:
            raise self._error


class _Uvicorn(uvicorn.Server):
    """Serve until `end` is called, which uvicorn itself would look at but ten times a second."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_ready()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # it sets the date that the responses bear
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close as uvicorn does, which however waits for a tenth of a second though nobody is there."""
        for server in self.servers:
            server.close()
        for connection in [*self.server_state.connections]:
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.002)
        for task in self.server_state.tasks:
            task.cancel()

    def end(self) -> None:
        """Ask it to end; from any thread."""
        self.should_exit = True
        with contextlib.suppress(RuntimeError):  # it has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._ending.set)


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; OSError where it cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener

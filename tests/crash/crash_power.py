"""A process that dies in one thread: its power goes off after so much was done to the world."""

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from virtual import run_here

from carpool.settings import Ports


class PowerOff(Exception):
    """Answer whatever a dead process still tries."""


class Power:
    """Count what is done to the world, and let nothing more be done after so much of it; 0 is no end."""

    def __init__(self, transport: httpx2.AsyncBaseTransport, off_after: int = 0) -> None:
        self._off_after = off_after
        self._done = 0
        self.off = anyio.Event()
        self.ports = Ports(run_sync=self.run_sync, transport=_Wires(transport, self.use))

    def use(self) -> None:
        """Count one thing more."""
        if self.off.is_set():
            raise PowerOff
        self._done += 1
        if self._done == self._off_after:
            self.off.set()
            raise PowerOff

    async def run_sync(self, func: Callable[..., Any], /, *args: object) -> Any:
        """Run a blocking function: all that is done to files and the database is done here."""
        self.use()
        return await run_here(func, *args)


class _Wires(httpx2.AsyncBaseTransport):
    """Count each exchange twice: before it, and when the server has processed it."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, use: Callable[[], None]) -> None:
        self._inner = inner
        self._use = use

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._use()
        response = await self._inner.handle_async_request(request)
        self._use()
        return response


def let_go(folder: Path, connections: list[sqlite3.Connection]) -> None:
    """Do what a death does: the kernel closes whatever the process had open."""
    locks = {(status.st_dev, status.st_ino) for status in map(os.stat, folder.glob("*.lock"))}
    for descriptor in map(int, os.listdir("/dev/fd")):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue  # that of the listing itself
        if (status.st_dev, status.st_ino) in locks:
            os.close(descriptor)
    for connection in connections:
        connection.close()
    connections.clear()


def keep_connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Keep the connections that are opened, to be closed when their process dies; of which nobody need hear."""
    monkeypatch.setattr(logging.getLogger("carpool"), "propagate", False)
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def spy(*args: Any, **more: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **more))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", spy)
    return opened

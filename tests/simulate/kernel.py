"""What the system does for a process: when it dies its files and locks are let go of; the disk may be full."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock


class Holdings:
    """Hold what a process has open."""

    def __init__(self) -> None:
        self.descriptors: set[int] = set()
        self.connections: list[sqlite3.Connection] = []

    def let_go(self) -> None:
        """Close all: SQLite rolls back what was not committed, and locks are free."""
        for connection in self.connections:
            connection.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.connections.clear()
        self.descriptors.clear()


class Kernel:
    """Watch what is opened and closed, while functions of a process run, one at a time; the disk may be `full`."""

    def __init__(self) -> None:
        self.full = self.was_full = False
        self._running: Holdings | None = None

    def call(self, holdings: Holdings, func: Callable[..., Any], *args: object) -> Any:
        """Call a function of a process."""
        self._running = holdings
        try:
            return func(*args)
        finally:
            self._running = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch."""
        spies = {
            "os.open": self._opening(os.open),
            "os.close": self._closing(os.close),
            "os.pwrite": self._writing(os.pwrite),
            "sqlite3.connect": self._connecting(sqlite3.connect),
        }
        with ExitStack() as stack:
            for name, spy in spies.items():
                stack.enter_context(mock.patch(name, spy))
            yield

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def spy(*args: Any, **more: Any) -> int:
            descriptor = real(*args, **more)
            if self._running is not None:
                self._running.descriptors.add(descriptor)
            return descriptor

        return spy

    def _closing(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def spy(descriptor: int) -> None:
            real(descriptor)
            if self._running is not None:
                self._running.descriptors.discard(descriptor)

        return spy

    def _writing(self, real: Callable[..., int]) -> Callable[..., int]:
        def spy(*args: Any) -> int:
            if self._running is not None and self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return spy

    def _connecting(self, real: Callable[..., Any]) -> Callable[..., sqlite3.Connection]:
        kernel = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and kernel.full:
                    full = sqlite3.OperationalError("database or disk is full")
                    full.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise full
                return super().execute(sql, *args)

        def spy(*args: Any, **more: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = real(*args, factory=Connection, **more)
            if self._running is not None:
                self._running.connections.append(connection)
            return connection

        return spy

"""What the system does for a process when it dies: its files and locks are let go of, whatever it was about to do."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Watch what is opened and closed, while functions of a process run, one at a time."""

    def __init__(self) -> None:
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
        real_open, real_close, real_connect = os.open, os.close, sqlite3.connect

        def spy_open(*args: Any, **more: Any) -> int:
            descriptor = real_open(*args, **more)
            if self._running is not None:
                self._running.descriptors.add(descriptor)
            return descriptor

        def spy_close(descriptor: int) -> None:
            real_close(descriptor)
            if self._running is not None:
                self._running.descriptors.discard(descriptor)

        def spy_connect(*args: Any, **more: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = real_connect(*args, **more)
            if self._running is not None:
                self._running.connections.append(connection)
            return connection

        with (
            mock.patch("os.open", spy_open),
            mock.patch("os.close", spy_close),
            mock.patch("sqlite3.connect", spy_connect),
        ):
            yield

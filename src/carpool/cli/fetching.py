"""A file of the provider's, fetched until it is whole: what arrives short, or torn, is fetched again."""

import random
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

import anyio
from msgspec import structs

from ..models import Call, CallFailed, Failure, Reply
from ..providers.jsonl import Lines
from ..providers.openai import OpenAI
from ..wire import Receive
from .wording import plural

Send: TypeAlias = Callable[[Call, Receive], Awaitable[Reply]]
Verdict: TypeAlias = Literal["whole", "few rows", "doubtful", "short"]

_TRIES = 4
_SILENCE = 60.0  # seconds between two pieces of a file
_PAUSE = 1.0  # seconds: the widest first pause, which doubles


class Expected(NamedTuple):
    """Say how many bytes and rows a file has; None where nobody says."""

    size: int | None = None
    rows: int | None = None


class Arrived(NamedTuple):
    """Measure what came of a file; `torn` says that it ends within a row."""

    size: int
    rows: int
    torn: bool = False


def judge(arrived: Arrived, expected: Expected) -> Verdict:
    """Tell whether a file is whole (traps 10, 11): by its bytes, else by its rows, and by how it ends.

    One that has all its bytes is the provider's own, though it may have too "few rows", or half of one. Where nobody
    says how many bytes it has, too few rows are "doubtful": it ended early, or has no more.
    """
    few = expected.rows is not None and arrived.rows < expected.rows
    if expected.size is not None and arrived.size >= expected.size:
        return "few rows" if few else "whole"
    if arrived.torn or (expected.size is not None and (few or expected.rows is None)):
        return "short"
    return "doubtful" if few else "whole"


async def fetch(
    call: Call, expected: Expected, file: BinaryIO, send: Send, tick: Callable[[int], None]
) -> tuple[Arrived, Verdict]:
    """Append a file of the provider's to an open one, with a line break at its end, and say what came.

    `tick` is told how many bytes have come so far. Raises `CallFailed` where it cannot be had whole.
    """
    call = structs.replace(call, patience=_SILENCE)
    start = file.tell()
    arrived, verdict = await _try(call, expected, _Arrival(file, tick), send)
    for attempt in range(1, _TRIES):
        if verdict in ("whole", "few rows") or file.tell() == start:  # of what brings nothing the wire has tried more
            break
        await anyio.sleep(random.uniform(0, _PAUSE * 2**attempt))  # noqa: S311 - spreads load, keeps no secret
        file.seek(start)
        file.truncate()
        arrived, verdict = await _try(call, expected, _Arrival(file, tick), send)
    if isinstance(arrived, Failure):
        raise CallFailed(arrived)
    return arrived, verdict


async def _try(call: Call, expected: Expected, arrival: "_Arrival", send: Send) -> tuple[Arrived | Failure, Verdict]:
    reply = await send(call, arrival.receive)
    if not 200 <= reply.status < 300:
        return OpenAI().refused(reply), "short"
    arrived = arrival.close()
    verdict = judge(arrived, expected)
    return (Failure("lost", _complaint(arrived, expected)) if verdict == "short" else arrived), verdict


def _complaint(arrived: Arrived, expected: Expected) -> str:
    of = "" if expected.size is None else f" of {expected.size:,}"
    return f"it ends early, after {arrived.size:,}{of} bytes and {plural(arrived.rows, 'row')}"


class _Arrival:
    """Write a file as it comes, and measure it."""

    def __init__(self, file: BinaryIO, tick: Callable[[int], None]) -> None:
        self._file = file
        self._tick = tick
        self._lines = Lines()
        self._size = self._rows = 0

    async def receive(self, chunk: bytes) -> None:
        """Take what came."""
        self._file.write(chunk)
        self._size += len(chunk)
        self._tick(self._size)
        self._count(self._lines.feed(chunk))

    def close(self) -> Arrived:
        """Measure it; what stands behind the last line break is a row, or the beginning of one."""
        tail = self._lines.close()
        if not tail:
            return Arrived(self._size, self._rows)
        self._file.write(b"\n")
        self._count(tail)
        return Arrived(self._size, self._rows, torn=not _is_row(tail[0]))

    def _count(self, lines: list[bytes]) -> None:
        self._rows += sum(not line.isspace() and line != b"" for line in lines)


def _is_row(line: bytes) -> bool:
    try:
        OpenAI().parse_row(line)
    except ValueError:
        return False
    return True

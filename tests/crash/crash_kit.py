"""What the tests of crashes share: children to be killed, an emulator to judge by, and all instants in turn."""

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import crash_child
import msgspec
from crash_child import BAD, TIGHT, TOKENS, Asked, Orders, Report

from carpool.journal.sqlite.peek import look
from carpool.testing import Books, Pace, Refused, echo

SIDE_BY_SIDE = 4  # children: they mostly wait
_HELD = "SELECT number FROM claim WHERE number NOT IN (SELECT number FROM batch WHERE done_at IS NULL)"
SAMPLED = 337  # without CARPOOL_CRASH, one instant in so many is tried

Check = Callable[["Children", int], tuple[bool, list[str]]]
"""Let children die at an instant, and say whether they did not, and what was wrong."""


class Children:
    """Start children, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, crash_child.__file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, orders: Orders) -> Report:
        """Let one live, or die, as ordered."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(msgspec.json.encode(orders) + b"\n")
        self._server.stdin.flush()
        return msgspec.json.decode(self._server.stdout.readline(), type=Report)

    def close(self) -> None:
        """Let go of the process that they are forked from."""
        self._server.communicate()


def stride() -> int:
    """Give the step from one instant that is tried to the next: CARPOOL_CRASH is "all", or such a step."""
    asked = os.environ.get("CARPOOL_CRASH", str(SAMPLED))
    return 1 if asked == "all" else int(asked)


def answer(endpoint: str, body: dict[str, Any]) -> bytes:
    """Answer what a child asks."""
    text = body["input"] if "input" in body else body["messages"][0]["content"]
    if text.startswith(BAD):
        raise Refused(400, "No answer to this.")
    return echo(endpoint, body, TOKENS)


LIMITS = {"limited": TIGHT}
"""The pool's."""

SETTING: dict[str, Any] = {
    "answer": answer,
    "pace": Pace(validating=0.01, running=0.03),
    "enqueued_tokens": {"limited": TIGHT, "learning": TIGHT},
    "count": lambda _: TOKENS,
}
"""The emulator's, in which two models have little room."""


def at_all_instants(check: Check) -> str:
    """Check one instant after another, side by side, until a child survives the one it was to die at.

    Gives what was wrong, a line each.
    """
    step = stride()
    instants = count(1 + zlib.crc32(os.environ["PYTEST_CURRENT_TEST"].encode()) % step, step)
    wrong: list[str] = []
    survived = threading.Event()

    def go_on() -> None:
        children = Children()
        try:
            while not survived.is_set():
                instant = next(instants)
                alive, found = check(children, instant)
                if alive:
                    survived.set()
                wrong.extend(f"instant {instant}: {line}" for line in found)
        finally:
            children.close()

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        for task in [threads.submit(go_on) for _ in range(SIDE_BY_SIDE)]:
            task.result()
    return "\n".join(wrong)


def judge(report: Report, *codes: int) -> list[str]:
    """Say what is wrong with a child that should have ended with one of these codes."""
    return [] if report.code in (codes or (0,)) else [f"the child ended with {report.code}: {report.said[-2000:]}"]


def audit(books: Books, asked: Sequence[Asked], *, half_way: bool = False) -> list[str]:
    """Say what is wrong with the books: once all are answered each body has run once, and no file is left."""
    times = {request.text: books.times(request.body) for request in asked}
    right = {0, 1} if half_way else {1}
    wrong = [f"{text!r} ran {number} times" for text, number in times.items() if number not in right and is_good(text)]
    if not half_way:
        wrong += [f"{text!r} never ran" for text, number in times.items() if not number]
        wrong += [f"{file.filename} ({file.purpose}) is left" for file in books.files]
    if sum(books.bodies.values()) != sum(times.values()):
        wrong.append("bodies ran that nobody asked for")
    return wrong + [f"batch {batch.id} is {batch.status}" for batch in books.batches if "cancel" in batch.status]


def is_good(text: str) -> bool:
    """Tell whether a text is answered, and not with an error: those run again when they are asked for again."""
    return not text.startswith(BAD)


def inspect(folder: Path) -> list[str]:
    """Say what is left in a journal's folder besides the database and the answers, and which room nobody needs."""
    held = look(folder, lambda reader: [*reader.rows(_HELD)])
    files = [
        f"{path.name} is left in the folder"
        for path in folder.iterdir()
        if path.name != "journal.sqlite" and not path.name.startswith("download-")
    ]
    return files + [f"batch {number} is over, and holds room in its queue" for (number,) in held or ()]

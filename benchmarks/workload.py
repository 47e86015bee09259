"""The work that every program under measure does: calls of about 1 KB, answers of about 1 KB, over loopback."""

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

ENDPOINT = "/v1/chat/completions"
MODEL = "gpt-5-mini"
KB = 1_024
_SENTENCE = "All work and no play makes Jack a dull boy. "
_PADDING = _SENTENCE * 20


@cache
def _padding(size: int) -> str:
    return (_SENTENCE * (size // len(_SENTENCE) + 1))[: max(0, size - 150)]


def payload(number: int, size: int = KB) -> dict[str, Any]:
    """Make a chat body of about so many bytes, 160 at least."""
    text = f"{number} {_PADDING if size == KB else _padding(size)}"
    return {"model": MODEL, "messages": [{"role": "system", "content": "Repeat."}, {"role": "user", "content": text}]}


def answer(endpoint: str, body: dict[str, Any]) -> bytes:
    """Make an answer of about 1 KB that repeats the caller's number."""
    number = body["messages"][-1]["content"].split(" ", 1)[0]
    content = f"{number} {_PADDING[:600]}"
    return (
        b'{"id":"chatcmpl-%b","object":"chat.completion","created":1774437322,"model":"gpt-5-mini","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"%b","refusal":null,"annotations":[]},"finish_reason":"stop"}],"usage":'
        b'{"prompt_tokens":190,"completion_tokens":140,"total_tokens":330,"prompt_tokens_details":{"cached_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0}}}'
    ) % (number.encode(), content.encode())


def check(number: int, content: bytes) -> None:
    """Make sure that a caller holds its own answer."""
    text = json.loads(content)["choices"][0]["message"]["content"]
    if not text.startswith(f"{number} "):
        raise AssertionError(f"caller {number} was given {text[:20]!r}")


@dataclass(frozen=True)
class Options:
    """Say how a program works: bytes of a body, enqueued tokens, and switches."""

    size: int = KB
    limit: int | None = None
    journal: bool = False
    uvloop: bool = False
    alone: bool = False
    burn: float = 0.0

    @classmethod
    def parse(cls, words: list[str]) -> Self:
        """Read words such as `journal`, `uvloop`, `size=4096`, `limit=90000`, `burn=20` (us lost at each call)."""
        kinds: dict[str, Callable[[str], Any]] = {"size": int, "limit": int, "burn": float}
        found: dict[str, Any] = {}
        for word in words:
            name, _, value = word.partition("=")
            found[name] = kinds[name](value) if value else True
        return cls(**found)


DEFAULT = Options()

Job = Callable[[int, str, Options], Awaitable[list[bytes]]]


def main(job: Job) -> None:
    """Run a job as `python -m benchmarks.NAME N URL [WORD...]` and print what it took as JSON."""
    count, url = int(sys.argv[1]), sys.argv[2]
    print(json.dumps(measured(job, count, url, Options.parse(sys.argv[3:]))))


def measured(job: Job, count: int, url: str, options: Options) -> dict[str, float]:
    """Run a job in an event loop of its own; give what it took: CPU and of it the collector, wall time, memory."""
    factory: Any = None
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    before = peak()
    with asyncio.Runner(loop_factory=factory) as runner, collecting() as collected:
        wall, cpu = time.perf_counter(), time.process_time()
        answers = runner.run(_run(job, count, url, options))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = peak()
    for number in range(0, count, 97):
        check(number, answers[number])
    if len(answers) != count:
        raise AssertionError(f"{len(answers)} answers for {count} calls")
    gc_us = sum(collected) / count * 1e6
    return {"cpu_us": cpu / count * 1e6, "gc_us": gc_us, "wall_s": wall, "peak": after, "before": before}


async def _run(job: Job, count: int, url: str, options: Options) -> list[bytes]:
    return await job(count, url, options)


@contextmanager
def collecting() -> Iterator[list[float]]:
    """Note the CPU seconds of each garbage collection."""
    took: list[float] = []
    began = 0.0

    def note(phase: str, details: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            took.append(time.thread_time() - began)

    gc.callbacks.append(note)
    try:
        yield took
    finally:
        gc.callbacks.remove(note)


def status(name: str, process: int | str = "self") -> int:
    """Give what Linux says of a process's memory, such as VmRSS, in bytes; IndexError or OSError where it has ended."""
    return int(Path(f"/proc/{process}/status").read_text().split(f"{name}:")[1].split()[0]) * KB


def peak() -> int:
    """Give the process's peak resident memory in bytes."""
    if Path("/proc/self/status").exists():  # Linux's ru_maxrss is that of the process it was forked from, where more
        return status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes

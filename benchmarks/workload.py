"""The work that every program under measure does: calls of about 1 KB, answers of about 1 KB, over loopback."""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

ENDPOINT = "/v1/chat/completions"
MODEL = "gpt-5-mini"
_PADDING = "All work and no play makes Jack a dull boy. " * 20


def payload(number: int) -> dict[str, Any]:
    """Make a chat body of about 1 KB."""
    text = f"{number} {_PADDING}"
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


Job = Callable[[int, str], Awaitable[list[bytes]]]


def main(job: Job) -> None:
    """Run a job as `python -m benchmarks.NAME N URL [uvloop]` and print what it took as JSON."""
    count, url = int(sys.argv[1]), sys.argv[2]
    factory: Any = None
    if "uvloop" in sys.argv[3:]:
        import uvloop

        factory = uvloop.new_event_loop
    before = peak()
    with asyncio.Runner(loop_factory=factory) as runner:
        wall, cpu = time.perf_counter(), time.process_time()
        answers = runner.run(_run(job, count, url))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = peak()
    for number in range(0, count, 97):
        check(number, answers[number])
    if len(answers) != count:
        raise AssertionError(f"{len(answers)} answers for {count} calls")
    print(json.dumps({"cpu_us": cpu / count * 1e6, "wall_s": wall, "peak": after, "before": before}))


async def _run(job: Job, count: int, url: str) -> list[bytes]:
    return await job(count, url)


def peak() -> int:
    """Give the process's peak resident memory in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

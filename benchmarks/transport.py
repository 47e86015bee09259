"""What a client's transport adds to the CPU time of a call in the pool.

    python -m benchmarks.transport [--rounds 25] [--count 4000]

The same HTTP requests are handed to the pool, and to the transport of a client, by turns in one process, the server in
another: what is more is the transport's own. The client above it costs some hundred microseconds of its own.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import httpx2
import msgspec

import carpool

from . import workload
from .floor import POLL
from .throughput import served

BAR = 15.0  # us of CPU a call
# What the official SDK sends along.
_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "AsyncOpenAI/Python 3.57.0",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "3.57.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
    "authorization": "Bearer any",
    "x-stainless-async": "async:asyncio",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
    "content-type": "application/json",
}

Ask = Callable[[httpx2.Request], Awaitable[bytes]]


async def compare(url: str, count: int, rounds: int) -> tuple[float, float]:
    """Give the CPU us of a call and its HTTP request in the pool, and those more by the transport; medians."""
    target = httpx2.URL(url + workload.ENDPOINT.removeprefix("/v1"))
    async with carpool.Pool("any", url, timing=carpool.Timing(linger=0.2, poll_min=POLL)) as pool:
        transport = pool.http_client()._transport  # noqa: SLF001 - without the client above it

        async def direct(request: httpx2.Request) -> bytes:
            return (await pool.request(workload.ENDPOINT, request.content)).content

        async def through(request: httpx2.Request) -> bytes:
            response = await transport.handle_async_request(request)
            assert isinstance(response.stream, httpx2.ByteStream)
            return b"".join(response.stream)  # how a client reads it is its own affair

        async def measure(ask: Ask) -> float:
            async def call(number: int) -> None:
                body = msgspec.json.encode(workload.payload(number))
                workload.check(number, await ask(httpx2.Request("POST", target, headers=_HEADERS, content=body)))

            start = time.process_time()
            await asyncio.gather(*map(call, range(count)))
            return (time.process_time() - start) / count * 1e6

        await measure(direct)  # what happens once is not counted
        pairs = [(await measure(direct), await measure(through)) for _ in range(rounds)]
    return statistics.median(one for one, _ in pairs), statistics.median(other - one for one, other in pairs)


def run(count: int, rounds: int) -> tuple[float, float]:
    """Compare, with a server of its own."""
    with served() as url:
        return asyncio.run(compare(url, count, rounds))


def main() -> None:
    """Print the figures; exit 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--count", type=int, default=4_000)
    options = parser.parse_args()
    direct, added = run(options.count, options.rounds)
    print(f"{options.count:,} calls: {direct:.1f} us of CPU a call by the pool, {added:.1f} more by the transport")
    print(f"bar: {BAR} us more: {'kept' if added <= BAR else 'MISSED'}")
    sys.exit(added > BAR)


if __name__ == "__main__":
    main()

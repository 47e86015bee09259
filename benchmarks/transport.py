"""What a client costs: the transport below it beside the pool alone, and carpool beside the official SDK alone.

    python -m benchmarks.transport [--rounds 25] [--count 4000] [--runs 5]

The same HTTP requests are handed to the pool, and to the transport of a client, by turns in one process, the server in
another: what is more is the transport's own. Then whole calls through the official SDK, batched, and on a transport
that answers from memory, each in a process of its own: what is more is carpool's.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import httpx2
import msgspec

import carpool

from . import workload
from .floor import POLL
from .records import Bar, Record, markdown, show
from .serving import served
from .throughput import Series, rounds

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


def results(*, runs: int = 5, quick: bool = False, count: int = 4_000, turns: int = 25) -> list[Record]:
    """Measure both; what carpool adds to the SDK's own cost is the median of the differences of each run."""
    direct, added = run(count, 5 if quick else turns)
    bars = (Bar("us a call that the transport adds", added, most=BAR),)
    records = [
        Record("the pool", {"cpu_us": direct, "added_us": None}),
        Record("the transport, and the pool", {"cpu_us": direct + added, "added_us": added}, bars),
    ]
    seen = rounds(Series(1_000 if quick else 5_000, tuple(SDK)), runs)
    own = [one["cpu_us"] for one in seen[ALONE]]
    for program, name in SDK.items():
        costs = [one["cpu_us"] for one in seen[program]]
        more = statistics.median(cost - base for cost, base in zip(costs, own, strict=True))
        figures = {"cpu_us": statistics.median(costs), "added_us": None if program == ALONE else more}
        records.append(Record(name, figures))
    return records


ALONE = "through_sdk alone"
SDK = {
    ALONE: "the official SDK, answered from memory",
    "through_sdk": "the official SDK, batched",
    "through_sdk journal": "the official SDK, batched, with a journal",
}


def table(records: Sequence[Record]) -> str:
    """Draw the table."""
    rows = []
    for record in records:
        added = "" if record.figures["added_us"] is None else f"{record.number('added_us'):.1f}"
        rows.append((record.case, f"{record.number('cpu_us'):.1f}", added))
    return markdown(("a call through", "CPU us", "more by carpool, or by the transport"), rows)


def main() -> None:
    """Print the figures; exit 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--count", type=int, default=4_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    show(results(runs=options.runs, count=options.count, turns=options.rounds), table)


if __name__ == "__main__":
    main()

"""What a request under way takes of memory, and that a stream takes no more the longer it is."""

import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from streams_kit import text_of
from virtual import CHAT, VirtualLoop, world

import carpool

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)
A_REQUEST = 30  # bytes, most of them in arrays that grow by an eighth at a time
OURS = [
    tracemalloc.Filter(inclusive=True, filename_pattern=str(Path(carpool.__file__).parent / "*"), all_frames=False),
    tracemalloc.Filter(inclusive=False, filename_pattern="*/testing/*"),
]


@pytest.fixture(params=[("asyncio", {"loop_factory": VirtualLoop})], ids=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def held() -> int:
    """Give the bytes that carpool holds, but for the emulator."""
    gc.collect()
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(OURS).traces)


def chat(number: int) -> bytes:
    return b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"%d"}]}' % number


async def test_a_request_under_way_takes_few_bytes() -> None:
    """Of those that wait for a batch, beside what does not grow with them."""
    seen: list[tuple[int, int]] = []

    async def bodies() -> AsyncIterator[bytes]:
        for number in range(25_001):
            if number in (5_000, 25_000):
                await anyio.sleep(1)
                seen.append((number, held()))
            yield chat(number)

    with traced():
        async with world(pool={"timing": PATIENT}) as w, w.pool.map(bodies(), endpoint=CHAT, keep_requests=False):
            await anyio.sleep(5)
    (few, first), (many, second) = seen
    assert (second - first) / (many - few) < A_REQUEST


async def test_a_long_stream_takes_no_more_than_a_short_one() -> None:
    seen: dict[int, int] = {}
    got = 0
    with traced():
        async with world(pool={"max_pending": 500}) as w:
            async for outcome in w.pool.map(map(chat, range(5_001)), endpoint=CHAT, keep_requests=False):
                assert text_of(outcome) == f"{got}"
                got += 1
                if got in (1_000, 5_000):
                    seen[got] = held()
    assert seen[5_000] - seen[1_000] < 4_000 * A_REQUEST / 4

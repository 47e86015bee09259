"""What large work takes of memory, disk and descriptors: sizes are small here, and whole with CARPOOL_RESOURCES=all."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import anyio
import pytest
from virtual import CHAT, VirtualLoop, world

from carpool.testing import Pace

from .provider import Provider, served

ROOT = Path(__file__).parent.parent.parent
WHOLE = os.environ.get("CARPOOL_RESOURCES") == "all"
MB = 2**20
HOUR = 3_600.0
pytestmark = pytest.mark.timeout(3_000 if WHOLE else 120)


class Work(NamedTuple):
    """Say how many calls are made, how, of how many bytes, and how many bytes they may take of memory."""

    way: str
    calls: int
    size: int
    answer: int
    most: int
    largest: int  # bytes of an input file
    journal: bool = False


STREAMS = {
    "32 MB each way, journal": Work("streamed", 512, 64_000, 64_000, 20 * MB, 24 * MB, journal=True),
}
STREAMS_WHOLE = {
    "an input of 190 MB": Work("streamed", 2_960, 64_000, 10, 32 * MB, 180 * MB),
    "an input of 190 MB, journal": Work("streamed", 2_960, 64_000, 10, 32 * MB, 180 * MB, journal=True),
    "an output of 2 GB": Work("streamed", 50_000, 10, 42_000, 48 * MB, 4 * MB),
    "an output of 2 GB, journal": Work("streamed", 50_000, 10, 42_000, 48 * MB, 4 * MB, journal=True),
    "60 bodies of 10 MB": Work("streamed", 60, 10_000_000, 10, 96 * MB, 160 * MB),
    "60 answers of 10 MB, journal": Work("streamed", 60, 10, 10_000_000, 96 * MB, 0, journal=True),
}
GATHERED = {"5,000 calls of 10 KB": Work("gathered", 5_000, 10_000, 10, 24 * MB, 40 * MB)}  # their bodies: 50 MB
GATHERED_WHOLE = {"a million calls": Work("gathered", 1_000_000, 20, 10, 4_000 * MB, 5 * MB)}


def works(small: dict[str, Work], whole: dict[str, Work]) -> pytest.MarkDecorator:
    """Choose by what is asked for."""
    chosen = whole if WHOLE else small
    return pytest.mark.parametrize("work", chosen.values(), ids=chosen.keys())


class Child:
    """Know a program under way, and what it says, a line at a time."""

    def __init__(self, output: IO[str]) -> None:
        self._output = output

    def says(self) -> dict[str, int]:
        """Wait for its next line."""
        told: dict[str, int] = json.loads(self._output.readline())
        return told


@contextmanager
def running(work: Work, url: str, folder: Path) -> Iterator[Child]:
    """Run the program, with temporary files in a folder of its own."""
    told = {"url": url, "way": work.way, "calls": work.calls, "size": work.size, "answer": work.answer}
    command = [sys.executable, "-m", "resources.child", json.dumps({**told, "journal": work.journal})]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        assert process.stdout is not None
        yield Child(process.stdout)
    assert process.returncode == 0


def check(work: Work, told: dict[str, int], sizes: list[int]) -> None:
    """Make sure that all was answered, in files so large and so much memory, and that nothing is left."""
    print(work, told, sizes)
    assert told["answered"] == work.calls
    assert sum(sizes) > work.calls * work.size
    assert max(sizes) > work.largest
    assert (told["descriptors"], told["tasks"], told["left_on_disk"]) == (0, 0, 0)
    assert told["taken"] < work.most, f"{told['taken'] / MB:.0f} MB taken"


@works(STREAMS, STREAMS_WHOLE)
def test_files_take_less_memory_than_their_size(tmp_path: Path, work: Work) -> None:
    provider = Provider(work.answer)
    with served(provider) as url, running(work, url, tmp_path) as child:
        told = child.says()
    check(work, told, provider.sizes[1:])
    bytes_on_disk = (work.size + work.answer * work.journal) * work.calls
    assert told["disk"] < bytes_on_disk * 1.1 + 16 * MB


@works(GATHERED, GATHERED_WHOLE)
def test_calls_that_wait_are_all_answered(tmp_path: Path, work: Work) -> None:
    """Each from a task of its own, which takes 1 KB by itself; a body takes none once it is spooled."""
    provider = Provider(work.answer, held=True)
    with served(provider) as url, running(work, url, tmp_path) as child:
        child.says()
        provider.release()
        told = child.says()
    check(work, told, provider.sizes[1:])


class Seen(NamedTuple):
    """What many open batches take: descriptors, and requests to the provider while nothing else goes on."""

    descriptors: int
    requests: int


async def open_batches(number: int) -> Seen:
    """Have a batch under way for each of so many models, on virtual time; the provider lets them end after hours."""
    pace = Pace(running=3 * HOUR)
    before = len(os.listdir("/dev/fd"))
    answered = 0
    async with world(pace=pace, pool={"limits": {"*": 10**9}}) as w, anyio.create_task_group() as tasks:

        async def ask(model: str) -> None:
            nonlocal answered
            content = {"model": model, "messages": [{"role": "user", "content": model}]}
            response = await w.pool.request(CHAT, content)
            answered += response.text == model

        for model in range(number):
            tasks.start_soon(ask, f"model-{model}")
        await anyio.sleep(HOUR)
        assert [batch.stage for batch in w.pool.stats().open] == ["running"] * number
        descriptors, asked = len(os.listdir("/dev/fd")) - before, len(w.transport.requests)
        await anyio.sleep(HOUR)
        requests = len(w.transport.requests) - asked
    assert answered == number
    return Seen(descriptors, requests)


def test_many_open_batches_take_few_descriptors_and_are_asked_for_together() -> None:
    """Each has a lane of its own, as its model is another."""
    number = 1_000 if WHOLE else 40
    settings = {"loop_factory": VirtualLoop}
    seen = anyio.run(open_batches, number, backend_options=settings)
    print(number, seen)
    assert seen.descriptors < 20
    assert seen.requests < 60 * (number / 100 + 1) * 2

"""What every test is held to: nothing may be left behind."""

import asyncio
import gc
import inspect
import os
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

import anyio
import pytest
import uvloop
import vocabulary
from virtual import VirtualLoop


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each async test on both backends, on real time; asyncio by uvloop where CARPOOL_LOOP says so."""
    if request.param == "asyncio" and os.environ.get("CARPOOL_LOOP") == "uvloop":
        return "asyncio", {"use_uvloop": True}
    return request.param


@pytest.fixture(params=["asyncio", "trio"])
def virtual_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run a test on both backends, on virtual time."""
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualLoop}
    from trio.testing import MockClock

    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read none: where nothing is encrypted it would take most of the time."""
    monkeypatch.setattr("ssl.create_default_context", lambda *args, **settings: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be known of an account, or of a mode, from outside."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "CARPOOL_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep apart from other runs on this machine."""
    # At its first use uvloop opens two descriptors for the life of the process.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = None


@pytest.fixture(scope="session", autouse=True)
def _own_vocabulary() -> Iterator[None]:
    """Let tiktoken, here and in subprocesses, read what `make` fetched; without it, it would try the network."""
    with pytest.MonkeyPatch.context() as patch:
        if vocabulary.FOLDER.is_dir():
            patch.setenv("TIKTOKEN_CACHE_DIR", str(vocabulary.FOLDER))
        yield


@pytest.fixture(scope="session", autouse=True)
def _certificates_once() -> Iterator[None]:
    """Read each file of certificates once: every client would, for a tenth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl.create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def _small_heap() -> Iterator[None]:
    """Keep what the imports made out of the collection after each test: it would take most of the tests' time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_left(_own_temporary_folder: None) -> Iterator[None]:
    before = _leftovers()
    yield
    gc.collect()
    after = _leftovers()
    until = time.monotonic() + 1.0
    # What other threads close, they may be closing; and they may be ending themselves.
    while (after[2] > before[2] or after[0] > before[0]) and time.monotonic() < until:
        time.sleep(0.01)
        after = _leftovers()
    assert after[0] <= before[0], f"threads left: {after[0] - before[0]}"
    assert after[1] <= before[1], f"files left: {after[1] - before[1]}"
    assert after[2] <= before[2], f"{after[2] - before[2]} descriptors left"
    gc.freeze()  # what pytest keeps of this test need not be looked at after each of the others


def _leftovers() -> tuple[set[str], set[str], int]:
    # Both backends keep idle worker threads of their own for a while.
    threads = {
        t.name for t in threading.enumerate() if not t.name.startswith(("AnyIO worker", "Trio", "pytest_timeout"))
    }
    return threads, set(os.listdir(tempfile.gettempdir())), len(os.listdir("/dev/fd"))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: Any) -> None:
    """Let every async test use `no_tasks_left`."""
    inner = obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(inner):
        pytest.mark.usefixtures("no_tasks_left")(obj)


@pytest.fixture
async def no_tasks_left(anyio_backend: object) -> AsyncIterator[None]:
    """Fail when the test leaves a task of carpool's running."""
    before = {task.id for task in anyio.get_running_tasks()}
    yield
    left = [task for task in anyio.get_running_tasks() if task.id not in before and "carpool" in (task.name or "")]
    assert not left, left

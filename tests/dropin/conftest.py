"""How the drop-in tests are run: quick ones in `make test`, all of them in the environments of `make dropin`."""

import gc
import glob
import json
import os
import platform
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

REPORT = "CARPOOL_DROPIN_REPORT"


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio: most frameworks know nothing else."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left(_own_temporary_folder: None) -> Iterator[None]:
    """Look at carpool's own threads and folders only: frameworks keep threads and connections of theirs."""
    before = _leftovers()
    yield
    gc.collect()
    assert _leftovers() <= before


def _leftovers() -> set[str]:
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("carpool")}
    return threads | set(glob.glob(os.path.join(tempfile.gettempdir(), "carpool-*")))


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker, and report where the environment asks for it."""
    config.addinivalue_line("markers", "shows(*columns): what of docs/reference/clients.md a test shows")
    if REPORT in os.environ:
        config.pluginmanager.register(_Report(Path(os.environ[REPORT])))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave slow tests to `make dropin`, which runs them all and asks for a report; `make test` runs the quick ones."""
    if REPORT in os.environ:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: `make dropin` runs it"))


class _Report:
    """Write down what was shown of a client, and by which versions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client: Any = None
        self._columns: dict[str, list[str]] = {}
        self._outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn what each test is to show."""
        for item in session.items:
            self._client = getattr(getattr(item, "module", None), "CLIENT", self._client)
            for mark in item.iter_markers("shows"):
                for column in mark.args:
                    self._columns.setdefault(column, []).append(item.name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test; what fails after it fails it."""
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid.rpartition("::")[2]] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Write it down."""
        if self._client is None:
            return
        client = asdict(self._client)
        versions = {name: version(name) for name in (*client["packages"], *client["beside"]) if _is_installed(name)}
        ran = {"versions": versions, "python": platform.python_version()}
        self._path.write_text(json.dumps({**client, **ran, "columns": self._columns, "outcomes": self._outcomes}))


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True

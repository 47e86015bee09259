"""A fixture for the tests of programs that use carpool: the emulator, with answers from a callable and no waiting.

pytest finds it by itself where carpool is installed; the emulator needs the extra `emulator`.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import config

if TYPE_CHECKING:
    # At run time the fixture imports it: the plugin is loaded where the extra is not installed too.
    from .testing import Emulator

MARKER = "carpool_emulator(**settings): settings of the Emulator that the fixture of the same name gives"
AT_ONCE = config.Timing(linger=0.01, max_linger=0.05, poll_min=0.01, poll_max=0.05, lookup=0.2)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def carpool_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Emulator]":
    """Serve a Files and Batches API on this machine, which pools and the SDK's clients find by themselves.

        async def test_a_ticket_is_sorted(carpool_emulator):
            carpool_emulator.answer = lambda endpoint, body: {"choices": [{"message": {"content": "billing"}}]}
            async with carpool.Pool() as pool:
                assert await sort(pool, "Where is my invoice?") == "billing"
            assert sum(carpool_emulator.books().bodies.values()) == 1

        @pytest.mark.carpool_emulator(troubles=Troubles(failing={500: 0.5}), seed=7)
        async def test_failing_rows_are_sent_again(carpool_emulator): ...

    An answer is a callable that takes an endpoint and a body; it gives a body, or an `Answer` with any status. Without
    one the prompt comes back. The marker's settings are those of `carpool.testing.Emulator`. While the test runs,
    OPENAI_BASE_URL and OPENAI_API_KEY name the emulator, CARPOOL_MODE is unset, and a pool made without `timing`
    neither lingers nor waits between its checks.
    """
    try:
        from .testing import Emulator
    except ModuleNotFoundError as exc:
        missing = f"the fixture carpool_emulator needs {exc.name}: install carpool with its extra emulator"
        pytest.fail(missing, pytrace=False)
    marker = request.node.get_closest_marker("carpool_emulator") or pytest.mark.carpool_emulator.mark
    with Emulator(*marker.args, **marker.kwargs) as emulator:
        monkeypatch.setenv("OPENAI_BASE_URL", emulator.url)
        monkeypatch.setenv("OPENAI_API_KEY", marker.kwargs.get("api_key") or "emulated")
        monkeypatch.setenv("no_proxy", ",".join(filter(None, (_no_proxy(), "127.0.0.1"))))
        monkeypatch.delenv("CARPOOL_MODE", raising=False)
        monkeypatch.setattr(config, "DEFAULT_TIMING", AT_ONCE)
        yield emulator


def _no_proxy() -> str:
    return os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")

"""What the pages on watching a pool say beside their tables, which tests/docs compares, is so."""

import subprocess
import sys
from typing import Any

import carpool
from carpool.observe import begin


def test_the_library_is_quiet_by_default() -> None:
    code = "import logging, carpool; logging.getLogger('carpool.perform').warning('not seen')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_an_event_says_what_is_set_and_not_what_differs_from_run_to_run() -> None:
    event = carpool.Event("refused", 1.0, "pool", "No room.", tokens=5, rows=0, numbers=((3, 5), (8, 8)))
    assert repr(event) == "Event(refused, message='No room.', numbers=((3, 5), (8, 8)), rows=0, tokens=5)"
    assert [*event.custom_ids] == ["pool-3", "pool-4", "pool-5", "pool-8"]
    assert repr(carpool.Event("opened", 1.0, "pool")) == "Event(opened)"


def test_without_opentelemetry_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import carpool.otel"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "install carpool with its extra otel" in result.stderr


def test_where_nobody_looks_on_nothing_is_made() -> None:
    parts: Any = None
    assert begin(None, "p", parts, parts, parts, parts, flexible=False) is None

"""What the page says is so: its table names each kind of event, its fields are those of events, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

from msgspec import structs

import carpool
from carpool.event import Event, Kind
from carpool.observe import begin
from carpool.stats import Stats

PAGE = (Path(__file__).parent.parent.parent / "docs" / "observability.md").read_text()


def first_cells(of: str) -> list[str]:
    """Give the code in the first cells of the table that follows a text."""
    rows = re.findall(r"^\|(.*?)\|", PAGE.partition(of)[2].split("\n\n")[1], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_each_kind_is_in_the_tables_once() -> None:
    kinds = [kind for heading in ("### Calls", "### Batches", "### The account") for kind in kinds_under(heading)]
    assert sorted(kinds) == sorted(get_args(Kind))


def kinds_under(heading: str) -> list[str]:
    section = PAGE.partition(heading)[2].partition("\n### ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_each_field_of_an_event_is_named() -> None:
    assert {*first_cells("which suits assertions")} == {field.name for field in structs.fields(Event)} | {"custom_ids"}


def test_each_figure_is_named() -> None:
    named = {*first_cells("each open batch.")} - {"Stats"}
    assert named == {field.name for field in structs.fields(Stats)} | {"waiting", "in_flight"}


def test_code_on_the_page_runs() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


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
    assert 'pip install "carpool[otel]"' in result.stderr


def test_where_nobody_looks_on_nothing_is_made() -> None:
    parts: Any = None
    assert begin(None, "p", parts, parts, parts, parts, flexible=False) is None

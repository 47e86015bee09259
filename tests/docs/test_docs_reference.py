"""The pages of reference are whole: each name is there, and each default is what the code has."""

import inspect
import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args

import pytest
from docs_kit import PACKAGE, ROOT, text_of
from msgspec import structs

import carpool
from carpool.engine.batch import BatchStats
from carpool.engine.lane import LaneStats
from carpool.event import Event, Kind
from carpool.spending import Cost
from carpool.stats import Stats
from carpool.testing import Emulator, Faults, Pace, Troubles

NAMES = re.compile(r"`(\w+)`")


def section(page: str, heading: str) -> str:
    """Give what stands under a heading of any level, down to the next one."""
    _, found, after = f"\n{text_of(f'docs/reference/{page}.md')}".partition(f"\n{heading}\n")
    assert found, f"{page} has no {heading!r}"
    return re.split(r"^#+ ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Give the cells of the rows of tables that begin with a name."""
    lines = re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def named(text: str) -> list[str]:
    """Give the names in the first cells of the tables in a text."""
    return [name for row in rows(text) for name in NAMES.findall(row[0])]


def names_of(struct: Any) -> set[str]:
    """Name the fields of a record, and its properties."""
    properties = {name for name, _ in inspect.getmembers(struct, lambda member: isinstance(member, property))}
    return {field.name for field in structs.fields(struct)} | properties


def test_each_kind_of_event_is_in_the_tables_once() -> None:
    page = text_of("docs/reference/events.md").partition("\n## Calls\n")[2].partition("\n## What it costs")[0]
    assert sorted(row[0].strip("`") for row in rows(page)) == sorted(get_args(Kind))


def test_each_field_of_an_event_is_named() -> None:
    assert set(named(section("events", "# Events"))) == names_of(Event)


def test_each_figure_is_named() -> None:
    page = text_of("docs/reference/stats.md")
    pool, lanes, batches, costs = re.split(r"^\| of ", page, flags=re.MULTILINE)
    assert set(named(pool)) == names_of(Stats)
    assert set(named(lanes)) == names_of(LaneStats)
    assert set(named(batches)) == names_of(BatchStats)
    assert set(named(costs)) == names_of(Cost)


@pytest.mark.parametrize(
    ("heading", "made"),
    [
        ("## The pool", carpool.Pool),
        ("## Timing", carpool.Timing),
        ("## Retry", carpool.Retry),
        ("## Limits", carpool.Limits),
        ("## A request", carpool.Request),
    ],
)
def test_each_setting_is_named_with_its_default(heading: str, made: Any) -> None:
    told = {NAMES.findall(row[0])[0]: row[1].strip("`").replace('"', "'") for row in rows(section("settings", heading))}
    parameters = [each for name, each in inspect.signature(made).parameters.items() if not name.startswith("_")]
    assert told == {each.name: "" if each.default is each.empty else repr(each.default) for each in parameters}


def errors() -> set[str]:
    """Name the exceptions that are public."""
    classes = {name for name in carpool.__all__ if inspect.isclass(getattr(carpool, name))}
    return {name for name in classes if issubclass(getattr(carpool, name), carpool.CarpoolError)}


def test_each_exception_is_named() -> None:
    cells = " ".join(row[0] for row in rows(text_of("docs/reference/exceptions.md")))
    assert set(re.findall(r"`([A-Z]\w+)`", cells)) == errors() - {"CarpoolError"}


def test_each_public_name_has_its_docstring_on_the_page() -> None:
    page = text_of("docs/reference/api.md")
    shown = {path: on_site(path) for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert len(shown) == page.count("\n::: ")
    assert [path for path, each in shown.items() if inspect.ismodule(each)] == ["carpool.errors"]
    named = {name for name in carpool.__all__ if getattr(carpool, name) in shown.values()}
    assert named == set(carpool.__all__) - errors()
    assert {f"carpool.testing.{name}" for name in carpool.testing.__all__} <= shown.keys()


def test_a_module_hides_what_its_package_imports_under_the_same_name() -> None:
    assert inspect.ismodule(on_site("carpool.run"))
    assert on_site("carpool.run.run") is carpool.run
    assert on_site("carpool.pool_of") is carpool.pool_of


def on_site(path: str) -> object:
    """Give what a path names on the site, where a module goes before what its package imports under its name."""
    home, _, name = path.rpartition(".")
    package = import_module(home)
    hidden = hasattr(package, "__path__") and find_spec(path) is not None
    return import_module(path) if hidden else getattr(package, name)


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\*\*(.+)\*\*$", text_of("docs/glossary.md"), re.MULTILINE)
    assert words == sorted(words, key=str.casefold)
    assert len(words) > 30


@pytest.mark.parametrize("made", [Faults, Troubles, Pace])
def test_each_field_of_a_setting_of_the_emulator_is_named(made: Any) -> None:
    told = re.search(rf"`{made.__name__}\(([^`]*)\)`", section("emulator", "## Settings"))
    assert told
    names = [name.partition("=")[0].strip() for name in re.sub(r"\{.*?\}", "", told[1]).split(",")]
    assert sorted(names) == sorted(inspect.signature(made).parameters)


def test_each_setting_of_the_emulator_is_named() -> None:
    parameters = [name for name in inspect.signature(Emulator).parameters if not name.startswith("_")]
    assert sorted(named_first(section("emulator", "## Settings"))) == sorted(parameters)


def named_first(text: str) -> list[str]:
    """Give the names in the first cells of tables, those of settings alone."""
    return [name for row in rows(text) for name in NAMES.findall(row[0]) if name.islower()]


def test_each_method_of_the_pool_is_named() -> None:
    told = set(re.findall(r"`(?:await )?pool\.(\w+)\(", text_of("docs/reference/pool.md")))
    methods = {name for name, _ in inspect.getmembers(carpool.Pool, inspect.isfunction) if not name.startswith("_")}
    assert told == methods


def test_each_fact_that_the_code_relies_on_is_in_the_page_of_the_provider() -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    cited = {
        name for found in re.findall(r"[Cc]ontracts ((?:[A-Z]\d+(?:, )?)+)", code) for name in found.split(", ") if name
    }
    told = set(re.findall(r"^## ([A-Z]\d+)\. ", text_of("docs/reference/provider.md"), re.MULTILINE))
    assert len(cited) > 8
    assert cited <= told


def test_each_trap_that_the_code_or_a_test_names_is_in_the_page_of_the_provider() -> None:
    code = "\n".join(path.read_text() for room in (PACKAGE, ROOT / "tests") for path in room.rglob("*.py"))
    named = re.findall(r"\btraps? (\d+(?:(?:, | and )\d+)*)|\btest_trap_0*(\d+)", code)
    cited = {number for found in named for number in re.findall(r"\d+", " ".join(found))}
    told = set(re.findall(r"^\| (\d+) \|", text_of("docs/reference/provider.md"), re.MULTILINE))
    assert len(cited) > 25
    assert cited <= told

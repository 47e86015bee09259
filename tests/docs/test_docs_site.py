"""The site is whole: each page is in its navigation once, and each link leads somewhere. `make docs` builds it."""

import re
from pathlib import Path

import pytest
from docs_kit import DOCS, PACKAGE, ROOT, SITE, anchors_of, excluded, hooks, links_of, pages, prose_of, text_of

SETTINGS = (ROOT / "mkdocs.yml").read_text()
NAMED = re.compile(r"(?:^|[\s'\"])carpool\b")


def test_each_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"(\S+\.md)$", SETTINGS.partition("\nnav:")[2], re.MULTILINE)
    assert sorted(SITE + name for name in named) == [page for page in pages() if page.startswith(SITE)]


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_pages_and_headings_that_exist(page: str) -> None:
    assert [target for target in links_of(page) if not leads_somewhere(page, target)] == []


def leads_somewhere(page: str, target: str) -> bool:
    path, _, anchor = target.partition("#")
    to = (ROOT / page).parent / path if path else ROOT / page
    if not to.exists() or (page.startswith(SITE) and not to.resolve().is_relative_to(DOCS)):
        return False
    name = str(to.resolve().relative_to(ROOT))
    return not anchor or (name in pages() and anchor in anchors_of(name))


def test_a_link_that_leads_nowhere_is_seen() -> None:
    assert leads_somewhere("docs/index.md", "glossary.md")
    assert not leads_somewhere("docs/index.md", "nowhere.md")
    assert not leads_somewhere("docs/index.md", "glossary.md#nowhere")
    assert not leads_somewhere("docs/index.md", "../README.md")  # it is not on the site


def test_carpool_is_installed_from_a_place_and_not_by_its_name() -> None:
    # It is on no package index: what is there under its name one day may be a stranger's.
    installs = {page: re.findall(r"pip install ([^\n`#]*)", text_of(page)) for page in pages()}
    assert sum(map(len, installs.values())) > 3
    assert {page: found for page, each in installs.items() for found in each if NAMED.search(found)} == {}
    assert NAMED.search('"carpool[otel]"')
    assert not NAMED.search("'./carpool[cli]' openai")


def test_each_room_is_in_the_layout_on_one_floor() -> None:
    layout = text_of("CONTRIBUTING.md").partition("\n## Layout\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in layout.splitlines() if re.match(r"\| \d \|", line)]
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(re.findall(r"`(\w+)/?`", " ".join(cells))) == sorted(rooms - {"__init__"})


def test_what_is_generated_is_what_the_pages_ask_for() -> None:
    asked = [name for page in pages() for name in re.findall(r"<!-- generated: (.+?) -->", text_of(page))]
    assert sorted(asked) == sorted(hooks().GENERATED)
    for name in asked:
        assert hooks().on_page_markdown(f"<!-- generated: {name} -->") == hooks().GENERATED[name]()


def test_the_diagrams_are_the_tables_of_the_engine() -> None:
    assert "packed --> uploaded: uploaded" in hooks().stages()
    assert "ended --> open: short" in hooks().stages()
    assert "cancelling --> cancelled" in hooks().statuses()
    assert "completed --> in_progress" not in hooks().statuses()


def test_the_help_of_each_command_is_there_with_its_options() -> None:
    text = hooks().commands()
    assert re.findall(r"^## `carpool (\w+)`$", text, re.MULTILINE) == sorted(
        ["batches", "cancel", "clean", "cost", "doctor", "emulate", "limits", "results", "run", "status"]
    )
    assert "`--budget USD`" in text
    assert "carpool run requests.jsonl -o answers.jsonl" in text


def test_files_that_are_no_pages_are_named() -> None:
    assert "docs/hooks.py" in excluded()
    assert all(Path(ROOT / name).exists() for name in excluded())


PATHS = re.compile(r"(?:tests|examples|benchmarks|docs|src|\.github|\.ci)/[\w./*-]*\w/?")


# `make wheel` runs these tests beside the installed wheel; the pages are built from the sources, in `make test`.
@pytest.mark.skipif(PACKAGE != ROOT / "src" / "carpool", reason="the sources, and what builds them, are not here")
@pytest.mark.parametrize("page", pages())
def test_files_targets_and_benchmarks_that_are_named_exist(page: str) -> None:
    code = re.findall(r"`([^`\n]+)`", prose_of(page))
    paths = [path for text in code for path in PATHS.findall(text) if text.startswith(path)]
    assert [path for path in paths if not any(ROOT.glob(path.rstrip("/"))) and "example" not in path] == []
    makefile = (ROOT / "Makefile").read_text()
    targets = [target for text in code for target in re.findall(r"^make ([a-z]+)$", text)]
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    named = [name for text in code for name in re.findall(r"^python -m benchmarks run ([a-z]+)$", text)]
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").exists() and name != "peers"] == []

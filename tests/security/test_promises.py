"""Each promise names tests that are there."""

import ast
import re
from pathlib import Path

from simulate.planted import PLANTED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "promises.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
PROMISES = re.split(r"^## \d+\. ", PAGE.partition("## What is not promised")[0], flags=re.MULTILINE)[1:]


def defined_in(path: str) -> set[str]:
    """Name the functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_tests_that_promises_name_are_there() -> None:
    there = {path: defined_in(path) for path, _ in NAMED}
    assert [f"{path}::{name}" for path, name in NAMED if name not in there[path]] == []
    assert len(NAMED) > 50


def test_each_promise_is_attacked() -> None:
    assert [text[:40] for text in PROMISES if "::test_" not in text] == []
    assert len(PROMISES) == 9


def test_whatever_looks_like_a_test_is_named_in_full() -> None:
    assert PAGE.count("::test_") == len(NAMED)


def test_each_figure_names_the_command_that_gives_it() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    figures = [line for line in PAGE.partition("## Figures")[2].splitlines() if line.startswith("| ")][1:]
    assert len(figures) >= 7
    for line in figures:
        _, what, figure, command, _ = (cell.strip() for cell in line.split("|"))
        target = re.fullmatch(r"`make (\w+)`", command)
        assert target, what
        assert target[1] in targets
        assert re.search(r"\d", figure), what


def test_the_bugs_planted_are_counted_as_they_are_now() -> None:
    (figure,) = re.findall(r"^\| bugs planted, and caught \| (.*?) \|", PAGE, re.MULTILINE)
    caught, planted, *_ = counts = [int(number) for number in re.findall(r"\d+", figure)]
    assert caught == planted
    assert max(counts) == len(PLANTED)

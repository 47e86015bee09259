"""Real input: the docstrings of the standard library, as the example writes them."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from run_kit import answer, check, check_paid_once, read, run, write

from carpool import config
from carpool.pytest_plugin import AT_ONCE
from carpool.testing import Emulator

EXAMPLE = Path(__file__).parents[2] / "examples" / "docstrings_to_jsonl.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstrings_to_jsonl", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of_packages(example: ModuleType, *names: str) -> list[dict[str, Any]]:
    sources = [path for name in names for path in sorted((example.LIBRARY / name).rglob("*.py"))]
    places = [entry for path in sources for entry in example.docstrings(path)]
    return [row for place, text in places for row in example.rows(place, text)]


def test_docstrings_of_several_models_and_endpoints_are_answered_in_order(
    example: ModuleType, tmp_path: Path, no_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setattr(config, "DEFAULT_TIMING", AT_ONCE)
    asked = rows_of_packages(example, "json", "email", "concurrent")
    assert len(asked) > 500
    assert len({row["body"]["model"] for row in asked}) >= 2
    assert len({row["url"] for row in asked}) == 2
    assert len({row["custom_id"] for row in asked}) == len(asked)
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    with Emulator(answer=answer) as emulator:
        assert run(emulator, source, "-o", out, "--strict").exit_code == 0
        check_paid_once(emulator, asked)
    check(read(out), asked)

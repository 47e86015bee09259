"""Every block of code in the README and on the pages runs as it is printed, before an emulator, in a folder of its own.

What cannot run here says so, and why, in a comment above it: see `docs_kit`.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_kit import ABOVE, ROOT, blocks_of, pages
from docs_scene import INSTALLS, Scene, commands_of, steady

from carpool import config
from carpool.pytest_plugin import AT_ONCE
from carpool.testing import Emulator

MARKED = 0.1  # the share of blocks that may not be run
ELSEWHERE = 0.2  # and of those that other tests show
SHOWN = [page for page in pages() if any(True for _ in blocks_of(page))]


@pytest.fixture
def _reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Stand in an empty folder, with logging as it is by default and nothing to wait for."""
    root = logging.getLogger()
    before, level = root.handlers[:], logging.getLogger("carpool").level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "DEFAULT_TIMING", AT_ONCE)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_PROXY", "*")  # doctor names a proxy
    yield
    root.handlers[:] = before
    logging.getLogger("carpool").setLevel(level)


@pytest.mark.usefixtures("no_environment", "no_certificates", "_reader")
@pytest.mark.parametrize("page", SHOWN)
def test_code_on_the_page_runs(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Emulator() as emulator:
        monkeypatch.setenv("OPENAI_BASE_URL", emulator.url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        scene = Scene(emulator, tmp_path, monkeypatch)
        try:
            for block in filter(lambda block: block.is_run, blocks_of(page)):
                scene.run(block)
            assert not scene.unused
        finally:
            scene.close()


def test_few_blocks_are_not_run_and_each_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for page in pages() for block in blocks_of(page)]
    marked = [block for block in blocks if "not run" in block.marks]
    elsewhere = [block for block in blocks if "shown by" in block.marks]
    commands = [command for block in blocks if block.language == "console" for command, _ in commands_of(block.text)]
    left_out = [command for command in commands if command.startswith(INSTALLS)]
    run = Counter(block.language for block in blocks if block.is_run)
    with capsys.disabled():
        print(f"\n{run.total()} blocks on {len(SHOWN)} pages are run or compared here: {dict(run.most_common())};")
        print(f"{len(left_out)} commands that install are left out, {len(elsewhere)} blocks other tests show, and")
        print(f"{len(marked)} are not run at all:")
        print("".join(f"  {block.place}: {block.marks['not run']}\n" for block in marked), end="")
    assert [block.place for block in marked if len(block.marks["not run"]) < 10] == []
    assert [block.place for block in elsewhere if not (ROOT / block.marks["shown by"]).is_file()] == []
    assert len(marked) <= MARKED * len(blocks)
    assert len(elsewhere) <= ELSEWHERE * len(blocks)


def test_a_mark_is_of_the_block_below_it_alone() -> None:
    first = "<!-- not run: it costs -->\n"
    second = "<!-- given:\nx = 1\n-->\n"
    found = ABOVE.search(f"{first}```console\n$ a\n```\n\n{second}")
    assert found is not None
    assert found[0] == second
    both = ABOVE.search(first + second)
    assert both is not None
    assert both[0] == first + second


def test_what_varies_is_the_same_on_every_machine_and_counts_are_not() -> None:
    line = "127.0.0.1:{}  {}  chat/completions  {}/60  {}  {} so far  {}, local"
    here = line.format(8000, "3f2a9c01d4e7", 40, "2026-11-27 20:12", "2 min 11 s", "94.2 kB")
    there = line.format(37229, "b7d359c46632", 40, "2027-01-02 03:04", "0 s", "1.07 GB")
    assert steady(here) == steady(there)
    assert steady(here) != steady(there.replace("40/60", "41/60"))
    assert steady("batch_000000000002") == "batch_000000000002"


def test_a_release_is_the_same_in_every_form_and_an_amount_is_not() -> None:
    line = "carpool {}, Python {} on {}, httpx2 {}, anyio 4.16.0.\n"
    here = line.format("0.1.0", "3.11.7", "Linux x86_64", "2.16.2")
    assert steady(here) == steady(line.format("0.2", "3.14.0rc1", "Darwin arm64", "2.17"))
    assert steady("paid $1.50") != steady("paid $1.51")

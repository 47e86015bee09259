"""Every block of code in the README and on the pages runs as it is printed, before an emulator, in a folder of its own.

What cannot run here says so, and why, in a comment above it: see `docs_kit`.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_kit import ROOT, blocks_of, pages
from docs_scene import INSTALLS, Scene, commands_of

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

"""What the README shows is run as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from carpool.testing import Emulator

ROOT = Path(__file__).parent.parent
BLOCKS = [
    *re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL),
    *(
        block
        for page in ("dropin", "streams")
        for block in re.findall(r"```python\n(import.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    ),
]


def test_the_pages_show_code() -> None:
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("block", BLOCKS)
def test_code_in_the_readme_runs(block: str) -> None:
    with Emulator() as emulator:
        environment = {**os.environ, "OPENAI_API_KEY": "any", "OPENAI_BASE_URL": emulator.url}
        command = [sys.executable, "-W", "error", "-c", block]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_to_files_that_exist(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []

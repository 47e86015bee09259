"""What the page on answers shows is run as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carpool.testing import Emulator, echo

PAGE = Path(__file__).parent.parent / "docs" / "answers.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SHOWN = [
    "Came late, works well. 4 None\nIt broke on the first day. invalid 1 star\n",
    "3000 256\n",
]


def say(endpoint: str, body: dict[str, Any]) -> Any:
    if "response_format" not in body:
        return echo(endpoint, body)
    text = "1 star" if "broke" in str(body["messages"]) else '{"stars":4,"complaint":null}'
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(("block", "shown"), list(zip(BLOCKS, SHOWN, strict=True)))
def test_code_on_the_page_runs(block: str, shown: str) -> None:
    with Emulator(answer=say) as emulator:
        environment = {**os.environ, "OPENAI_API_KEY": "any", "OPENAI_BASE_URL": emulator.url}
        command = [sys.executable, "-W", "error", "-c", block]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (result.returncode, result.stdout) == (0, shown), result.stderr

"""Let `carpool run` answer a file of 10,000 requests and more, made from the docstrings of the standard library.

    python examples/run_docstrings.py       # no key, no network: an emulator answers

In a folder of its own, which goes at the end. The file has rows of two models and two endpoints, in one order.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from carpool.testing import Emulator, Pace, echo

HERE = Path(__file__).parent
PACE = Pace(validating=0.5, running=2.0, finalizing=0.5)


def first_sentence(endpoint: str, body: dict[str, Any]) -> dict[str, Any] | bytes:
    """Play the model: the first sentence of a docstring is its summary."""
    if endpoint != "/v1/chat/completions":
        return echo(endpoint, body)
    text = " ".join(str(body["messages"][-1]["content"]).split())
    return {"choices": [{"message": {"role": "assistant", "content": text.split(". ")[0].rstrip(".") + "."}}]}


def main() -> None:
    """Make the file, have it answered, and look at what came of it."""
    with tempfile.TemporaryDirectory() as name, Emulator(answer=first_sentence, pace=PACE) as emulator:
        folder = Path(name)
        requests, answers = folder / "requests.jsonl", folder / "answers.jsonl"
        subprocess.run([sys.executable, HERE / "docstrings_to_jsonl.py", requests], check=True)
        environment = {**os.environ, "OPENAI_BASE_URL": emulator.url, "OPENAI_API_KEY": "any"}
        command: list[Path | str] = [Path(sys.executable).with_name("carpool"), "run", requests, "-o", answers]
        print("$ carpool run requests.jsonl -o answers.jsonl", flush=True)
        subprocess.run(command, check=True, env=environment)
        rows = [json.loads(line) for line in answers.open()]
        print(f"{len(rows):,} rows, in the order of the requests; the first:\n{json.dumps(rows[0])[:300]} ...")


if __name__ == "__main__":
    main()

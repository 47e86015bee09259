"""Make a file of requests of the docstrings of Python's standard library: real input for `carpool run`.

    python examples/docstrings_to_jsonl.py docstrings.jsonl
    carpool run docstrings.jsonl -o answers.jsonl --mode emulate      # or with OPENAI_API_KEY, at batch prices

Each docstring makes two rows: a summary is asked for, of one of two models by its length, and an embedding. The sources
are read, and nothing of them is imported.
"""

import ast
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

LIBRARY = Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
SHORT = 200  # characters: a smaller model will do
ASKED = "Say in one sentence what this part of Python's standard library does."


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Give the place of each docstring in a source, and its text."""
    module = ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old escapes in strings
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # some sources are there to be refused
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                name = getattr(node, "name", "")
                yield f"{module}:{getattr(node, 'lineno', 1)}:{name}", text


def rows(place: str, text: str) -> Iterator[dict[str, Any]]:
    """Give the rows that a docstring makes."""
    model = "gpt-5-nano" if len(text) < SHORT else "gpt-5-mini"
    messages = [{"role": "system", "content": ASKED}, {"role": "user", "content": text}]
    yield row(f"{place}:summary", "/v1/chat/completions", {"model": model, "messages": messages})
    yield row(f"{place}:embedding", "/v1/embeddings", {"model": "text-embedding-3-small", "input": text})


def row(custom_id: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Give a row as batches take it."""
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(file: TextIO) -> int:
    """Write all rows, and count them."""
    count = 0
    for path in sorted(LIBRARY.rglob("*.py")):
        if not LEFT_OUT.intersection(path.relative_to(LIBRARY).parts):
            for place, text in docstrings(path):
                for each in rows(place, text):
                    file.write(json.dumps(each, ensure_ascii=False) + "\n")
                    count += 1
    return count


def main() -> None:
    """Write them to the file that is named, or to standard output."""
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            print(f"{write(file):,} requests in {sys.argv[1]}")
    else:
        write(sys.stdout)


if __name__ == "__main__":
    main()

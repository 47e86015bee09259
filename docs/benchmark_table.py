"""Put a table of `benchmarks/results/README.md` into the README: `python docs/benchmark_table.py [NAME]`.

NAME is a section of the results, "throughput" without it. It takes the place of what stands between two comments, with
those rows of its table that a reader of the README wants to see.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "README.md"
PLACE = re.compile(r"(?<=<!-- benchmarks:start -->\n).*(?=<!-- benchmarks:end -->)", re.DOTALL)
KEPT = re.compile(r"(?:50,000|1,000,000) (?:floor|pooled|streamed)(?: journal)?")


def section(results: str, name: str) -> str:
    """Give what the results say of one benchmark, without its heading and pictures; KeyError where it is not there."""
    for part in re.split(r"^## ", results, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if heading.strip() == name:
            return re.sub(r"^!\[.*\n?", "", text, flags=re.MULTILINE).strip()
    raise KeyError(name)


def shortened(text: str) -> str:
    """Leave rows out whose first cell, which tells the case, is not wanted; heads of tables stay."""
    lines = text.splitlines()
    heads = {at + step for at, line in enumerate(lines) if re.match(r"\|[-|: ]+\|$", line) for step in (-1, 0)}
    return "\n".join(line for at, line in enumerate(lines) if at in heads or _is_wanted(line))


def _is_wanted(line: str) -> bool:
    return not line.startswith("|") or KEPT.fullmatch(line.split("|")[1].strip()) is not None


def replaced(page: str, text: str) -> str:
    """Give a page with a text between its two comments; ValueError where it has none."""
    if not PLACE.search(page):
        raise ValueError("There is no place for benchmarks on this page.")
    return PLACE.sub(lambda _: f"{text}\n", page)


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "throughput"
    README.write_text(replaced(README.read_text(), shortened(section(RESULTS.read_text(), name))))

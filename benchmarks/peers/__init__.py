"""The same calls through other libraries, each at its best, beside carpool and the straight line.

    python -m benchmarks.peers [--only NAME ...] [--calls N] [--runs N] [--json FILE]

Every program is one small file in `programs/`, run in a process of its own against a fresh server in another. What a
peer needs is installed once, pinned, in an environment of its own; a hundred calls warm each up before the measure.
"""

from .measure import results
from .record import Record, judged, ratios
from .report import table

__all__ = ["Record", "judged", "ratios", "results", "table"]

"""The benchmarks by name: each is a module with `results`, which gives records, and `table`; some `draw` pictures."""

import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Name a benchmark, say how many minutes it takes on two cores, whole and quick, and what makes it quick."""

    name: str
    minutes: float
    quick: float
    quickly: Mapping[str, Any] = {"quick": True}

    def load(self) -> ModuleType:
        """Import it."""
        return importlib.import_module(f"{__package__}.{self.name}")


ENTRIES = (
    Entry("throughput", 25, 0.5),
    Entry("counting", 1.5, 0.2),
    Entry("transport", 1.5, 0.3),
    Entry("memory", 15, 1),
    Entry("recovery", 2, 0.1),
    Entry("scheduling", 1, 0.3),
    Entry("limited", 1, 0.5),
    Entry("trickle", 1, 0.3),
    Entry("steps", 6, 0.5),
    Entry("filerun", 5, 0.5),
    Entry("latency", 5, 1, {"numbers": (1, 100), "lives": 100}),
    Entry("peers", 45, 3, {"calls": 2_000}),
)
CATALOGUE = {entry.name: entry for entry in ENTRIES}


def options_of(entry: Entry, quick: bool, runs: int | None) -> dict[str, Any]:
    """Give the options of a run; a quick one runs once."""
    options = dict(entry.quickly) if quick else {}
    if "runs" in inspect.signature(entry.load().results).parameters and (runs or quick):
        options["runs"] = runs or 1
    return options


def summary(module: ModuleType) -> str:
    """Give the first sentence of what a module says of itself."""
    return (module.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")

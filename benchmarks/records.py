"""What a benchmark gives: records, which one form of table, of bars and of exit code serves."""

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

Figure = float | str | None


@dataclass(frozen=True)
class Bar:
    """Hold a figure to `most`, or to `least`; one that was not measured keeps neither."""

    name: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def kept(self) -> bool:
        """Whether it is within."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        bound = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        return f"{self.name}: {self.value:.3g} ({bound}): {'kept' if self.kept else 'MISSED'}"


@dataclass(frozen=True)
class Record:
    """Tell of one case: its figures, whose names end in their units, and the bars that it is held to."""

    case: str
    figures: Mapping[str, Figure]
    bars: tuple[Bar, ...] = field(default=())

    def number(self, name: str) -> float:
        """Give a figure that is a number."""
        value = self.figures[name]
        assert isinstance(value, int | float), f"{self.case}: {name} is {value!r}"
        return value


class Judged(Protocol):
    """Be a record of any kind, a dataclass: a case, and the bars that it is held to."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # by which `asdict` takes it

    @property
    def case(self) -> str:
        """Name the case."""

    @property
    def bars(self) -> tuple[Bar, ...]:
        """Give what it is held to."""


J = TypeVar("J", bound=Judged)


def middle(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Give the median of each figure over runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def of_runs(runs: float) -> str:
    """Say how many runs figures are of."""
    return "1 run" if runs == 1 else f"medians of {runs:.0f} runs"


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Draw a table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def verdict(records: Iterable[Judged]) -> list[str]:
    """Give a line for each bar."""
    return [f"{record.case}: {bar}" for record in records for bar in record.bars]


def kept(records: Iterable[Judged]) -> bool:
    """Tell whether all bars are kept."""
    return all(bar.kept for record in records for bar in record.bars)


def say(text: str) -> None:
    """Tell whoever waits how far it is, beside the output."""
    print(text, file=sys.stderr, flush=True)


def show(records: Sequence[J], table: Callable[[Sequence[J]], str]) -> NoReturn:
    """Print the table and the bars, and exit with 1 when one is missed."""
    print(table(records), "", *verdict(records), sep="\n")
    sys.exit(not kept(records))

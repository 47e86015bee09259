"""What is counted on the way, and told: bad lines as they come, all else at the end."""

import textwrap
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...spending import Cost, dollars
from ..wording import plural, span
from .rows import NO_NAME, Row, Rows

_TOLD = 20  # bad lines
_COMMONEST = 3
_PARTS = 256  # of the custom_ids: when they are compared, one part is a set


class Names:
    """Count custom_ids that are missing or come twice; eight bytes are kept of each."""

    def __init__(self) -> None:
        self.missing: int = 0
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, rows: Rows) -> None:
        """Take note of those of rows."""
        parts = self._parts
        for row in rows:
            if row.name == NO_NAME:
                self.missing += type(row) is Row
            else:
                mark = hash(row.name)
                parts[mark & 255].append(mark)

    @property
    def repeated(self) -> int:
        """Count the rows whose custom_id an earlier one has; of 64 bits two differ, but once in a million runs."""
        return sum(len(part) - len(set(part)) for part in self._parts)


class Tally:
    """Count what becomes of rows; `say` tells a person, and `name` is what INPUT is called."""

    def __init__(self, name: str, say: Callable[[str], object]) -> None:
        self.name = name
        self.names: Names = Names()
        self.bad: int = 0
        self.answered: int = 0
        self.total: int | None = None  # requests in INPUT that OUTPUT held no answer to, once it is read
        self.codes: Counter[str] = Counter[str]()  # of the rows that failed
        self.cost: Cost = Cost()
        self.say = say

    def tell_bad(self, line: int, why: str) -> str:
        """Report a line that is no request; gives the message."""
        self.bad += 1
        message = f"{self.name}:{line}: {textwrap.shorten(why, 400)}"
        if self.bad <= _TOLD:
            self.say(message)
        elif self.bad == _TOLD + 1:
            self.say(f"{self.name}:{line}: and more bad lines, which are counted, and not shown")
        return message


class Result(NamedTuple):
    """Say what a run came to: `rows` that OUTPUT holds, of which `failed`, and `earlier` were there before."""

    rows: int
    failed: int
    earlier: int
    seconds: float


def summary(tally: Tally, result: Result) -> Iterator[str]:
    """Say it in lines."""
    earlier = f", {result.earlier:,} of them from before" if result.earlier else ""
    yield f"{plural(result.rows, 'row')}: {result.rows - result.failed:,} answered, {result.failed:,} failed{earlier}"
    if tally.codes:
        commonest = ", ".join(f"{code} {number:,}" for code, number in tally.codes.most_common(_COMMONEST))
        more = "" if len(tally.codes) <= _COMMONEST else ", and others"
        yield f"failed: {commonest}{more}"
    if tally.bad:
        yield f"bad: {plural(tally.bad, 'line')} of {tally.name}"
    yield from odd_names(tally)
    cost = tally.cost
    if cost.requests:
        unpriced = f"; {cost.unpriced:,} answers are of models without a known price" if cost.unpriced else ""
        yield f"paid: {dollars(cost.paid)}, saved {dollars(cost.saved)}{unpriced}"
    yield f"took: {span(result.seconds) if result.seconds >= 60 else f'{result.seconds:.1f} s'}"


def summary_json(tally: Tally, result: Result) -> dict[str, Any]:
    """Say it for machines."""
    return {
        "rows": result.rows,
        "answered": result.rows - result.failed,
        "failed": result.failed,
        "earlier": result.earlier,
        "codes": dict(tally.codes.most_common()),
        "bad_lines": tally.bad,
        "custom_ids_repeated": tally.names.repeated,
        "custom_ids_missing": tally.names.missing,
        "paid": tally.cost.paid,
        "saved": tally.cost.saved,
        "unpriced": tally.cost.unpriced,
        "seconds": round(result.seconds, 3),
    }


def odd_names(tally: Tally) -> Iterator[str]:
    """Say what is odd about the custom_ids."""
    repeated = tally.names.repeated
    if repeated:
        yield f"custom_ids: {plural(repeated, 'row')} with one that an earlier row has"
    if tally.names.missing:
        yield f"custom_ids: {plural(tally.names.missing, 'row')} without"

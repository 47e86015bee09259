"""Figures and sentences, for people."""

import math

from ..spending import Cost, dollars
from ..stats import Stats
from .forecast import Left, pending

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_LETTERS = "kMBT"
_UNKNOWN = 8.0  # times the least that may be left, the most says more than the least
_EXACT = 1.25  # times it, both are about the same


def plain(text: str) -> str:
    """Put a text of others on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def short(number: float) -> str:
    """Write a number with three digits, or four where they are all it has."""
    if number < 10_000:
        return f"{number:,.0f}"
    power = min(int(math.log10(number * 1.0005)) // 3, len(_LETTERS))
    digits = number / 1_000**power
    return f"{digits:.{max(3 - len(str(int(digits * 1.0005))), 0)}f}{_LETTERS[power - 1]}"


def span(seconds: float) -> str:
    """Write a duration to about a tenth: "45 s", "10 min", "2.5 h", "3 days"."""
    if seconds < 100:
        return f"{_rough(seconds):.0f} s"
    if seconds < 100 * _MINUTE:
        return f"{_rough(seconds / _MINUTE):.0f} min"
    if seconds < 48 * _HOUR:
        return f"{_rough(2 * seconds / _HOUR) / 2:g} h" if seconds < 10 * _HOUR else f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:.0f} days"


def _rough(number: float) -> float:
    """Round to a whole number, from ten on to a multiple of five."""
    return max(1, round(number)) if number < 12 else 5 * round(number / 5)


def lasted(seconds: float) -> str:
    """Write a duration as it was: "45 s", "12 min", "3 h 5 min"."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    hours, minutes = divmod(int(seconds) // _MINUTE, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def percent(part: float, whole: float) -> str:
    """Write a share, which is 100 % when all is over and not before."""
    return f"{math.floor(100 * part / whole) if whole else 0}%"


def left(range_: Left | None, stats: Stats) -> str:
    """Say how long it will still take, "" where there is nothing to be said."""
    if range_ is None:
        return "up to 24 h a batch left" if stats.open and pending(stats) else ""
    low, high = range_
    if high <= low * _EXACT:
        return f"about {span((low + high) / 2)} left"
    least, most = span(low), span(high)
    if high > low * _UNKNOWN or low < 2 or least == most:
        return f"up to {most} left"
    number, _, unit = least.partition(" ")
    return f"{number if most.endswith(f' {unit}') else least} to {most} left"


def money(cost: Cost) -> str:
    """Say what was paid and saved, "" before the first answer."""
    if not cost.requests:
        return ""
    if cost.unpriced == cost.requests:
        return "no price is known"
    unpriced = f", {cost.unpriced:,} unpriced" if cost.unpriced else ""
    return f"paid {dollars(cost.paid)}, saved {dollars(max(cost.saved, 0.0))}{unpriced}"


def answered(stats: Stats, total: int | None) -> str:
    """Say how many are answered, of how many there are, or so many as have come so far."""
    of = f"of {total:,}" if total is not None and total >= stats.accepted else f"of {stats.accepted:,} accepted"
    return f"answered {stats.answered:,} {of}" + (f" ({stats.failed:,} failed)" if stats.failed else "")


def line(stats: Stats, total: int | None, range_: Left | None) -> str:
    """Say how things stand."""
    waiting, under_way = sum(lane.waiting for lane in stats.lanes), sum(lane.submitted for lane in stats.lanes)
    parts = [answered(stats, total)]
    if waiting:
        parts.append(f"{waiting:,} waiting")
    if under_way:
        parts.append(f"{under_way:,} in {batches(len(stats.open))}" if stats.open else f"{under_way:,} under way")
    return "; ".join(part for part in (", ".join(parts), money(stats.cost), left(range_, stats)) if part)


def outcome(stats: Stats, total: int | None, seconds: float, *, journal: bool) -> str:
    """Say what came of it."""
    parts = [f"{answered(stats, total)} in {batches(stats.batches)}, {lasted(seconds)}", money(stats.cost)]
    return "; ".join(part for part in (*parts, unfinished(stats, journal=journal)) if part)


def unfinished(stats: Stats, *, journal: bool) -> str:
    """Say what becomes of what is not over, "" where all is."""
    number = pending(stats)
    if not number:
        return ""
    return f"{number:,} not over" + (", which the next start takes over" if journal else "")


def expectation(stats: Stats, *, journal: bool) -> str:
    """Say what is to be expected once batches are under way."""
    submitted = [batch.rows for batch in stats.open if batch.id is not None]
    waiting = sum(lane.waiting for lane in stats.lanes) + sum(batch.rows for batch in stats.open if batch.id is None)
    more = f", {waiting:,} more wait for room" if waiting else ""
    stop = " This may be stopped at any time: started again with the same journal, it goes on." if journal else ""
    requests = f"{sum(submitted):,} request{'s' * (sum(submitted) != 1)}"
    return f"Submitted {requests} in {batches(len(submitted))}{more}. A batch takes from minutes to 24 hours.{stop}"


def batches(number: int) -> str:
    """Count batches."""
    return f"{number:,} batch{'es' * (number != 1)}"

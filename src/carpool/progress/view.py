"""The view of a pool at work: lanes, batches and totals, as wide and as high as there is room for."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.segment import Segment

from ..stats import Stats
from . import words
from .batch_table import open_batches
from .columns import BOLD, Frame, Line, Picture, bar, cut, text
from .forecast import Left, pending
from .lane_table import ended_lanes, live_lanes

_BATCHES = 5  # that are shown: the oldest, which end first
_LOW = 12  # lines of a screen of which the view may take all but one; of a higher one it takes three quarters
_BAR = 60  # characters, at most


def live(stats: Stats, left: Left | None, total: int | None, now: float, frame: Frame) -> Picture:
    """Show how things stand."""
    ends = [_answered(stats, total, frame), *_money_and_time(stats, left, frame)]
    room = min(frame.height - 1, max(_LOW - 1, frame.height * 3 // 4)) - len(ends)
    lanes, batches = share_out(room, len(stats.lanes), len(stats.open))
    tables = [*live_lanes(stats.lanes, lanes, frame), *open_batches(stats, batches, now, frame)]
    return _picture([*tables, *ends][: max(frame.height - 1, 1)])


def final(stats: Stats, total: int | None, seconds: float, frame: Frame, *, journal: bool) -> Picture:
    """Show what came of it."""
    several = len(stats.lanes) > 1 and stats.answered + stats.failed > 0
    sentence = words.outcome(stats, total, seconds, journal=journal)
    style = BOLD if stats.failed or pending(stats) else None
    parts = [[Segment(part, style)] for part in textwrap.wrap(sentence, frame.width)]
    return _picture([*(ended_lanes(stats, frame) if several else ()), *parts])


def _picture(lines: Sequence[Line]) -> Picture:
    return Picture(tuple(tuple(segment for segment in line if segment.text) for line in lines))


def share_out(room: int, lanes: int, batches: int) -> tuple[int, int]:
    """Say how many lanes and how many batches find room in so many lines, each with a head, a gap and what is left."""
    room = max(room, 0)
    shown, open_ = min(lanes, room), batches if batches <= _BATCHES + 1 else _BATCHES
    while _height(shown, lanes) + _height(open_, batches) > room:
        if open_ >= shown or (open_ > 2 and shown <= 2 * open_):
            open_ -= 1
        else:
            shown -= 1
    while shown < lanes and _height(shown + 1, lanes) + _height(open_, batches) <= room:
        shown += 1
    return shown, open_


def _height(shown: int, of: int) -> int:
    return 2 + shown + (shown < of) if shown else 0


def _answered(stats: Stats, total: int | None, frame: Frame) -> Line:
    """Show what is over, of all there is."""
    sentence = words.answered(stats, total)
    whole = max(total or 0, stats.accepted)
    width = min(frame.width - len(sentence) - 8, _BAR)
    line: Line = [Segment(sentence, BOLD)]
    if width >= 5 and whole:
        over = stats.answered + stats.failed
        line += [Segment("  "), *bar(over / whole, width, ascii_only=frame.ascii_only)]
        line += [Segment(f"{words.percent(over, whole):>5}")]
    return cut(line, frame.width)


def _money_and_time(stats: Stats, left: Left | None, frame: Frame) -> Iterator[Line]:
    """Show both in a line, or in two where it is too narrow."""
    paid, rest = words.money(stats.cost), words.left(left, stats)
    parts = [text(paid)] * bool(paid) + [text(rest, BOLD)] * bool(rest)
    if len(parts) == 2 and len(paid) + len(rest) + 2 <= frame.width:
        yield [*parts[0], Segment("; "), *parts[1]]
    else:
        yield from (cut(part, frame.width) for part in parts)

"""Which spool segments are still needed."""

from collections.abc import Iterable

from ..models import Lane, Run


class Segments:
    """Count the unsettled rows of each segment; one that its lane may still append to is needed in any case."""

    def __init__(self) -> None:
        self._unsettled: dict[int, int] = {}
        self._growing: dict[Lane, int] = {}

    def add(self, lane: Lane, run: Run) -> list[int]:
        """Count rows that joined a lane, and give the segment that the lane has left, where nobody needs it."""
        self._unsettled[run.segment] = self._unsettled.get(run.segment, 0) + len(run)
        before = self._growing.get(lane, run.segment)
        self._growing[lane] = run.segment
        return self._take_done({before})

    def remember(self, run: Run) -> None:
        """Count unsettled rows of an earlier time; nobody appends to their segment."""
        self._unsettled[run.segment] = self._unsettled.get(run.segment, 0) + len(run)

    def close(self) -> list[int]:
        """Note that no more rows will join, and give the segments that nobody needs any more."""
        last, self._growing = set(self._growing.values()), {}
        return self._take_done(last)

    def release(self, runs: Iterable[Run]) -> list[int]:
        """Count rows that are settled, and give the segments that nobody needs any more."""
        for run in runs:
            self._unsettled[run.segment] -= len(run)
        return self._take_done({run.segment for run in runs})

    def _take_done(self, segments: Iterable[int]) -> list[int]:
        growing = set(self._growing.values())
        done = [segment for segment in segments if segment not in growing and self._unsettled.get(segment) == 0]
        for segment in done:
            del self._unsettled[segment]
        return done

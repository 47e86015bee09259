"""What is seen of batches from look to look: when each began, how it goes, and how long those took that ended."""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from ..engine.batch import BatchStats
from ..engine.lane import LaneStats
from ..models import Queue
from ..stats import Stats
from .durations import Seen

_TELLING = 0.1  # of a batch's rows are counted: that tells how fast it goes
GUESS = 0.7  # how far that may be off, as a standard deviation of the logarithm
_SHORTEST = 0.05  # of a batch's age it still takes: the last rows are slow, and are to be collected
_SOON = 2.0  # seconds that collecting takes
_WATCHED = 0.1  # of its time a batch is to be seen, or its end may be one that came long before
_KEPT = 30  # durations of each queue, the newest
_TICK = 0.01  # seconds: nothing takes less


class Course:
    """Follow one batch from its creation on, at the time `since`."""

    def __init__(self, batch: BatchStats, since: float, now: float) -> None:
        self.queue: Queue = batch.lane.queue
        self.rows: int = batch.rows
        self.unsettled: int = batch.unsettled
        self._began = self._resting_until = since
        self._first_look = self._counted_at = now
        self.done: int = batch.done or 0
        self._ended: float | None = None
        self.note(batch, now)

    def note(self, batch: BatchStats, now: float) -> None:
        """Take note of how it stands."""
        self.rows, self.unsettled = batch.rows, batch.unsettled
        if batch.done == 0:
            self._resting_until = now
        if (batch.done or 0) != self.done:
            self.done, self._counted_at = batch.done or 0, now
        if batch.stage == "collecting" and self._ended is None:
            self._ended = now

    def age(self, now: float) -> float:
        """Give its age."""
        return max(now - self._began, _TICK)

    def remaining(self, now: float) -> float | None:
        """Give how long it takes if it goes on as it went, None where nothing tells; what rests may rest on."""
        if self._ended is not None:
            return _SOON
        if not self.done or self.done < _TELLING * self.rows:
            return None
        rested = now - self._counted_at
        pace = max(self._counted_at - self._resting_until, _TICK) / self.done
        return max((self.rows - self.done) * pace - rested, rested, _SHORTEST * self.age(now), _TICK)

    def duration(self, now: float) -> float | None:
        """Give how long it took, None where it may have been over long before that was seen."""
        ended = self._ended or now
        watched = ended - self._first_look >= _WATCHED * (ended - self._began)
        return max(ended - self._began, _TICK) if watched else None


def observed(age: float, remaining: float | None) -> Seen:
    """Say what a batch under way tells of durations."""
    return Seen(math.log(age), running=True) if remaining is None else Seen(math.log(age + remaining), GUESS)


class Courses:
    """Follow all batches, and keep how long those took that ended."""

    def __init__(self) -> None:
        self.by_key: dict[str, Course] = {}
        self.by_queue: dict[Queue, list[Course]] = {}
        self.kept: dict[Queue, deque[Seen]] = {}
        self._settled: dict[Queue, int] = {}  # requests
        self._peaks: dict[Queue, int] = {}  # rows
        self._looked = False

    def look(self, stats: Stats, now: float) -> bool:
        """Take note of how all stand; gives whether a batch has ended."""
        before, self.by_key = self.by_key, {}
        for batch in stats.open:
            course = before.pop(batch.key, None)
            if course is not None:
                course.note(batch, now)
            elif batch.stage in ("running", "collecting"):  # those seen at the first look are of an earlier process
                course = Course(batch, now if self._looked else batch.since, now)
            if course is not None:
                self.by_key[batch.key] = course
        self._looked = True
        self._keep(before.values(), stats, now)
        self._measure()
        return len(before) > 0

    def _keep(self, ended: Collection[Course], stats: Stats, now: float) -> None:
        """Keep how long they took, unless their rows went back to wait: what is refused ends within seconds."""
        settled = {queue: sum(lane.answered + lane.failed for lane in lanes) for queue, lanes in by_queue(stats.lanes)}
        for queue in {course.queue for course in ended}:
            courses = [course for course in ended if course.queue == queue]
            news = settled.get(queue, 0) - self._settled.get(queue, 0)
            if 2 * news >= sum(course.unsettled for course in courses):
                took = (course.duration(now) for course in courses)
                kept = self.kept.setdefault(queue, deque(maxlen=_KEPT))
                kept.extend(Seen(math.log(seconds)) for seconds in took if seconds is not None)
        self._settled = settled

    def _measure(self) -> None:
        """Keep how many rows of each queue were under way together."""
        self.by_queue = {}
        for course in self.by_key.values():
            self.by_queue.setdefault(course.queue, []).append(course)
        for queue, courses in self.by_queue.items():
            self._peaks[queue] = max(self._peaks.get(queue, 0), sum(course.rows for course in courses))

    def peak(self, queue: Queue) -> float:
        """Give the most rows of a queue that were under way together, infinity where none was."""
        return self._peaks.get(queue, math.inf)

    @property
    def counted(self) -> tuple[int, int]:
        """Give the batches under way and the rows that are over in them: what differs is news."""
        return len(self.by_key), sum(course.done for course in self.by_key.values())


def by_queue(lanes: Iterable[LaneStats]) -> list[tuple[Queue, Sequence[LaneStats]]]:
    """Put lanes together that share a queue."""
    queues: dict[Queue, list[LaneStats]] = {}
    for lane in lanes:
        queues.setdefault(lane.lane.queue, []).append(lane)
    return list(queues.items())

"""How much longer it will take, with the uncertainty of that: from what is seen of batches, and without a clock.

Batches end in bursts, after minutes or hours, and a limited queue makes rounds of them. So what counts is how long
batches take (see `durations`), how many rows find room in a queue at once, and how many are still to go there. A batch
whose rows the provider counts tells more: it goes on as it went so far.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..engine.batch import BatchStats
from ..engine.lane import LaneStats
from ..models import Queue
from ..stats import Stats
from .courses import GUESS, Courses, by_queue, observed
from .durations import UNKNOWN, Ending, Fit, Seen, at_the_earliest, at_the_latest, between, fit

_LOW, _HIGH, _DEVIATIONS = 0.1, 0.9, 1.2816  # four fifths of all outcomes lie between, so far from the middle
_DRIFT = 0.25  # by which durations may change while one waits, as a standard deviation of the logarithm
_LOOKED_AT, _AT_LEAST = 48, 3  # batches, of all and in each queue, which stand for others where there are more
_ROOM = 0.95  # of a limit is used (see engine.ledger)
_FILE = 50_000  # rows of a batch, where none was seen (contracts A2)
_HOLDS, _HOLDS_STILL = 5.0, 1.0  # seconds for which a forecast holds, and for which it does though something happens


class Left(NamedTuple):
    """Say between how many seconds and how many it will still take: so it is in about four of five cases."""

    low: float
    high: float


class Forecast:
    """Tell from one look after another how long it will still take."""

    def __init__(self) -> None:
        self._courses = Courses()
        self._left: Left | None = None
        self._at = -math.inf
        self._counted = (0, 0)
        self._ended = False

    def look(self, stats: Stats, now: float) -> None:
        """Take note of how things stand."""
        self._ended = self._courses.look(stats, now) or self._ended

    def left(self, stats: Stats, now: float, unread: int = 0) -> Left | None:
        """Say how long until all is over that waits or is under way, and so many requests that are still to come.

        It is about what was looked at last. None where nothing tells: before a batch has ended, or the provider counts
        rows of one; and when all is over.
        """
        if not pending(stats) + unread:
            self._at, self._left = -math.inf, None
        elif not now - self._at < self._holds():
            self._at, self._counted, self._ended = now, self._courses.counted, False
            self._left = _estimate(self._courses, stats, now, unread)
        if self._left is None:
            return None
        return Left(max(self._left.low - (now - self._at), 0.0), max(self._left.high - (now - self._at), 1.0))

    def _holds(self) -> float:
        """Give the seconds for which the forecast holds that was made."""
        if self._ended or self._counted != self._courses.counted:
            return 0.0 if self._left is None else _HOLDS_STILL
        return _HOLDS


def pending(stats: Stats) -> int:
    """Count the requests that wait or are in batches."""
    return sum(lane.waiting + lane.submitted for lane in stats.lanes)


def _estimate(courses: Courses, stats: Stats, now: float, unread: int) -> Left | None:
    open_ = _open_by_queue(stats)
    lanes = by_queue(stats.lanes)
    views = [_QueueView(courses, queue, group, open_.get(queue, []), now) for queue, group in lanes]
    ended = [one for view in views for one in view.ended]
    running = [one for view in views for one in view.running]
    if all(one.running for one in ended + running):
        return None
    prior = UNKNOWN
    most = max(_LOOKED_AT // len(views), _AT_LEAST)
    if len(views) > 1:  # one model tells something of another
        general = fit(ended + _some(running, _LOOKED_AT))
        prior = Fit(general.mean, UNKNOWN.sd, math.hypot(general.sd, general.doubt))
    shares = _shares(lanes, unread)
    endings = [ending for view in views for ending in view.endings(shares[view.queue], prior, most)]
    return Left(at_the_earliest(endings, _LOW), at_the_latest(endings, _HIGH)) if endings else None


def _open_by_queue(stats: Stats) -> dict[Queue, list[BatchStats]]:
    queues: dict[Queue, list[BatchStats]] = {}
    for batch in stats.open:
        queues.setdefault(batch.lane.queue, []).append(batch)
    return queues


class _QueueView:
    """See one queue: what is under way in it, what waits, and how much finds room."""

    def __init__(
        self, courses: Courses, queue: Queue, lanes: Sequence[LaneStats], batches: Sequence[BatchStats], now: float
    ) -> None:
        self.queue = queue
        self._courses = courses.by_queue.get(queue, [])
        self._ages = [course.age(now) for course in self._courses]
        self._remaining = [course.remaining(now) for course in self._courses]
        self._peak = courses.peak(queue)
        self._limit = lanes[0].limit
        self._batches = batches
        ahead = sum(batch.rows for batch in batches if batch.key not in courses.by_key)
        self._waiting = sum(lane.waiting for lane in lanes) + ahead
        self.ended = list(courses.kept.get(queue, ()))
        self.running = list(map(observed, self._ages, self._remaining))

    def endings(self, unread: int, prior: Fit, most: int) -> list[Ending]:
        """Say when what is in the queue ends, and what is to go there: at most so many endings, about."""
        durations = fit(self.ended + _some(self.running, most), prior)
        under_way = [_ending(durations, age, left) for age, left in zip(self._ages, self._remaining, strict=True)]
        waiting = self._waiting + unread
        room = self._room(unread)
        at_once = min(float(waiting), max(room - sum(course.rows for course in self._courses), 0.0))
        endings = _groups(under_way, most)
        if at_once > 0:
            endings.append(durations.of_one(times=math.ceil(at_once / self._size)))
        if waiting > at_once:
            rows = [course.rows for course in self._courses]
            work = [*zip((ending.within(0.5) for ending in under_way), rows, strict=True), (durations.average, waiting)]
            endings.append(_rounds(work, room, self._size, durations))
        return endings

    @property
    def _size(self) -> float:
        """Give the rows of a batch."""
        rows = sum(batch.rows for batch in self._batches)
        return max(rows / len(self._batches), 1.0) if self._batches else _FILE

    def _room(self, unread: int) -> float:
        """Give how many rows are under way together when the queue is full: what was seen, or what the limit says."""
        rows, tokens = sum(batch.rows for batch in self._batches), sum(batch.tokens for batch in self._batches)
        limited = _ROOM * self._limit * rows / tokens if self._limit is not None and tokens else math.inf
        full = unread > 0 or any(batch.stage == "queued" for batch in self._batches)
        return max(min(limited, self._peak if full else math.inf), 1.0)


def _rounds(work: Sequence[tuple[float, int]], room: float, size: float, durations: Fit) -> Ending:
    """Say when more than finds room is over: the work shared out over the room, and then the tail of the last ones.

    `work` are seconds and rows.
    """
    even = sum(seconds * rows for seconds, rows in work) / room
    batches = max(sum(rows for _, rows in work) / size, 1.0)
    doubt = math.sqrt(durations.sd**2 / batches + durations.doubt**2 + _DRIFT**2)
    tail = durations.longest((max(room / size, 1.0) + 1) / 2, _HIGH) - durations.average / 2
    factor = math.exp(min(_DEVIATIONS * doubt, 3.0))
    return between(even / factor, even * factor + max(tail, 0.0), _DEVIATIONS)


def _shares(lanes: Sequence[tuple[Queue, Sequence[LaneStats]]], unread: int) -> Mapping[Queue, int]:
    """Spread what is still to come over the queues as what came before."""
    known = {
        queue: sum(lane.waiting + lane.submitted + lane.answered + lane.failed for lane in group)
        for queue, group in lanes
    }
    total = max(sum(known.values()), 1)
    return {queue: math.ceil(unread * count / total) for queue, count in known.items()}


def _some(seen: list[Seen], most: int) -> list[Seen]:
    """Let some stand for all, evenly chosen: a fit looks at each several times."""
    if len(seen) <= most:
        return seen
    return [seen[index * len(seen) // most]._replace(times=len(seen) / most) for index in range(most)]


def _ending(durations: Fit, age: float, remaining: float | None) -> Ending:
    return durations.of_one(age) if remaining is None else Ending(math.log(remaining), GUESS)


def _groups(endings: list[Ending], most: int) -> list[Ending]:
    """Let one stand for a group of those alike."""
    if len(endings) <= most:
        return list(endings)
    ordered = sorted(endings)
    bounds = [index * len(ordered) // most for index in range(most + 1)]
    return [ordered[(at + to) // 2]._replace(times=to - at) for at, to in pairwise(bounds)]

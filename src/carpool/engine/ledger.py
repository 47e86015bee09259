"""The enqueued tokens of one queue: what is reserved, where the limit lies, and what finds room.

A refusal teaches (contracts A6): it states the limit. When it comes though there is room by our own count, then tokens
of batches that just ended are released late, or others queue on the same account, or the provider counts otherwise than
we do. The first shows in the moment (see `lateness`). The other two are not told apart: what is in the queue at the
moment is what fits, the ceiling, and more is tried after a while.
"""

import math
from typing import NamedTuple

from ..models import Load
from .lateness import Lateness
from .limit import Hearsay, Limit, Source
from .others import Others
from .scale import Scale
from .usage import Usage

HEADROOM = 0.95  # of the limit: counts differ a little
_HEADROOM_MOST, _HEADROOM_STEP = 0.99, 0.01  # what it grows to, report by report, while counts do not differ
_ALIKE = 0.01  # the share by which a count may differ and count as the same
SHARES = 8  # batches that fill a queue together: what one gives back is used while the others run
UNHEARD = 600.0  # seconds: a batch that validates for so long no longer keeps others back
_SURE = 0.85  # of the tokens seen in the queue together: some of them may have ended unseen before the rest came
_STUCK = 3  # refusals in a row of batches that are alone
_TURN_WEIGHT = 0.3  # of the newest batch in the average of how long one takes


class _Held(NamedTuple):
    load: Load
    created_at: float | None = None
    told: bool = False  # by an earlier process
    granted: bool = False  # by the journal

    @property
    def is_intended(self) -> bool:
        """Tell whether the journal, where there is one, is still to be asked."""
        return self.created_at is None and not self.told and not self.granted


class Ledger:
    """Keep the reservations of one queue within its limit; `pause` is the shortest back-off, in seconds."""

    def __init__(self, pause: float) -> None:
        self.scale: Scale = Scale()
        self.line: dict[str, Load] = {}  # batches that wait for room, in their turn
        self.headroom: float = HEADROOM
        self.thrift = 1  # times as large as usual batches are to be, as creations are scarce
        self.refusals: int = 0
        self._pause = pause
        self.hearsay: Hearsay = Hearsay()
        self.others: Others = Others()
        self._held: dict[str, _Held] = {}
        self.load: Load = Load(0, 0)  # what is reserved
        self._admitted: set[str] = set()
        self._lateness = Lateness()
        self._step = _HEADROOM_STEP
        self._proven = 0  # tokens, by our count, that were in the queue together
        self._ceiling: Load | None = None  # what fits, though the limit says more
        self._seen = Load(0, 0)  # what was in the queue together, since the ceiling was found
        self._tries = 0  # in vain, to rise above the ceiling
        self._retry_at = 0.0
        self._probe: str | None = None  # the batch that tries whether there is more room than we think
        self._turn = 2 * pause  # seconds that a batch takes, a guess until one has ended
        self._turn_is_known = False
        self.most_rows: int | None = None  # of a batch, while even one that is alone is refused
        self._trusted = math.inf  # batches that may validate together: after a refusal one, then one more by admission
        self._rests = 0
        self._resting_until = 0.0
        self._usage = Usage()

    # --- the limit

    def learn(self, tokens: int | None, source: Source, now: float, *, anew: bool = False) -> None:
        """Take a limit: the user's own, or what the provider or the table says, and `anew` also says after it."""
        self.hearsay.learn(tokens, source, now, anew=anew)
        if source == "user":
            self.scale.most = math.inf  # it is kept by the provider's count, as far as that is known

    @property
    def user(self) -> int | None:
        """Give the user's own number, None without one."""
        return self.hearsay.user

    @property
    def limit(self) -> Limit:
        """Give the limit in force."""
        return self.hearsay.limit

    @property
    def cap(self) -> float:
        """Give the tokens that may be reserved together, `math.inf` while no limit is known."""
        return self._most if self._ceiling is None else min(self._most, self.scale.weigh(self._ceiling))

    @property
    def _most(self) -> float:
        tokens = self.limit.tokens
        return math.inf if tokens is None else self.headroom * tokens

    @property
    def share(self) -> float:
        """Give the tokens of one batch when more waits than finds room."""
        shares = SHARES / self.thrift
        return self.cap / shares if self._most == math.inf else min(self._most / shares, self.cap)

    # --- room

    @property
    def enqueued(self) -> float:
        """Give the tokens reserved."""
        return self.scale.weigh(self.load)

    def room(self, now: float) -> float:
        """Give the tokens that may still be reserved."""
        return self._own_room(now) - self.others.tokens

    def _own_room(self, now: float) -> float:
        """Give what there would be without other processes: what they hold is known while the journal is asked."""
        return self.cap - self.enqueued - self._lateness.held(now)

    def fits(self, load: Load, now: float) -> bool:
        """Tell whether a batch may be created now."""
        if now < self._resting_until or self.others.keep_back(now) or len(self._unheard(now)) >= self._together:
            return False
        if self.cap == math.inf:
            return True
        weight = self.scale.weigh(load)
        if weight <= self._own_room(now):
            return not self._is_unseen(load) or not self._unheard(now)
        if not self._held and not self._lateness.held(now):
            return not self.forbids(load)  # a batch that is alone is the provider's to judge
        return self._probe is None and self._may_probe(self.cap - self._own_room(now) + weight, now)

    def allowance(self, key: str, now: float) -> float:
        """Give the tokens that a batch and what other processes hold may come to together.

        More than there is room for, where it is time to try that.
        """
        weight = self.scale.weigh(self._held[key].load)
        # What is not granted yet is asked for by itself.
        intended = [held.load for held in self._held.values() if held.is_intended]
        room = self._own_room(now) + sum(map(self.scale.weigh, intended))
        level = self.cap - room + weight + self.others.tokens
        more = self._probe in (None, key) and level > self.cap and self._may_probe(level, now)
        return max(room, weight + self.others.tokens) if more else room

    def forbids(self, load: Load) -> bool:
        """Tell whether a batch is above the user's own number, which is never exceeded."""
        return self.user is not None and load.tokens + load.size * self.scale.likely_per_byte > self.user

    def _is_unseen(self, load: Load) -> bool:
        """Tell whether a batch goes beyond what was seen to fit, where no number tells: such are tried one by one."""
        return self._ceiling is not None and self.scale.weigh(self.load.plus(load)) > self.scale.weigh(self._seen)

    @property
    def _together(self) -> float:
        """Give how many may validate together."""
        return 1 if self.goes_first else self._trusted

    @property
    def goes_first(self) -> bool:
        """Tell whether one batch goes at a time: nobody knows what fits, or even one alone is refused."""
        return self.cap == math.inf or self._rests > 0

    def _unheard(self, now: float) -> list[float]:
        """Give until when those are waited for that are not admitted yet; without end before they are created."""
        validating = (held.created_at for key, held in self._held.items() if key not in self._admitted)
        return [until for at in validating if (until := math.inf if at is None else at + UNHEARD) > now]

    def _may_probe(self, level: float, now: float) -> bool:
        """Tell whether it is time to try a level above the cap: above the ceiling, or above a limit that is stale."""
        if self._ceiling is not None and level <= self._most:
            return now >= self._retry_at
        return now >= self.hearsay.stale_at and (self.user is None or level <= self.headroom * self.user)

    def wake(self, now: float) -> float:
        """Give the time at which there may be room though nothing happens, `math.inf` when there is none."""
        times = [self._resting_until, self.hearsay.stale_at, self._lateness.wake(now), self.others.again_at]
        if self._ceiling is not None:
            times.append(self._retry_at)
        if self._ceiling is not None or len(self._unheard(now)) >= self._together:
            times += self._unheard(now)
        return min((at for at in times if at > now), default=math.inf)

    def split(self, rows: int) -> None:
        """Let smaller batches go, where one that was alone is refused again and again: one request may be too large."""
        if self._rests >= _STUCK:
            self.most_rows = max(1, rows // 2)

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is reserved, as far as is known not by other processes either."""
        return not self._held and not self.others.tokens

    # --- the course of a batch

    def reserve(self, key: str, load: Load, now: float) -> None:
        """Hold room for a batch that is about to be created."""
        self._pass_time(now)
        self.line.pop(key, None)
        if key not in self._held:
            self._held[key] = _Held(load)
            self.load = self.load.plus(load)
            if self._own_room(now) < 0 and len(self._held) > 1:
                self._probe = key

    def grant(self, key: str, load: Load, others: int, now: float) -> None:
        """Hold room for a batch, for which the journal has found some beside what other processes hold."""
        self.reserve(key, load, now)
        self._held[key] = self._held[key]._replace(granted=True)
        self.others.hear(key, others)
        if self.room(now) < 0 and others:
            self._probe = key

    def deny(self, key: str, others: int, now: float, pause: float) -> None:
        """Give back the room of a batch for which the journal found none; it is asked again after `pause` seconds."""
        self.forget(key, now)
        self.others.hear(key, others, now + pause)

    def end_elsewhere(self, tokens: int, at: float) -> None:
        """Note that a batch of another process has ended, of so many tokens."""
        self._lateness.end(tokens, at, self._turn)

    def create(self, key: str, load: Load, now: float) -> None:
        """Note that a batch was created, reserved for or not."""
        self.reserve(key, load, now)
        self._held[key] = _Held(load, now)

    def presume(self, key: str, created_at: float) -> None:
        """Take a batch for created that may have been: others wait for it no longer than for one that validates."""
        self._held[key] = self._held[key]._replace(created_at=created_at)

    def remember(self, key: str, load: Load, created_at: float | None, now: float) -> None:
        """Hold room for a batch of an earlier process: it proves nothing, and nobody saw when it ended."""
        self._pass_time(now)
        self._held[key] = _Held(load, created_at, told=True)
        self.load = self.load.plus(load)

    def admit(self, key: str, now: float) -> bool:
        """Note that the provider took a batch into its queue; gives whether that is news."""
        if key not in self._held or key in self._admitted:
            return False
        self._admitted.add(key)
        self._rests, self.most_rows = 0, None
        self._trusted = self._trusted + 1 if self._trusted < SHARES else math.inf
        self._lateness.admit()
        self._seen = max(self._seen, self._taken_in, key=self.scale.weigh)
        if key == self._probe:
            self._probe = None
            self._rise(now)
        limit, source, _ = self.hearsay.told
        if limit is not None and source == "learned" and not self.load.size:
            level = sum(self._held[key].load.tokens for key in self._admitted)
            self._proven = max(self._proven, level)
            # All that was taken in was below the limit, by the provider's count.
            self.scale.most = min(self.scale.most, max(1.0, limit / max(1, level)))
        return True

    def _rise(self, now: float) -> None:
        """Take note that there is more room than we thought; more yet may be tried at once."""
        self._tries, self._retry_at = 0, now
        if self._ceiling is None and self.hearsay.stale_at <= now:
            self.hearsay.rise(now)
        elif self._ceiling is None or self.enqueued + self.others.tokens + self.share > self._most:
            self._ceiling = None
        else:
            # Towards a limit that nobody states, one goes in doubling steps.
            full = self._full
            fits = Load(2 * full.tokens, 2 * full.size) if self._most == math.inf else full
            self._ceiling = max(self._ceiling, fits, key=self.scale.weigh)

    def release(self, key: str, now: float) -> None:
        """Give back the room of a batch that has ended at the provider."""
        held = self._held.get(key)
        if held is not None:
            self.admit(key, now)
            if held.created_at is not None and not held.told:
                self._note_turn(now - held.created_at, now)
            self._lateness.end(self.scale.weigh(held.load), now, self._turn)
            self.forget(key, now)
            self._resting_until = 0.0
            self.others.ask_again()

    def _note_turn(self, took: float, now: float) -> None:
        if self._turn_is_known:
            self._turn += _TURN_WEIGHT * (took - self._turn)
        else:  # what was planned by a guess is planned anew
            self._turn, self._turn_is_known = took, True
            self._retry_at = max(self._retry_at, now + took)

    def forget(self, key: str, now: float) -> None:
        """Give back the room of a batch that never came into the provider's queue."""
        self._pass_time(now)
        self.line.pop(key, None)
        self.others.asking.discard(key)
        held = self._held.pop(key, None)
        if held is not None:
            self.load = self.load.plus(held.load, -1)
            self._admitted.discard(key)
        if key == self._probe:
            self._probe = None

    def report(self, load: Load, input_tokens: int, now: float) -> None:
        """Learn from a finished batch how the provider counts, and how well that was known; 0 tokens tell nothing."""
        if input_tokens and load.tokens and not load.size:
            alike = abs(self.scale.weigh(load) / input_tokens - 1) <= _ALIKE
            grown = self.headroom + (self._step if alike else -_HEADROOM_STEP)
            self.headroom = min(max(grown, HEADROOM), _HEADROOM_MOST)
        first = not self.scale.reported
        self.scale.report(load, input_tokens)
        if first and self.scale.reported:
            self._retry_at = min(self._retry_at, now + self._turn)

    @property
    def turn(self) -> float:
        """Give the seconds that a batch takes, a guess while none has ended."""
        return self._turn

    @property
    def usual(self) -> float | None:
        """Give the seconds that a batch takes, None while none has ended."""
        return self._turn if self._turn_is_known else None

    # --- refusals

    def refuse(self, key: str, stated: int | None, now: float, jitter: float) -> None:
        """Learn from a refusal for lack of room, and decide when to try again; `jitter` lies in [0, 1)."""
        held = self._held.get(key, _Held(Load(1, 0)))
        tried_more = key == self._probe
        self.forget(key, now)
        self.refusals += 1
        before = self.limit.tokens
        if stated not in (None, self.hearsay.told.tokens):
            self._proven = 0
        self.hearsay.refuse(stated, now)
        if self.scale.weigh(held.load) <= self._unused(now):
            self._refused_despite_room(held, now, tried_more=tried_more)
        self._trusted = 1
        if not self._held and self.limit.tokens == before:
            self._rest(now, jitter)

    def _unused(self, now: float) -> float:
        """Give what the limit would have left, by our count and that of other processes."""
        return self._most - self.enqueued - self._lateness.held(now) - self.others.tokens

    @property
    def _full(self) -> Load:
        """Measure what is in the queue together with what other processes hold."""
        others = self.others.tokens
        return self.load.plus(Load(round(others / self.scale.per_token), 0)) if others else self.load

    def _refused_despite_room(self, held: _Held, now: float, *, tried_more: bool) -> None:
        self.scale.most = math.inf
        level = self._full.tokens + held.load.tokens
        if self.scale.per_token < 1 and level and self._most < math.inf:
            self.scale.least = min(1.0, self._most / level)
        if self.headroom > HEADROOM:
            self.headroom, self._step = HEADROOM, self._step / 10
        self._tries += tried_more
        missing = self._unused(now) - self.scale.weigh(held.load)
        late = self._ceiling is None and self._lateness.blame(missing, held.created_at or now, now, self._turn)
        if not late:
            self._seen = self._taken_in
            self._lower(held.load, now)

    def _lower(self, load: Load, now: float) -> None:
        """Take what is in the queue for all that fits, and try more after a while; later when that was in vain.

        Where nothing is, and no more than a share was refused, others fill the queue: that tells nothing of what fits.
        """
        if self.is_empty and self.scale.weigh(load) <= self._most / SHARES < math.inf:
            return
        full = self._full
        half = Load((full.tokens + load.tokens + 1) // 2, (full.size + load.size + 1) // 2)
        self._ceiling = max(full, half, key=self.scale.weigh)
        if self.scale.reported or self.load.tokens + load.tokens <= _SURE * self._proven:
            # Reports correct the count, or as much was taken in before: others are in the queue, who come and go.
            turns = 2.5 if self._tries else 1.0
        else:  # it may be the count, which stays
            turns = 4.0 if self._turn_is_known and not self._tries else 16.0
        self._retry_at = now + turns * self._turn

    @property
    def _taken_in(self) -> Load:
        """Measure what the provider took into its queue: what validates beside a refused batch may be refused too."""
        loads = [self._held[key].load for key in self._admitted]
        return Load(sum(load.tokens for load in loads), sum(load.size for load in loads))

    def _rest(self, now: float, jitter: float) -> None:
        """Back off: nothing of ours is in the queue whose end could make room."""
        self._rests = min(self._rests + 1, 5)
        self._resting_until = now + self._pause * min(2**self._rests, 20) * (0.5 + jitter / 2)

    # --- figures

    def _pass_time(self, now: float) -> None:
        tokens = self.limit.tokens
        self._usage.pass_time(self.enqueued / tokens if self._held and tokens else None, now)

    @property
    def utilisation(self) -> float | None:
        """Give the mean of what was reserved as a share of the limit, while anything was; None without a limit."""
        return self._usage.mean

"""The room that batches of all processes have in the queues, in memory."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ..engine.claims import PATIENCE, Stand, State, decide
from ..engine.commands import Claim
from ..engine.events import Admitted, Claimed, Learned, Released
from ..models import Queue
from ..naming import number_of, shard_of

_HOUR = 3_600.0


class _Held(NamedTuple):
    queue: Queue
    tokens: int
    at: float
    room: float
    state: State


class _Turn(NamedTuple):
    number: int
    held: _Held
    at: float
    ended: bool


class Claims:
    """Keep who holds how much of which queue."""

    def __init__(self, holders: Mapping[int, int]) -> None:
        self._holders = holders  # processes, of shards
        self.held: dict[int, _Held] = {}  # by numbers of batches
        self.newest = 0  # number of the newest turn
        self._turnover: dict[int, _Turn] = {}  # what is old goes when something is granted

    def created(self, open_: Collection[int], shards: Collection[int], now: float) -> tuple[float, ...]:
        """Say when processes other than that of these shards created the batches that are open, of the last hour."""
        recent = [turn for turn in self._turnover.values() if not turn.ended and turn.at > now - _HOUR]
        turns = [turn for turn in recent if turn.number in open_]
        return tuple(sorted(turn.at for turn in turns if shard_of(turn.number) not in shards))

    def claim(
        self, claim: Claim, open_: Collection[int], learned: Mapping[Queue, tuple[float, Learned]], heard: int
    ) -> Claimed:
        """Give room to a batch, if there is some, and tell what others did since so much was `heard`."""
        number = number_of(claim.key)
        at, newest = learned.get(claim.queue, (0.0, None))
        news = None if newest is None or at <= claim.heard_at else (newest.tokens, at)
        verdict = decide(claim, self._stands(claim.queue, number))
        held = number in self.held and self.held[number].state != State.WAITS
        granted = held or (verdict.granted and news is None and number in open_)
        if granted and not held:
            self.held[number] = _Held(claim.queue, claim.tokens, claim.at, claim.room, State.HOLDS)
            self._turnover = {n: turn for n, turn in self._turnover.items() if turn.at >= claim.at - _HOUR}
            self._note(_Turn(number, self.held[number], claim.at, ended=False))
        elif not granted and not verdict.granted and news is None:
            self._mark(claim, number)
        unheard = [turn for n, turn in self._turnover.items() if n > heard]
        turns = [turn for turn in unheard if shard_of(turn.number) not in claim.shards]
        created = tuple(turn.at for turn in turns if not turn.ended)
        ended = tuple((turn.held.queue, turn.at, turn.held.tokens) for turn in turns if turn.ended)
        return Claimed(claim.key, claim.queue, granted, verdict.others, news, created, ended)

    def _stands(self, queue: Queue, but: int) -> Iterator[Stand]:
        for number, held in self.held.items():
            if held.queue == queue and number != but:
                shard = shard_of(number)
                yield Stand(shard, self._holders.get(shard, 0), held.state, held.tokens, held.at, held.room)

    def _mark(self, claim: Claim, number: int) -> None:
        """Mark that so much is waited for, once for each process; a mark that is fresh is left as it is."""
        marks = {
            other: held
            for other, held in self.held.items()
            if shard_of(other) in claim.shards and (held.queue, held.state) == (claim.queue, State.WAITS)
        }
        since = claim.at - PATIENCE / 2
        if any(m.tokens >= claim.tokens and m.room <= claim.room and m.at > since for m in marks.values()):
            return
        for other in marks:
            del self.held[other]
        self.held[number] = _Held(claim.queue, claim.tokens, claim.at, claim.room, State.WAITS)

    def admit(self, fact: Admitted, at: float) -> None:
        """Note that a batch does not validate any more."""
        held = self.held.get(number_of(fact.key))
        if held is not None and held.state == State.HOLDS:
            self.held[number_of(fact.key)] = held._replace(state=State.ADMITTED)

    def release(self, fact: Released, at: float) -> None:
        """Give back the room of a batch; that it has ended others are told."""
        held = self.held.pop(number_of(fact.key), None)
        if held is not None and fact.ran:
            self._note(_Turn(number_of(fact.key), held, at, ended=True))

    def _note(self, turn: _Turn) -> None:
        self.newest += 1
        self._turnover[self.newest] = turn

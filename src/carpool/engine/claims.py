"""Who of the processes that share a journal may create a batch: all of them share the account's enqueued tokens.

What each holds stands in the journal, and is looked at and added to in one step, so that two never take the same room.
Whoever asks in vain leaves a mark, and asks again after a while: those who hold more leave free meanwhile what it
needs, so that nobody's work keeps another's waiting for ever.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from ..naming import number_of, shard_of
from .commands import Claim
from .ledger import UNHEARD

PATIENCE = 180.0  # seconds for which a mark counts: more than anybody lets pass before asking again


class State(IntEnum):
    """Say what a batch has of the room it needs."""

    WAITS = 0
    HOLDS = 1  # and may be validating
    ADMITTED = 2


class Stand(NamedTuple):
    """Sum up what the batches of one shard and state have in a queue; `at` is when the newest got there.

    `holder` is the process whose they are. What waits may come to `room` with what others hold, as its claim said.
    """

    shard: int
    holder: int
    state: State
    tokens: int
    at: float
    room: float


class Verdict(NamedTuple):
    """Say whether there is room for a batch, and how many tokens others hold."""

    granted: bool
    others: int


def decide(claim: Claim, stands: Iterable[Stand]) -> Verdict:
    """Decide on a claim; `stands` tell of all other batches in the queue."""
    mine, own = 0, shard_of(number_of(claim.key))
    took_over = False
    held: dict[int, int] = {}  # by others
    waiting: list[Stand] = []
    validating = False
    for stand in stands:
        is_mine, waits = stand.shard in claim.shards, stand.state == State.WAITS
        if waits and not is_mine and stand.at + PATIENCE > claim.at:
            waiting.append(stand)
        elif not waits and is_mine:
            mine += stand.tokens
            took_over |= stand.shard != own
        elif not waits:
            held[stand.holder] = held.get(stand.holder, 0) + stand.tokens
            validating |= stand.state == State.HOLDS and stand.at + UNHEARD > claim.at
    others = sum(held.values())
    poorer = [stand for stand in waiting if held.get(stand.holder, 0) < mine]
    if claim.first and (validating or poorer):
        return Verdict(False, others)
    if not (others or poorer or took_over):
        # What is alone is the provider's to judge, and whoever asks judged it to fit; not beside what was taken over.
        return Verdict(True, 0)
    needed = claim.tokens + sum(stand.tokens for stand in poorer)
    leaves_room = all(mine + others - held.get(stand.holder, 0) + needed <= stand.room for stand in poorer)
    return Verdict(leaves_room and others + needed < claim.room + 1, others)  # tokens are rounded up

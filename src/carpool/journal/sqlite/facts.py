"""How each fact is written down."""

from collections.abc import Callable, Iterable
from typing import Any

from ...engine.events import (
    ANSWERED,
    Accepted,
    Acked,
    Admitted,
    Cleared,
    Created,
    Delivered,
    Discarded,
    Done,
    Escalated,
    Event,
    GivenUp,
    Learned,
    Missing,
    Packed,
    Released,
    Settled,
    Submitted,
    Unclaimed,
    Unmet,
    Uploaded,
    Wanted,
)
from ...naming import number_of
from .. import Stamped
from .claims import Claims
from .database import Database
from .intents import Intents
from .outcomes import Outcomes
from .packed import pack_lane, pack_leftovers, pack_runs, pack_status
from .requests import Requests
from .stances import Stances
from .submitted import Submissions


class Facts:
    """Write facts down, within a transaction that the caller has begun."""

    def __init__(
        self,
        db: Database,
        requests: Requests,
        outcomes: Outcomes,
        submissions: Submissions,
        claims: Claims,
        stances: Stances,
        intents: Intents,
    ) -> None:
        self._db = db
        self._claims = claims
        self._stances = stances
        self._intents = intents
        self._requests = requests
        self._outcomes = outcomes
        self._on: dict[type[Event], Callable[[Any, float], None]] = {
            Accepted: self._accepted,
            Packed: self._packed,
            Uploaded: self._uploaded,
            Created: self._created,
            Settled: self._settled,
            Delivered: lambda fact, at: outcomes.deliver(fact.rows, at, received=fact.received),
            Done: self._done,
            Cleared: self._cleared,
            Learned: self._learned,
            Discarded: self._discarded,
            Escalated: self._escalated,
            Admitted: claims.admit,
            Released: claims.release,
            Wanted: stances.say,
            GivenUp: stances.say,
            Missing: self._missing,
            Submitted: submissions.add,
            Unmet: submissions.fail,
            Acked: submissions.ack,
            Unclaimed: submissions.unclaim,
        }

    def write(self, facts: Iterable[Stamped]) -> None:
        """Write facts down in their order."""
        for at, fact in facts:
            self._on[type(fact)](fact, at)

    def _accepted(self, fact: Accepted, at: float) -> None:
        self._db.execute(
            "INSERT INTO accepted (segment, at, lane, rich, run) VALUES (?, ?, ?, ?, ?)",
            fact.run.segment,
            at,
            pack_lane(fact.lane),
            fact.rich,
            pack_runs((fact.run,)),
        )
        self._requests.add(fact.run.rows, fact.digests)
        self._intents.recorded(fact.digests)

    def _packed(self, fact: Packed, at: float) -> None:
        self._db.execute(
            "INSERT INTO batch (number, lane, runs, packed_at) VALUES (?, ?, ?, ?)",
            fact.number,
            pack_lane(fact.lane),
            pack_runs(fact.runs),
            at,
        )

    def _uploaded(self, fact: Uploaded, at: float) -> None:
        self._db.execute(
            "UPDATE batch SET file_id = ?, uploaded_at = ? WHERE number = ?", fact.file_id, at, number_of(fact.key)
        )

    def _created(self, fact: Created, at: float) -> None:
        self._db.execute(
            "UPDATE batch SET batch_id = ?, status = ?, created_at = ? WHERE number = ?",
            fact.status.id,
            pack_status(fact.status),
            at,
            number_of(fact.key),
        )

    def _missing(self, fact: Missing, at: float) -> None:
        query = "UPDATE batch SET missing = ?, missing_at = ? WHERE number = ?"
        self._db.execute(query, fact.what, at, number_of(fact.key))

    def _settled(self, fact: Settled, at: float) -> None:
        """Keep where answers lie; rows that failed are never known again."""
        self._stances.settle(fact)
        answered = [i for i, mark in enumerate(fact.marks) if mark & ANSWERED and fact.file is not None]
        if answered:
            self._outcomes.add(fact, sorted(answered, key=fact.rows.__getitem__), at)
        if len(answered) < len(fact.rows):
            kept = set(answered)
            self._requests.forget(row for i, row in enumerate(fact.rows) if i not in kept)

    def _done(self, fact: Done, at: float) -> None:
        self._claims.drop(number_of(fact.key))
        leaves = None if fact.leaves is None else pack_leftovers(fact.leaves)
        self._db.execute(
            "UPDATE batch SET done_at = ?, runs = NULL, leaves = ? WHERE number = ?", at, leaves, number_of(fact.key)
        )

    def _cleared(self, fact: Cleared, at: float) -> None:
        self._db.execute("UPDATE batch SET leaves = NULL WHERE number = ?", number_of(fact.key))

    def _learned(self, fact: Learned, at: float) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO learned (model, long, tokens, at) VALUES (?, ?, ?, ?)", *fact.queue, fact.tokens, at
        )

    def _discarded(self, fact: Discarded, at: float) -> None:
        self._db.execute("DELETE FROM accepted WHERE segment = ?", fact.segment)
        self._db.execute("DELETE FROM escalated WHERE segment = ?", fact.segment)

    def _escalated(self, fact: Escalated, at: float) -> None:
        for run in fact.runs:
            self._db.execute(
                "INSERT INTO escalated (segment, at, lane, runs) VALUES (?, ?, ?, ?)",
                run.segment,
                at,
                pack_lane(fact.lane),
                pack_runs((run,)),
            )

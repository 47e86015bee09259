"""Which failures are sent again, and how often (contracts A7).

What the provider failed to do is done again: rows whose completion window ended, which were cancelled, or to which the
server had no answer; what it refused is final. None of these was billed.
"""

from collections.abc import Iterable

from msgspec import structs

from ..config import Retry
from ..models import OUT_OF_MONEY, Attempt, Failure, Row
from .batch import UNDONE
from .commands import Command, Fail, Record, Settle
from .events import Settled

_EXPIRED = "batch_expired"
_AGAIN = frozenset({0, 408, 429})  # besides 5xx


def is_passing(row: Row) -> bool:
    """Tell whether another try of what a row failed at may fare better."""
    again = row.status_code in _AGAIN or row.status_code >= 500 or row.code in UNDONE
    return again and not row.ok and row.code not in OUT_OF_MONEY


def attempt_of(row: Row, batch_id: str) -> Attempt:
    """Note how a row failed."""
    return Attempt(batch_id, row.status_code or None, row.code or None, row.message)


def attempt_by(failure: Failure, batch_id: str | None) -> Attempt:
    """Note how a whole batch, or what was left over of it, failed."""
    code = _EXPIRED if failure.kind == "expired" else failure.code
    return Attempt(batch_id, failure.status_code, code, failure.message)


class Retries:
    """Remember what became of requests that were sent and not answered."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._past: dict[int, tuple[Attempt, ...]] = {}

    def is_last(self, row: int, attempt: Attempt) -> bool:
        """Tell whether a request that failed in this way is not sent again."""
        expired = attempt.code == _EXPIRED
        alike = sum((one.code == _EXPIRED) == expired for one in self._past.get(row, ())) + 1
        return alike >= (self._retry.max_expiries if expired else self._retry.max_attempts)

    def note(self, row: int, attempt: Attempt) -> None:
        """Remember that a request failed, and is sent again."""
        self._past[row] = self.history(row, attempt)

    def history(self, row: int, *last: Attempt) -> tuple[Attempt, ...]:
        """Give what became of a request, each time that it was sent."""
        return (*self._past.get(row, ()), *last)

    def close(self, commands: list[Command]) -> list[Command]:
        """Forget the requests that end by these commands; a failure tells how often they were sent."""
        if not self._past:
            return commands
        return [self._close(command) for command in commands]

    def _close(self, command: Command) -> Command:
        match command:
            case Settle(numbers=rows):
                past = self._of_failures(command)
                self._forget(rows)
                return structs.replace(command, attempts={**past, **command.attempts}) if past else command
            case Record(fact=Settled(rows=rows)):
                self._forget(rows)
            case Fail(numbers=rows):
                past = {row: self._past[row] for row in rows if row in self._past}
                self._forget(rows)
                return structs.replace(command, attempts={**past, **command.attempts}) if past else command
        return command

    def _of_failures(self, command: Settle) -> dict[int, tuple[Attempt, ...]]:
        settled = zip(command.numbers, command.rows, strict=True)
        failed = [(number, row) for number, row in settled if not row.ok and number in self._past]
        return {number: self.history(number, attempt_of(row, command.batch_id)) for number, row in failed}

    def _forget(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._past.pop(row, None)

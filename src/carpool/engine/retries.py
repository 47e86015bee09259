"""Which failures are sent again, and how often (contracts A7).

What the provider failed to do is done again: rows whose completion window ended, which were cancelled, or to which the
server had no answer; what it refused is final. None of these was billed.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from msgspec import structs

from ..config import Retry
from ..models import OUT_OF_MONEY, Attempt, Failure, Row
from .batch import UNDONE
from .commands import Command, Fail, Record, Settle
from .events import Settled

History: TypeAlias = tuple[Attempt, ...]

_EXPIRED = "batch_expired"
_AGAIN = frozenset({0, 408, 429})  # besides 5xx


def is_passing(row: Row) -> bool:
    """Tell whether another try of what a row failed at may fare better."""
    again = row.status_code in _AGAIN or row.status_code >= 500 or row.code in UNDONE
    return again and not row.ok and row.code not in OUT_OF_MONEY


def attempt_of(row: Row, batch_id: str) -> Attempt:
    """Note how a row failed."""
    return Attempt(batch_id, row.status_code or None, row.code or None, row.message)


def attempts_of(failed: Mapping[int, Row], rows: Iterable[int], batch_id: str) -> dict[int, Attempt]:
    """Note how those of these rows failed that came back; what failed alike shares an attempt."""
    shared: dict[tuple[int, str, str], Attempt] = {}
    attempts: dict[int, Attempt] = {}
    for number in rows if failed else ():
        row = failed.get(number)
        if row is not None:
            how = row.status_code, row.code, row.message
            attempts[number] = shared.get(how) or shared.setdefault(how, attempt_of(row, batch_id))
    return attempts


def attempt_by(failure: Failure, batch_id: str | None) -> Attempt:
    """Note how a whole batch, or what was left over of it, failed."""
    code = _EXPIRED if failure.kind == "expired" else failure.code
    return Attempt(batch_id, failure.status_code, code, failure.message)


class Retries:
    """Remember what became of requests that were sent and not answered."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._past: dict[int, History] = {}

    def over(self, histories: Mapping[int, History]) -> set[int]:
        """Say which requests have failed so often that they are not sent again."""
        different = {id(history): history for history in histories.values()}
        over = {key for key, history in different.items() if self._is_over(history)}
        if len(over) in (0, len(different)):
            return set(histories) if over else set()
        return {row for row, history in histories.items() if id(history) in over}

    def _is_over(self, history: History) -> bool:
        expired = history[-1].code == _EXPIRED
        alike = sum((one.code == _EXPIRED) == expired for one in history)
        return alike >= (self._retry.max_expiries if expired else self._retry.max_attempts)

    def note(self, histories: Mapping[int, History]) -> None:
        """Remember that requests failed, and are sent again."""
        self._past.update(histories)

    def history(self, row: int, *last: Attempt) -> History:
        """Give what became of a request, each time that it was sent."""
        return (*self._past.get(row, ()), *last)

    def histories(self, rows: Collection[int], failed: Mapping[int, Attempt], attempt: Attempt) -> dict[int, History]:
        """Give what became of requests: the last time what `failed` says, else this attempt.

        Tens of thousands fail together, and alike: those of one past share what it becomes.
        """
        if not failed and not self._past:
            return dict.fromkeys(rows, (attempt,))
        shared: dict[tuple[int, int], tuple[History, History]] = {}  # the first keeps an id from being given again
        histories: dict[int, History] = {}
        for row in rows:
            past, last = self._past.get(row, ()), failed.get(row, attempt)
            alike = id(past), id(last)
            if alike not in shared:
                shared[alike] = past, (*past, last)
            histories[row] = shared[alike][1]
        return histories

    def close(self, commands: list[Command]) -> list[Command]:
        """Forget the requests that end by these commands; a failure tells how often they were sent."""
        if not self._past:
            return commands
        return [self._close(command) for command in commands]

    def _close(self, command: Command) -> Command:
        match command:
            case Settle(numbers=rows):
                past = self._of_failures(command)
                self._take(rows)
                return structs.replace(command, attempts={**past, **command.attempts}) if past else command
            case Record(fact=Settled(rows=rows)):
                self._take(rows)
            case Fail(numbers=rows):
                past = self._take(rows)
                return structs.replace(command, attempts={**past, **command.attempts}) if past else command
        return command

    def _of_failures(self, command: Settle) -> dict[int, History]:
        settled = zip(command.numbers, command.rows, strict=True)
        failed = [(number, row) for number, row in settled if not row.ok and number in self._past]
        return {number: self.history(number, attempt_of(row, command.batch_id)) for number, row in failed}

    def _take(self, rows: Collection[int]) -> dict[int, History]:
        if len(rows) >= len(self._past) and self._past.keys() <= set(rows):  # as where a whole batch ends
            past, self._past = self._past, {}
            return past
        return {row: self._past.pop(row) for row in rows if row in self._past}

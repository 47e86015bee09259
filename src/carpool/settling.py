"""Settling callers: what the engine says of rows becomes answers and errors, and is added up."""

from collections.abc import Callable, Sequence

from .answers import Answers
from .callers import Callers
from .engine.commands import Fail, Settle
from .models import Lane, Row, Usage
from .outcomes import error_of_failure, error_of_row, response_of
from .resume import Resumption
from .spending import Spending


class Settling:
    """Give callers what came of their calls; `usage_of` reads what an answer cost, None where it does not say.

    `pool` prefixes the custom_ids; what was sent live is paid for in full, unless it is `flexible`.
    """

    def __init__(
        self,
        pool: str,
        callers: Callers,
        answers: Answers,
        resumption: Resumption | None,
        spending: Spending,
        usage_of: Callable[[Row], Usage | None],
        *,
        flexible: bool,
    ) -> None:
        self._pool = pool
        self._callers = callers
        self._answers = answers
        self._resumption = resumption
        self._spending = spending
        self._usage_of = usage_of
        self._flexible = flexible
        self._counted: dict[str, tuple[Lane, int]] = {}  # by batch: its input tokens, as its rows say
        self._stated: dict[str, int] = {}  # and as the provider says

    def settle(self, command: Settle) -> None:
        """Give rows to their callers."""
        self.bill(command.batch_id, command.lane, command.rows)
        numbers = self._numbers(command.numbers)
        awaited = numbers if self._resumption is None else [number for number in numbers if number in self._callers]
        delivered = []
        for row_number, number, row in zip(command.numbers, numbers, command.rows, strict=True):
            if row.ok:
                delivered.append(self._callers.give(number, response_of(row, command.batch_id)))
            else:
                error = error_of_row(row, command.batch_id, command.attempts.get(row_number, ()))
                delivered.append(self._callers.refuse(number, error))
        if self._resumption is not None and len(awaited) > sum(delivered):
            self._miss(command.numbers, numbers, awaited, delivered)
        self._answers.add(command, delivered)

    def _miss(
        self, rows: Sequence[int], numbers: Sequence[int], awaited: Sequence[int], delivered: Sequence[bool]
    ) -> None:
        """Note the rows whose callers are going just now: equal calls may take them."""
        going = frozenset(awaited)
        settled = zip(rows, numbers, delivered, strict=True)
        if self._resumption is not None:
            self._resumption.miss([row for row, number, given in settled if number in going and not given])

    def fail(self, command: Fail) -> None:
        """Tell callers why there is no answer."""
        rows = list(command.numbers)
        for number, row in zip(self._numbers(rows), rows, strict=True):
            attempts = command.attempts.get(row, ())
            error = error_of_failure(command.failure, f"{self._pool}-{row}", command.batch_id, attempts)
            self._callers.refuse(number, error)

    def _numbers(self, rows: Sequence[int]) -> Sequence[int]:
        return rows if self._resumption is None else self._resumption.numbers(rows)

    # --- what it cost

    def bill(self, batch_id: str, lane: Lane, rows: Sequence[Row]) -> None:
        """Add up what rows of a batch cost, or of none: those that came live."""
        answers = [row for row in rows if row.ok]
        if not answers:
            return
        usages = [usage for usage in map(self._usage_of, answers) if usage is not None]
        usage = Usage(*map(sum, zip(*usages, strict=True))) if usages else Usage(0, 0, 0)
        self._spending.add(lane, len(answers), usage, live=not batch_id and not self._flexible)
        if batch_id:
            _, before = self._counted.get(batch_id, (lane, 0))
            self._counted[batch_id] = lane, before + usage.input_tokens

    def state(self, batch_id: str, input_tokens: int | None) -> None:
        """Take note of what the provider says of a batch."""
        if input_tokens is not None:
            self._stated[batch_id] = input_tokens

    def over(self, batch_id: str | None) -> str | None:
        """Compare, when a batch is over, what its rows say with what the provider says; a warning where they differ."""
        lane, counted = self._counted.pop(batch_id or "", (None, 0))
        stated = self._stated.pop(batch_id or "", 0)
        return None if lane is None else self._spending.check(lane, counted, stated)

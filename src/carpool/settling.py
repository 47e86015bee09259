"""Settling callers: what the engine says of rows becomes answers and errors, and is added up."""

from collections.abc import Callable, Sequence
from functools import partial

from .answers import Answers
from .callers import GOING, Callers, Delivery
from .durable import Standing
from .engine.commands import Fail, LetGo, Settle
from .errors import CarpoolError
from .models import Failure, Lane, Row, Usage, are_ok
from .outcomes import error_of_failure, error_of_row, response_of, responses_of
from .resume import Resumption
from .spending import Spending


class Settling:
    """Give callers what came of their calls; `usage_of` adds up what answers cost.

    `pool` prefixes the custom_ids; what was sent live is paid for in full, unless it is `flexible`.
    """

    def __init__(
        self,
        pool: str,
        callers: Callers,
        answers: Answers,
        resumption: Resumption | None,
        spending: Spending,
        usage_of: Callable[[Sequence[Row]], Usage],
        *,
        flexible: bool,
        standing: Standing | None = None,
    ) -> None:
        self._pool = pool
        self._callers = callers
        self._answers = answers
        self._resumption = resumption
        self._spending = spending
        self._usage_of = usage_of
        self._flexible = flexible
        self._standing = standing
        self._counted: dict[str, tuple[Lane, int]] = {}  # by batch: its input tokens, as its rows say
        self._stated: dict[str, int] = {}  # and as the provider says

    def settle(self, command: Settle) -> None:
        """Give rows to their callers."""
        rows, batch_id = command.rows, command.batch_id
        numbers = self._numbers(command.numbers)
        well = are_ok(rows)
        if all(well):
            responses = responses_of(rows, batch_id)
            delivered: Sequence[Delivery] = self._callers.give_all(numbers, responses, command.lane)
            self.bill(batch_id, command.lane, rows)
        else:
            delivered = [*map(partial(self._give, command), command.numbers, numbers, rows)]
            self.bill(batch_id, command.lane, [row for row, ok in zip(rows, well, strict=True) if ok])
        if self._resumption is not None and GOING in delivered:
            settled = zip(command.numbers, delivered, strict=True)
            self._resumption.miss([row for row, given in settled if given is GOING])
        if self._standing:  # a submission itself is what keeps its answer, until it is acked
            kept = map(self._standing.__contains__, command.numbers)
            delivered = [is_kept or given for is_kept, given in zip(kept, delivered, strict=True)]
        self._answers.add(command, well, delivered)

    def _give(self, command: Settle, row_number: int, number: int, row: Row) -> Delivery:
        if row.ok:
            return self._callers.give(number, response_of(row, command.batch_id), command.lane)
        error = error_of_row(row, command.batch_id, command.attempts.get(row_number, ()))
        return self._callers.refuse(number, error, command.lane)

    def fail(self, command: Fail) -> None:
        """Tell callers why there is no answer."""
        rows = list(command.numbers)
        for number, row in zip(self._numbers(rows), rows, strict=True):
            self._callers.refuse(number, self._error_of(command, row))

    def stay(self, rows: Sequence[int], failure: Failure) -> None:
        """Tell callers why nothing comes of what is left to the next process; a submission has not failed."""
        self.fail(Fail(None, [row for row in rows if not (self._standing and self._standing.is_open(row))], failure))

    def let_go(self, command: LetGo) -> list[int]:
        """Tell callers why there is no answer yet, and give those that were told; submissions go on."""
        told: list[int] = []
        for row in command.numbers:
            number = row if self._resumption is None else self._resumption.number(row)
            if number in self._callers:
                self._callers.let_go(number, row, self._error_of(command, row))
                told.append(number)
        return told

    def _error_of(self, command: Fail | LetGo, row: int) -> CarpoolError:
        attempts = command.attempts.get(row, ())
        return error_of_failure(command.failure, f"{self._pool}-{row}", command.batch_id, attempts)

    def _numbers(self, rows: Sequence[int]) -> Sequence[int]:
        return rows if self._resumption is None else self._resumption.numbers(rows)

    # --- what it cost

    def bill(self, batch_id: str, lane: Lane, rows: Sequence[Row]) -> None:
        """Add up what answers in a batch cost, or in none: those that came live."""
        if not rows:
            return
        usage = self._usage_of(rows)
        self._spending.add(lane, len(rows), usage, live=not batch_id and not self._flexible)
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

"""What answers cost, what they would have cost live, and the budget that bounds it."""

import math
import sys
from collections.abc import Collection
from functools import reduce
from operator import add
from typing import Any

import msgspec
from msgspec import structs

from .errors import BudgetExceeded, ConfigurationError
from .limits import BYTES_A_TOKEN
from .models import Lane, Usage
from .prices import Prices

_DOUBT = 0.01  # share of a batch's stated tokens by which those of its rows may differ without a word


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Say what answered requests cost: tokens, what was `paid` and what the same would have cost `live`, in USD.

    `cached_tokens` are part of `input_tokens`. Requests that are `unpriced`, since no price is known of their model,
    count in neither amount.
    """

    requests: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    paid: float = 0.0
    live: float = 0.0

    @property
    def saved(self) -> float:
        """Give what the batches saved, in USD."""
        return self.live - self.paid

    def plus(self, other: "Cost") -> "Cost":
        """Add."""
        return Cost(*map(add, structs.astuple(self), structs.astuple(other)))


class Spending:
    """Add up what answers cost, by lane; `paid` is the sum of all, in USD."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._lanes: dict[Lane, Cost] = {}
        self._outputs: dict[str, tuple[int, int]] = {}  # by model: answers, and their output tokens
        self._doubted: set[Lane] = set()
        self.paid: float = 0.0

    def add(self, lane: Lane, rows: int, usage: Usage, *, live: bool = False) -> None:
        """Take note of so many answers and the tokens of all of them; `live` where they came at the live price."""
        cost = self._cost(lane.model, rows, usage, live=live)
        self._lanes[lane] = self._lanes.get(lane, Cost()).plus(cost)
        self.paid += cost.paid
        answers, tokens = self._outputs.get(lane.model, (0, 0))
        self._outputs[lane.model] = answers + rows, tokens + usage.output_tokens

    def _cost(self, model: str, rows: int, usage: Usage, *, live: bool) -> Cost:
        price = self._prices.of(model)
        tokens = usage.input_tokens, usage.cached_tokens, usage.output_tokens
        if price is None:
            return Cost(rows, rows, *tokens)
        return Cost(rows, 0, *tokens, paid=price.of(usage, live=live), live=price.of(usage, live=True))

    def by_lane(self) -> dict[Lane, Cost]:
        """Give the cost of each lane."""
        return dict(self._lanes)

    def total(self) -> Cost:
        """Give the cost of all."""
        return reduce(Cost.plus, self._lanes.values(), Cost())

    def mean_output(self, model: str) -> float:
        """Give the output tokens that an answer of this model has had, 0 before the first."""
        answers, tokens = self._outputs.get(model, (0, 0))
        return tokens / answers if answers else 0.0

    def check(self, lane: Lane, counted: int, stated: int) -> str | None:
        """Compare the input tokens of a batch's rows with those that the batch states; a warning, once a lane."""
        if not counted or not stated or abs(counted - stated) <= _DOUBT * stated or lane in self._doubted:
            return None
        self._doubted.add(lane)
        return (
            f"A batch of {lane.model} on {lane.endpoint} states {stated:,} input tokens, its rows add up to "
            f"{counted:,}. What it cost is reckoned by its rows: compare it with the provider's bill."
        )


class Budget:
    """Hold calls back where what was paid, and what calls under way are expected to cost, comes to `limit` USD.

    Expected are a token for four bytes of the body, and as many output tokens as answers of the model had so far. So
    it is a brake and no wall: until the first answers come, nothing is expected for output.
    """

    def __init__(self, limit: float, spending: Spending, prices: Prices) -> None:
        self.limit = limit
        self.committed: float = 0.0  # what calls under way are expected to cost, in USD
        self._spending = spending
        self._prices = prices
        self._expected: dict[int, float] = {}
        self._live: dict[int, tuple[float, float]] = {}  # by row: what a live call costs, and what its batch does
        self._copies: dict[int, float] = {}  # by row: what batches may bill for calls that were answered live
        self._unpriced: set[str] = set()

    @property
    def exceeded(self) -> bool:
        """Tell whether the whole budget was paid."""
        return self._spending.paid >= self.limit

    def admit(self, number: int, model: str, size: int, *, live: bool = False) -> str | None:
        """Reserve what a call with a body of so many bytes is expected to cost, or raise `BudgetExceeded`.

        A model without a price counts nothing; that gives the text of a warning, once a model.
        """
        cost = self._expect(model, size, live=live)
        if self.exceeded or self._spending.paid + self.committed + (cost or 0.0) > self.limit:
            raise BudgetExceeded(self._refusal(cost or 0.0))
        if cost:
            self._expected[number] = cost
            self.committed += cost
        return self._warning(model) if cost is None else None

    def settled(self, number: int) -> None:
        """Release what was reserved for a call: it has its answer, whose cost was added, or will have none."""
        self._release(self._expected.pop(number, 0.0))

    def _release(self, cost: float) -> None:
        self.committed -= cost
        if not self._expected and not self._live and not self._copies:
            self.committed = 0.0  # no rounding outlives the calls that it came from

    def escalate(self, number: int, row: int, model: str, size: int, *, rides: bool, flexible: bool) -> bool:
        """Reserve what it costs to send the row of a call live, until `landed`; False where that is more than is left.

        Where it `rides`, its batch is billed beside that. What is sent again holds its money already.
        """
        if row in self._live:
            return not self.exceeded
        cost = self._expect(model, size, live=not flexible) or 0.0
        reserved = self._expected.get(number, 0.0)
        others = self.committed if rides else self.committed - reserved
        if self.exceeded or self._spending.paid + others + cost > self.limit:
            return False
        self._live[row] = cost, reserved
        self.committed += cost
        return True

    def landed(self, row: int, *, rides: bool) -> None:
        """Release what was reserved for a live call that has come to its end, but for what its batch may bill."""
        cost, copy = self._live.pop(row, (0.0, 0.0))
        if rides and copy:
            self._copies[row] = copy
            self.committed += copy
        self._release(cost)

    @property
    def copies(self) -> Collection[int]:
        """Give the rows that were answered live, and that their batches may bill too."""
        return self._copies.keys()

    def keep_copies(self, rows: Collection[int]) -> None:
        """Release what was reserved for all others: their batches are over."""
        for row in self._copies.keys() - set(rows):
            self._release(self._copies.pop(row))

    def rename(self, number: int, other: int) -> None:
        """Keep what was reserved for a call under another number."""
        if number in self._expected:
            self._expected[other] = self._expected.pop(number) + self._expected.get(other, 0.0)

    def __contains__(self, number: int) -> bool:
        return number in self._expected

    def _expect(self, model: str, size: int, *, live: bool) -> float | None:
        price = self._prices.of(model)
        if price is None:
            return None
        cost = size / BYTES_A_TOKEN * price.input + self._spending.mean_output(model) * price.output
        return cost if live else cost * price.batch

    def _refusal(self, cost: float) -> str:
        paid = dollars(self._spending.paid)
        if self.exceeded:
            return f"The budget of {dollars(self.limit)} is spent: {paid} was paid. Raise it to go on."
        return (
            f"The budget of {dollars(self.limit)} does not allow for this call: {paid} was paid, calls under way are "
            f"expected to cost {dollars(self.committed)}, this one {dollars(cost)}. Raise it, or wait for answers."
        )

    def _warning(self, model: str) -> str | None:
        if model in self._unpriced:
            return None
        self._unpriced.add(model)
        return (
            f"The budget does not count {model}, of which no price is known. State one: "
            f'prices={{"{model}": {{"input": ..., "output": ...}}}}, live and in USD per million tokens.'
        )


def checked_budget(budget: Any) -> float | None:
    """Check the setting `budget`, in USD, or raise `ConfigurationError`; None means that there is none."""
    if budget is None:
        return None
    if not isinstance(budget, int | float) or isinstance(budget, bool) or not 0 <= budget <= sys.float_info.max:
        raise ConfigurationError(f"budget must be an amount in USD, 0 or more, such as 5.0, or None; got {budget!r}")
    return float(budget)


def dollars(amount: float) -> str:
    """Write an amount: in cents, in whole dollars from a hundred, with two digits where it is less than ten cents."""
    if amount >= 100:
        return f"${amount:,.0f}"
    return f"${amount:.{1 - math.floor(math.log10(amount)) if 0 < amount < 0.1 else 2}f}"

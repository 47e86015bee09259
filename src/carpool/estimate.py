"""What requests will cost, before any of them is sent."""

from collections import defaultdict
from collections.abc import Iterable
from operator import sub
from typing import Any

import msgspec

from .limits import BYTES_A_TOKEN
from .models import Encoded, FileLimits, Usage
from .prices import Price, Prices
from .tokens import Counter, NoVocabulary

_FRAME = 100  # bytes that an input line has around its body, about
_NO_OUTPUT = frozenset({"/v1/embeddings", "/v1/moderations"})


class Estimate(msgspec.Struct, frozen=True):
    """Say what requests come to: prompt `tokens`, `batches`, and USD.

    `batches` is the least: limits on queues, and pauses between requests, make more of them. `cost` and `live` are for
    the prompts, in batches and live, None where a model has no price. `most` adds to `cost` all the output that the
    requests allow, None also where one of them sets no bound that can be read.
    """

    requests: int
    tokens: int
    batches: int
    cost: float | None
    most: float | None
    live: float | None


def estimate(calls: Iterable[Encoded], count: Counter, prices: Prices, limits: FileLimits) -> Estimate:
    """Add up calls, counting the tokens of each; it blocks, and keeps none of them.

    Where `count` lacks the vocabulary, a token is taken for four bytes. Whatever else it raises is raised.
    """
    sums: defaultdict[tuple[str, str], _Sum] = defaultdict(lambda: _Sum(limits))
    for call in calls:
        sums[call.endpoint, call.model].add(call, _tokens(call, count))
    priced = [(each, prices.of(model)) for (_, model), each in sums.items()]
    return Estimate(
        requests=sum(each.requests for each, _ in priced),
        tokens=sum(each.tokens for each, _ in priced),
        batches=sum(each.batches for each, _ in priced),
        cost=_total(_cost(price, each.tokens, 0) for each, price in priced),
        most=_total(_cost(price, each.tokens, each.output) for each, price in priced),
        live=_total(_cost(price, each.tokens, 0, live=True) for each, price in priced),
    )


class _Sum:
    """Add up the calls of one endpoint and model, which share files; `output` is the most, None without a bound."""

    def __init__(self, limits: FileLimits) -> None:
        self.requests = self.tokens = self.batches = 0
        self.output: int | None = 0
        self._file = (limits.requests, limits.bytes, limits.inputs)
        self._left: tuple[int, ...] = (0, 0, 0)  # room in the last file

    def add(self, call: Encoded, tokens: int) -> None:
        self.requests += 1
        self.tokens += tokens
        if self.output is not None:
            most = _most_output(call)
            self.output = None if most is None else self.output + most
        self._pack(1, len(call.body) + _FRAME, call.inputs)

    def _pack(self, *call: int) -> None:
        left = tuple(map(sub, self._left, call))
        if min(left) < 0:
            self.batches += 1
            left = tuple(map(sub, self._file, call))
        self._left = left


def _tokens(call: Encoded, count: Counter) -> int:
    try:
        return count(call.endpoint, call.model, call.body)
    except NoVocabulary:
        return max(1, len(call.body) // BYTES_A_TOKEN)


def _cost(price: Price | None, tokens: int, output: int | None, *, live: bool = False) -> float | None:
    return None if price is None or output is None else price.of(Usage(tokens, output, 0), live=live)


def _total(costs: Iterable[float | None]) -> float | None:
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total


# --- the output that a body allows ---------------------------------------------------------------------------------


class _Bounds(msgspec.Struct, gc=False):
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    max_tokens: Any = None
    n: Any = None
    best_of: Any = None
    prompt: Any = None


_bounds = msgspec.json.Decoder(_Bounds)


def _most_output(call: Encoded) -> int | None:
    if call.endpoint in _NO_OUTPUT:
        return 0
    try:
        bounds = _bounds.decode(call.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    tokens = (bounds.max_completion_tokens, bounds.max_output_tokens, bounds.max_tokens)
    most = next((number for number in tokens if type(number) is int and number >= 0), None)
    return None if most is None else most * _answers(bounds)


def _answers(bounds: _Bounds) -> int:
    """Count the answers that a body asks for; of `best_of` all are billed, and a list of prompts is that many."""
    each = max(number for number in (bounds.n, bounds.best_of, 1) if type(number) is int)
    several = isinstance(bounds.prompt, list) and bounds.prompt and not isinstance(bounds.prompt[0], int)
    return each * len(bounds.prompt) if several else each

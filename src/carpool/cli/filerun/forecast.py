"""What a run would send, and what that may cost and take: everything is counted, and nothing is sent."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import CarpoolError
from ...estimate import Estimate, estimate
from ...limits import BYTES_A_TOKEN, KnownLimits
from ...models import Encoded, Queue
from ...prices import Prices
from ...providers.openai import OpenAI
from ...spending import dollars
from ...tokens import Counter as CountTokens
from ...tokens import NoVocabulary
from ..wording import plural
from .reading import Input
from .resuming import Begun
from .rows import Bad, Parser
from .tally import Tally


class Lane(NamedTuple):
    """Sum up the requests of one model at one endpoint.

    `limit` is how many tokens may be enqueued, None while nobody knows; `turns` how often they fill it.
    """

    model: str
    endpoint: str
    requests: int
    tokens: int
    limit: int | None
    turns: int


class Forecast(NamedTuple):
    """Say what is to be sent; `held` are rows that OUTPUT holds already, `unpriced` the models without a price."""

    sum: Estimate
    lanes: tuple[Lane, ...]
    held: int
    unpriced: tuple[str, ...]


class Settings(NamedTuple):
    """Hold what a forecast depends on."""

    endpoint: str | None
    limits: KnownLimits
    prices: Prices
    count_tokens: CountTokens


def forecast(source: Input, begun: Begun, tally: Tally, settings: Settings) -> Forecast:
    """Count the rows that OUTPUT does not hold; it blocks. Raises `Refused`."""
    requests, tokens = Counter[tuple[str, str]](), Counter[tuple[str, str]]()

    def count(endpoint: str, model: str, body: bytes) -> int:
        counted = _counted(settings.count_tokens, endpoint, model, body)
        requests[model, endpoint] += 1
        tokens[model, endpoint] += counted
        return counted

    calls = _calls(source, begun, tally, settings.endpoint)
    total = estimate(calls, count, settings.prices, OpenAI.limits)
    queued = Counter[str]()
    for (model, _), number in tokens.items():
        queued[model] += number
    lanes = [
        Lane(*lane, number, tokens[lane], *_turns(settings.limits, lane[0], queued[lane[0]]))
        for lane, number in sorted(requests.items())
    ]
    unpriced = tuple(model for model in sorted(queued) if settings.prices.of(model) is None)
    return Forecast(total, tuple(lanes), begun.rows, unpriced)


def _calls(source: Input, begun: Begun, tally: Tally, endpoint: str | None) -> Iterator[Encoded]:
    parser, provider = Parser(endpoint), OpenAI()
    for lines in source.blocks():
        rows = parser.feed(lines)
        tally.names.add(rows)
        for row in begun.without(rows):
            try:
                if isinstance(row, Bad):
                    tally.tell_bad(row.line, row.why)
                else:
                    yield provider.encode(row.url, row.body)
            except CarpoolError as exc:
                tally.tell_bad(row.line, str(exc))
    begun.check_end(parser.number)


def _counted(count: CountTokens, endpoint: str, model: str, body: bytes) -> int:
    try:
        return count(endpoint, model, body)
    except NoVocabulary:
        return max(1, len(body) // BYTES_A_TOKEN)


def _turns(limits: KnownLimits, model: str, tokens: int) -> tuple[int | None, int]:
    limit = min((number for number, _ in limits.of(Queue(model, False))), default=None)
    return limit, math.ceil(tokens / limit) if limit else 1


# --- what is shown -------------------------------------------------------------------------------------------------

HEAD = ("model", "endpoint", ">requests", ">tokens", ">limit", ">turns")


def cells(lane: Lane) -> tuple[str, ...]:
    """Give a lane as a row of a table under `HEAD`."""
    limit = "-" if lane.limit is None else f"{lane.limit:,}"
    endpoint = lane.endpoint.removeprefix("/v1/")
    return lane.model, endpoint, f"{lane.requests:,}", f"{lane.tokens:,}", limit, f"{lane.turns:,}"


def in_lines(found: Forecast) -> Iterator[str]:
    """Say it in lines."""
    total = found.sum
    yield (
        f"{plural(total.requests, 'request')}, {plural(total.tokens, 'prompt token')}, "
        f"{plural(total.batches, 'batch')} or more; nothing was sent."
    )
    if found.held:
        yield f"{plural(found.held, 'row')} more are in OUTPUT already."
    yield from _costs(found)
    yield "Time: minutes to 24 hours for each batch; what does not run within a day is sent again."
    for model, turns in {lane.model: lane.turns for lane in found.lanes if lane.turns > 1}.items():
        yield f"{model} fills its queue {turns:,} times, one after another."


def _costs(found: Forecast) -> Iterator[str]:
    total = found.sum
    if total.cost is None or total.live is None:
        yield f"Cost: unknown, for no price is known of {', '.join(found.unpriced)}; --prices names a file of prices."
        return
    yield f"Cost: {dollars(total.cost)} for the prompts, which live are {dollars(total.live)}."
    if total.most is None:
        yield "What the output will cost cannot be told: not every request sets a maximum."
    elif total.most > total.cost:
        yield f"With all the output that the requests allow: {dollars(total.most)}."


def forecast_json(found: Forecast, tally: Tally) -> dict[str, Any]:
    """Say it for machines."""
    total = found.sum
    return {
        "requests": total.requests,
        "tokens": total.tokens,
        "batches": total.batches,
        "cost": total.cost,
        "most": total.most,
        "live": total.live,
        "held": found.held,
        "lanes": [lane._asdict() for lane in found.lanes],
        "unpriced": list(found.unpriced),
        "bad_lines": tally.bad,
        "custom_ids_repeated": tally.names.repeated,
        "custom_ids_missing": tally.names.missing,
    }

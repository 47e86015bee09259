"""What the answers that lie in journals cost."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..journal.sqlite.kept import Kept, Stretch
from ..limits import undated
from ..models import Lane, Row, Usage
from ..prices import Prices
from ..providers.openai import OpenAI
from ..spending import Cost, Spending

_BUFFER = 2**20  # bytes

# By what an answer calls itself, where nothing else tells which endpoint it came from.
_ENDPOINTS = {
    "chat.completion": "/v1/chat/completions",
    "response": "/v1/responses",
    "text_completion": "/v1/completions",
    "list": "/v1/embeddings",
}


class Spent:
    """Add up what answers cost.

    `unread` answers are not in it, since their files are gone or damaged; `unsaid` ones do not say what they cost.
    """

    def __init__(self, prices: Prices) -> None:
        self._spending = Spending(prices)
        self._provider = OpenAI()
        self.unread: int = 0
        self.unsaid: int = 0

    def add(self, folder: Path, kept: Kept) -> Iterator[int]:
        """Read the answers that a journal keeps, and give from time to time how many were read."""
        places = Places(kept.lanes)
        for stretch in kept:
            self._add(folder / stretch.file, stretch, places)
            yield len(stretch.spans)

    def costs(self) -> dict[tuple[str, str], Cost]:
        """Give what was spent on each model at each endpoint."""
        costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)
        for lane, cost in self._spending.by_lane().items():
            costs[lane.model, lane.endpoint] = costs[lane.model, lane.endpoint].plus(cost)
        return dict(sorted(costs.items()))

    def total(self) -> Cost:
        """Give what was spent in all."""
        return self._spending.total()

    def _add(self, path: Path, stretch: Stretch, places: "Places") -> None:
        sums: defaultdict[Place, _Sum] = defaultdict(_Sum)
        ours = places.of_batch(stretch.batch_id)
        for row in self._rows(path, stretch):
            usage = self._provider.usage(row)
            self.unsaid += usage is None
            sums[ours or places.of_row(row, live=not stretch.batch_id)].add(usage)
        for (lane, live), each in sums.items():
            self._spending.add(lane, each.rows, Usage(each.input, each.output, each.cached), live=live)

    def _rows(self, path: Path, stretch: Stretch) -> Iterator[Row]:
        left = len(stretch.spans)
        try:
            with path.open("rb", buffering=_BUFFER) as file:
                for offset, size in stretch.spans:
                    file.seek(offset)
                    row = self._row(file.read(size))
                    left -= 1
                    if row is None:
                        self.unread += 1
                    else:
                        yield row
        except OSError:
            self.unread += left

    def _row(self, line: bytes) -> Row | None:
        try:
            row = self._provider.parse_row(line)
        except ValueError:
            return None
        return row if row.ok else None


class _Sum:
    __slots__ = ("cached", "input", "output", "rows")

    def __init__(self) -> None:
        self.rows = self.input = self.output = self.cached = 0

    def add(self, usage: Usage | None) -> None:
        self.rows += 1
        if usage is not None:
            self.input += usage.input_tokens
            self.output += usage.output_tokens
            self.cached += usage.cached_tokens


# --- where an answer comes from


class Place(NamedTuple):
    """Name the lane of an answer, and say whether it was paid at the live price."""

    lane: Lane
    live: bool


class _Named(msgspec.Struct, gc=False):
    model: str | None = None
    object: str | None = None
    service_tier: str | None = None


_named = msgspec.json.Decoder(_Named)


class Places:
    """Say where answers come from: `lanes` are those of batches, by remote ids."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes
        self._known = {(lane.endpoint, lane.model): lane for lane in sorted(set(lanes.values()), reverse=True)}

    def of_batch(self, batch_id: str) -> Place | None:
        """Look a batch up; None for those that are forgotten, and for what came live."""
        lane = self._lanes.get(batch_id)
        return None if lane is None else Place(lane, live=False)

    def of_row(self, row: Row, *, live: bool) -> Place:
        """Go by what an answer says itself: its snapshot is of the lane of its model, where that is known.

        The flex tier costs what batches do (contracts A8), and is named by the answer.
        """
        try:
            named = _named.decode(row.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            named = _Named()
        model, endpoint = named.model or "", _ENDPOINTS.get(named.object or "", "")
        known = (self._known.get((endpoint, name)) for name in (model, undated(model)))
        lane = next(filter(None, known), Lane(endpoint, model))
        return Place(lane, live=live and named.service_tier != "flex")

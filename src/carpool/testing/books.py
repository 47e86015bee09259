"""What the emulator saw, for tests to judge."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from .account import Account, File
from .ledger import LimitLine, QueueLine, limit_at
from .rows import Usage, digest


@dataclass(frozen=True)
class BatchLine:
    """Tell of one batch.

    `output_expires_after` is the seconds that its creation asked for, None where it did not; the last two are the
    tokens billed.
    """

    id: str
    status: str
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    output_expires_after: int | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class FileLine:
    """Tell of one file; `expires_after` is the seconds that were asked for it, None where the default was left."""

    id: str
    filename: str
    purpose: str
    bytes: int
    expires_after: int | None


@dataclass(frozen=True)
class DeliveryLine:
    """Tell of one try to deliver a webhook of a `kind` such as "batch.completed"; `status` None is no reply."""

    at: float
    batch_id: str
    kind: str
    status: int | None


@dataclass(frozen=True)
class Books:
    """Tell what was run, called, billed and left.

    `runs` gives the batches in which a (custom_id, digest of its body) was run, once for each time; `bodies` how often
    a body was run under any custom_id, `unpaid` how often it was answered badly or not at all, `lost` how often its
    answer reached no file as a line that can be read. `files` is what is left, `uploads` each file ever uploaded, in
    order of time, those deleted or whose reply was lost included; `routes` the calls of each route, ids replaced by
    {id}, those broken by faults included. `live` counts the calls of live endpoints, which are in none of the above but
    `routes`; of those that were run, `live_tiers` the `service_tier`, "default" where they name none, and `live_bodies`
    the body without it, so that the digest is that of a row. `queue` is each admission, refusal and release of
    enqueued tokens, in order of time; `limits` the limits, those changed since after the others; `deliveries` each try
    to deliver a webhook.
    """

    runs: Mapping[tuple[str, bytes], tuple[str, ...]]
    bodies: Counter[bytes]
    unpaid: Counter[bytes]
    lost: Counter[bytes]
    batches: tuple[BatchLine, ...]
    files: tuple[FileLine, ...]
    uploads: tuple[FileLine, ...]
    routes: Counter[str]
    billed: Usage
    live: int
    live_tiers: Counter[str]
    live_bodies: Counter[bytes]
    queue: tuple[QueueLine, ...]
    limits: tuple[LimitLine, ...]
    deliveries: tuple[DeliveryLine, ...]

    @cached_property
    def paid(self) -> Counter[bytes]:
        """How often a body was answered with a 2xx, which is billed.

        A client that loses nothing itself pays again for what was `lost` alone: `paid[name] <= 1 + lost[name]`.
        """
        return self.bodies - self.unpaid

    def times(self, body: object) -> int:
        """Give how often a body, parsed or as JSON bytes, was run."""
        return self.bodies[digest(body)]

    def refusals(self, model: str | None = None) -> int:
        """Give how often there was no room in the queue of a model, or of any."""
        return sum(line.change == "refused" and model in (None, line.model) for line in self.queue)

    def utilisation(self, model: str) -> float:
        """Give the share of its limit that a model's queue held, averaged over time from first to last admission.

        All admitted at one instant: the share that they held then. Times without a limit, or with one of 0, count as 0,
        and so does a model that was never admitted. The tokens of others are not taken off the limit.
        """
        tokens = {line.at: line.tokens for line in self.queue if line.model == model}
        admitted = [line.at for line in self.queue if line.model == model and line.change == "admitted"]
        if not admitted:
            return 0.0
        first, last = admitted[0], admitted[-1]
        if first == last:
            return self._share(model, tokens[last], last)
        turns = {*tokens, *(line.at for line in self.limits)}
        area, held = 0.0, 0
        for at, until in pairwise(sorted(turn for turn in turns if first <= turn <= last)):
            held = tokens.get(at, held)
            area += self._share(model, held, at) * (until - at)
        return area / (last - first)

    def _share(self, model: str, tokens: int, at: float) -> float:
        limit = limit_at(self.limits, model, at)
        return tokens / limit if limit else 0.0

    def __str__(self) -> str:
        statuses = Counter(batch.status for batch in self.batches)
        kinds = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
        return (
            f"{len(self.batches)} batches{f' ({kinds})' if kinds else ''}, {sum(self.bodies.values()):,} requests run, "
            f"{self.live} live calls, {self.billed.input_tokens:,} tokens in and {self.billed.output_tokens:,} out, "
            f"{len(self.files)} files left"
        )


@dataclass
class Notes:
    """Gather, while the emulator runs, what the books will tell."""

    runs: dict[tuple[str, bytes], tuple[str, ...]] = field(default_factory=dict)
    bodies: Counter[bytes] = field(default_factory=Counter)
    unpaid: Counter[bytes] = field(default_factory=Counter)
    lost: Counter[bytes] = field(default_factory=Counter)
    uploads: list[FileLine] = field(default_factory=list)
    routes: Counter[str] = field(default_factory=Counter)
    live: int = 0
    live_tiers: Counter[str] = field(default_factory=Counter)
    live_bodies: Counter[bytes] = field(default_factory=Counter)
    deliveries: list[DeliveryLine] = field(default_factory=list)

    def ran(self, custom_id: str, name: bytes, batch: tuple[str], paid: bool, lost: bool) -> None:
        """Note that a row was run; `name` is its body's digest, `batch` the id in a tuple that its rows share."""
        if not paid:  # the rare case is the one counted
            self.unpaid[name] += 1
        if lost:
            self.lost[name] += 1
        self.bodies[name] += 1
        before = self.runs.get((custom_id, name))
        self.runs[custom_id, name] = batch if before is None else before + batch

    def ran_live(self, body: Mapping[str, Any]) -> None:
        """Note that a live call was run."""
        self.live_tiers[str(body.get("service_tier") or "default")] += 1
        self.live_bodies[digest({key: value for key, value in body.items() if key != "service_tier"})] += 1

    def uploaded(self, file: File) -> None:
        """Note that a file was uploaded."""
        self.uploads.append(_line_of(file))

    def close(self, account: Account, now: float) -> Books:
        """Give the books as they stand; each copy is one step of the interpreter, so another thread may ask."""
        batches = tuple(
            BatchLine(
                batch.id,
                batch.status,
                batch.endpoint,
                batch.input_file_id,
                batch.metadata,
                batch.output_expires_after,
                batch.total,
                batch.completed,
                batch.failed,
                batch.usage.input_tokens,
                batch.usage.output_tokens,
            )
            for batch in list(account.batches.values())
        )
        files, uploads = tuple(map(_line_of, list(account.files.values()))), tuple(self.uploads)
        billed = Usage()
        for batch in list(account.batches.values()):
            billed.add(batch.usage)
        return Books(
            self.runs.copy(),
            self.bodies.copy(),
            self.unpaid.copy(),
            self.lost.copy(),
            batches,
            files,
            uploads,
            self.routes.copy(),
            billed,
            self.live,
            self.live_tiers.copy(),
            self.live_bodies.copy(),
            account.ledger.lines(now),
            tuple(account.ledger.limits),
            tuple(self.deliveries),
        )


def _line_of(file: File) -> FileLine:
    return FileLine(file.id, file.filename, file.purpose, file.content.size, file.expires_after)

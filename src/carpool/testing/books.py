"""What the emulator saw, for tests to judge."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

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
class Books:
    """Tell what was run, called, billed and left.

    `runs` gives the batches in which a (custom_id, digest of its body) was run, once for each time; `bodies` how often
    a body was run under any custom_id; `files` what is left, `uploads` each file ever uploaded, in order of time,
    those deleted or whose reply was lost included; `routes` the calls of each route, ids replaced by {id}, those broken
    by faults included; `live` the calls of live endpoints, which are in neither `runs` nor `billed`; `queue` each
    admission, refusal and release of enqueued tokens, in order of time; `limits` the limits, those changed since after
    the others.
    """

    runs: Mapping[tuple[str, bytes], tuple[str, ...]]
    bodies: Counter[bytes]
    batches: tuple[BatchLine, ...]
    files: tuple[FileLine, ...]
    uploads: tuple[FileLine, ...]
    routes: Counter[str]
    billed: Usage
    live: int
    queue: tuple[QueueLine, ...]
    limits: tuple[LimitLine, ...]

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
    uploads: list[FileLine] = field(default_factory=list)
    routes: Counter[str] = field(default_factory=Counter)
    live: int = 0

    def ran(self, custom_id: str, name: bytes, batch: tuple[str]) -> None:
        """Note that a row was run; `name` is its body's digest, `batch` the id in a tuple that its rows share."""
        self.bodies[name] += 1
        before = self.runs.get((custom_id, name))
        self.runs[custom_id, name] = batch if before is None else before + batch

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
        routes, bodies = Counter(self.routes.copy()), Counter(self.bodies.copy())
        queue, limits = account.ledger.lines(now), tuple(account.ledger.limits)
        return Books(self.runs.copy(), bodies, batches, files, uploads, routes, billed, self.live, queue, limits)


def _line_of(file: File) -> FileLine:
    return FileLine(file.id, file.filename, file.purpose, file.content.size, file.expires_after)

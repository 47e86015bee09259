"""What the emulator saw, for tests to judge."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .account import Account
from .rows import Usage, digest


@dataclass(frozen=True)
class BatchLine:
    """Tell of one batch; the last two are the tokens billed."""

    id: str
    status: str
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class FileLine:
    """Tell of one file that was not deleted."""

    id: str
    filename: str
    purpose: str
    bytes: int


@dataclass(frozen=True)
class Books:
    """Tell what was run, called, billed and left.

    `runs` gives the batches in which a (custom_id, digest of its body) was run, once for each time; `bodies` how often
    a body was run under any custom_id; `routes` the calls of each route, ids replaced by {id}, those broken by faults
    included; `live` the calls of live endpoints, which are in neither `runs` nor `billed`.
    """

    runs: Mapping[tuple[str, bytes], tuple[str, ...]]
    bodies: Counter[bytes]
    batches: tuple[BatchLine, ...]
    files: tuple[FileLine, ...]
    routes: Counter[str]
    billed: Usage
    live: int

    def times(self, body: object) -> int:
        """Give how often a body, parsed or as JSON bytes, was run."""
        return self.bodies[digest(body)]

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
    routes: Counter[str] = field(default_factory=Counter)
    live: int = 0

    def ran(self, custom_id: str, name: bytes, batch: tuple[str]) -> None:
        """Note that a row was run; `name` is its body's digest, `batch` the id in a tuple that its rows share."""
        self.bodies[name] += 1
        before = self.runs.get((custom_id, name))
        self.runs[custom_id, name] = batch if before is None else before + batch

    def close(self, account: Account) -> Books:
        """Give the books as they stand; each copy is one step of the interpreter, so another thread may ask."""
        batches = tuple(
            BatchLine(
                batch.id,
                batch.status,
                batch.endpoint,
                batch.input_file_id,
                batch.metadata,
                batch.total,
                batch.completed,
                batch.failed,
                batch.usage.input_tokens,
                batch.usage.output_tokens,
            )
            for batch in list(account.batches.values())
        )
        files = tuple(
            FileLine(file.id, file.filename, file.purpose, file.content.size) for file in list(account.files.values())
        )
        billed = Usage()
        for batch in list(account.batches.values()):
            billed.add(batch.usage)
        routes, bodies = Counter(self.routes.copy()), Counter(self.bodies.copy())
        return Books(self.runs.copy(), bodies, batches, files, routes, billed, self.live)

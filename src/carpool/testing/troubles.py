"""Seeded troubles within batches: rows that fail, vanish or come twice, batches that end early or never."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, TypeVar

from .answers import Whole, echo, failure
from .refusals import by_status
from .rows import answered

BatchTrouble = Literal["expiring", "cancelled", "stuck", "failed_validation"]
RowTrouble = Literal["failing", "timed_out", "missing", "doubled", "foreign", "torn"]
BATCHES: tuple[BatchTrouble, ...] = ("expiring", "cancelled", "stuck", "failed_validation")
ROWS: tuple[RowTrouble, ...] = ("timed_out", "missing", "doubled", "foreign", "torn")

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Troubles:
    """Fix how often rows and batches go wrong, each a rate from 0 to 1; one row, or batch, has one trouble at most.

    Rows: `failing` ones, by status, are in the error file with that status and an error object (0 is a status too, and
    counts as completed); `timed_out` ones there with `request_timeout`: neither is run or billed. The others are run
    and billed, but a `missing` one is in no file, a `doubled` one twice in its file, side by side or apart, a `torn`
    one not JSON, as its line ends in the middle; and beside a `foreign` one stands a row that nobody sent, with an
    unknown custom_id or null.
    Batches: an `expiring` one ends `expired`, a `cancelled` one `cancelled` by the provider itself, and a `stuck` one
    runs on until somebody cancels it, beyond its window, each when half of its rows have run; one of
    `failed_validation` fails with a `server_error` that names no line. `silent_rest` is the share of the expired
    batches, those of their window included, whose rows that did not run are in no file.
    They follow from the seed and the numbers of batch and row alone. Raises ValueError where a rate, or the sum of
    those of rows or of the first four of batches, is not in 0 to 1.
    """

    failing: Mapping[int, float] = field(default_factory=dict)
    timed_out: float = 0.0
    missing: float = 0.0
    doubled: float = 0.0
    foreign: float = 0.0
    torn: float = 0.0
    expiring: float = 0.0
    cancelled: float = 0.0
    stuck: float = 0.0
    failed_validation: float = 0.0
    silent_rest: float = 0.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type is float:
                _check_rate(f"Troubles.{entry.name}", getattr(self, entry.name))
        for status, rate in self.failing.items():
            _check_rate(f"Troubles.failing[{status}]", rate)
            if status != 0 and not 300 <= status <= 599:
                raise ValueError(f"Troubles.failing has a status of 300 to 599, or 0, not {status}")
        for kind, rates in (("rows", self.of_rows()), ("batches", self.of_batches())):
            if sum(rates.values()) > 1:
                raise ValueError(f"the rates of the troubles of {kind} add up to more than 1")

    def of_rows(self) -> dict[tuple[RowTrouble, int], float]:
        """Give the rate of each trouble that a row may have, with the status where it fails."""
        statuses: dict[tuple[RowTrouble, int], float] = {("failing", key): rate for key, rate in self.failing.items()}
        return statuses | {(kind, 0): getattr(self, kind) for kind in ROWS}

    def of_batches(self) -> dict[BatchTrouble, float]:
        """Give the rate of each trouble that a batch may have."""
        return {kind: getattr(self, kind) for kind in BATCHES}


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} is a rate from 0 to 1, not {rate}")


@dataclass(frozen=True, slots=True)
class Mishap:
    """Say what goes wrong with one row; `chance`, in [0, 1), chooses how."""

    kind: RowTrouble
    status: int
    chance: float

    @property
    def spares(self) -> bool:
        """Whether the row is not run."""
        return self.kind in ("failing", "timed_out")

    @property
    def loses(self) -> bool:
        """Whether the answer reaches no file as a line that can be read."""
        return self.kind in ("missing", "torn")

    def answer(self) -> Whole | None:
        """Give the answer to a row that is not run, None for none in time."""
        return failure(by_status(self.status)) if self.kind == "failing" else None

    def spoil(self, line: bytes, name: str, endpoint: str) -> tuple[bytes, bytes]:
        """Give what is written in place of a row's line, now and at the end of the batch."""
        match self.kind:
            case "missing":
                return b"", b""
            case "torn":  # the start of an object is no JSON
                return line[: 1 + int(self.chance * (len(line) - 2))] + b"\n", b""
            case "doubled":
                return (line + line, b"") if self.chance < 0.5 else (line, line)
            case "foreign":
                return line + self._foreign(name, endpoint), b""
            case _:
                return line, b""

    def _foreign(self, name: str, endpoint: str) -> bytes:
        custom_id = f"foreign-{name}" if self.chance < 0.5 else None
        body = dict.fromkeys(("model", "messages", "input", "prompt"), "foreign")
        return answered(f"{name}f", custom_id, 200, echo(endpoint, body))


class Luck:
    """Draw the troubles of batches and rows by their numbers: in any order, at any time, the same."""

    def __init__(self, troubles: Troubles, seed: int) -> None:
        self._rows = troubles.of_rows()
        self._rate = sum(self._rows.values())
        self._batches = troubles.of_batches()
        self._silent_rest = troubles.silent_rest
        self._seed = seed

    def of_batch(self, number: int) -> tuple[BatchTrouble | None, bool]:
        """Give the trouble of a batch, if any, and whether it is silent of its rest where it expires."""
        chance = random.Random(f"batch/{self._seed}/{number}")  # noqa: S311 - no secret
        drawn, silent = chance.random(), chance.random() < self._silent_rest
        return _drawn(self._batches, drawn), silent

    def of_rows(self, number: int, rows: int) -> dict[int, Mishap]:
        """Give the troubles of a batch's rows by their places in its input file, from 0; of most there is none."""
        if not self._rate:
            return {}
        chance = random.Random(f"rows/{self._seed}/{number}")  # noqa: S311 - no secret
        # Two draws for every row, so that a rate that changes moves no other row's luck.
        draws = ((chance.random(), chance.random()) for _ in range(rows))
        unlucky = ((row, drawn, how) for row, (drawn, how) in enumerate(draws) if drawn < self._rate)
        return {row: Mishap(*found, how) for row, drawn, how in unlucky if (found := _drawn(self._rows, drawn))}


def _drawn(rates: Mapping[Kind, float], drawn: float) -> Kind | None:
    for kind, rate in rates.items():
        if drawn < rate:
            return kind
        drawn -= rate
    return None

"""What the end of a batch, or of one of its steps, says of its rows (contracts A6, A7)."""

from collections.abc import Iterable
from typing import Literal

from msgspec import structs

from ..models import NOT_SUBMITTED, OUT_OF_MONEY, BatchStatus, Failure
from .stages import Stage


def for_rows(stage: Stage, failure: Failure) -> Failure:
    """Say to the rows of a batch why its step failed for good."""
    if failure.kind in ("auth", "address", "disk", "full", "failed", "budget"):
        return failure
    if stage is Stage.LOST:
        message = f"Whether the batch was created cannot be found out: {failure.message}"
        return structs.replace(failure, kind="failed", message=message)
    if stage in (Stage.OPEN, Stage.ENDED):
        return structs.replace(
            failure, kind="missing", message=f"The batch's answers are out of reach: {failure.message}"
        )
    if failure.kind in ("busy", "lost"):
        return structs.replace(failure, kind="failed", code=NOT_SUBMITTED)
    return structs.replace(failure, kind="rejected")


_LEFT_OVER: dict[str, Failure] = {
    "completed": Failure("missing", "The batch was completed, but neither of its files mentions this request."),
    "expired": Failure("expired", "The completion window ended before this request ran.", code="batch_expired"),
    "cancelled": Failure("cancelled", "The batch was cancelled before this request ran.", code="batch_cancelled"),
}


def left_over(status: BatchStatus) -> Failure:
    """Say what became of the rows that no file of an ended batch mentions."""
    if status.status != "failed":
        return _LEFT_OVER[status.status]
    if not status.problems:
        return Failure("failed", "The provider failed the whole batch and gave no reason.")
    first = status.problems[0]
    more = f" (and {len(status.problems) - 1} more problems)" if len(status.problems) > 1 else ""
    kind: Literal["failed", "rejected"] = "failed" if failed_inside(status) else "rejected"
    return Failure(kind, f"The provider refused the whole batch: {first.message}{more}", code=first.code)


def condemned(status: BatchStatus, rows: Iterable[int]) -> dict[int, Failure]:
    """Say which rows a failed validation names: they alone are to blame (traps 4)."""
    named = {p.line: p for p in status.problems if p.line is not None}
    if status.status != "failed" or not named:
        return {}
    return {
        row: Failure("rejected", named[line].message, code=named[line].code)
        for line, row in enumerate(rows, 1)
        if line in named
    }


def ran(status: BatchStatus) -> bool:
    """Tell whether rows of an ended batch came to an end, of which files must tell."""
    return bool(status.answered) or (status.status == "completed" and status.answered is None)


def has_files(status: BatchStatus) -> bool:
    """Tell whether there is anything to read."""
    return status.output_file_id is not None or status.error_file_id is not None


# What a whole batch fails by that is no fault of its rows; the codes are not documented, and clones have their own.
_INTERNAL = frozenset(
    {"error", "internal", "internal_error", "internal_server_error", "server_error", "service_unavailable", "timeout"}
)


def failed_inside(status: BatchStatus) -> bool:
    """Tell whether a batch failed by a fault of the provider's own: the same rows may fare better another time."""
    return all(problem.code in _INTERNAL and problem.line is None for problem in status.problems)


def hopeless(status: BatchStatus) -> Failure | None:
    """Give why nothing like this batch can run: its model is not to be had, or the account may spend no more."""
    for problem in status.problems:
        if problem.code == "model_not_found":
            return Failure("rejected", problem.message, code=problem.code)
        if problem.code in OUT_OF_MONEY:
            return Failure("budget", problem.message, code=problem.code)
    return None


def input_unseen(status: BatchStatus) -> bool:
    """Tell whether the validation did not see the input file yet (traps 12): nothing ran, nothing is wrong."""
    named = [p for p in status.problems if p.line is None and "cannot find file" in p.message.lower()]
    return status.status == "failed" and bool(named)

"""The numbers of rows, as events hold them: 50,000 of a batch are one pair where they came one after another."""

from collections.abc import Iterable

from ..models import Run


def stretches_of(runs: Iterable[Run]) -> tuple[tuple[int, int], ...]:
    """Give the first and the last number of each stretch of rows without a gap."""
    stretches: list[tuple[int, int]] = []
    for run in runs:
        rows = run.rows
        dense = rows[-1] - rows[0] == len(rows) - 1  # as they grow
        parts = [(rows[0], rows[-1])] if dense else [(row, row) for row in rows]
        for first, last in parts:
            if stretches and stretches[-1][1] + 1 == first:
                stretches[-1] = stretches[-1][0], last
            else:
                stretches.append((first, last))
    return tuple(stretches)

"""The records as a Markdown table, and what it leaves out."""

from collections.abc import Iterator, Sequence

from ..records import markdown
from .cases import CASES
from .record import Record

_HEAD = (
    *("program", "calls", "answered", "billed twice", "billed, not answered"),
    *("CPU us a call", "wall s", "peak MB", "HTTP calls"),
)


def table(records: Sequence[Record]) -> str:
    """Write a table a case, with notes."""
    return "\n".join(_lines(records))


def _lines(records: Sequence[Record]) -> Iterator[str]:
    for case in CASES:
        rows = [record for record in records if record.case == case.name]
        if rows:
            yield f"**{case.name}**: {case.what}\n"
            yield markdown(_HEAD, map(_row, rows)) + "\n"
    for program, note in {record.program: record.note for record in records}.items():
        yield f"- *{program}*: {note}."
    for record in records:
        if record.failures:
            most = sorted(record.failures.items(), key=lambda entry: -entry[1])[:4]
            yield f"- {record.program} in *{record.case}*: {'; '.join(f'{count:,} {what}' for what, count in most)}."


def _row(record: Record) -> tuple[str, ...]:
    name = record.program if record.program == "floor" else f"{record.program} {record.version}"
    calls = f"{record.runs} x {record.calls // record.runs:,}"
    unheard = record.billed - record.twice - record.lost - record.answered
    return (
        *(name, calls, f"{record.answered / record.calls:.1%}", f"{record.twice:,}", f"{unheard:,}"),
        _number(record.cpu_us, 1, ".1f"),
        _number(record.wall_s, 1, ".1f"),
        _number(record.peak_bytes, 1e6, ".0f"),
        _number(record.http_calls, 1, ",.0f"),
    )


def _number(value: float | None, unit: float, form: str) -> str:
    return "-" if value is None else format(value / unit, form)

"""What OUTPUT holds already, read once: so a run goes on where it was stopped."""

import json
import re
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import msgspec

from ...providers.jsonl import Lines
from .endings import Refused
from .rows import ASKED, Bad, Row, Rows

CHUNK = 2**20
_AHEAD = 2**24  # rows by which one may be written before another: more are never under way
_HEAD = b'{"id":"%b_'
_ID = re.compile(r"(row|emulated)_([1-9][0-9]{0,15})_([0-9a-f]{8})")
_NULL = b"null"


class Begun:
    """Know which rows OUTPUT holds, five bytes each, and where the last whole one ends.

    `ended` tells whether that has its line break; `ordered` that the rows stand in the order of INPUT. `seen` has the
    signs of the first rows of INPUT, which were given to a pool, whether they are held or not.
    """

    def __init__(self, seen: "array[int] | None" = None) -> None:
        self.seen: array[int] = array("I") if seen is None else seen
        self.rows: int = 0
        self.failed: int = 0
        self.size = 0
        self.ended = True
        self.ordered: bool = True
        self._crcs = array("I")  # of row 1 and on; 0 is unknown
        self._held = bytearray()

    @property
    def furthest(self) -> int:
        """Give the number of the last row that is held, 0 without any."""
        return len(self._held)

    def add(self, number: int, crc: int, *, failed: bool) -> None:
        """Note that a row is held; ValueError where that cannot be."""
        if number == len(self._held) + 1:
            self._crcs.append(crc)
            self._held.append(True)
        else:
            self._add_apart(number, crc)
        self.rows += 1
        self.failed += failed

    def _add_apart(self, number: int, crc: int) -> None:
        if number > self.furthest + _AHEAD or self.holds(number):
            raise ValueError(f"row {number} cannot stand here")
        self.ordered = False
        more = max(0, number - self.furthest)
        self._crcs.frombytes(bytes(more * self._crcs.itemsize))
        self._held += bytes(more)
        self._crcs[number - 1] = crc
        self._held[number - 1] = True

    def holds(self, number: int) -> bool:
        """Tell whether a row is held."""
        return number <= self.furthest and bool(self._held[number - 1])

    def without(self, rows: Rows) -> Rows:
        """Give the rows that are not held; `Refused` where one is held, or was sent, that was another."""
        if not rows or rows[0].number > max(self.furthest, len(self.seen)):
            return rows
        return [row for row in rows if not self._is_held(row)]

    def _is_held(self, row: Row | Bad) -> bool:
        place, held = row.number - 1, self.holds(row.number)
        seen = self.seen[place] if place < len(self.seen) else 0
        # What was bad, and is not told so in OUTPUT, may be mended.
        if seen not in (0, row.sign) and (held or not seen & 1):
            raise _changed(row, "OUTPUT was written for" if held else "was sent, and whose answer is to come")
        if held and self._crcs[place] not in (0, row.crc):
            raise _changed(row, "OUTPUT was written for")
        return held

    def check_end(self, number: int) -> None:
        """Refuse an INPUT that ends before the rows do that are held, or were sent."""
        if number < (last := max(self.furthest, len(self.seen))):
            raise Refused(
                f"INPUT has changed: it has {number:,} rows, and had {last:,} or more. Give it as it was: another "
                "OUTPUT would ask, and pay for, all rows again."
            )


def _changed(row: Row | Bad, what: str) -> Refused:
    return Refused(
        f"INPUT has changed: row {row.number} (line {row.line}) is not the one that {what}. Give it as it was, and "
        "what is new at its end, or in a file of its own: another OUTPUT would ask, and pay for, all rows again."
    )


# --- rows ----------------------------------------------------------------------------------------------------------


class _Reply(msgspec.Struct, gc=False):
    status_code: int = 0


class _Written(msgspec.Struct, gc=False):
    id: str
    response: _Reply | None
    error: Any


_decode = msgspec.json.Decoder(_Written).decode
_MADE_UP = "OUTPUT holds answers that were made up, by --mode emulate: remove it, or name another."
_ASKED = "OUTPUT holds answers that were asked for, and --mode emulate makes them up: name another."


def scan_rows(file: BinaryIO, seen: "array[int] | None" = None, *, mark: bytes = ASKED, ours: bool) -> Begun:
    """Read OUTPUT up to the first row that is torn: what is behind it is cut off, and can be had again.

    `ours` tells that carpool wrote it, though no row says so. Raises `Refused` for what carpool did not write, and for
    rows with another mark.
    """
    begun = Begun(seen)
    for line, whole in _lines(file):
        try:
            number, crc, failed = _read_row(line, mark)
        except ValueError as exc:
            if _is_torn(line, _HEAD % mark, whole=whole, ours=ours or begun.rows > 0):
                break
            raise Refused(f"OUTPUT exists, and its line {begun.rows + 1} is none of carpool's: {exc}.") from None
        try:
            begun.add(number, crc, failed=failed)
        except ValueError as exc:
            raise Refused(f"OUTPUT is not as carpool wrote it: {exc}.") from None
        _count(begun, line, whole=whole)
    return begun


def _read_row(line: bytes, mark: bytes) -> tuple[int, int, bool]:
    """Give number and crc of a row, and whether it failed; ValueError for what is none."""
    try:
        row = _decode(line)
    except (msgspec.DecodeError, RecursionError):
        row = _read_oddity(line)
    match = _ID.fullmatch(row.id)
    if match is None:
        raise ValueError(f"it has the id {row.id[:40]!r}")
    if match[1].encode() != mark:
        raise Refused(_MADE_UP if mark == ASKED else _ASKED)
    failed = row.response is None or not 200 <= row.response.status_code < 300 or row.error is not None
    return int(match[2]), int(match[3], 16), failed


def _read_oddity(line: bytes) -> _Written:
    try:
        return msgspec.convert(json.loads(line), _Written)  # half a surrogate pair, which msgspec does not read
    except (msgspec.ValidationError, ValueError, RecursionError) as exc:
        raise ValueError("it is no row of answers") from exc


def _is_torn(line: bytes, head: bytes, *, whole: bool, ours: bool) -> bool:
    """Tell what a crash leaves: a row of ours without its end, or zeros that a disk never had written over.

    It never leaves a line break behind half a row. The first bytes of one, or zeros alone, are `ours` only where
    something else says so: many a file begins like that.
    """
    start, zero, _ = line.partition(b"\0")
    if not zero and (whole or _is_json(line)):
        return False
    return start.startswith(head) or (ours and head.startswith(start))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# --- texts ---------------------------------------------------------------------------------------------------------


def scan_texts(file: BinaryIO, seen: "array[int] | None") -> Begun:
    """Read an OUTPUT of texts up to the first that is torn, or whose row was not seen.

    Where no row ever was, nothing tells that carpool wrote it.
    """
    begun = Begun(seen)
    for number, (line, whole) in enumerate(_lines(file), 1):
        if seen is None:
            raise Refused("OUTPUT exists, and nothing says that carpool wrote it with --text. Name another.")
        if not _is_text(line):
            if not _is_torn_text(line, whole=whole):
                raise Refused(f"OUTPUT is not as carpool wrote it with --text: see line {number}.")
            break
        if number <= len(seen):
            begun.add(number, 0, failed=line == _NULL)
            _count(begun, line, whole=whole)
    return begun


def _is_text(line: bytes) -> bool:
    return line == _NULL or (line[:1] == b'"' and _is_json(line))


def _is_torn_text(line: bytes, *, whole: bool) -> bool:
    start, zero, _ = line.partition(b"\0")
    return (bool(zero) or not whole) and (start[:1] == b'"' or _NULL.startswith(start))


# --- lines ---------------------------------------------------------------------------------------------------------

_Line: TypeAlias = tuple[bytes, bool]  # and whether its line break stands behind it


def _lines(file: BinaryIO) -> Iterator[_Line]:
    cut = Lines()
    while chunk := file.read(CHUNK):
        for line in cut.feed(chunk):
            yield line, True
    for line in cut.close():
        yield line, False


def _count(begun: Begun, line: bytes, *, whole: bool) -> None:
    begun.size += len(line) + whole
    begun.ended = whole

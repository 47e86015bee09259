"""Outcomes as they are kept: answers in the files that came, failures in the journal."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

from ..errors import CarpoolError, JournalError
from ..journal import Ending, Journal, Place
from ..models import Response
from ..outcomes import response_of
from ..providers import Provider
from ..spool import CHUNK, Spool
from .failures import unpack

Came: TypeAlias = Response | CarpoolError


class Kept(NamedTuple):
    """Read outcomes; `pool` prefixes the custom_ids."""

    journal: Journal | None
    spool: Spool
    provider: Provider
    pool: str

    async def read(self, rows: Sequence[int]) -> "list[tuple[int, str | None, Came]]":
        """Give keys and outcomes of as many of the first of these rows as make a chunk, or of one."""
        endings = {} if self.journal is None else await self.journal.endings(rows)
        few = [*_few(rows, endings)]
        places = [(row, ending.place) for row in few if (ending := endings.get(row)) and ending.place]
        answers = await self._answers(places)
        return [(row, endings[row].key if row in endings else None, self._came(row, endings, answers)) for row in few]

    async def _answers(self, places: list[tuple[int, Place]]) -> dict[int, Came]:
        places.sort(key=lambda entry: (entry[1].file, entry[1].offset))
        answers: dict[int, Came] = {}
        for file, group in groupby(places, key=lambda entry: entry[1].file):
            entries = [*group]
            try:
                lines = await self.spool.read_lines(file, [(place.offset, place.size) for _, place in entries])
            except OSError as exc:
                answers |= {row: _unreadable(file, exc) for row, _ in entries}
            else:
                read = zip(entries, lines, strict=True)
                answers |= {row: self._parse(row, place, line) for (row, place), line in read}
        return answers

    def _parse(self, row: int, place: Place, line: bytes) -> Came:
        try:
            answer = self.provider.parse_row(line)
            if answer.custom_id != f"{self.pool}-{row}":
                raise ValueError(f"request {row} is not where it should be")
        except ValueError as exc:
            return _unreadable(place.file, exc)
        return response_of(answer, place.batch_id)

    def _came(self, row: int, endings: Mapping[int, Ending], answers: Mapping[int, Came]) -> Came:
        custom_id = f"{self.pool}-{row}"
        ending = endings.get(row)
        if ending is None:
            return JournalError(f"The journal does not know any more what came of {custom_id}.")
        return answers[row] if ending.error is None else unpack(ending.error, custom_id)


def _few(rows: Sequence[int], endings: Mapping[int, Ending]) -> Iterator[int]:
    size = 0
    for row in rows:
        if size >= CHUNK:
            return
        yield row
        ending = endings.get(row)
        size += ending.place.size if ending is not None and ending.place is not None else 0


def _unreadable(file: str, exc: Exception) -> JournalError:
    return JournalError(
        f"The answer in {file} cannot be read: {exc}. Put the file back and start again, or ack it and submit it again."
    )

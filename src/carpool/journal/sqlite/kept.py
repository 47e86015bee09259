"""Where the answers lie that a journal keeps, told from outside, some batches at a time."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...models import Lane
from .packed import array_of, unpack_lane
from .peek import Reader, look

_CHUNK = 100_000  # answers that are told of at once

_WHICH = "SELECT id, answered FROM outcome WHERE at >= ? ORDER BY id"
_WHERE = "SELECT batch_id, file, offsets, sizes FROM outcome WHERE id BETWEEN ? AND ? AND at >= ? ORDER BY id"


class Stretch(NamedTuple):
    """Name answers in one file, in their order there: each by its offset and its size, in bytes.

    They came with the batch of this remote id, or live where that is "".
    """

    file: str
    batch_id: str
    spans: list[tuple[int, int]]


class Kept:
    """Give the answers that came since a time; `lanes` are those of the batches that are not forgotten, by remote ids.

    An answer that is removed meanwhile is left out. Raises `JournalError`, also while it is iterated.
    """

    def __init__(self, folder: Path, since: float = 0.0) -> None:
        self._folder = folder
        self._since = since
        self.lanes: dict[str, Lane] = {}
        self._chunks: list[tuple[int, int]] = []
        self.answers: int = 0  # how many
        look(folder, self._begin)

    def _begin(self, reader: Reader) -> None:
        known = reader.rows("SELECT batch_id, lane FROM batch WHERE batch_id IS NOT NULL")
        self.lanes = {batch_id: unpack_lane(lane) for batch_id, lane in known}
        self._chunks, self.answers = chunks_of(reader.rows(_WHICH, self._since))

    def __iter__(self) -> Iterator[Stretch]:
        for first, last in self._chunks:
            yield from look(self._folder, partial(self._stretches, first, last)) or ()

    def _stretches(self, first: int, last: int, reader: Reader) -> list[Stretch]:
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}  # live answers are recorded singly
        for batch_id, file, offsets, sizes in reader.rows(_WHERE, first, last, self._since):
            spans = zip(array_of("Q", offsets), array_of("I", sizes), strict=True)
            found.setdefault((file, batch_id or ""), []).extend(spans)
        return [Stretch(file, batch_id, sorted(spans)) for (file, batch_id), spans in found.items()]


def chunks_of(outcomes: Iterator[tuple[int, int]], most: int = _CHUNK) -> tuple[list[tuple[int, int]], int]:
    """Cut outcomes, each an id and how many answers it has, into first and last ids; gives how many there are, too."""
    chunks: list[tuple[int, int]] = []
    answers = size = 0
    for id_, answered in outcomes:
        answers += answered
        size += answered
        if chunks and size <= most:
            chunks[-1] = chunks[-1][0], id_
        else:
            chunks.append((id_, id_))
            size = answered
    return chunks, answers

"""Answers in hand: where they lie, until the journal knows it."""

from array import array
from collections.abc import Collection, Iterable, Iterator

from .engine.commands import Settle
from .engine.events import ANSWERED, DELIVERED, Settled
from .journal import Place, Stamped


class Answers:
    """Gather, for each batch, how its rows came to an end."""

    def __init__(self) -> None:
        self._gathering: dict[str, dict[str, Settled]] = {}  # by batch and file
        self._recording: list[Settled] = []

    def add(self, command: Settle, well: Iterable[bool], delivered: Iterable[object]) -> None:
        """Note where rows lie, which of them are answers, and whether callers were given them."""
        if command.file is None or not command.rows:
            return
        files = self._gathering.setdefault(command.batch_id, {})
        settled = files.get(command.file)
        if settled is None:
            empty = array("Q"), array("Q"), array("I")
            settled = files[command.file] = Settled(command.batch_id, command.file, *empty, bytearray())
        settled.rows.extend(command.numbers)
        settled.offsets.extend([row.offset for row in command.rows])
        settled.sizes.extend([row.size for row in command.rows])
        settled.marks.extend(
            [ok * ANSWERED | (given is True) * DELIVERED for ok, given in zip(well, delivered, strict=True)]
        )

    def take(self, batch_id: str | None) -> list[Settled]:
        """Take out what is known of a batch that is over, to be recorded."""
        taken = [*self._gathering.pop(batch_id or "", {}).values()]
        self._recording += taken
        return taken

    def recorded(self, facts: Iterable[Stamped]) -> None:
        """Forget what the journal knows."""
        known = {id(fact) for _, fact in facts}
        self._recording = [settled for settled in self._recording if id(settled) not in known]

    def find(self, rows: Collection[int]) -> dict[int, Place]:
        """Say where answers to these rows lie that the journal does not know yet."""
        return {
            settled.rows[i]: Place(
                settled.file or "",
                settled.batch_id or "",
                settled.offsets[i],
                settled.sizes[i],
                bool(settled.marks[i] & DELIVERED),
            )
            for settled, i in self._holding(rows)
            if settled.marks[i] & ANSWERED
        }

    def deliver(self, rows: Collection[int], *, received: bool) -> None:
        """Note whether callers received answers."""
        for settled, i in self._holding(rows):
            settled.marks[i] = settled.marks[i] & ANSWERED | DELIVERED * received

    def _holding(self, rows: Collection[int]) -> Iterator[tuple[Settled, int]]:
        wanted = frozenset(rows)
        if not wanted:
            return
        unknown = [*self._recording, *(settled for files in self._gathering.values() for settled in files.values())]
        for settled in unknown:
            if wanted.isdisjoint(settled.rows):  # as nearly always: at a tenth of the cost
                continue
            for i, row in enumerate(settled.rows):
                if row in wanted:
                    yield settled, i

"""Submissions kept in memory, as the database keeps them."""

from array import array
from collections.abc import Collection, Iterable, Mapping

from ..engine.events import Acked, Outstanding, Submission, Submitted, Unclaimed, Unmet
from ..naming import shard_of
from . import Ending, Keyed, Place


class Submissions:
    """Hold what was submitted: each submission until it is acked, and its key for good."""

    def __init__(self) -> None:
        self._kept: dict[int, Submission] = {}
        self._errors: dict[int, bytes] = {}
        self._keys: dict[str, Keyed] = {}
        self._claimed: dict[str, int] = {}  # the shards of claims under which nothing was submitted yet

    def claim(self, asked: Mapping[str, bytes], shard: int, ours: Collection[int]) -> dict[str, Keyed]:
        """Claim keys for a shard; gives those that are taken, but not what was claimed in vain in shards of `ours`."""
        taken = {key: self._keys[key] for key in asked if key in self._keys and self._claimed.get(key) not in ours}
        for key in asked.keys() - taken.keys():
            self._keys[key] = Keyed(None, asked[key])
            self._claimed[key] = shard
        return taken

    def unclaim(self, fact: Unclaimed, at: float) -> None:
        """Let a key be claimed anew under which nothing was submitted."""
        if self._claimed.pop(fact.key, None) is not None:
            del self._keys[fact.key]

    def drop_claims(self, shards: Collection[int]) -> None:
        """Forget what processes claimed that are gone, and never recorded."""
        for key in [key for key, shard in self._claimed.items() if shard in shards]:
            self.unclaim(Unclaimed(key), 0.0)

    def add(self, fact: Submitted, at: float) -> None:
        """Keep submissions."""
        for one in fact.submissions:
            self._kept[one.row] = one
            if one.key is not None:
                self._claimed.pop(one.key)
                self._keys[one.key] = self._keys[one.key]._replace(row=one.row)

    def fail(self, fact: Unmet, at: float) -> None:
        """Keep why submissions have no answer; what was said first holds."""
        for row in fact.rows:
            if row in self._kept:
                self._errors.setdefault(row, fact.error)

    def ack(self, fact: Acked, at: float) -> None:
        """Forget a submission; what failed may be submitted anew under its key."""
        self._errors.pop(fact.row, None)
        one = self._kept.pop(fact.row, None)
        if one is not None and one.key is not None and not fact.answered:
            del self._keys[one.key]

    def shards(self) -> set[int]:
        """Give the shards that hold submissions that are not acked."""
        return set(map(shard_of, self._kept))

    def endings(self, rows: Iterable[int], places: Mapping[int, Place]) -> dict[int, Ending]:
        """Say how submissions ended."""
        kept = [self._kept[row] for row in rows if row in self._kept]
        return {
            one.row: Ending(one.key, None if one.row in self._errors else places[one.row], self._errors.get(one.row))
            for one in kept
            if one.row in self._errors or one.row in places
        }

    def outstanding(self, shards: Collection[int], answered: Collection[int]) -> Outstanding | None:
        """Tell of the submissions in some shards; None where there are none."""
        found = [one for row, one in sorted(self._kept.items()) if shard_of(row) in shards]
        open_ = [one for one in found if one.row not in self._errors and one.row not in answered]
        rows = {one.row for one in open_}
        told = Outstanding(
            array("Q", (one.row for one in found if one.row not in rows)),
            array("Q", (one.row for one in open_)),
            {one.row: one.tags for one in open_ if one.tags},
            {one.row: one.until for one in open_ if one.until is not None},
        )
        return told if found else None

"""The first requests of a lane, which may go alone: its canary."""

from ..config import Canary


class Trial:
    """Follow a canary until enough of it has come back."""

    def __init__(self, canary: Canary | None) -> None:
        self._canary = canary  # until it has come back
        self._refused = self._ran = 0
        self._key: str | None = None  # of the batch in which it travels

    def __bool__(self) -> bool:
        return self._canary is not None

    @property
    def is_under_way(self) -> bool:
        """Tell whether it travels, so that nothing else may."""
        return self._key is not None

    @property
    def left(self) -> int | None:
        """Count the requests that are still to go alone, None where there is no canary."""
        return None if self._canary is None else max(1, self._canary.requests - self._refused - self._ran)

    def is_full(self, rows: int) -> bool:
        """Tell whether so many rows are enough for it."""
        return self.left is not None and rows >= self.left

    def packed(self, key: str) -> None:
        """Note that a batch was packed, which goes alone while there is a canary."""
        if self._canary is not None:
            self._key = key

    def dropped(self, key: str) -> None:
        """Note that a batch is over."""
        if self._key == key:
            self._key = None

    def judge(self, key: str, refused: int, others: int, *, ran: bool) -> bool:
        """Tell whether too much of it was refused; it is over when all came back, `others` of which `ran`."""
        if key != self._key or self._canary is None:
            return False
        self._refused += refused
        self._ran += others if ran else 0
        judged = self._refused + self._ran
        failed = self._refused > self._canary.share * max(judged, self._canary.requests)
        if judged >= self._canary.requests and not failed:
            self._canary = None
        return failed

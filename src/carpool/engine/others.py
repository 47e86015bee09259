"""What the other processes of a journal hold in a queue, as far as is known here, and when to ask again."""

import math


class Others:
    """Remember what the journal said when it was last asked for room."""

    def __init__(self) -> None:
        self.tokens: int = 0  # theirs
        self.asking: set[str] = set()  # batches for which it is being asked
        self._again_at = -math.inf

    def keep_back(self, now: float) -> bool:
        """Tell whether not to ask now: one asks for one batch after another, and in vain not too often."""
        return bool(self.asking) or now < self._again_at

    @property
    def again_at(self) -> float:
        """Give the time from which on it may be asked again."""
        return self._again_at

    def hear(self, key: str, tokens: int, again_at: float = -math.inf) -> None:
        """Hear what they hold; where that left no room for a batch, it is asked again at `again_at`."""
        self.asking.discard(key)
        self.tokens = tokens
        self._again_at = again_at

    def ask_again(self) -> None:
        """Let it be asked at once: something of ours has ended."""
        self._again_at = -math.inf

"""How well a queue was used."""


class Usage:
    """Average the share of a limit that was in use, over the time in which anything was."""

    def __init__(self) -> None:
        self._at = 0.0
        self._busy = 0.0  # seconds
        self._used = 0.0  # and these weighed by the share

    def pass_time(self, share: float | None, now: float) -> None:
        """Count the time since the last call, in which this share was in use; None where nothing was, or no limit."""
        if share is not None and now > self._at:
            self._used += min(1.0, share) * (now - self._at)
            self._busy += now - self._at
        self._at = max(self._at, now)  # what an earlier process recorded is told later

    @property
    def mean(self) -> float | None:
        """Give the mean, None where nothing was in use."""
        return self._used / self._busy if self._busy else None

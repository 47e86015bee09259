"""Where the limit of a queue lies, as far as anybody has said, and for how long that is believed."""

import math
from typing import Literal, NamedTuple, TypeAlias

Source: TypeAlias = Literal["user", "learned", "table", "unknown"]

_STALE = 72_000.0  # seconds: a limit that is 20 hours old is tried once, so that a raised tier is found within a day


class Limit(NamedTuple):
    """Say how many tokens may be enqueued, None when nobody has said, who said so, and when it was heard."""

    tokens: int | None
    source: Source
    at: float


class Hearsay:
    """Take what the user, the provider and the table say; ours is a `part` of it."""

    def __init__(self) -> None:
        self.part: float = 1.0
        self.told: Limit = Limit(None, "unknown", 0.0)  # by the provider, or the table
        self.heard_at: float = 0.0  # when the provider last said what the limit is, or that it is another
        self._former = self.told
        self._user: int | None = None

    def learn(self, tokens: int | None, source: Source, now: float, *, anew: bool = False) -> None:
        """Take a limit: the user's own, or what the provider or the table says, and `anew` also says after it."""
        if source == "user":
            self._user = tokens
        elif anew or source == "learned" or self.told.source != "learned":
            self.told = Limit(tokens, source if tokens is not None else "unknown", now)
            self.heard_at = now if anew or source == "learned" else self.heard_at

    def refuse(self, stated: int | None, now: float) -> None:
        """Take note of a refusal, and of the limit that it stated."""
        if stated is not None:
            self.told, self.heard_at = Limit(stated, "learned", now), now
        else:
            self.told = (self.told if self.told.tokens is not None else self._former)._replace(at=now)

    def rise(self, now: float) -> None:
        """Take note that the limit was raised: the next refusal states the new one."""
        self.told, self._former = Limit(None, "unknown", now), self.told
        self.heard_at = now

    @property
    def user(self) -> int | None:
        """Give the user's own number, None without one."""
        return self._ours(self._user)

    def _ours(self, tokens: int | None) -> int | None:
        return tokens if tokens is None or self.part == 1 else int(self.part * tokens)

    @property
    def limit(self) -> Limit:
        """Give the limit in force: the user's number, or what was learned or else the table says if that is less."""
        user, told = self._user, self.told
        if user is not None and (told.tokens is None or user <= told.tokens):
            return Limit(self._ours(user), "user", 0.0)
        return told if self.part == 1 else told._replace(tokens=self._ours(told.tokens))

    @property
    def stale_at(self) -> float:
        """Give the time from which on more is tried, `math.inf` where it never is."""
        return math.inf if self.limit.source in ("user", "unknown") else self.told.at + _STALE

"""The enqueued tokens of the account, model by model, and how they came and went."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, NamedTuple

OtherTokens = Mapping[str, int] | Callable[[str, float], int]
RoomMessage = Callable[[str, int], str]
Change = Literal["admitted", "refused", "released"]


@dataclass(frozen=True, slots=True)
class QueueLine:
    """Tell of one change of the queue: `tokens` are those of the account's batches on the model after it.

    `at` is in seconds since the epoch on the emulator's clock; `limit` None is no limit. Tokens of others are in
    neither. A creation refused at once has the id that its batch would have had.
    """

    at: float
    model: str
    tokens: int
    limit: int | None
    batch_id: str
    change: Change


class LimitLine(NamedTuple):
    """Tell since when a model, or "*" for all others, has a limit; -inf is from the start."""

    at: float
    model: str
    tokens: int


def limit_at(limits: Iterable[LimitLine], model: str, at: float) -> int | None:
    """Give the limit of a model at an instant: its own, else that of "*", else None."""
    known = {line.model: line.tokens for line in limits if line.at <= at}
    return known.get(model, known.get("*"))


class Ledger:
    """Count the prompt tokens of the batches that run, beside those that others have queued on the same account.

    A model without a limit of its own has that of "*", and none where there is none. Tokens are released
    `release_after` seconds after the end of their batch. Times are any clock's seconds. `message` words a refusal
    from the model and its limit. `limits` and `lines` may be read, and `set_limit` called, from any thread.
    """

    def __init__(
        self,
        limits: Mapping[str, int] | None = None,
        *,
        others: OtherTokens | None = None,
        release_after: float = 0.0,
        organization: str = "org-emulated",
        message: RoomMessage | None = None,
    ) -> None:
        self.limits: list[LimitLine] = [LimitLine(-math.inf, model, tokens) for model, tokens in (limits or {}).items()]
        self._others = others
        self._release_after = release_after
        self._organization = organization
        self._message = message or self._refusal
        self._held: dict[str, tuple[str, int, float]] = {}  # until when, too
        # The limit is the one decided by, as another may be set at the same instant; None for a release.
        self._changes: list[tuple[float, str, str, int, Change, int | None]] = []

    def set_limit(self, model: str, tokens: int, now: float) -> None:
        """Change a limit from now on; what is queued stays."""
        self.limits.append(LimitLine(now, model, tokens))

    def reserve(self, batch_id: str, model: str, tokens: int, now: float) -> str | None:
        """Hold tokens for a batch, or give the message that refuses them; a batch that holds some holds them on."""
        if batch_id in self._held:
            return None
        limit = limit_at(self.limits, model, now)
        if limit is not None and self.queued(model, now) + tokens > limit:
            self._changes.append((now, batch_id, model, 0, "refused", limit))
            return self._message(model, limit)
        self._held[batch_id] = (model, tokens, math.inf)
        self._changes.append((now, batch_id, model, tokens, "admitted", limit))
        return None

    def release(self, batch_id: str, now: float) -> None:
        """Let go of what a batch holds, if anything; late, where that is asked for."""
        model, tokens, until = self._held.get(batch_id, ("", 0, now))
        if until == math.inf:
            until = now + self._release_after
            self._held[batch_id] = (model, tokens, until)
            self._changes.append((until, batch_id, model, -tokens, "released", None))

    def queued(self, model: str, now: float) -> int:
        """Give the tokens that count for a model."""
        self._held = {key: held for key, held in self._held.items() if held[2] > now}
        return sum(tokens for name, tokens, _ in self._held.values() if name == model) + self._by_others(model, now)

    def lines(self, now: float) -> tuple[QueueLine, ...]:
        """Tell every change so far in its order; a late release stands at the instant at which it fell due."""
        queued: Counter[str] = Counter()
        lines = []
        for at, batch_id, model, tokens, change, decided in sorted(self._changes.copy(), key=itemgetter(0)):
            if at <= now:
                queued[model] += tokens
                limit = limit_at(self.limits, model, at) if change == "released" else decided
                lines.append(QueueLine(at, model, queued[model], limit, batch_id, change))
        return tuple(lines)

    def _by_others(self, model: str, now: float) -> int:
        if self._others is None:
            return 0
        return self._others(model, now) if callable(self._others) else self._others.get(model, 0)

    def _refusal(self, model: str, limit: int) -> str:
        return (
            f"Enqueued token limit reached for {model} in organization {self._organization}. "
            f"Limit: {limit:,} enqueued tokens. "
            "Please try again once some in_progress batches have been completed."
        )

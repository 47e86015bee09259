"""The enqueued tokens of the account, model by model."""

from collections.abc import Callable, Mapping

OtherTokens = Mapping[str, int] | Callable[[str, float], int]


class Ledger:
    """Count the prompt tokens of the batches that run, beside those that others have queued on the same account.

    A model without a limit of its own has that of "*", and none where there is none. Tokens are released
    `release_after` seconds after the end of their batch. Times are any clock's seconds.
    """

    def __init__(
        self,
        limits: Mapping[str, int] | None = None,
        *,
        others: OtherTokens | None = None,
        release_after: float = 0.0,
        organization: str = "org-emulated",
    ) -> None:
        self._limits = dict(limits or {})
        self._others = others
        self._release_after = release_after
        self._organization = organization
        self._held: dict[str, tuple[str, int]] = {}
        self._late: dict[str, tuple[str, int, float]] = {}

    def reserve(self, batch_id: str, model: str, tokens: int, now: float) -> str | None:
        """Hold tokens for a batch, or give the message that refuses them."""
        limit = self._limits.get(model, self._limits.get("*"))
        if limit is not None and self.queued(model, now) + tokens > limit:
            return (
                f"Enqueued token limit reached for {model} in organization {self._organization}. "
                f"Limit: {limit:,} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
        self._held[batch_id] = (model, tokens)
        return None

    def release(self, batch_id: str, now: float) -> None:
        """Let go of what a batch holds, if anything."""
        model, tokens = self._held.pop(batch_id, ("", 0))
        if tokens and self._release_after:
            self._late[batch_id] = (model, tokens, now + self._release_after)

    def queued(self, model: str, now: float) -> int:
        """Give the tokens that count for a model."""
        self._late = {key: late for key, late in self._late.items() if late[2] > now}
        held = sum(tokens for name, tokens in self._held.values() if name == model)
        late = sum(tokens for name, tokens, _ in self._late.values() if name == model)
        return held + late + self._by_others(model, now)

    def _by_others(self, model: str, now: float) -> int:
        if self._others is None:
            return 0
        return self._others(model, now) if callable(self._others) else self._others.get(model, 0)

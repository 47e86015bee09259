"""Which limits the engine is told of: those of a queue when it is heard of first, and of all when they are set anew."""

from collections.abc import Iterator

from .engine.events import Limited, Shared
from .engine.limit import Source
from .limits import KnownLimits
from .models import Queue

_SOURCES: tuple[Source, ...] = ("user", "table")


class Limiting:
    """Say what is known of queues, by limits that may be set anew."""

    def __init__(self, limits: KnownLimits) -> None:
        self._limits = limits
        self._queues: set[Queue] = set()  # that were heard of

    @property
    def share(self) -> float:
        """Give the share of the account's limits that is this pool's."""
        return self._limits.share

    def of(self, queue: Queue) -> list[Limited]:
        """Say what is known of a queue when it is heard of first."""
        if queue in self._queues:
            return []
        self._queues.add(queue)
        return [Limited(queue, tokens, source) for tokens, source in self._limits.of(queue)]

    def set(self, limits: KnownLimits) -> list[Limited | Shared]:
        """Take other limits, and say what is new; those of another tier, instead of what refusals said."""
        before, self._limits = self._limits, limits
        other = limits.tier != before.tier
        news = [event for queue in sorted(self._queues) for event in self._anew(queue, other_tier=other)]
        shared = Shared(limits.share)
        # What lets less in comes first: in between nothing is to be created that neither allows.
        return [shared, *news] if limits.share < before.share else [*news, shared]

    def _anew(self, queue: Queue, *, other_tier: bool) -> Iterator[Limited]:
        """Say what is known, and what is not any more: that last, for none is to be without a limit between."""
        known = set()
        for tokens, source in self._limits.of(queue):
            known.add(source)
            yield Limited(queue, tokens, source, anew=other_tier and source == "table")
        yield from (Limited(queue, None, source) for source in _SOURCES if source not in known)

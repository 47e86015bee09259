"""An outcome that is kept until it is acked."""

from collections.abc import Callable
from typing import Any

from ..outcomes import Outcome


class Received(Outcome, frozen=True, kw_only=True):
    """Hold what came of a submission; a copy of it, as of another process, cannot be acked."""

    receipt: Callable[[], object]

    def ack(self) -> None:
        """Say that somebody has taken care of it, from any thread: it is not given again."""
        self.receipt()

    def __repr__(self) -> str:
        return repr(Outcome(*self._plain))

    def __reduce__(self) -> Any:
        return Outcome, self._plain

    @property
    def _plain(self) -> tuple[Any, ...]:
        return self.index, self.request, self.response, self.error, self.key, self.custom_id

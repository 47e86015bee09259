"""What all batches of an emulator share."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import anyio

from .account import Account
from .answers import Answering, Body, Whole, failure, whole
from .books import Notes
from .pace import Pace
from .store import Store
from .troubles import Luck
from .validation import Count, Validation

RefuseAt = Literal["validation", "creation"]


@dataclass
class Setting:
    """Hold what all batches share; `clock` gives the epoch's seconds, `scopes` what a cancellation cancels.

    `answer` and `billing_limit_reached` may be set from any thread.
    """

    account: Account
    store: Store
    notes: Notes
    pace: Pace
    answer: Answering
    concurrency: int
    clock: Callable[[], float]
    luck: Luck
    count: Count | None = None
    models: frozenset[str] | None = None
    most: int = 50_000
    seed: int = 0
    refuse_at: RefuseAt = "validation"
    billing_limit_reached: bool = False
    scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)

    def validation(self, endpoint: str) -> Validation:
        """Give the validation of a file of which nothing is read yet."""
        return Validation(endpoint, models=self.models, count=self.count, most=self.most)

    def wide(self) -> bool:
        """Tell whether answers are awaited, so that several may be under way at once."""
        call = getattr(self.answer, "__call__", None)  # noqa: B004 - the method itself is inspected
        return inspect.iscoroutinefunction(self.answer) or inspect.iscoroutinefunction(call)

    async def reply(self, endpoint: str, body: Body) -> Whole | None:
        """Ask for the answer to one request; None is that of a model that timed out."""
        try:
            given = self.answer(endpoint, body)
            return whole(await given if inspect.isawaitable(given) else given)
        except TimeoutError:
            return None
        except Exception as exc:  # noqa: BLE001 - whatever a user's answer raises is the failure of its row
            return failure(exc)

"""What strikes a world, counted."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from carpool.testing.faults import Dice
from carpool.testing.troubles import Luck, Mishap


@contextmanager
def counting(injected: Counter[str]) -> Iterator[None]:
    """Count by their kinds what strikes requests, rows and batches."""

    def spy(owner: type, method: str, kind: Callable[[Any, Any], str | None]) -> Any:
        real = getattr(owner, method)

        def spied(self: Any, *args: Any) -> Any:
            result = real(self, *args)
            if name := kind(self, result):
                injected[name] += 1
            return result

        return mock.patch.object(owner, method, spied)

    with ExitStack() as stack:
        stack.enter_context(spy(Dice, "roll", lambda _, result: result[0]))
        stack.enter_context(spy(Luck, "of_batch", lambda _, result: result[0]))
        for method in ("answer", "spoil"):
            stack.enter_context(spy(Mishap, method, lambda mishap, _: f"{mishap.kind} row"))
        yield

"""What stands between carpool and the world, so that a simulation can take its place."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class RunSync(Protocol):
    """Run a blocking function in a worker thread, as `anyio.to_thread.run_sync` does."""

    def __call__(self, func: Callable[..., Any], /, *args: object) -> Awaitable[Any]:
        """Run it."""
        ...

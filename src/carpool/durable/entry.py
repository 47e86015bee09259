"""What is being submitted, until it is recorded."""

from collections.abc import Callable
from contextvars import Context
from typing import Any

from ..errors import CarpoolError, ConfigurationError
from ..models import Encoded, Response
from ..options import Options
from ..resume import digest_of
from ..waiter import Settled


def checked_key(key: Any) -> str | None:
    """Give the key of a submission as text, or raise `ConfigurationError`; None where it has none."""
    text = str(key) if isinstance(key, int) and not isinstance(key, bool) else key
    if text is None or (isinstance(text, str) and text and _is_writable(text)):
        return text
    raise ConfigurationError(f"The key of a submission must be a text that is not empty; got {key!r}.")


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: no database takes it
        return False
    return True


class Entry:
    """Hold a request that is being submitted, and whoever waits for that; each gets the custom_id in a `Response`.

    It was made in `context`, where somebody wants to know.
    """

    __slots__ = ("call", "context", "digest", "key", "options", "until", "waiters")

    def __init__(
        self, call: Encoded, options: Options, key: str | None, waiter: Settled, context: Context | None = None
    ) -> None:
        self.call: Encoded = call
        self.options: Options = options
        self.key: str | None = key
        self.digest: bytes = b"" if key is None else digest_of(call.endpoint, call.body, None)
        self.context: Context | None = context
        self.until: float | None = None
        self.waiters: list[Settled] = [waiter]

    def join(self, other: "Entry") -> None:
        """Let those wait here who wait for the same to be submitted, or tell them that it is not the same."""
        if self.digest == other.digest:
            self.waiters += other.waiters
        else:
            other.refuse(other_request)

    def settle(self, custom_id: str) -> None:
        """Tell whoever waits that it is submitted."""
        receipt = Response(custom_id, "", "", 0, b"")
        for waiter in self._take():
            waiter.set_result(receipt)

    def refuse(self, error: Callable[["Entry"], CarpoolError]) -> None:
        """Tell whoever waits why it is not; each gets an error of its own."""
        for waiter in self._take():
            waiter.set_exception(error(self))

    def _take(self) -> list[Settled]:
        waiters, self.waiters = self.waiters, []
        return [waiter for waiter in waiters if not waiter.done()]


def other_request(entry: Entry) -> ConfigurationError:
    """Say that a key stands for another request."""
    return ConfigurationError(
        f"Another request was submitted under the key {entry.key!r}. Give this one a key of its own, or submit the "
        "same endpoint and body again."
    )


def copies(error: CarpoolError) -> Callable[[Entry], CarpoolError]:
    """Give everybody an error of their own: a shared one would gather the tracebacks of all."""
    return lambda _: type(error)(*error.args)

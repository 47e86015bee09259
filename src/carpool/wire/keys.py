"""The API key: asked for before each exchange, and again where it is refused, as a callable may give another."""

import logging
from inspect import isawaitable

import anyio

from ..account import Key
from ..models import CallFailed, Failure

log: logging.Logger = logging.getLogger("carpool.wire")

_PATIENCE = 60.0  # seconds for which a callable is asked for a key that is taken
_PAUSE, _PAUSE_MAX = 1.0, 8.0  # seconds: the first, and the longest between two tries


class Keys:
    """Ask for the key, which may be another each time where it comes from a callable."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._told = False
        self.may_change: bool = callable(key)

    async def ask(self) -> str:
        """Give the key of this moment; `CallFailed` when there is none that can be used."""
        try:
            given: object = self._key() if callable(self._key) else self._key
            key = await given if isawaitable(given) else given
        except Exception as exc:  # noqa: BLE001 - the user's own callable
            raise CallFailed(Failure("auth", f"The api_key callable raised {type(exc).__name__}.")) from None
        # An illegal header would be quoted in the error about it.
        if not isinstance(key, str) or not key.isascii() or not key.isprintable() or not key or " " in key:
            raise CallFailed(Failure("auth", "The API key is empty or holds blanks or characters that no key has."))
        return key

    def taken(self) -> None:
        """Note that the server took a key: should it refuse one again, that is told again."""
        self._told = False

    def tell(self, why: str) -> None:
        """Say what is waited for, where another key may come, and it was not said since the last was taken."""
        if self.may_change and not self._told:
            self._told = True
            log.warning("%s The api_key callable is asked for another for %.0f seconds.", why, _PATIENCE)


class Asking:
    """Ask for the key of one call, again and again where it is refused or cannot be had, until patience ends."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._until: float | None = None
        self._pause = _PAUSE

    async def key(self) -> str:
        """Give a key; `CallFailed` when there is none for so long."""
        while True:
            try:
                return await self._keys.ask()
            except CallFailed as exc:
                self._keys.tell(exc.failure.message)
                if not await self._rest():
                    raise

    async def renewed(self, refused: str) -> bool:
        """Wait until a call whose key was refused is worth another try; false where it is not any more.

        The first time another key is tried at once. The same may be taken a moment later: not all of a provider's
        servers know a new key at once.
        """
        if not self._keys.may_change:
            return False
        self._keys.tell("The API key was refused (401).")
        first = self._until is None
        self._until = self._until or anyio.current_time() + _PATIENCE
        return (first and await self.key() != refused) or await self._rest()

    async def _rest(self) -> bool:
        """Wait before the next try; false where patience is at its end, or nothing would change."""
        now = anyio.current_time()
        self._until = self._until or now + _PATIENCE
        if not self._keys.may_change or now >= self._until:
            return False
        await anyio.sleep(min(self._pause, self._until - now))
        self._pause = min(2 * self._pause, _PAUSE_MAX)
        return True

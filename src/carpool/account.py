"""Whose account it is: the key, the base URL and the names that go with them, as the official SDK finds them."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from .errors import ConfigurationError

Key: TypeAlias = str | Callable[[], str | Awaitable[str]]

_BASE_URL = "https://api.openai.com/v1"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
NAMES = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}


class Account(NamedTuple):
    """Hold where calls go and what they carry; the key is in no text that this makes of itself."""

    base_url: str
    key: Key
    headers: dict[str, str]

    @property
    def name(self) -> str:
        """Say whose batches are meant, as far as that can be told without the key."""
        return ", ".join((self.base_url, *(f"{header} {name}" for header, name in sorted(self.names.items()))))

    @property
    def marks(self) -> dict[str, str]:
        """Give all headers by their names in small letters."""
        return {header.lower(): value for header, value in self.headers.items()}

    @property
    def names(self) -> dict[str, str]:
        """Give the organisation and the project; other headers may hold secrets."""
        return {header: self.marks[header.lower()] for header in NAMES if header.lower() in self.marks}

    def __repr__(self) -> str:
        return f"<Account at {self.base_url}>"


def account_of(base_url: str, key: Key, headers: dict[str, str]) -> Account:
    """Take what a client was configured with; `ConfigurationError` for what cannot be used."""
    return Account(_checked_url(base_url), _checked_key(key), headers)


def check_same(ours: Account, theirs: Account, *, emulated: bool) -> None:
    """Raise `ConfigurationError`, naming both, where a client is of another account than the pool."""
    if ours.base_url != theirs.base_url or ours.names != theirs.names:
        raise ConfigurationError(
            f"The client is for {theirs.name}, and the pool for {ours.name}. Use one pool for each account."
        )
    # A key that comes from a callable is seen with each call, and compared there, if the pool's own does not.
    if ours.key != theirs.key and not emulated and not (isinstance(ours.key, str) and callable(theirs.key)):
        raise ConfigurationError(
            f"The client has another API key than the pool, both for {ours.name}. Use one pool for each account."
        )
    other = {name for name, _ in ours.marks.items() ^ theirs.marks.items()}
    if other:
        raise ConfigurationError(
            f"The client's default headers ({', '.join(sorted(other))}) are not the pool's, and may mean another "
            "account. Use carpool.batched(client), whose pool has them."
        )


def find_account(api_key: Key | None, base_url: str | None) -> Account:
    """Take what was given, else OPENAI_API_KEY and OPENAI_BASE_URL; `ConfigurationError` for what cannot be used."""
    url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or _BASE_URL)
    headers = {header: name for header, name in map(_header, NAMES) if name}
    # Last, and in no variable of this frame, whose values whoever shows a traceback may show.
    return Account(url, _checked_key(api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")), headers)


def _header(header: str) -> tuple[str, str]:
    variable = NAMES[header]
    name = os.environ.get(variable, "").strip()
    if not name.isascii() or not (name.isprintable() or not name):
        raise ConfigurationError(f"{variable} holds characters that no name has.")
    return header, name


def _checked_key(key: Any) -> Key:
    if callable(key):
        return key  # type: ignore[no-any-return]  # what it gives is checked when it is called
    if key is not None and not isinstance(key, str):
        raise ConfigurationError("The API key must be a str, or a callable that gives one.")
    if not key or not key.strip():
        raise ConfigurationError("No API key. Pass api_key=... or set OPENAI_API_KEY.")
    return key.strip()


def _checked_url(url: Any) -> str:
    if not isinstance(url, str):
        raise _unusable()
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        good = good and not parts.query and not parts.fragment
    except ValueError:  # such as half a bracket, or port 99999
        raise _unusable() from None
    if parts.username is not None:
        raise ConfigurationError("base_url must hold no user name or password: they would show in logs.")
    if not good:
        raise _unusable()
    # As clients write it: their calls are told by it.
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def is_in_clear(base_url: str) -> bool:
    """Tell whether what is sent there can be read on the way: it leaves this machine, and is not encrypted."""
    parts = urlsplit(base_url)
    return parts.scheme == "http" and parts.hostname not in LOOPBACK


def _unusable() -> ConfigurationError:
    return ConfigurationError("base_url must be an http or https address such as https://api.openai.com/v1.")

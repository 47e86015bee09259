"""Whose account it is: the key, the base URL and the names that go with them, as the official SDK finds them."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from .errors import ConfigurationError

Key: TypeAlias = str | Callable[[], str | Awaitable[str]]

_BASE_URL = "https://api.openai.com/v1"
_NAMES = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}


class Account(NamedTuple):
    """Hold where calls go and what they carry; the key is in no text that this makes of itself."""

    base_url: str
    key: Key
    headers: dict[str, str]

    @property
    def name(self) -> str:
        """Say whose batches are meant, as far as that can be told without the key."""
        return ", ".join((self.base_url, *(f"{header} {name}" for header, name in sorted(self.headers.items()))))

    def __repr__(self) -> str:
        return f"<Account at {self.base_url}>"


def find_account(api_key: Key | None, base_url: str | None) -> Account:
    """Take what was given, else OPENAI_API_KEY and OPENAI_BASE_URL; `ConfigurationError` for what cannot be used."""
    key = _checked_key(api_key if api_key is not None else os.environ.get("OPENAI_API_KEY"))
    url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or _BASE_URL)
    return Account(url, key, {header: name for header, name in map(_header, _NAMES) if name})


def _header(header: str) -> tuple[str, str]:
    variable = _NAMES[header]
    name = os.environ.get(variable, "").strip()
    if not name.isascii() or not (name.isprintable() or not name):
        raise ConfigurationError(f"{variable} holds characters that no name has.")
    return header, name


def _checked_key(key: Any) -> Key:
    if callable(key):
        return key  # type: ignore[no-any-return]  # what it gives is checked when it is called
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("No API key. Pass api_key=... or set OPENAI_API_KEY.")
    return key.strip()


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # such as half a bracket, or port 99999
        raise _unusable() from None
    if parts.username is not None:
        raise ConfigurationError("base_url must hold no user name or password: they would show in logs.")
    if not good:
        raise _unusable()
    return url.rstrip("/")


def _unusable() -> ConfigurationError:
    return ConfigurationError("base_url must be an http or https address such as https://api.openai.com/v1.")

"""Prices of the user's own, from a file."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigurationError
from ..prices import Prices
from .ending import ended

_UNREADABLE = (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_prices(path: Path | None) -> dict[str, Any] | None:
    """Read prices as `Pool(prices=...)` takes them, from TOML or JSON; otherwise end the command."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
        own: Any = tomllib.loads(content.decode()) if path.suffix == ".toml" else msgspec.json.decode(content)
        Prices(own)  # looks at them
    except OSError as exc:
        raise ended(2, f"{path} cannot be read: {exc.strerror}") from None
    except _UNREADABLE as exc:
        raise ended(2, f"{path} cannot be read: {exc}") from None
    except ConfigurationError as exc:
        raise ended(2, f"{path}: {exc}") from None
    return own  # type: ignore[no-any-return]  # Prices has looked

"""Options that several commands have."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from .ending import ended

_YEAR = 8_760.0  # hours

BaseUrl: TypeAlias = Annotated[
    str | None, typer.Option(metavar="URL", help="OpenAI's own without it.", envvar="OPENAI_BASE_URL")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON.")]
PricesFile: TypeAlias = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE", help="Prices of yours, JSON or TOML, as in Pool(prices=...).")
]
EnqueuedTokens: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="MODEL=N", help="Tokens that may be enqueued; * is all other models. Repeatable."),
]


def check_hours(since: float | None) -> None:
    """Look at what `--since` was given, None for nothing; otherwise end the command."""
    if since is not None and not 0 < since <= _YEAR:
        raise ended(2, f"--since is a number of hours above 0, at most {_YEAR:,.0f}, not {since:g}")


def read_limits(texts: Iterable[str] | None) -> dict[str, int]:
    """Read what `--limit` was given; otherwise end the command."""
    return dict(map(_read_limit, texts or ()))


def _read_limit(text: str) -> tuple[str, int]:
    model, _, tokens = text.rpartition("=")
    number = tokens.replace("_", "").replace(",", "")
    if not (model and number.isascii() and number.isdecimal() and len(number) < 19):
        raise ended(2, f"--limit is MODEL=N, such as gpt-4o=90000, not {text!r}")
    return model, int(number)

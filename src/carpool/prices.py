"""What tokens cost, live and in a batch: the dated table in `prices.toml`, and the user's own prices on top of it."""

import sys
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from .errors import ConfigurationError
from .limits import family_of, undated
from .models import Usage

BATCH = 0.5  # of the live price: what a batch costs, for every model that has batches (contracts A8)
_MILLION = 1_000_000
_KEYS = frozenset({"input", "cached", "output", "batch"})


class Price(NamedTuple):
    """Price a token in USD: live, and `batch`, the share of that which it costs in a batch."""

    input: float
    cached: float
    output: float
    batch: float = BATCH

    def of(self, usage: Usage, *, live: bool = False) -> float:
        """Give what tokens cost, in USD."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        cost = (usage.input_tokens - cached) * self.input + cached * self.cached + usage.output_tokens * self.output
        return cost if live else cost * self.batch


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: float
    output: float = 0.0
    cached: float | None = None


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    as_of: date
    source: str
    prices: dict[str, _Row]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    table: tuple[_Table, ...]


@cache
def table() -> dict[str, Price]:
    """Give the newest published price of each family."""
    text = resources.files("carpool").joinpath("prices.toml").read_text("utf-8")
    tables = msgspec.convert(tomllib.loads(text), _File).table
    return {
        family: _price(row.input / BATCH, row.output / BATCH, None if row.cached is None else row.cached / BATCH)
        for each in sorted(tables, key=lambda each: each.as_of)
        for family, row in each.prices.items()
    }


def _price(input_: float, output: float, cached: float | None, batch: float = BATCH) -> Price:
    """Make a price of live prices in USD per million tokens."""
    return Price(input_ / _MILLION, (input_ if cached is None else cached) / _MILLION, output / _MILLION, batch)


class Prices:
    """Know what models cost: as the user's setting `prices` says, else as is published.

    `own` holds live prices in USD per million tokens by model, family, or "*" for those of which nothing is known:
    `input`, and if need be `output`, `cached` (that of `input`) and `batch` (the share that a batch costs, 0.5).
    Raises `ConfigurationError` for anything else.
    """

    def __init__(self, own: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._own = _checked(own)
        self._found: dict[str, Price | None] = {}

    def of(self, model: str) -> Price | None:
        """Look up a model's price: the user's by its name or family, the published one, or the user's "*"."""
        if model not in self._found:
            self._found[model] = self._find(model)
        return self._found[model]

    def _find(self, model: str) -> Price | None:
        names = (model, _family(model))
        known = ((prices, name) for prices in (self._own, table()) for name in names)
        return next((prices[name] for prices, name in known if name in prices), self._own.get("*"))


def _family(model: str) -> str:
    """Name a model less the day of a snapshot; what is added to a name otherwise makes another model."""
    return family_of(model) or undated(model)


# --- the setting `prices` ------------------------------------------------------------------------------------------


def _checked(own: Mapping[str, Mapping[str, float]] | None) -> dict[str, Price]:
    if own is None:
        return {}
    if not isinstance(own, Mapping):
        raise ConfigurationError(
            'prices must be a mapping such as {"gpt-4o": {"input": 2.5, "output": 10}}, live and in USD per million '
            f"tokens; got {own!r}"
        )
    for name in own:
        if not isinstance(name, str):
            raise ConfigurationError(f'prices must be named by models, families or "*"; got {name!r}')
    return {name: _checked_price(name, price) for name, price in own.items()}


def _checked_price(name: str, price: Any) -> Price:
    if not isinstance(price, Mapping) or "input" not in price or not price.keys() <= _KEYS:
        raise ConfigurationError(
            f"prices[{name!r}] must hold input, and may hold output and cached, all live and in USD per million "
            f"tokens, and batch, the share that a batch costs; got {price!r}"
        )
    for key, number in price.items():
        _check_number(f"prices[{name!r}][{key!r}]", number, most=1 if key == "batch" else sys.float_info.max)
    return _price(price["input"], price.get("output", 0), price.get("cached"), price.get("batch", BATCH))


def _check_number(where: str, number: Any, most: float) -> None:
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= most:
        wanted = "a share from 0 to 1" if most == 1 else "an amount in USD, 0 or more"
        raise ConfigurationError(f"{where} must be {wanted}; got {number!r}")

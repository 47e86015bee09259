"""Whether a strict schema is small enough for the API, which refuses each request with one that is not.

The numbers are those of OpenAI's guide on structured outputs (developers.openai.com, "Objects have limitations on
nesting depth and size"). What is counted is what is written: a definition once, however often it is referred to.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .errors import ConfigurationError

PROPERTIES = 5_000
_LEVELS = 10
_VALUES = 1_000
_CHARACTERS = 120_000
_MANY, _CHARACTERS_OF_MANY = 250, 15_000  # of one enum


def check_size(schema: Mapping[str, Any], name: str) -> None:
    """Raise `ConfigurationError` for a schema that the API would not take."""
    for what, count, most in _measured(schema):
        if count > most:
            raise too_large(name, f"{count:,} {what}; the API takes {most:,}")


def too_large(name: str, how: str) -> ConfigurationError:
    """Say that a schema is too large, and how large."""
    return ConfigurationError(
        f"{name} is too large: {how}. Ask for less at a time, or put your own schema into the body."
    )


def _measured(schema: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Give what is counted, how much of it there is, and how much there may be."""
    definitions = schema.get("$defs", {})
    parts = [part for root in (schema, *definitions.values()) for part in _parts(root, 0)]
    names = [name for part, _ in parts for name in part.get("properties", ())]
    enums = [part["enum"] for part, _ in parts if "enum" in part]
    constants = [part["const"] for part, _ in parts if "const" in part]
    yield "properties", len(names), PROPERTIES
    yield "levels of objects", max(level for _, level in parts), _LEVELS
    yield "values of enums", sum(map(len, enums)), _VALUES
    of_many = (_characters(enum) for enum in enums if len(enum) > _MANY)
    yield "characters in one enum", max(of_many, default=0), _CHARACTERS_OF_MANY
    texts = [*names, *definitions, *constants, *(value for enum in enums for value in enum)]
    yield "characters of names and values", _characters(texts), _CHARACTERS


def _parts(node: Mapping[str, Any], level: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Give a schema and all within it, each with the number of objects around it, itself among them."""
    level += "properties" in node
    yield node, level
    for part in (*node.get("properties", {}).values(), *node.get("anyOf", ())):
        yield from _parts(part, level)
    if "items" in node:
        yield from _parts(node["items"], level)


def _characters(values: list[Any]) -> int:
    return sum(len(value) for value in values if isinstance(value, str))

"""The strict JSON schema of a type, as structured outputs take it.

Strict means: every object lists its properties, requires all of them and allows no others; the root is an object; and
no keyword stands in it that the API does not take: it refuses the whole request for one that it does not know
(openai-python issue 2274 for `examples`, instructor issue 1074 for `default`, openai-agents-python pull request 4756
for `prefixItems`, pydantic-ai issue 5508 for look-arounds in a `pattern`).
"""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from .errors import ConfigurationError
from .schema_sizes import PROPERTIES, check_size, too_large

Node = Mapping[str, Any]

_KEPT = frozenset(
    {
        "title", "description", "type", "enum", "const", "pattern", "format",
        "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
    }
)  # fmt: skip
# What is not among these is told in the description instead, and checked when the answer is read.
_TOLD = ("format", "minLength", "maxLength", "uniqueItems", "examples")
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_REFUSED = {
    "prefixItems": "a tuple of fixed length; use an object with a field for each place",
    "contentEncoding": "bytes; use str",
    "patternProperties": "a mapping of free keys; use a list of objects with a key and a value",
    "allOf": "an intersection; write one type that has all fields",
    "not": "a negation; write the type that is wanted",
    "if": "a condition; write a union of types",
}
_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_REF = "#/$defs/"
# What libraries raise for a type that they cannot express, or that names what is not there.
UNFIT = (TypeError, ValueError, NameError, AttributeError, RuntimeError)


class Output(NamedTuple):
    """Name a type and hold its strict schema."""

    name: str
    schema: dict[str, Any]


def output_of(output: Any) -> Output:
    """Give the name and the strict schema of a type; `ConfigurationError` where there is none."""
    name = name_of(output)
    return Output(name, strict(_schema_of(output, name), name))


def name_of(output: Any) -> str:
    """Name a type as the API allows: letters, digits, "_" and "-", at most 64."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", getattr(output, "__name__", "output")).strip("_")[:64] or "output"


def is_model(output: Any) -> bool:
    """Tell a model of pydantic's, without importing it."""
    return isinstance(output, type) and hasattr(output, "model_json_schema")


def is_pydantic_dataclass(output: Any) -> bool:
    """Tell a dataclass of pydantic's, without importing it."""
    return isinstance(output, type) and hasattr(output, "__pydantic_validator__") and not is_model(output)


def adapter_of(output: Any) -> Any:
    """Give pydantic's adapter of a type, None where it has none; whoever has types of pydantic's has imported it."""
    pydantic = sys.modules.get("pydantic")
    try:
        return pydantic and pydantic.TypeAdapter(output)
    except UNFIT:
        return None


def _schema_of(output: Any, name: str) -> Node:
    try:
        schema: Node = _made(output)
    except UNFIT as exc:
        raise unfit(f"{name} has no JSON schema", exc) from exc
    return schema


def unfit(what: str, exc: Exception) -> ConfigurationError:
    """Say of a type that a library can do nothing with it."""
    why = str(exc).partition("\n")[0].strip()
    return ConfigurationError(
        f"{what}: {why.rstrip('.:'):.200}. Use a pydantic model, a msgspec Struct or a dataclass."
    )


def _made(output: Any) -> Any:
    if is_model(output):
        return output.model_json_schema()
    if is_pydantic_dataclass(output):
        return adapter_of(output).json_schema()
    try:
        return msgspec.json.schema(output)
    except UNFIT:  # a list of models, and the like
        adapter = adapter_of(output)
        if adapter is None:
            raise
        return adapter.json_schema()


def strict(schema: Node, name: str) -> dict[str, Any]:
    """Make a schema strict; `ConfigurationError`, with the field, for what strict schemas cannot say."""
    definitions = schema.get("$defs", {})
    walk = _Walk(definitions)
    root = {key: value for key, value in schema.items() if key != "$defs"}
    while "$ref" in root:  # the root must be an object itself
        root = {**definitions[walk.target(root, name)], **{key: value for key, value in root.items() if key != "$ref"}}
    made = walk.strict(root, name)
    if made.get("type") != "object":
        raise ConfigurationError(f"{name} is no object, as an output must be. Put it into a field of another type.")
    used = walk.definitions()
    made = {**made, "$defs": used} if used else made
    check_size(made, name)
    return made


class _Walk:
    """Make the parts of one schema strict, and note which definitions they refer to."""

    def __init__(self, definitions: Node) -> None:
        self._definitions = definitions
        self._used: dict[str, dict[str, Any]] = {}
        self._copies = 0

    def definitions(self) -> dict[str, dict[str, Any]]:
        """Give the definitions that are referred to, strict; the others would only cost tokens."""
        return {name: self._used[name] for name in self._definitions if name in self._used}

    def strict(self, node: Node, path: str, within: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Make one part strict; `within` are the definitions whose content it was copied out of."""
        node = _told(_merged(node))
        refused = next((what for keyword, what in _REFUSED.items() if keyword in node), None)
        if refused is not None:
            raise _inexpressible(path, refused)
        if "$ref" in node:
            return self._referring(node, path, within)
        made = {key: value for key, value in node.items() if key in _KEPT}
        if "anyOf" in node:
            made["anyOf"] = [self.strict(choice, path, within) for choice in node["anyOf"]]
            return made
        if "type" not in made:
            made["type"] = _type_of(made, path)
        kinds = made["type"]  # one, or several
        if "object" in kinds:
            made |= self._object(node, path, within)
        if "array" in kinds:
            items = node.get("items")
            made["items"] = self.strict(items if isinstance(items, Mapping) else {}, f"{path}[]", within)
        return made

    def target(self, node: Node, path: str) -> str:
        """Name the definition that a part refers to."""
        name = str(node["$ref"]).removeprefix(_REF)
        if name not in self._definitions or node["$ref"] != _REF + name:
            raise _inexpressible(path, f"a reference to {node['$ref']!s:.100}, which is not among its definitions")
        return name

    def _referring(self, node: Node, path: str, within: frozenset[str]) -> dict[str, Any]:
        # Nothing may stand beside a $ref. So its target is copied, unless it would be copied into itself for ever.
        name = self.target(node, path)
        beside = {key: value for key, value in node.items() if key in _KEPT}
        if beside and name not in within:
            self._copies += 1
            if self._copies > PROPERTIES:  # copies of copies, which would not come to an end
                raise too_large(path, f"more than {PROPERTIES:,} properties")
            return self.strict({**self._definitions[name], **beside}, path, within | {name})
        if name not in self._used:
            self._used[name] = {}  # it may refer to itself
            self._used[name] = self.strict(self._definitions[name], path)
        return {"$ref": node["$ref"]}

    def _object(self, node: Node, path: str, within: frozenset[str]) -> dict[str, Any]:
        if "properties" not in node:
            raise _inexpressible(path, _REFUSED["patternProperties"])
        fields = node["properties"]
        return {
            "properties": {name: self.strict(field, f"{path}.{name}", within) for name, field in fields.items()},
            "required": list(fields),
            "additionalProperties": False,
        }


def _merged(node: Node) -> Node:
    """Say the same with `anyOf` alone: `oneOf` is that with a stricter check, `allOf` of one part is that part."""
    if "oneOf" in node:
        node = {"anyOf": node["oneOf"], **{key: value for key, value in node.items() if key != "oneOf"}}
    if len(node.get("allOf", ())) == 1:
        node = {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
    return node


def _told(node: Node) -> Node:
    """Move what has no keyword into the description."""
    lost = {key: node[key] for key in _TOLD if key in node and not (key == "format" and node[key] in _FORMATS)}
    if _LOOK_AROUND.search(str(node.get("pattern", ""))):
        node = {key: value for key, value in node.items() if key != "pattern"}
    if not lost:
        return node
    words = ", ".join(f"{key}: {msgspec.json.encode(value).decode()}" for key, value in lost.items())
    rest = {key: value for key, value in node.items() if key not in lost}
    return {**rest, "description": f"{node.get('description', '')} ({words})".strip()}


def _type_of(made: Node, path: str) -> str | list[str]:
    """Name the types of the values that are allowed, where only these are given."""
    values: Iterator[Any] = iter(made.get("enum", [made["const"]] if "const" in made else []))
    names = list(dict.fromkeys(_NAMES[type(value)] for value in values if type(value) in _NAMES))
    if not names:
        raise _inexpressible(path, "anything; name a type")
    return names[0] if len(names) == 1 else names


def _inexpressible(path: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"No strict schema can say what {path} is: {what}. Or put your own schema into the body.")

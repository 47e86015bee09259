"""Types go into bodies as strict schemas, and come back as validated objects."""

import dataclasses
import datetime
import decimal
import enum
import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, Optional, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib._parsing._completions import type_to_response_format_param
from openai.lib._parsing._responses import type_to_text_format_param
from openai.lib._pydantic import to_strict_json_schema

from carpool import ConfigurationError, Pool, Request, Response, Timing, Unbatchable
from carpool.errors import OutputInvalid
from carpool.formats import body_of, with_output
from carpool.schemas import output_of, strict
from carpool.testing import Emulator

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(pydantic.BaseModel):
    """Where somebody lives."""

    street: str
    number: int


class Flat(pydantic.BaseModel):
    name: str
    age: int
    height: float
    alive: bool


class Nested(pydantic.BaseModel):
    address: Address
    others: list[Address]


class WithOptional(pydantic.BaseModel):
    nick: str | None = None
    address: Address | None = None
    required: Optional[int]  # noqa: UP045 - as people write it


class WithEnum(pydantic.BaseModel):
    colour: Colour
    colours: list[Colour]


class WithLiteral(pydantic.BaseModel):
    size: Literal["small", "large"]
    one: Literal[1]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class WithUnion(pydantic.BaseModel):
    pet: Cat | Dog
    price: int | float | None


class Tree(pydantic.BaseModel):
    value: int
    children: list["Tree"]


class Chain(pydantic.BaseModel):
    next: Optional["Chain"] = pydantic.Field(description="What comes after.")


class WithFields(pydantic.BaseModel):
    """Describe a thing."""

    score: int = pydantic.Field(ge=0, le=10, description="From bad to good.")
    share: float = pydantic.Field(gt=0, lt=1, multiple_of=0.25)
    code: str = pydantic.Field(pattern="^[A-Z]{3}$", title="The code")
    parts: list[str] = pydantic.Field(min_length=1, max_length=3)


class WithDescribedParts(pydantic.BaseModel):
    home: Address = pydantic.Field(description="At night.")
    work: Annotated[Address, pydantic.Field(title="By day")]
    either: Address


class WithAlias(pydantic.BaseModel):
    kind: str = pydantic.Field(alias="type")
    title: str
    properties: list[str]
    default: int


class WithTimes(pydantic.BaseModel):
    at: datetime.datetime
    on: datetime.date
    took: datetime.timedelta


class Inherited(Flat):
    address: Address


class Empty(pydantic.BaseModel):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    rows: list[T]
    next: str | None


@pydantic.dataclasses.dataclass
class PydanticPoint:
    x: int
    y: int


MODELS = [
    Flat, Nested, WithOptional, WithEnum, WithLiteral, WithUnion, Tree, Chain, WithFields, WithDescribedParts,
    WithAlias, WithTimes, Inherited, Empty,
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_schemas_are_those_of_the_official_sdk(model: type[pydantic.BaseModel]) -> None:
    made = output_of(model).schema
    assert used(made) == used(to_strict_json_schema(model))
    assert_strict(made)


@pytest.mark.parametrize("model", [Nested, PydanticPoint])
def test_whole_formats_are_those_of_the_official_sdk(model: type) -> None:
    chat = json.loads(with_output(CHAT, {"model": "m"}, model))
    assert chat == {"model": "m", "response_format": type_to_response_format_param(model)}
    response = json.loads(with_output(RESPONSES, {"model": "m"}, model))
    assert response == {"model": "m", "text": {"format": type_to_text_format_param(model)}}


def used(schema: dict[str, Any]) -> dict[str, Any]:
    """Leave out the definitions that nothing refers to, which the SDK sends along."""
    text = json.dumps(schema)
    kept = {name: one for name, one in schema.get("$defs", {}).items() if f'"#/$defs/{name}"' in text}
    return {**{key: value for key, value in schema.items() if key != "$defs"}, **({"$defs": kept} if kept else {})}


def parts_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for one in [*schema.get("$defs", {}).values(), *schema.get("properties", {}).values(), *schema.get("anyOf", [])]:
        yield from parts_of(one)
    if "items" in schema:
        yield from parts_of(schema["items"])


ALLOWED = {
    "title", "description", "type", "enum", "const", "pattern", "format", "multipleOf", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "anyOf", "items", "properties", "required",
    "additionalProperties", "$ref", "$defs",
}  # fmt: skip


def assert_strict(schema: dict[str, Any]) -> None:
    """Check the rules that the API checks."""
    assert schema["type"] == "object"
    for part in parts_of(schema):
        assert part.keys() <= ALLOWED
        if "$ref" in part:
            assert part.keys() == {"$ref"}
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        else:
            assert "type" in part or "anyOf" in part
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])
        assert ("items" in part) == (part.get("type") == "array")


# --- where the API would refuse what the SDK sends


class Awkward(pydantic.BaseModel):
    price: decimal.Decimal
    word: str = pydantic.Field(json_schema_extra={"pattern": "^(?!no)"})
    site: pydantic.HttpUrl
    name: str = pydantic.Field("x", min_length=2, examples=["Ann", "Bob"], description="First name")
    count: int = 5
    tags: set[str]
    pet: Cat | Dog = pydantic.Field(discriminator="kind")
    colour: Colour = Colour.RED
    mixed: Literal["a", 1, None]  # noqa: PYI061 - a JSON schema of its own

    model_config = pydantic.ConfigDict(extra="allow", json_schema_extra={"examples": [{}]})


def test_what_the_api_refuses_is_left_out_and_told() -> None:
    made = output_of(Awkward).schema
    assert_strict(made)
    fields = made["properties"]
    assert fields["name"]["description"] == 'First name (minLength: 2, examples: ["Ann","Bob"])'
    assert fields["site"]["description"] == '(format: "uri", minLength: 1, maxLength: 2083)'
    assert fields["tags"] == {
        "title": "Tags",
        "type": "array",
        "items": {"type": "string"},
        "description": "(uniqueItems: true)",
    }
    assert [choice["type"] for choice in fields["price"]["anyOf"]] == ["number", "string"]
    assert fields["word"] == {"type": "string", "title": "Word"}
    assert fields["pet"]["anyOf"] == [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
    assert fields["colour"] == {"$ref": "#/$defs/Colour"}
    assert fields["mixed"]["type"] == ["string", "integer", "null"]


def test_an_intersection_of_one_is_that_one() -> None:
    address = {"type": "object", "properties": {"street": {"type": "string"}}}
    field = {"allOf": [{"$ref": "#/$defs/Address"}], "description": "At night."}
    made = strict({"type": "object", "properties": {"home": field}, "$defs": {"Address": address}}, "Person")
    assert_strict(made)
    assert made["properties"]["home"]["description"] == "At night."
    with pytest.raises(ConfigurationError, match="Person is: an intersection"):
        strict({"allOf": [address, address]}, "Person")


class Described(pydantic.BaseModel):
    parts: list[Annotated["Described", pydantic.Field(description="A part of it.")]]


def test_a_description_beside_a_type_within_itself_does_not_go_on_for_ever() -> None:
    made = output_of(Described).schema
    assert_strict(made)
    assert made["properties"]["parts"]["items"]["description"] == "A part of it."


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (dict[str, int], "Holder.field is: a mapping of free keys"),
        (list[dict[str, int]], r"Holder.field\[\] is: a mapping of free keys"),
        (Any, "Holder.field is: anything"),
        (list[Any], r"Holder.field\[\] is: anything"),
        (tuple[int, str], "Holder.field is: a tuple of fixed length"),
    ],
)
def test_what_no_strict_schema_can_say_is_refused_with_the_field(field: Any, said: str) -> None:
    model = pydantic.create_model("Holder", field=(field, ...))
    for holder in (model, msgspec.defstruct("Holder", [("field", field)])):
        with pytest.raises(ConfigurationError, match=said):
            output_of(holder)


@pytest.mark.parametrize("target", ["#/definitions/Cat", "https://example.com/cat.json", "#/$defs/Bird"])
def test_a_reference_to_elsewhere_is_refused(target: str) -> None:
    cat = {"type": "object", "properties": {"lives": {"type": "integer"}}}
    for schema in ({"type": "object", "properties": {"pet": {"$ref": target}}}, {"$ref": target}):
        with pytest.raises(ConfigurationError, match="is: a reference to"):
            strict({**schema, "$defs": {"Cat": cat}}, "Person")


def test_an_object_that_may_be_null_keeps_its_properties() -> None:
    address = {"type": ["object", "null"], "properties": {"streets": {"type": ["array", "null"], "items": {}}}}
    with pytest.raises(ConfigurationError, match=r"Person.home.streets\[\] is: anything"):
        strict({"type": "object", "properties": {"home": address}}, "Person")
    address["properties"]["streets"]["items"] = {"type": "string"}  # type: ignore[index]
    made = strict({"type": "object", "properties": {"home": address}}, "Person")["properties"]["home"]
    assert made == {**address, "required": ["streets"], "additionalProperties": False}
    with pytest.raises(ConfigurationError, match=r"Person\.home is: a mapping of free keys"):
        strict({"type": "object", "properties": {"home": {"type": ["object", "null"]}}}, "Person")


# --- how large they may be


def fields_of(count: int, field: Any = int) -> Any:
    fields: dict[str, Any] = {f"f{number}": (field, ...) for number in range(count)}
    return pydantic.create_model("Wide", **fields)


def levels_of(count: int) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "string"}
    for _ in range(count):
        node = {"type": "object", "properties": {"parts": {"type": "array", "items": node}}}
    return node


def values_of(count: int, size: int = 3) -> Any:
    return Literal[*(f"{number:0{size}}" for number in range(count))]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (lambda more: output_of(fields_of(5_000 + more)).schema, "5,001 properties; the API takes 5,000"),
        (lambda more: strict(levels_of(10 + more), "Deep"), "11 levels of objects; the API takes 10"),
        (lambda more: output_of(fields_of(4, values_of(250))).schema, ""),
        (lambda more: output_of(fields_of(1, values_of(1_000 + more))).schema, "1,001 values of enums; the API takes"),
        (lambda more: output_of(fields_of(1, values_of(300, 50 + more))).schema, "15,300 characters in one enum"),
        (lambda more: output_of(fields_of(1, values_of(250, 470 + 10 * more))).schema, "120,002 characters of names"),
    ],
)
def test_what_is_larger_than_the_api_takes_is_refused_before_it_is_sent(schema: Any, said: str) -> None:
    assert_strict(schema(0))
    if said:
        with pytest.raises(ConfigurationError, match=f"is too large: {said}"):
            schema(1)


def test_copies_of_what_is_described_come_to_an_end() -> None:
    part: Any = int
    for number in range(30):  # each is copied twice into the next
        described: dict[str, Any] = {name: (part, pydantic.Field(description=name)) for name in ("a", "b")}
        part = pydantic.create_model(f"Part{number}", **described)
    with pytest.raises(ConfigurationError, match="is too large: more than 5,000 properties"):
        output_of(part)


# --- types without pydantic


class Inner(msgspec.Struct):
    a: int


class Tagged(msgspec.Struct, tag=True):
    x: int


class OtherTagged(msgspec.Struct, tag=True):
    y: str


class Struct(msgspec.Struct, rename="camel"):
    """A struct."""

    inner_one: Inner
    score: Annotated[int, msgspec.Meta(ge=0, le=9, description="How good.")]
    either: Tagged | OtherTagged
    again: Optional["Struct"] = None
    kind: Literal["x", "y"] = "x"
    colour: Colour = Colour.RED


@dataclasses.dataclass
class Leaf:
    name: str


@dataclasses.dataclass
class Branch:
    leaves: list[Leaf]
    weight: float | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


class Typed(TypedDict):
    name: str
    leaves: list[Leaf]


class GenericStruct(msgspec.Struct, Generic[T]):
    rows: list[T]


@pytest.mark.parametrize("output", [Struct, Branch, Typed, GenericStruct[Leaf]])
def test_schemas_of_plain_types_are_strict(output: type) -> None:
    assert_strict(output_of(output).schema)


def test_a_dataclass_says_all_it_has() -> None:
    assert output_of(Branch).schema == {
        "title": "Branch",
        "type": "object",
        "properties": {
            "leaves": {"type": "array", "items": {"$ref": "#/$defs/Leaf"}},
            "weight": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["leaves", "weight", "tags"],
        "additionalProperties": False,
        "$defs": {
            "Leaf": {
                "title": "Leaf",
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
                "additionalProperties": False,
            }
        },
    }


def test_a_struct_keeps_names_numbers_and_tags() -> None:
    fields = output_of(Struct).schema["properties"]
    assert list(fields) == ["innerOne", "score", "either", "again", "kind", "colour"]
    assert fields["score"] == {"type": "integer", "minimum": 0, "maximum": 9, "description": "How good."}
    assert fields["kind"] == {"enum": ["x", "y"], "type": "string"}
    tag = output_of(Struct).schema["$defs"]["Tagged"]["properties"]["type"]
    assert tag == {"enum": ["Tagged"], "type": "string"}


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (list[int], "is no object"),
        (int, "is no object"),
        (Cat | Dog, "is no object"),
        (pydantic.RootModel[list[int]], "is no object"),
        (Colour, "is no object"),
        (dict, "a mapping of free keys"),
        (object(), "has no JSON schema"),
        (
            pydantic.create_model(
                "Odd", f=(pydantic.SkipValidation[Emulator], ...), __config__={"arbitrary_types_allowed": True}
            ),
            "has no JSON schema",
        ),
        ([], "must be a type"),
    ],
)
def test_what_is_no_object_is_refused(output: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        with_output(CHAT, {"model": "m"}, output)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (Page[Address], "Page_Address"),
        (GenericStruct[Leaf], "GenericStruct"),
        (pydantic.create_model("Résumé", a=(int, ...)), "R_sum"),
        (pydantic.create_model("N" * 100, a=(int, ...)), "N" * 64),
        (pydantic.create_model("日本", a=(int, ...)), "output"),
    ],
)
def test_names_are_such_as_the_api_allows(output: Any, name: str) -> None:
    assert output_of(output).name == name


# --- bodies


@pytest.mark.parametrize("make", [dict, json.dumps, lambda body: json.dumps(body, indent=1).encode()])
def test_the_schema_goes_into_bodies_of_any_kind(make: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "ä\u2028"}], "big": 2**70, "temperature": 0.10}
    given = make(body)
    made = json.loads(with_output(CHAT, given, Flat))
    assert given == make(body)
    assert list(made) == [*body, "response_format"]
    assert made | {"response_format": None} == body | {"response_format": None}
    assert made["response_format"]["json_schema"]["name"] == "Flat"


def test_a_request_says_whether_there_is_a_schema() -> None:
    body = {"model": "m"}
    assert body_of(Request(CHAT, body)) is body
    assert body_of(Request(CHAT, body, output=Flat)) == with_output(CHAT, body, Flat)


@pytest.mark.parametrize("text", [{}, {"text": None}, {"text": {"verbosity": "low"}}, {"text": {"format": None}}])
def test_other_settings_of_the_text_stay(text: dict[str, Any]) -> None:
    made = json.loads(with_output(RESPONSES, {"model": "m", **text}, Flat))
    assert made["text"].pop("format")["schema"] == output_of(Flat).schema
    assert made["text"] == {key: value for key, value in (text.get("text") or {}).items() if value is not None}


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
        (RESPONSES, {"text": {"format": {"type": "text"}}}, "text.format"),
        (RESPONSES, '{"text": "short"}', "text"),
    ],
)
def test_a_body_that_asks_for_another_output_is_refused(endpoint: str, body: Any, param: str) -> None:
    with pytest.raises(Unbatchable) as caught:
        with_output(endpoint, body, Flat)
    assert caught.value.param == param


def test_endpoints_without_schemas_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="/v1/embeddings"):
        with_output("/v1/embeddings", {"model": "m"}, Flat)


@pytest.mark.anyio
@pytest.mark.parametrize("body", ["{", "[1]", b"\xff", {"a": float("nan")}, {"a": object()}])
async def test_a_body_that_is_no_object_is_refused_as_ever(body: Any) -> None:
    with Emulator() as emulator:
        async with Pool("any", emulator.url) as pool:
            ever, now = await pool.gather(
                [Request(CHAT, body), Request(CHAT, body, output=Flat)], return_exceptions=True
            )
    assert isinstance(now, Unbatchable)
    assert str(now) == str(ever)


# --- answers


def chat(content: Any = None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def responses(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"object": "response", "status": "completed", "output": list(output), **more}


def message(*texts: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts], **more}


def answer(body: Any) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response("p-1", "batch_1", "req_1", 200, content)


LEAF = '{"name":"oak"}'
THINKING = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []}
SHAPES = [
    chat(LEAF, refusal=None),
    {"choices": [{"text": LEAF, "finish_reason": "stop"}]},
    responses(message(LEAF)),
    responses(THINKING, message(LEAF)),
    responses(message('{"name":', '"oak"}')),
    responses(message("Let me think.", phase="commentary"), message(LEAF, phase="final_answer")),
    responses(message(LEAF), message("Anything else?")),
]


@pytest.mark.parametrize("body", SHAPES)
def test_answers_of_all_shapes_become_objects(body: dict[str, Any]) -> None:
    assert answer(body).parse(Leaf) == Leaf("oak")
    assert answer(body).parse(dict[str, str]) == {"name": "oak"}


def test_objects_of_all_kinds_are_read() -> None:
    tree = Tree(value=1, children=[Tree(value=2, children=[])])
    assert answer(chat(tree.model_dump_json())).parse(Tree) == tree
    aliased = WithAlias(type="a", title="b", properties=["c"], default=1)
    assert answer(chat(aliased.model_dump_json(by_alias=True))).parse(WithAlias) == aliased
    assert answer(chat('{"x":1,"y":2}')).parse(PydanticPoint) == PydanticPoint(1, 2)
    struct = Struct(Inner(1), 3, OtherTagged("z"), Struct(Inner(2), 4, Tagged(5)))
    assert answer(chat(msgspec.json.encode(struct).decode())).parse(Struct) == struct
    branch = Branch([Leaf("a")], 0.5, ["t"])
    assert answer(chat(msgspec.json.encode(branch).decode())).parse(Branch) == branch
    typed = Typed(name="a", leaves=[Leaf("b")])
    assert answer(chat(msgspec.json.encode(typed).decode())).parse(Typed) == typed
    page = Page[Address](rows=[Address(street="s", number=1)], next=None)
    assert answer(chat(page.model_dump_json())).parse(Page[Address]) == page


@dataclasses.dataclass
class Mixed:
    homes: list[Address]


def test_types_of_pydantic_are_read_wherever_they_stand() -> None:
    home = Address(street="s", number=1)
    homes = answer(chat(f'{{"homes":[{home.model_dump_json()}]}}'))
    assert homes.parse(Mixed) == Mixed([home])
    assert homes.parse(dict[str, list[Address]]) == {"homes": [home]}
    assert answer(chat(home.model_dump_json())).parse(Address | None) == home  # type: ignore[arg-type]
    with pytest.raises(OutputInvalid, match=r"at homes\.0\.number"):
        answer(chat('{"homes":[{"street":"s"}]}')).parse(Mixed)
    assert_strict(output_of(Mixed).schema)


def test_types_made_in_a_loop_are_let_go() -> None:
    def make() -> weakref.ref[Any]:
        model = pydantic.create_model("Made", name=(str, ...))
        with_output(CHAT, {"model": "m"}, model)
        answer(chat(LEAF)).parse(model)
        return weakref.ref(model)

    made = [make() for _ in range(200)]
    gc.collect()
    assert sum(one() is not None for one in made) < 150


LONG = "I cannot help with that. " * 40
TOOLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (chat(refusal=LONG), "refused", "The model refused: 'I cannot help"),
        (responses({"type": "message", "content": [{"type": "refusal", "refusal": LONG}]}), "refused", "I cannot help"),
        (chat(LEAF, finish="length"), "truncated", "Allow more output tokens"),
        (responses(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "truncated", "cut off"),
        (responses(message(LEAF), status="incomplete"), "truncated", "cut off"),
        (chat(LEAF, finish="content_filter"), "filtered", "content filter"),
        (responses(status="incomplete", incomplete_details={"reason": "content_filter"}), "filtered", "content filter"),
        (chat(None, tool_calls=TOOLS), "missing", "but calls of tools"),
        (chat(""), "missing", "holds no text"),
        (responses({"type": "function_call"}, THINKING), "missing", "but function_call"),
        (responses(status="failed", error={"message": "broke"}), "missing", "'broke'"),
        (responses(message("Wait.", phase="commentary")), "missing", "holds no text"),
        ({"object": "list", "data": []}, "missing", "no answer of chat completions"),
        ([], "missing", "no answer"),
        (b"<html>", "missing", "not JSON"),
        ({"choices": [{"message": "odd", "finish_reason": None}]}, "missing", "holds no text"),
        (responses({"type": "message", "content": "odd"}, incomplete_details=1, error=1), "missing", "holds no text"),
        (chat("Sure! " + LONG), "invalid", "is no Leaf: JSON is malformed"),
        (chat('{"name":1}'), "invalid", "Expected `str`, got `int` - at `$.name`. It begins '{\"name\":1}'"),
        (chat("[" * 100_000), "invalid", "It begins '[[[["),
    ],
)
def test_what_is_no_answer_says_why_and_is_kept(body: Any, reason: str, said: str) -> None:
    kept = answer(body)
    with pytest.raises(OutputInvalid) as caught:
        kept.parse(Leaf)
    assert caught.value.reason == reason
    assert caught.value.response is kept
    assert said in str(caught.value)
    assert str(caught.value).endswith("(request p-1, batch batch_1)")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ['{"name":"x"}', '{"name":"x","age":"y","height":1,"alive":"' + "z" * 10_000 + '"}', "no"]
)
def test_what_pydantic_refuses_is_told_in_short(text: str) -> None:
    with pytest.raises(OutputInvalid, match="The answer is no Flat: ") as caught:
        answer(chat(text)).parse(Flat)
    assert caught.value.reason == "invalid"
    assert len(str(caught.value)) < 400
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)


def test_the_first_of_many_problems_is_named() -> None:
    with pytest.raises(OutputInvalid, match=r"integer at address\.number \(2 more\)"):
        answer(chat('{"others":[{}],"address":{"street":"s","number":[]}}')).parse(Nested)


@pytest.mark.parametrize("output", [Emulator, list[Emulator], object(), []])
def test_types_that_cannot_be_read_are_refused(output: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read from JSON: .*[^:]\. Use a pydantic model"):
        answer(chat(LEAF)).parse(output)


def test_the_answer_to_a_live_call_without_a_batch_has_nothing_behind_its_message() -> None:
    with pytest.raises(OutputInvalid, match=r"json\(\)\.$"):
        Response("", "", "", 200, b"{}").parse(Leaf)


# --- texts and usage

MESSAGES = [None, 1, {}, {"content": None}, {"content": [LEAF]}, {"content": ""}, {"content": LEAF}]


@pytest.mark.parametrize("body", SHAPES[:5])
def test_text_is_the_text(body: dict[str, Any]) -> None:
    assert answer(body).text == LEAF


@pytest.mark.parametrize("body", [chat(refusal="no"), responses(), {"choices": []}, {"data": []}, [], {"choices": [1]}])
def test_where_there_is_no_text_it_is_empty(body: Any) -> None:
    assert answer(body).text == ""


@given(st.lists(st.sampled_from([{}, 1, None, *({"message": m} for m in MESSAGES), {"text": LEAF}]), max_size=3))
def test_the_text_is_that_of_the_first_choice(choices: list[Any]) -> None:
    match choices:
        case [{"message": {"content": str(text)}}, *_] | [{"text": str(text)}, *_]:
            assert answer({"choices": choices}).text == text
        case _:
            assert answer({"choices": choices}).text == ""


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}, (3, 4, 2)),
        ({"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2}}, (3, 4, 2)),
        ({"prompt_tokens": 3, "total_tokens": 3}, (3, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None}, (3, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": "odd"}, (3, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": None}}, (3, 0, 0)),
    ],
)
def test_usage_counts_of_all_shapes(usage: dict[str, Any], counted: tuple[int, ...]) -> None:
    assert answer({"usage": usage}).usage == counted


@pytest.mark.parametrize("body", [{}, {"usage": None}, {"usage": 3}, [], [1]])
def test_without_usage_there_is_none(body: Any) -> None:
    assert answer(body).usage is None


def test_half_a_surrogate_pair_spoils_neither_text_nor_usage() -> None:
    body = b'{"choices":[{"message":{"content":"\\ud83d"}}],"usage":{"prompt_tokens":1}}'
    assert answer(body).text == "\ud83d"
    assert answer(body).usage == (1, 0, 0)
    with pytest.raises(OutputInvalid, match="is no Leaf"):
        answer(body).parse(Leaf)
    with pytest.raises(OutputInvalid, match="is no Flat"):
        answer(body).parse(Flat)


# --- all together


@pytest.mark.anyio
@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
async def test_requests_for_an_output_come_back_as_objects(endpoint: str) -> None:
    def say(_endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        given = body["response_format"]["json_schema"] if endpoint == CHAT else body["text"]["format"]
        assert (given["schema"], given["strict"]) == (output_of(Branch).schema, True)
        text = json.dumps({"leaves": [{"name": body["user"]}], "weight": None, "tags": []})
        return chat(text) if endpoint == CHAT else responses(message(text))

    prompt = {"messages": [{"role": "user", "content": "?"}]} if endpoint == CHAT else {"input": "?"}
    requests = [Request(endpoint, {"model": "m", "user": f"u{n}", **prompt}, output=Branch) for n in range(20)]
    with Emulator(answer=say) as emulator:
        async with Pool("any", emulator.url, timing=Timing(linger=0.05, poll_min=0.05)) as pool:
            answers = await pool.gather(requests)
            wrong = await pool.gather(
                [Request("/v1/embeddings", {"model": "m"}, output=Branch)], return_exceptions=True
            )
    assert [one.parse(Branch) for one in answers] == [Branch([Leaf(f"u{n}")]) for n in range(20)]
    assert isinstance(wrong[0], ConfigurationError)


def test_nothing_is_imported_but_for_those_whose_types_are_used() -> None:
    program = (
        "import sys, msgspec, carpool\nfrom carpool import formats\n"
        "kind = msgspec.defstruct('Kind', [('a', int)])\n"
        "formats.with_output('/v1/responses', {}, kind)\n"
        """answer = carpool.Response('', '', '', 200, b'{"choices":[{"text":"{\\\\"a\\\\":1}"}]}')\n"""
        "assert answer.parse(kind) == kind(1)\n"
        "print({'pydantic', 'numpy', 'openai'} & sys.modules.keys())\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout == "set()\n", result.stderr

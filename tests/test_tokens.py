"""Prompt tokens: the published examples to the token, everything else at least not for nothing."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
import tiktoken
import vocabulary
from hypothesis import HealthCheck, given, settings

from carpool import prompts
from carpool.tokens import Tiktoken

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
COMPLETIONS = "/v1/completions"
ENDPOINTS = [
    *(CHAT, RESPONSES, EMBEDDINGS, COMPLETIONS, "/v1/moderations"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/videos", "/else"),
]

counter = Tiktoken()


@pytest.fixture(autouse=True, scope="module")
def _vocabulary() -> None:
    assert vocabulary.is_there(), "tiktoken's vocabularies are missing: say `make .vocabulary/.ready`"


def count(body: Any, *, endpoint: str = CHAT, model: str = "gpt-4o") -> int:
    return counter(endpoint, model, json.dumps({"model": model, **body}).encode())


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def o200k(text: str) -> int:
    return len(tiktoken.get_encoding("o200k_base").encode(text, disallowed_special=()))


def cl100k(text: str) -> int:
    return len(tiktoken.get_encoding("cl100k_base").encode(text, disallowed_special=()))


# --- chat ----------------------------------------------------------------------------------------------------------

COOKBOOK = [
    (
        "system",
        None,
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    ),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    (
        "system",
        "example_user",
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    ),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    ("user", None, "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-3.5-turbo", 129),
        ("gpt-3.5-turbo-0125", 129),
        ("gpt-4-0613", 129),
        ("gpt-4", 129),
        ("gpt-4o", 124),
        ("gpt-4o-mini", 124),
        ("gpt-5-mini-2025-08-07", 124),
        ("gpt-6-astra", 124),  # unknown to tiktoken
        ("ft:gpt-4o-2024-08-06:acme::x1", 124),
        ("ft:gpt-4.1-mini-2025-04-14:acme::x1", 124),  # which tiktoken takes for gpt-4
        ("ft:gpt-3.5-turbo-0125:acme::x1", 129),
    ],
)
def test_the_cookbooks_messages_count_as_the_api_counted_them(model: str, expected: int) -> None:
    messages = [{"role": role, "content": text} | ({"name": name} if name else {}) for role, name, text in COOKBOOK]
    assert count({"messages": messages}, model=model) == expected


def test_plain_text_costs_seven_tokens_beside_itself() -> None:
    assert count(user("hello world")) == 3 + 1 + 2 + 3
    assert count(user("")) == 7
    assert count({"messages": []}) == 3
    assert count({}) == 3
    assert count({"messages": ["hello world"]}) == 3 + 3 + 2


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "critic"]), "content": st.text()})))
@settings(deadline=None)
def test_messages_of_text_alone_count_like_all_others(messages: list[dict[str, Any]]) -> None:
    counted = count({"messages": messages})
    assert counted == 3 + sum(3 + o200k(message["role"]) + o200k(message["content"]) for message in messages)
    assert counted == count({"messages": [{**message, "refusal": None} for message in messages]})


def test_parts_calls_and_unknown_texts_count() -> None:
    assert count(user([{"type": "text", "text": "hello"}, {"type": "text", "text": " world"}])) == 9
    assert count(user([{"type": "novel", "novel": {"chapters": ["hello world"]}}])) == 9
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city":"Oslo"}'}}
    asked = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}
    assert count(asked) == 7 + o200k("find") + o200k('{"city":"Oslo"}')
    told = {"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "rain"}]}
    assert count(told) == 7 + o200k("call_1") + o200k("rain")
    refused = {"messages": [{"role": "assistant", "content": None, "refusal": "No."}]}
    assert count(refused) == 7 + o200k("No.")


def test_special_tokens_in_a_text_are_text() -> None:
    assert count(user("<|endoftext|>")) == 7 + 7


def test_files_and_audio_count_by_their_size() -> None:
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 3972}}
    assert count(user([file])) == 7 + o200k("a.pdf") + 1000
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 1330, "format": "wav"}}
    assert count(user([audio])) == 7 + 10


# --- tools and schemas ---------------------------------------------------------------------------------------------

WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {
                "type": "string",
                "description": "The unit of temperature to return",
                "enum": ["celsius", "fahrenheit"],
            },
        },
        "required": ["location"],
    },
}
ASKED = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]


@pytest.mark.parametrize(
    ("model", "expected"), [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101), ("gpt-4o-mini", 101)]
)
def test_the_cookbooks_tool_counts_as_the_api_counted_it(model: str, expected: int) -> None:
    chat = {"messages": ASKED, "tools": [{"type": "function", "function": WEATHER}]}
    assert count(chat, model=model) == expected
    assert count({"messages": ASKED, "functions": [WEATHER]}, model=model) == expected
    responses = {"input": ASKED, "tools": [{"type": "function", "strict": True, **WEATHER}]}
    assert count(responses, endpoint=RESPONSES, model=model) == expected


def tools(*functions: dict[str, Any], model: str = "gpt-4o") -> int:
    wrapped = [{"type": "function", "function": function} for function in functions]
    return count({"messages": [], "tools": wrapped}, model=model) - 3


def test_a_function_costs_its_lines_and_constants() -> None:
    assert tools({"name": "now"}) == 12 + 7 + o200k("now:")
    assert tools({"name": "now"}, model="gpt-4-turbo") == 12 + 10 + cl100k("now:")
    assert tools({"name": "now", "description": "Tell."}, {"name": "now"}) == 12 + 14 + o200k("now:Tell") + o200k(
        "now:"
    )
    assert tools({"name": "now", "parameters": {"type": "object", "properties": {}}}) == 12 + 7 + o200k("now:")


def test_nested_properties_count_as_json() -> None:
    nested = {"city": {"type": "string", "description": "Which one"}}
    where = {"type": "object", "description": "Where", "properties": nested}
    shared = {"type": "object", "properties": {"where": where}, "$defs": nested}
    expected = 12 + 7 + o200k("go:") + 3 + 3 + o200k("where:object:Where")
    expected += o200k(json.dumps({"properties": nested}, separators=(",", ":")))
    expected += o200k(json.dumps({"$defs": nested}, separators=(",", ":")))
    assert tools({"name": "go", "parameters": shared}) == expected


def test_properties_of_odd_shapes_count() -> None:
    properties = {"any": True, "maybe": {"type": ["string", "null"], "enum": ["a", None]}}
    expected = 12 + 7 + o200k("go:") + 3
    expected += 3 + o200k("any:true")
    expected += 3 + o200k('maybe:["string","null"]:') - 3 + 3 + o200k("a") + 3 + o200k("None")
    assert tools({"name": "go", "parameters": {"type": "object", "properties": properties}}) == expected
    assert tools({"name": "go", "parameters": None}) == 12 + 7 + o200k("go:")


def test_tools_of_other_kinds_count_as_json() -> None:
    search = {"type": "web_search", "search_context_size": "low"}
    compact = json.dumps(search, separators=(",", ":"))
    assert count({"input": "hi", "tools": [search]}, endpoint=RESPONSES) == 3 + 4 + 1 + 12 + o200k(compact)
    custom = {"type": "custom", "name": "go", "format": {"type": "grammar", "definition": "start: /x/"}}
    compact = json.dumps(custom, separators=(",", ":"))
    assert count({"input": "hi", "tools": [custom]}, endpoint=RESPONSES) == 3 + 4 + 1 + 12 + o200k(compact)


def test_a_schema_counts_as_compact_json() -> None:
    schema = {"type": "object", "properties": {"größe": {"type": "number"}}, "required": ["größe"]}
    added = o200k('{"type":"object","properties":{"größe":{"type":"number"}},"required":["größe"]}')
    chat = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    assert count({**user("hi"), "response_format": chat}) == count(user("hi")) + added
    assert count({**user("hi"), "response_format": {"type": "json_object"}}) == count(user("hi"))
    responses = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    assert count({"input": "hi", "text": responses}, endpoint=RESPONSES) == count(user("hi")) + added


# --- the other endpoints -------------------------------------------------------------------------------------------


def test_responses_count_like_chat() -> None:
    def respond(body: dict[str, Any]) -> int:
        return count(body, endpoint=RESPONSES)

    assert respond({"input": "hello world"}) == 9
    assert respond({"input": [{"role": "user", "content": "hello world"}]}) == 9
    parts = [{"type": "input_text", "text": "hello world"}]
    assert respond({"input": [{"type": "message", "role": "user", "content": parts}]}) == 9
    assert respond({"input": "hello world", "instructions": "Be brief."}) == 9 + 4 + o200k("Be brief.")
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": "{}"}
    told = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    expected = 3 + 3 + 1 + 2 * o200k("call_1") + o200k("find") + o200k("{}") + 3 + o200k("rain")
    assert respond({"input": [call, told]}) == expected
    assert respond({"prompt": {"id": "pmpt_1", "variables": {"city": "Oslo"}}}) == 3 + o200k("Oslo")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hello world", 2),
        (["hello world", "hello"], 3),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4]], 4),
        ("", 1),
        ([], 1),
    ],
)
def test_texts_and_tokens_in_all_their_forms(given: Any, expected: int) -> None:
    embedding = {"input": given, "encoding_format": "float", "dimensions": 256}
    assert count(embedding, endpoint=EMBEDDINGS, model="text-embedding-3-small") == expected
    assert count({"prompt": given, "echo": True}, endpoint=COMPLETIONS, model="gpt-3.5-turbo-instruct") == expected


def test_prompts_of_the_smaller_endpoints() -> None:
    assert count({"prompt": "hello", "suffix": " world"}, endpoint=COMPLETIONS, model="davinci-002") == 2
    assert count({"input": ["hello world"]}, endpoint="/v1/moderations", model="omni-moderation-latest") == 2
    assert count({"prompt": "hello world", "size": "auto"}, endpoint="/v1/images/generations", model="gpt-image-2") == 2
    assert count({"query": "hello", "documents": [" world"]}, endpoint="/v1/rerank", model="any") == 2


# --- images --------------------------------------------------------------------------------------------------------

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAABAAAAAQA"  # the beginning of one of 1,024 by 1,024 px


@pytest.mark.parametrize(
    ("model", "detail", "url", "expected"),
    [
        ("gpt-4o", "high", PNG, 765),
        ("gpt-4o", "low", PNG, 85),
        ("gpt-4o", "auto", "https://example.org/a.png", 1445),
        ("ft:gpt-4o-2024-08-06:acme::x1", "high", PNG, 765),
        ("gpt-6-astra", "high", PNG, 1229),
        ("gpt-6-astra", "auto", "https://example.org/a.png", 36_000),
    ],
)
def test_images_count_by_model_and_detail(model: str, detail: str, url: str, expected: int) -> None:
    chat = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    assert count(user([chat]), model=model) == 7 + expected
    turn = {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": detail}]}
    assert count({"input": [turn]}, endpoint=RESPONSES, model=model) == 7 + expected


def test_images_without_an_address_count_in_full() -> None:
    turn = {"role": "user", "content": [{"type": "input_image", "file_id": "file-1", "detail": "low"}]}
    assert count({"input": [turn]}, endpoint=RESPONSES) == 7 + 85
    made = {"type": "image_generation_call", "id": "ig_1", "result": "A" * 1_000_000}
    assert count({"input": [made]}, endpoint=RESPONSES) == 6 + 85 + 170 * 8
    shown = {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "https://a/b"}}
    assert count({"input": [shown]}, endpoint=RESPONSES) == 6 + 85 + 170 * 8
    edit = {"prompt": "hello world", "images": [{"image_url": PNG}]}
    assert count(edit, endpoint="/v1/images/edits", model="gpt-image-2") == 2 + 65 + 6240 + 129 * 4


# --- odd bodies ----------------------------------------------------------------------------------------------------

NAMES = [
    *("messages", "role", "content", "name", "type", "text", "tools", "functions", "function", "parameters", "enum"),
    *("properties", "description", "response_format", "json_schema", "schema", "format", "input", "instructions"),
    *("prompt", "image_url", "url", "detail", "file_data", "input_audio", "data", "$defs", "images", "items"),
]
texts = st.text() | st.text(st.characters()) | st.sampled_from(["user", "function", "input_image", PNG])
names = st.sampled_from(NAMES) | st.text(max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(names, values), st.sampled_from(ENDPOINTS), st.sampled_from(["gpt-4o", "gpt-4", "gpt-6-astra"]))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_every_object_has_a_count(body: dict[str, Any], endpoint: str, model: str) -> None:
    assert counter(endpoint, model, json.dumps(body).encode()) >= 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[1]", b"nonsense", b"\xff\xfe", b'{"messages":"\xff"}', b'{"messages":', b"7" * 5000),
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"input":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
def test_what_cannot_be_read_counts_its_bytes(body: bytes) -> None:
    for endpoint in ENDPOINTS:
        assert counter(endpoint, "gpt-4o", body) == max(1, len(body))


def test_half_a_surrogate_pair_is_read() -> None:
    body = b'{"messages":[{"role":"user","content":"hello \\ud83d world"}]}'
    assert counter(CHAT, "gpt-4o", body) == 7 + o200k("hello \ufffd world")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a" * 1_000_000,
            " " * 1_000_000,
            "\n" * 1_000_000,
            "\t" * 1_000_000 + "x",
            "." * 1_000_000,
            "é漢😀" * 333_333,
        ),
        *("\ud800" * 100_001, (" " * 999 + "\n") * 1_000),
    ],
    ids=["letters", "blanks", "lines", "tabs", "dots", "unicode", "surrogates", "indents"],
)
def test_long_texts_of_any_kind_are_counted(text: str) -> None:
    assert 1 <= count(user(text)) <= 7 + len(text.encode(errors="replace")) * 3


def test_cutting_a_long_text_does_not_change_its_count() -> None:
    prose = "".join(f"{number}. Prose, as people write it; it's cut between words.\n" for number in range(20_000))
    assert len(prose) > 1_000_000
    assert count(user(prose)) == 7 + o200k(prose)
    assert count(user("x " + "y" * 250_000)) == pytest.approx(7 + o200k("x " + "y" * 250_000), abs=6)


def test_a_panic_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    blanks = " " * 1_000_000
    with pytest.raises(BaseException, match="StackOverflow") as caught:
        tiktoken.get_encoding("o200k_base").encode_ordinary(blanks)
    assert not isinstance(caught.value, Exception)
    monkeypatch.setattr(prompts, "_PIECE", 10_000_000)
    assert count(user(blanks)) == 7 + 2 * o200k(" " * 500_000)

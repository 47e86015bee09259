"""What is said about the enqueued tokens: limits, refusals for lack of room, what batches and answers weighed."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from carpool.models import BatchStatus, CallFailed, Failure, Lane, NoRoom, PackedBatch, Reply, Row, Usage
from carpool.providers.openai import OpenAI
from carpool.providers.replies import stated_limit

openai = OpenAI()
CHAT = "/v1/chat/completions"
WORDINGS = {
    "contracts A6": (
        "Enqueued token limit reached for gpt-4o-mini in organization org-abc. Limit: {} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    ),
    "A6, a snapshot": (
        "Enqueued token limit reached for gpt-4o-mini-2024-07-18 in organization org-7K2M. Limit: {} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    ),
    "contracts D1": (
        "The number of enqueued tokens has surpassed the configured limit of {} for the deployment 'gpt-4.1-batch'. "
        "Please either increase the limit or try again once the current jobs have finished."
    ),
}
A6, _, D1 = WORDINGS.values()

wordings = pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)


def refusal(message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "tokens", "param": None, "code": code}}).encode()


def batch(**fields: Any) -> BatchStatus:
    """Give what is read of a batch object."""
    flow = openai.check(["b"])
    next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(Reply(200, json.dumps({"id": "b", **fields}).encode()))
    (status,) = stop.value.value
    assert isinstance(status, BatchStatus)
    return status


# --- the limit that a refusal states


@wordings
@pytest.mark.parametrize(
    ("number", "limit"),
    [
        ("2,000,000", 2_000_000),
        ("2000000", 2_000_000),
        ("2_000_000", 2_000_000),
        ("15,000,000,000", 15_000_000_000),
        ("90,000", 90_000),
        ("7", 7),
        ("0", 0),
        ("30K", 30_000),
        ("30k", 30_000),
        ("30 K", 30_000),
        ("1.35M", 1_350_000),
        ("1.35m", 1_350_000),
        ("2.5 m", 2_500_000),
        ("4.35M", 4_350_000),  # 4.35 * 1e6 is 4349999.999999999
        ("15B", 15_000_000_000),
        ("1.5b", 1_500_000_000),
        ("1,000K", 1_000_000),
        ("2,000,000.0", 2_000_000),
    ],
)
def test_a_limit_is_read_however_it_is_written(wording: str, number: str, limit: int) -> None:
    message = wording.format(number)
    for said in (message, message.lower(), message.upper(), message.replace(". ", ".\n")):
        assert stated_limit(said) == limit


@wordings
@given(tokens=st.integers(0, 10**15), separator=st.sampled_from([",", "_", ""]))
def test_a_number_survives_every_wording(wording: str, tokens: int, separator: str) -> None:
    assert stated_limit(wording.format(f"{tokens:,}".replace(",", separator))) == tokens


@wordings
@given(
    thousandths=st.integers(0, 10**9),
    unit=st.sampled_from([("K", 10**3), ("M", 10**6), ("B", 10**9)]),
    gap=st.sampled_from(["", " "]),
    low=st.booleans(),
)
def test_a_number_with_decimals_and_a_unit_survives_every_wording(
    wording: str, thousandths: int, unit: tuple[str, int], gap: str, low: bool
) -> None:
    name, times = unit
    number = f"{thousandths // 1000:,}.{thousandths % 1000:03}{gap}{name.lower() if low else name}"
    assert stated_limit(wording.format(number)) == thousandths * times // 1000


@wordings
@given(st.text())
def test_whatever_stands_for_the_number_is_read_or_not_and_breaks_nothing(wording: str, text: str) -> None:
    limit = stated_limit(wording.format(text))
    assert limit is None or limit >= 0


@pytest.mark.parametrize(
    "message",
    [
        "",
        "wait",
        "Enqueued token limit reached for gpt-4o-mini-2024-07-18 in organization org-123.",
        "Enqueued token limit reached for gpt-5.4-nano-2026-03-17 in organization org-1.",
        A6.format("unlimited"),
        A6.format(""),
        D1.format("K"),
        "Rate limit reached for gpt-4o-mini in organization org-1 on tokens per min. Limit 30000, Used 29000.",
        "Delimit: 5 tokens",
    ],
)
def test_without_a_number_there_is_no_limit(message: str) -> None:
    assert stated_limit(message) is None


@wordings
@pytest.mark.parametrize("number", ["2.000.000", "2 000 000", "30 million", "1.5 Billion", "30KB", "5e6", "9" * 400])
def test_a_number_that_cannot_be_read_is_none_rather_than_one_that_is_too_small(wording: str, number: str) -> None:
    assert stated_limit(wording.format(number)) is None


# --- refusals of a creation


@wordings
@pytest.mark.parametrize("status", [400, 429])
@pytest.mark.parametrize("code", ["token_limit_exceeded", "rate_limit_exceeded", None])
def test_a_creation_refused_for_room_says_so_and_the_limit(wording: str, status: int, code: str | None) -> None:
    message = wording.format("30K")
    reply = Reply(status, refusal(message, code))
    assert openai.refused(reply) == Failure("full", message, status, code or "tokens", 30_000)


@pytest.mark.parametrize("status", [400, 429])
def test_the_code_alone_says_that_there_is_no_room(status: int) -> None:
    reply = Reply(status, refusal("Try later.", "token_limit_exceeded"))
    assert openai.refused(reply) == Failure("full", "Try later.", status, "token_limit_exceeded", None)


@pytest.mark.parametrize("status", [400, 429])
def test_text_that_is_no_json_says_it_too(status: int) -> None:
    failure = openai.refused(Reply(status, A6.format("2,000,000").encode()))
    assert (failure.kind, failure.code, failure.limit) == ("full", None, 2_000_000)


def test_a_creation_refused_for_room_carries_the_limit_out_of_the_flow() -> None:
    flow = openai.create(PackedBatch("k", Lane(CHAT, "gpt-4o"), (), 1), "file-1")
    next(flow)
    with pytest.raises(CallFailed) as caught:
        flow.send(Reply(429, refusal(D1.format("1.35M"))))
    assert (caught.value.failure.kind, caught.value.failure.limit) == ("full", 1_350_000)


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for gpt-4o-mini in organization org-1 on tokens per min (TPM): Limit: 30,000.",
        "You exceeded your batch creation limit: 2,000 an hour.",
    ],
)
def test_another_limit_is_not_that_of_the_queue(message: str) -> None:
    failure = openai.refused(Reply(429, refusal(message, "rate_limit_exceeded")))
    assert (failure.kind, failure.limit) == ("busy", None)


# --- refusals at validation


@wordings
@pytest.mark.parametrize("code", ["token_limit_exceeded", None])
def test_a_batch_that_failed_for_room_says_so_and_the_limit(wording: str, code: str | None) -> None:
    problem = {"code": code, "message": wording.format("2,000,000"), "param": None, "line": None}
    status = batch(status="failed", errors={"object": "list", "data": [problem]})
    assert status.no_room == NoRoom(2_000_000)
    assert status.problems[0].message == problem["message"]


def test_a_batch_that_failed_for_room_without_a_word_states_no_limit() -> None:
    for message in (None, "Try later."):
        problem = {"code": "token_limit_exceeded", "message": message}
        assert batch(status="failed", errors={"data": [problem]}).no_room == NoRoom(None)


def test_room_is_spoken_of_behind_other_problems() -> None:
    problems = [{"code": "other", "message": "m"}, {"code": None, "message": A6.format("5")}, "odd"]
    assert batch(status="failed", errors={"data": problems}).no_room == NoRoom(5)


@pytest.mark.parametrize(
    "errors",
    [None, {}, {"data": []}, {"data": [{"code": "invalid_json_line", "message": "Not JSON. Limit: 5", "line": 3}]}],
)
def test_a_batch_that_failed_otherwise_says_nothing_of_room(errors: object) -> None:
    assert batch(status="failed", errors=errors).no_room is None


# --- what batches and answers weighed


@pytest.mark.parametrize(
    ("counts", "succeeded"),
    [
        ({"total": 9, "completed": 5, "failed": 3}, 5),
        ({"completed": 1}, 1),
        ({"completed": 0, "failed": 2}, None),  # as in a batch that is validating
        ({"completed": None}, None),
        ({"completed": -1}, None),
        ({"completed": "5"}, None),
        ({"completed": True}, None),
        ({"completed": 5.0}, None),
        ({}, None),
        (None, None),
        ([5], None),
    ],
)
def test_a_batch_tells_how_many_rows_went_well(counts: object, succeeded: int | None) -> None:
    assert batch(request_counts=counts).succeeded == succeeded


@pytest.mark.parametrize(
    ("usage", "input_tokens"),
    [
        ({"input_tokens": 1500, "output_tokens": 500, "total_tokens": 2000}, 1500),
        ({"input_tokens": 0}, None),  # older servers say so of every batch
        ({"input_tokens": -5}, None),
        ({"input_tokens": None}, None),
        ({"input_tokens": "1500"}, None),
        ({"input_tokens": True}, None),
        ({"input_tokens": 1.5}, None),
        ({"output_tokens": 500}, None),
        ({}, None),
        (None, None),
        ("1500", None),
    ],
)
def test_a_batch_tells_what_it_was_billed(usage: object, input_tokens: int | None) -> None:
    assert batch(usage=usage).input_tokens == input_tokens


def test_a_batch_that_tells_neither_is_read_all_the_same() -> None:
    assert (batch().succeeded, batch().input_tokens) == (None, None)


def test_truth_values_are_no_counts_of_answers() -> None:
    assert batch(request_counts={"completed": True, "failed": 2}).answered == 2
    assert batch(request_counts={"completed": True, "failed": False}).answered is None


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"object": "chat.completion", "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}}, 12),
        ({"object": "response", "usage": {"input_tokens": 13, "output_tokens": 5, "total_tokens": 18}}, 13),
        ({"object": "list", "usage": {"prompt_tokens": 8, "total_tokens": 8}}, 8),
        ({"usage": {"prompt_tokens": 0, "input_tokens": 5}}, 5),
        ({"usage": {"prompt_tokens": None, "input_tokens": 5}}, 5),
        ({"usage": {"prompt_tokens": 0}}, 0),
        ({"usage": {"prompt_tokens": -12}}, 0),
        ({"usage": {"prompt_tokens": "12"}}, 0),
        ({"usage": {"prompt_tokens": True}}, 0),
        ({"usage": {}}, 0),
        ({"usage": None}, 0),
        ({"usage": [12]}, 0),
        ({"usage": 12}, 0),
        ({}, 0),
        ([], 0),
        (None, 0),
        ("text", 0),
    ],
)
def test_an_answer_tells_what_its_prompt_was_billed(body: object, tokens: int) -> None:
    usage = openai.usage(Row("a", 200, "", json.dumps(body).encode()))
    assert (0 if usage is None else usage.input_tokens) == tokens


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"usage":{"prompt_tokens":12}', b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
)
def test_a_body_that_cannot_be_read_tells_nothing(body: bytes) -> None:
    assert openai.usage(Row("a", 200, "", body)) is None


def test_what_answers_tell_is_added_up() -> None:
    chat = {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    bodies: list[object] = [{"usage": chat}, {"usage": {"input_tokens": 3, "output_tokens": -2}}, {"usage": 7}, {}]
    rows = [Row("a", 200, "", json.dumps(body).encode()) for body in bodies]
    assert openai.total_usage(rows) == Usage(15, 5, 4)
    assert openai.total_usage(rows[2:]) == openai.total_usage([]) == Usage(0, 0, 0)


# --- what a creation notes


@pytest.mark.parametrize("tokens", [0, 1, 1_812_003, 15 * 10**9])
def test_a_creation_notes_its_key_and_its_tokens_as_text(tokens: int) -> None:
    (call,) = [next(openai.create(PackedBatch("pool-b7", Lane(CHAT, "gpt-4o"), (), 1, tokens), "file-1"))]
    metadata = json.loads(call.json or b"")["metadata"]
    assert metadata == {"carpool": "pool-b7", "carpool_tokens": str(tokens)}


# --- usage among what else an answer holds

USED = '{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}'
OTHER = '{"prompt_tokens":900,"completion_tokens":900}'


@pytest.mark.parametrize(
    "body",
    [
        f'{{"usage":{USED}}}',
        f'{{"id":"x","usage":{USED},"choices":[]}}',
        f'{{"usage" : {USED} , "id":"x"}}',
        f'{{"usage":{USED},"meta":{{"usage":{OTHER}}}}}',
        f'{{"usage":{USED},"list":[{{"usage":{OTHER}}}]}}',
        f'{{"usage" : {USED},"meta":{{"usage":{OTHER}}}}}',
        f'{{"meta":{{"usage":{OTHER}}},"usage" : {USED}}}',
        f'{{"meta":{{"usage":{OTHER}}},"usage":{USED}}}',
        f'{{"usage":{USED},"text":{json.dumps(f"{{{chr(34)}usage{chr(34)}:{OTHER}}}")}}}',
        f'{{"usage":{USED},"text":{json.dumps(f", {chr(34)}usage{chr(34)}:{OTHER}}}")}}}',
        f'{{"usage":{OTHER},"usage":{USED}}}',
        f' {{\r"usage":{USED}}}\r ',
    ],
)
def test_the_usage_of_an_answer_is_its_own_wherever_the_word_stands(body: str) -> None:
    row = Row("", 200, "", body.encode())
    assert openai.usage(row) == openai.total_usage([row]) == Usage(5, 7, 2)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"usage":null}',
        '{"usage":"high"}',
        '{"usage":{"prompt_tokens":"5"}}',
        f'{{"meta":{{"usage":{OTHER}}}}}',
        f'[{{"usage":{OTHER}}}]',
        f'{{"text":{json.dumps(f"{chr(34)}usage{chr(34)}:{OTHER}}}")}}}',
        '{"usage":',
        '"usage":',
    ],
)
def test_an_answer_without_a_usage_of_its_own_says_nothing(body: str) -> None:
    row = Row("", 200, "", body.encode())
    assert openai.usage(row) is None
    assert openai.total_usage([row]) == Usage(0, 0, 0)

"""Contracts A7: what stands in output and error files, rule by rule and code by code."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import pytest
from contracts_kit import (
    CREATE,
    DOWNLOAD,
    Bend,
    Found,
    assert_told,
    cancel_elsewhere,
    jsonl,
    rows,
    scene,
    texts,
)
from virtual import CHAT, body

import carpool
from carpool.models import Row
from carpool.providers.jsonl import parse_row
from carpool.providers.replies import read
from carpool.testing import Answer, Pace, Troubles

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

PEERS = texts(4)
ODD = "odd"
BROKEN = "broken"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


# --- the two forms of a failure, and their relatives


def refusing(status: int, error: Any) -> Callable[[str, Found], Any]:
    """Refuse the odd one."""

    def answer(endpoint: str, given: Found) -> Any:
        text = given["messages"][0]["content"]
        if text == ODD:
            return Answer(status, {"error": error})
        return {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    return answer


class Status(NamedTuple):
    """A row of the table: the status of a row, what its caller gets, and how often it is sent."""

    status: int
    kind: type[carpool.RequestFailed]
    sent: int


STATUSES = (
    Status(400, carpool.RequestRejected, 1),
    Status(401, carpool.RequestRejected, 1),
    Status(403, carpool.RequestRejected, 1),
    Status(404, carpool.RequestRejected, 1),
    Status(408, carpool.RequestFailed, 3),
    Status(409, carpool.RequestRejected, 1),
    Status(422, carpool.RequestRejected, 1),
    Status(429, carpool.RequestFailed, 3),
    Status(500, carpool.RequestFailed, 3),
    Status(503, carpool.RequestFailed, 3),
    Status(302, carpool.RequestFailed, 1),  # no answer, and no reason to try again
    Status(0, carpool.RequestFailed, 3),  # rule 8
)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"A7-status-{row.status}") for row in STATUSES])
async def test_a7_a_row_with_a_status_fails_for_its_caller_alone(row: Status) -> None:
    answer = refusing(row.status, {"message": "Too long.", "type": "some_type", "code": "context_length_exceeded"})
    async with scene(answer=answer) as w:
        await w.ask_all([*PEERS, ODD])
    error = w.error(ODD)
    assert type(error) is row.kind
    assert (error.status_code, error.code, error.message) == (
        row.status or None,
        "context_length_exceeded",
        "Too long.",
    )
    assert [attempt.batch_id for attempt in error.attempts] == [batch.id for batch in w.emulator.books().batches]
    assert error.attempts[-1].batch_id == error.batch_id
    assert len(error.attempts) == w.asked(CREATE) == row.sent
    assert sorted(w.answers()) == PEERS
    assert [w.paid(text) for text in PEERS] == [1] * 4


class Code(NamedTuple):
    """A row of the table: an `error.code`, what the caller gets in the end, and how often it was sent."""

    code: str
    kind: type[carpool.RequestFailed]
    sent: int


CODES = (
    Code("batch_expired", carpool.RequestExpired, 5),
    Code("batch_cancelled", carpool.RequestCancelled, 3),
    Code("request_timeout", carpool.RequestFailed, 3),
    Code("some_other_code", carpool.RequestFailed, 3),  # without a status nothing is known to be the request's fault
)


@pytest.mark.parametrize("code", [pytest.param(code, id=f"A7-{code.code}") for code in CODES])
async def test_a7_a_row_with_an_error_code_is_sent_again_and_told_in_the_end(code: Code) -> None:
    def file(kind: str, content: bytes) -> bytes:
        error = {"code": code.code, "message": "Not this time."}
        return jsonl([{**row, "error": error} if row["response"] is None else row for row in rows(content)])

    async with scene(Bend(file=file), troubles=Troubles(timed_out=1)) as w:
        await w.ask(ODD)
    error = w.error(ODD)
    assert (type(error), error.code, error.message, error.status_code) == (
        code.kind,
        code.code,
        "Not this time.",
        None,
    )
    assert [attempt.code for attempt in error.attempts] == [code.code] * code.sent
    assert w.asked(CREATE) == code.sent
    assert w.paid(ODD) == 0


async def test_a7_a_row_that_fails_once_is_answered_by_the_next_batch() -> None:
    async with scene(troubles=Troubles(failing={500: 0.2, 429: 0.2}, timed_out=0.2), seed=2) as w:
        await w.ask_all(texts(40))
    books = w.emulator.books()
    assert len(books.batches) >= 3
    assert len(w.answers()) > 30
    assert {w.paid(text) for text in w.answers()} == {1}
    assert all(len(w.error(text).attempts) == 3 and w.paid(text) == 0 for text in w.errors())


# --- rows in forms that other servers have


def spoilt(**change: Any) -> Callable[[str, bytes], bytes]:
    """Change the row that the odd caller waits for."""

    def file(kind: str, content: bytes) -> bytes:
        return jsonl([{**row, **change} if row["response"] and ODD in str(row) else row for row in rows(content)])

    return file


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"response": None, "error": "The model is overloaded."}, "The model is overloaded."),
        ({"error": "The model is overloaded."}, "The model is overloaded."),  # a 200 beside an error is no answer
        ({"response": None, "error": {"message": "Cut off."}}, "Cut off."),
        ({"response": None, "error": None}, "neither a response nor an error"),
        ({"response": {}, "error": None}, ""),
        ({"response": [], "error": None}, "neither a response nor an error"),
        ({"response": {"status_code": "400", "body": {}}}, ""),
    ],
)
async def test_a7_an_error_in_another_form_fails_for_its_caller_alone(change: Found, says: str) -> None:
    """[OBS] A bare string, no code, no response at all: traps 6."""
    async with scene(Bend(file=spoilt(**change)), pool={"retry": carpool.Retry(max_attempts=1)}) as w:
        await w.ask_all([*PEERS, ODD])
    assert says in w.error(ODD).message
    assert len(w.error(ODD).attempts) == 1
    assert sorted(w.answers()) == PEERS


async def test_a7_a_body_may_be_json_in_a_string() -> None:
    def file(kind: str, content: bytes) -> bytes:
        found = rows(content)
        for row in found:
            row["response"]["body"] = json.dumps(row["response"]["body"])
        return jsonl(found)

    async with scene(Bend(file=file)) as w:
        await w.ask_all(PEERS)
        response = await w.pool.request(CHAT, body("ünï\u2028code"))
    assert w.answers() == {text: text for text in PEERS}
    assert (response.text, response.usage) == ("ünï\u2028code", carpool.Usage(2, 2, 0))


async def test_a7_a_rejection_may_be_json_in_a_string() -> None:
    reply = {"status_code": 400, "body": json.dumps({"error": {"message": "Too long.", "code": "long"}})}
    async with scene(Bend(file=spoilt(response=reply))) as w:
        await w.ask_all([*PEERS, ODD])
    error = w.error(ODD)
    assert (type(error), error.status_code) == (carpool.RequestRejected, 400)
    assert (error.code, error.message) == ("long", "Too long.")


@pytest.mark.parametrize("missing", ["id", "error", "request_id"])
def test_a7_what_no_answer_needs_may_be_left_out(missing: str) -> None:
    reply = {"status_code": 200, "request_id": "r", "body": {}}
    reply.pop(missing, None)
    row = {"id": "1", "custom_id": "p-1", "response": reply, "error": None}
    row.pop(missing, None)
    assert parse_row(json.dumps(row).encode()).ok


@pytest.mark.parametrize("extra", [{"x": 1}, {"response": {"status_code": 200, "body": {}, "x": [1]}}])
def test_a7_what_nobody_knows_does_no_harm(extra: Found) -> None:
    row: Found = {"custom_id": "p-1", "response": {"status_code": 200, "body": {}}, **extra}
    assert parse_row(json.dumps(row).encode()).ok


@pytest.mark.parametrize("status", [100, 199, 300, 304, 399, 600, 999, -200])
def test_a7_whatever_is_not_2xx_is_a_failure(status: int) -> None:
    assert not Row("p-1", status, "", b"{}").ok
    assert not parse_row(json.dumps({"custom_id": "p-1", "response": {"status_code": status, "body": {}}}).encode()).ok


# --- the rules


@pytest.mark.parametrize("absent", [None, ""])
async def test_a7_rule_1_the_output_file_is_missing_when_every_row_failed(absent: str | None) -> None:
    def edit(batch: Found) -> None:
        batch["output_file_id"] = batch["output_file_id"] or absent

    async with scene(Bend(batch=edit), troubles=Troubles(failing={400: 1})) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {carpool.RequestRejected}
    assert (w.ends(), w.asked(DOWNLOAD)) == (["completed"], 1)


@pytest.mark.parametrize("absent", [None, "", 0, False, []])
async def test_a7_rule_1_the_error_file_is_missing_when_no_row_failed(absent: Any) -> None:
    def edit(batch: Found) -> None:
        batch["error_file_id"] = absent

    async with scene(Bend(batch=edit)) as w:
        await w.ask_all(PEERS)
    assert (len(w.answers()), w.asked(DOWNLOAD), w.asked(CREATE)) == (4, 1, 1)


def test_a7_rule_1_an_empty_text_names_no_file() -> None:
    status = read({"id": "batch_1", "status": "completed", "output_file_id": "", "error_file_id": ""})
    assert (status.output_file_id, status.error_file_id) == (None, None)


async def test_a7_rule_2_a_completed_batch_may_hold_failures() -> None:
    async with scene(troubles=Troubles(failing={400: 0.5}), seed=1) as w:
        await w.ask_all(texts(20))
    assert 0 < len(w.errors()) < 20
    assert w.kinds() == {carpool.RequestRejected}
    assert {w.paid(text) for text in w.answers()} == {1}
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("counts", [None, {}, {"total": 8, "completed": 4, "failed": 0}, dict.fromkeys(("failed",), 9)])
async def test_a7_rule_3_after_a_cancel_the_counts_do_not_add_up(counts: Found | None) -> None:
    def edit(batch: Found) -> None:
        batch["request_counts"] = counts

    async with scene(Bend(batch=edit), pace=Pace(running=100)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(8))
        await anyio.sleep(52)
        await cancel_elsewhere(w, w.emulator.books().batches[0].id)
    assert len(w.answers()) == 8
    assert {w.paid(text) for text in texts(8)} == {1}
    assert w.ends() == ["cancelled", "completed"]


async def test_a7_rule_4_after_an_expiry_what_ran_is_given_and_the_rest_goes_again() -> None:
    async with scene(troubles=Troubles(expiring=0.5), seed=0) as w:
        await w.ask_all(texts(8))
    assert len(w.answers()) == 8
    assert {w.paid(text) for text in texts(8)} == {1}
    assert w.ends() == ["expired", "completed"]


async def test_a7_rule_5_rows_in_neither_file_go_again_and_are_told_in_the_end() -> None:
    async with scene(troubles=Troubles(missing=1)) as w:
        await w.ask(ODD)
    error = w.error(ODD)
    assert type(error) is carpool.ResultMissing
    assert len(error.attempts) == w.asked(CREATE) == 3
    assert w.paid(ODD) == 3  # each time it was run, and lost by the provider


@pytest.mark.parametrize("troubles", [Troubles(doubled=1), Troubles(foreign=1), Troubles(doubled=0.5, foreign=0.5)])
async def test_a7_rule_6_of_rows_that_come_twice_the_first_counts_and_strangers_are_told_of_once(
    troubles: Troubles,
) -> None:
    async with scene(troubles=troubles) as w:
        await w.ask_all(texts(20))
    assert w.answers() == {text: text for text in texts(20)}
    assert w.asked(CREATE) == 1
    assert [notice.kind for notice in w.notices] == ["strangers"] * (troubles.foreign > 0)


async def test_a7_rule_6_a_second_row_that_differs_changes_nothing() -> None:
    def file(kind: str, content: bytes) -> bytes:
        late = {"response": None, "error": {"code": "batch_expired", "message": "No."}}
        return content + jsonl([{**row, **late} for row in rows(content)])

    async with scene(Bend(file=file)) as w:
        await w.ask_all(PEERS)
    assert sorted(w.answers()) == PEERS
    assert (w.asked(CREATE), w.notices) == (1, [])


CUT = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\r\nh"  # all that `splitlines` cuts at


async def test_a7_rule_7_lines_end_at_a_line_feed_alone() -> None:
    def file(kind: str, content: bytes) -> bytes:
        assert "\u2028b\u2029c\u0085".encode() in content
        return content

    async with scene(Bend(file=file)) as w:
        await w.ask_all([CUT, *PEERS])
    assert w.answers()[CUT] == CUT
    assert (len(w.answers()), w.asked(CREATE)) == (5, 1)


@pytest.mark.parametrize("ending", [b"\r\n", b"\n\n", b"\n \n"])
async def test_a7_rule_7_lines_may_have_carriage_returns_and_blanks_around_them(ending: bytes) -> None:
    """[INF] As files have that went through other hands."""
    async with scene(Bend(file=lambda kind, content: content.replace(b"\n", ending))) as w:
        await w.ask_all(PEERS)
    assert (sorted(w.answers()), w.asked(CREATE)) == (PEERS, 1)


async def test_a7_rule_7_the_last_line_may_lack_its_line_feed_and_the_first_have_a_byte_order_mark() -> None:
    async with scene(Bend(file=lambda kind, content: b"\xef\xbb\xbf" + content[:-1])) as w:
        await w.ask_all(PEERS)
    assert (sorted(w.answers()), w.asked(CREATE)) == (PEERS, 1)


@pytest.mark.parametrize(
    "choice",
    [{"message": {"content": None, "refusal": "I will not."}}, {"message": {"content": ""}, "finish_reason": "length"}],
)
async def test_a7_rule_8_a_refusal_or_a_text_cut_short_is_the_callers_to_judge(choice: Found) -> None:
    async with scene(answer=lambda endpoint, given: {"choices": [choice]}) as w:
        await w.ask(ODD)
    response = w.settled[ODD]
    assert isinstance(response, carpool.Response)
    assert response.json() == {"choices": [choice]}
    assert w.asked(CREATE) == 1


async def test_a7_rule_8_a_status_of_0_is_a_failure_though_the_batch_counts_it_as_completed() -> None:
    async with scene(troubles=Troubles(failing={0: 1})) as w:
        await w.ask(ODD)
    error = w.error(ODD)
    assert (type(error), error.status_code) == (carpool.RequestFailed, None)
    assert len(error.attempts) == 3
    assert [batch.completed for batch in w.emulator.books().batches] == [1] * 3


def test_a7_every_rule_and_every_code_has_a_test() -> None:
    assert_told(globals(), {f"a7_rule_{number}" for number in range(1, 9)})
    assert {code.code for code in CODES} >= {"batch_expired", "batch_cancelled", "request_timeout"}

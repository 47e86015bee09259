"""Contracts A6: what a validation may find, line by line and as a whole, and what a creation may be refused with."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import httpx2
import pytest
from contracts_kit import CREATE, HOUR, UPLOAD, Bend, Found, refused, scene, sent, texts
from virtual import CHAT, body

import carpool
from carpool.testing import Answer, Pace, Troubles

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

GUILTY = "guilty"
PEERS = texts(4)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


# --- codes that name a line: that row alone is refused, and the rest goes again


def swap(old: str, new: str) -> Callable[[bytes], bytes]:
    """Edit a line of the input file on its way, as no request of ours would ever look."""

    def edit(line: bytes) -> bytes:
        assert old.encode() in line
        return line.replace(old.encode(), new.encode(), 1)

    return edit


def doubled(line: bytes) -> bytes:
    """Give a line the custom_id of the one before it."""
    row = json.loads(line)
    pool, _, number = row["custom_id"].rpartition("-")
    return json.dumps({**row, "custom_id": f"{pool}-{int(number) - 1}"}).encode()


class Line(NamedTuple):
    """A row of the table: how the input line is spoilt, and what the provider says of it."""

    code: str
    name: str
    edit: Callable[[bytes], bytes]
    message: str


NAMING = (
    Line("duplicate_custom_id", "", doubled, "is a duplicate of another request"),
    Line("invalid_json_line", "", lambda line: line[:-9], "This line is not parseable as valid JSON."),
    *(
        Line("missing_required_parameter", key, swap(f'"{key}"', '"x"'), f"Missing required parameter: '{key}'.")
        for key in ("custom_id", "method", "url", "body")
    ),
    Line("invalid_request", "model", swap('"model"', '"x"'), "Model parameter is required."),
    Line("invalid_request", "messages", swap('"messages"', '"x"'), "Messages parameter is required."),
    Line("invalid_url", "", swap('"/v1/chat', '"/v1/chats'), "does not match the batch endpoint"),
    Line("mismatched_model", "", swap("gpt-5-mini", "gpt-4o"), "does not match the rest of the batch"),
    Line("streaming_unsupported", "", swap('"model"', '"stream":true,"model"'), "Streaming is not supported"),
    Line("invalid_method", "", swap('"POST"', '"PUT"'), "Only POST is supported"),  # [UNVERIFIED]
)


@pytest.mark.parametrize(
    "line", [pytest.param(line, id=f"A6-{line.code}{line.name and '-'}{line.name}") for line in NAMING]
)
async def test_a6_a_line_that_is_named_is_refused_alone_and_the_rest_goes_again(line: Line) -> None:
    async with scene(Bend(send=sent(line.edit))) as w:
        await w.ask_all([*PEERS[:2], GUILTY, *PEERS[2:]])
    error = w.error(GUILTY)
    assert (type(error), error.code) == (carpool.RequestRejected, line.code)
    assert line.message in error.message
    assert (error.batch_id, error.status_code) == (w.emulator.books().batches[0].id, None)
    assert [(attempt.batch_id, attempt.code) for attempt in error.attempts] == [(error.batch_id, line.code)]
    assert sorted(w.answers()) == PEERS
    assert w.ends() == ["failed", "completed"]
    assert [w.paid(text) for text in PEERS] == [1] * 4
    assert w.paid(GUILTY) == 0


async def test_a6_a_line_that_is_named_tells_of_what_came_before_too() -> None:
    def answer(endpoint: str, given: Found) -> Any:
        return Answer(500, {"error": {"message": "Sorry.", "code": "server_error"}}) if GUILTY in str(given) else {}

    broken = swap('"messages"', '"x"')
    async with scene(Bend(send=sent(bytes, broken)), answer=answer) as w:
        await w.ask_all([*PEERS, GUILTY])
    error = w.error(GUILTY)
    assert (type(error), error.code) == (carpool.RequestRejected, "invalid_request")
    assert [attempt.code for attempt in error.attempts] == ["server_error", "invalid_request"]
    assert [attempt.batch_id for attempt in error.attempts] == [batch.id for batch in w.emulator.books().batches]


async def test_a6_many_lines_may_be_named_with_one_message_each() -> None:
    async with scene() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, PEERS)
        bad = [{"model": "gpt-5-mini", "number": number} for number in range(200)]
        outcomes = await w.pool.gather(bad, endpoint=CHAT, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {carpool.RequestRejected}
    assert w.ends() == ["failed", "completed"]
    assert sorted(w.answers()) == PEERS


# --- codes that name none: they condemn, or they pass


class Whole(NamedTuple):
    """A row of the table: what the provider says of a whole file, and what its callers get."""

    code: str
    message: str
    kind: type[carpool.CarpoolError]
    created: int
    attempts: int = 1


def all_failed(code: str | None, message: str | None, **more: Any) -> Bend:
    """Let every batch fail at its validation for one reason."""

    def edit(batch: Found) -> None:
        problem = {"code": code, "message": message, "param": None, "line": None, **more}
        batch |= {"status": "failed", "output_file_id": None, "error_file_id": None}
        batch |= {"errors": {"object": "list", "data": [problem]}, "request_counts": dict.fromkeys(COUNTS, 0)}

    return Bend(batch=edit)


COUNTS = ("total", "completed", "failed")
NOTHING = Pace(validating=80_000)  # the emulator itself runs nothing of what is said to have failed
WHOLE = (  # of four rows; one may be to blame, so that a file is halved until it is a row
    Whole("empty_file", "The input file is empty.", carpool.RequestRejected, 7),
    Whole("too_many_tasks", "The batch has more than 100,000 requests.", carpool.RequestRejected, 7),  # Azure's
    Whole("url_mismatch", "The URLs differ.", carpool.RequestRejected, 7),  # Azure's
    Whole("some_other_code", "Who knows.", carpool.RequestRejected, 7),
    Whole("server_error", "The server had an error.", carpool.RequestFailed, 3, 3),  # [USER] nobody's fault: goes again
    Whole("internal_error", "An error occurred.", carpool.RequestFailed, 3, 3),
    Whole("billing_hard_limit_reached", "Billing hard limit has been reached.", carpool.BudgetExceeded, 1),
    Whole("insufficient_quota", "You exceeded your current quota.", carpool.BudgetExceeded, 1),
    Whole("model_not_found", "The model is not to be had.", carpool.RequestRejected, 1),
)


@pytest.mark.parametrize("whole", [pytest.param(whole, id=f"A6-{whole.code}") for whole in WHOLE])
async def test_a6_a_failure_that_names_no_line_is_everybodys(whole: Whole) -> None:
    async with scene(all_failed(whole.code, whole.message), pace=NOTHING) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {whole.kind}
    assert len(w.errors()) == 4
    assert all(whole.message in str(error) for error in w.errors().values())
    failures = [error for error in w.errors().values() if isinstance(error, carpool.RequestFailed)]
    assert all([attempt.code for attempt in error.attempts] == [whole.code] * whole.attempts for error in failures)
    assert w.asked(CREATE) == w.asked(UPLOAD) == whole.created
    assert sum(w.paid(text) for text in PEERS) == 0


async def test_a6_the_attempts_tell_of_each_batch_that_failed_inside() -> None:
    async with scene(troubles=Troubles(failed_validation=1)) as w:
        await w.ask("text")
    error = w.error("text")
    assert [attempt.batch_id for attempt in error.attempts] == [batch.id for batch in w.emulator.books().batches]
    assert {attempt.code for attempt in error.attempts} == {"server_error"}
    assert w.ends() == ["failed"] * 3


async def test_a6_a_failure_inside_that_passes_is_nobodys() -> None:
    async with scene(troubles=Troubles(failed_validation=0.5), seed=0) as w:
        await w.ask_all(PEERS)
    assert w.ends() == ["failed", "completed"]
    assert [w.paid(text) for text in PEERS] == [1] * 4


@pytest.mark.parametrize(
    "errors",
    [None, {}, {"data": None}, {"data": []}, {"data": [None]}, {"data": ["text"]}, {"data": [{}]}, [], "no room", 5],
)
async def test_a6_whatever_the_errors_look_like_everybody_is_told(errors: Any) -> None:
    """Every field is nullable."""

    def edit(batch: Found) -> None:
        batch |= {"status": "failed", "errors": errors}

    async with scene(Bend(batch=edit), pace=NOTHING) as w:
        await w.ask_all(PEERS)
    assert {*map(type, w.errors().values())} <= {carpool.RequestFailed, carpool.RequestRejected}
    assert len(w.errors()) == 4


@pytest.mark.parametrize("line", [0, -1, 5, 10**12, True, "2", 2.0])
async def test_a6_a_line_that_is_not_there_condemns_no_wrong_one(line: Any) -> None:
    """[UNVERIFIED] All are told, once each of them was refused alone."""
    async with scene(all_failed("invalid_request", "Messages parameter is required.", line=line), pace=NOTHING) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {carpool.RequestRejected}
    assert len(w.errors()) == 4
    assert w.asked(CREATE) == 7


async def test_a6_model_not_found_ends_the_lane_with_one_clear_error_and_no_other() -> None:
    async with scene(models=["gpt-4o"]) as w:
        await w.ask_all(PEERS)
        await w.ask("later")  # a caller that comes meanwhile is told without another batch
        other = await w.pool.request(CHAT, body("other", model="gpt-4o"))
    assert {w.error(text).code for text in [*PEERS, "later"]} == {"model_not_found"}
    assert other.text == "other"
    assert w.ends() == ["failed", "completed"]
    assert [(notice.kind, notice.lane and notice.lane.model) for notice in w.notices] == [("held", "gpt-5-mini")]


async def test_a6_a_model_that_is_found_later_is_tried_again() -> None:
    bend = all_failed("model_not_found", "Not to be had.")
    async with scene(bend, pace=Pace(validating=60)) as w:
        await w.ask("now")
        bend.batch = None
        await anyio.sleep(HOUR)
        await w.ask("later")
    assert w.error("now").code == "model_not_found"
    assert w.answers() == {"later": "later"}


async def test_a6_empty_file_is_refused_at_the_upload() -> None:
    async with scene(Bend(send=lambda route, number, content: b"" if route == UPLOAD else content)) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {carpool.RequestRejected}
    assert (w.asked(UPLOAD), w.asked(CREATE)) == (1, 0)


async def test_a6_too_many_rows_go_again_in_two_files() -> None:
    """[UNVERIFIED] The code is Azure's."""
    async with scene(max_requests=3) as w:
        await w.ask_all(PEERS)
    assert sorted(w.answers()) == sorted(PEERS)
    assert w.ends() == ["failed", "completed", "completed"]


async def test_a6_one_row_that_a_whole_file_is_refused_for_is_found() -> None:
    """[UNVERIFIED] Whether OpenAI ever names no line where one is to blame is not known."""

    def edit(batch: Found) -> None:
        for problem in (batch.get("errors") or {}).get("data") or ():
            problem["line"] = None

    async with scene(Bend(batch=edit)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, PEERS)
        with pytest.raises(carpool.RequestRejected, match="Messages parameter is required"):
            await w.pool.request(CHAT, {"model": "gpt-5-mini"})
    assert sorted(w.answers()) == sorted(PEERS)


async def test_a6_invalid_request_for_a_file_that_is_not_seen_yet_is_sent_again() -> None:
    def send(route: str, number: int, content: bytes) -> bytes:
        return (
            content.replace(b'"input_file_id":"', b'"input_file_id":"x') if (route, number) == (CREATE, 1) else content
        )

    async with scene(Bend(send=send)) as w:
        await w.ask_all(PEERS)
    assert w.ends() == ["failed", "completed"]
    assert [w.paid(text) for text in PEERS] == [1] * 4


async def test_a6_invalid_request_for_a_file_that_is_never_seen_is_told_in_the_end() -> None:
    message = "Cannot find file file-1, or organization org-1 does not have access to it."
    async with scene(all_failed("invalid_request", message, param="file_id"), pace=NOTHING, within=HOUR) as w:
        await w.ask_all(PEERS)
    assert {(type(error), error.code) for error in map(w.error, PEERS)} == {
        (carpool.RequestRejected, "invalid_request")
    }
    assert w.asked(CREATE) < 50


# --- no room: nobody's fault, and never an error while there may be room later

WORDINGS = {
    "openai": "Enqueued token limit reached for {} in organization org-1. Limit: {:,} enqueued tokens. Please wait.",
    "azure": "The number of enqueued tokens has surpassed the configured limit of {1} for the deployment '{0}'.",
    "snapshot": "Enqueued token limit reached for {}-2025-08-07 in organization org-1. Limit: {:,} enqueued tokens.",
    "no limit stated": "Enqueued token limit reached for {}.",
}


@pytest.mark.parametrize("refuse_at", ["validation", "creation"])
@pytest.mark.parametrize("wording", WORDINGS)
async def test_a6_token_limit_exceeded_is_waited_out(wording: str, refuse_at: Any) -> None:
    async with scene(
        pace=Pace(running=60),
        enqueued_tokens={"gpt-5-mini": 1_000},
        count=lambda given: 100,
        room_message=WORDINGS[wording].format,
        refuse_at=refuse_at,
    ) as w:
        await w.ask_all(texts(15))
    assert len(w.answers()) == 15
    assert {w.paid(text) for text in texts(15)} == {1}
    assert w.emulator.books().refusals() >= 1


@pytest.mark.parametrize("status", [400, 429])
async def test_a6_token_limit_exceeded_may_refuse_the_creation(status: int) -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        message = "Enqueued token limit reached for gpt-5-mini in organization org-1. Limit: 900,000 enqueued tokens."
        return refused(status, message, code="token_limit_exceeded") if route == CREATE and number < 4 else None

    async with scene(Bend(instead=instead)) as w:
        await w.ask_all(PEERS)
    assert [w.paid(text) for text in PEERS] == [1] * 4
    assert w.ends() == ["completed"]


async def test_a6_token_limit_exceeded_by_one_request_alone_is_told() -> None:
    async with scene(enqueued_tokens={"*": 50}, count=lambda given: 100) as w:
        await w.ask("long")
    assert w.kinds() == {carpool.LimitExceeded}
    assert w.paid("long") == 0


# --- what a creation is refused with at once


class Refusal(NamedTuple):
    """A row of the table: how creations are refused, how often, and what the callers get."""

    name: str
    reply: httpx2.Response
    times: int
    kind: type[BaseException] | None
    created: int


ALWAYS = 10**9
SYNCHRONOUS = (
    Refusal("invalid_value", refused(400, "Invalid value.", code="invalid_value"), ALWAYS, carpool.RequestRejected, 1),
    Refusal("invalid_type", refused(400, "Invalid type.", code="invalid_type"), ALWAYS, carpool.RequestRejected, 1),
    Refusal("cannot-find-file", refused(400, "Cannot find file file-1, or project proj_1."), 3, None, 4),
    Refusal("billing", refused(400, "Limit.", code="billing_hard_limit_reached"), ALWAYS, carpool.BudgetExceeded, 1),
    Refusal("billing-429", refused(429, "Quota.", code="insufficient_quota"), ALWAYS, carpool.BudgetExceeded, 1),
    Refusal("401", refused(401, "Incorrect API key."), ALWAYS, carpool.AuthenticationFailed, 1),
    Refusal("403", refused(403, "Not allowed."), ALWAYS, carpool.AuthenticationFailed, 1),
    Refusal("409", refused(409, "Conflict."), 1, None, 2),  # [UNVERIFIED] it may have been created: looked for first
    Refusal("422", refused(422, "Unprocessable."), ALWAYS, carpool.RequestRejected, 1),
    Refusal("429", refused(429, "Slow down."), 3, None, 4),
    Refusal("500", refused(500, "Sorry."), 2, None, 3),
    Refusal("503", refused(503, "Overloaded."), 2, None, 3),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"A6-creation-{row.name}") for row in SYNCHRONOUS])
async def test_a6_a_creation_that_is_refused_is_told_or_repeated(row: Refusal) -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        reply = row.reply
        good = route != CREATE or number > row.times
        return None if good else httpx2.Response(reply.status_code, content=reply.content)

    async with scene(Bend(instead=instead)) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == ({row.kind} if row.kind else set())
    assert len(w.settled) == 4
    assert w.asked(CREATE) == row.created
    assert [w.paid(text) for text in PEERS] == [0 if row.kind else 1] * 4
    assert not w.emulator.books().files


async def test_a6_the_billing_limit_bars_all_lanes_with_one_notice() -> None:
    async with scene() as w, anyio.create_task_group() as tasks:
        w.emulator.set_billing_limit(reached=True)
        for model in ("a", "b", "c"):
            tasks.start_soon(_refused_by_billing, w.pool, model)
    assert [notice.kind for notice in w.notices] == ["held"]
    assert w.ends() == []
    assert not w.emulator.books().files


async def _refused_by_billing(pool: carpool.Pool, model: str) -> None:
    with pytest.raises(carpool.BudgetExceeded, match=r"[Bb]illing hard limit"):
        await pool.request(CHAT, body("text", model=model))


def test_a6_every_code_has_a_test() -> None:
    contracts = {"token_limit_exceeded", "duplicate_custom_id", "invalid_json_line", "missing_required_parameter"}
    contracts |= {"invalid_request", "invalid_url", "model_not_found", "mismatched_model", "streaming_unsupported"}
    contracts |= {"empty_file", "too_many", "invalid_method"}
    tables = {f"test_{line.code}" for line in NAMING} | {f"test_{whole.code}" for whole in WHOLE}
    functions = {name.replace("test_a6_", "test_") for name in globals() if name.startswith("test_a6_")}
    missing = {code for code in contracts if not any(name.startswith(f"test_{code}") for name in tables | functions)}
    assert not missing
    synchronous = {"invalid_value", "invalid_type", "cannot-find-file", "billing", "401", "403", "429", "500"}
    assert synchronous <= {row.name for row in SYNCHRONOUS}

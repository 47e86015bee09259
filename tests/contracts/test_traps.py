"""Every trap that caught somebody: of the platform (1 to 19), and of other libraries (20 to 34)."""

import ast
import json
import math
import tracemalloc
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from contracts_kit import (
    CANCEL,
    CHECK,
    CREATE,
    DELETE,
    DOWNLOAD,
    EMPTY_FILE,
    HOUR,
    UNHURRIED,
    UPLOAD,
    Bend,
    Found,
    Scene,
    assert_told,
    cancel_elsewhere,
    names_of_tests,
    refused,
    rows,
    scene,
    sent,
    texts,
)
from virtual import CHAT, body, run_here, site

import carpool
from carpool.providers.jsonl import Lines, parse_row
from carpool.settings import Ports
from carpool.testing import Answer, Faults, Pace, Troubles

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

# What cannot be shown by a pool in one process on virtual time, or is shown where its room is: line, test, and why.
ELSEWHERE = {
    28: [  # needs the SDKs themselves
        "dropin/test_dropin_openai.py::test_what_cannot_ride_is_refused_and_the_user_is_told_why",
        "dropin/test_dropin_openai.py::test_parse_gives_pydantic_models",
        "dropin/test_dropin_openai.py::test_copies_ride_in_the_same_pool",
        "dropin/test_dropin_openai.py::test_raw_and_streamed_wrappers_see_the_http_response",
        "test_transports.py::test_both_families_and_the_pool_itself_travel_in_one_batch",
        "test_routing.py::test_what_cannot_ride_is_refused_and_says_why",
    ],
    29: ["test_routing.py::test_a_row_that_failed_is_raised_by_the_sdk_as_usual_and_asked_for_once"],  # likewise
    31: ["test_loopback.py::test_memory_stays_flat_for_a_file_of_188_mb"],  # needs a process of its own
    33: [  # needs no pool
        "test_tokens.py::test_a_panic_is_survived",
        "test_tokens.py::test_long_texts_of_any_kind_are_counted",
        "test_tokens_vocabulary.py::test_without_a_network_the_reason_is_told",
        "test_tokens_vocabulary.py::test_a_download_that_hangs_holds_up_neither_the_caller_nor_the_exit",
        "test_pool_limits.py::test_a_counter_that_panics_ends_nobody",
    ],
    34: ["test_small_batches.py::test_callers_that_are_few_at_a_time_are_told_once"],  # stands there with its opposites
}
PEERS = texts(4)
ODD = "guilty"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def all_answered_once(w: Scene, asked: list[str]) -> None:
    """Hold that each call got its own answer, and that each was billed once."""
    assert w.answers() == {text: text for text in asked}
    assert {w.paid(text) for text in asked} == {1}


# --- of the platform


async def test_trap_01_a_200_to_a_creation_is_no_verdict() -> None:
    async with scene(models=["another"], pace=Pace(validating=60)) as w:
        await w.ask_all(PEERS)
    assert w.bent.statuses == ["validating", "failed"]
    assert {w.error(text).code for text in PEERS} == {"model_not_found"}


async def test_trap_02_the_limit_is_learned_from_the_words_of_a_refusal() -> None:
    others = iter([2_000_000])
    async with scene(
        pool={"tier": "tier-2"},  # whose table says 20,000,000
        enqueued_tokens={"*": 2_000_000},
        other_tokens=lambda model, now: next(others, 0),
    ) as w:
        before = w.pool.stats().lanes
        await w.ask_all(PEERS)
        (lane,) = w.pool.stats().lanes
    assert (before, lane.limit) == ((), 2_000_000)
    all_answered_once(w, PEERS)
    assert w.ends() == ["failed", "completed"]


async def test_trap_03_two_batches_that_fit_one_by_one_may_fail_together() -> None:
    """Two processes fill one queue; the one that comes too late waits."""
    settings: Found = {"limits": {"*": 1_000}, "counter": lambda *_: 150}
    queue: Found = {"enqueued_tokens": {"*": 1_000}, "count": lambda given: 150}
    async with scene(pool=settings, pace=Pace(validating=5, running=60), **queue) as one:
        ports = Ports(run_sync=run_here, transport=one.bent)
        async with carpool.Pool("sk-key", "http://emulator/v1", _ports=ports, **settings) as second:
            two = Scene(second, one.emulator, one.bent, [])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.ask_all, PEERS)
                tasks.start_soon(two.ask_all, ["a", "b", "c", "d"])
    all_answered_once(one, PEERS)
    all_answered_once(two, ["a", "b", "c", "d"])
    assert one.emulator.books().refusals() >= 1


async def test_trap_04_a_validation_that_names_lines_condemns_those_alone() -> None:
    async with scene(Bend(send=sent(lambda line: line.replace(b'"messages"', b'"x"')))) as w:
        await w.ask_all([*PEERS, ODD])
    assert isinstance(w.error(ODD), carpool.RequestRejected)
    assert sorted(w.answers()) == PEERS
    assert w.ends() == ["failed", "completed"]


@pytest.mark.parametrize("absent", [None, "", EMPTY_FILE])
async def test_trap_05_a_clean_batch_may_name_no_error_file_or_an_empty_one(absent: str | None) -> None:
    def edit(batch: Found) -> None:
        if batch["status"] == "completed":
            batch["error_file_id"] = absent

    async with scene(Bend(batch=edit)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.asked(CREATE) == 1
    assert not w.emulator.books().files


@pytest.mark.parametrize("absent", [None, "", EMPTY_FILE])
async def test_trap_05_a_completed_batch_may_have_no_output_file(absent: str | None) -> None:
    def edit(batch: Found) -> None:
        if batch["status"] == "completed":
            batch["output_file_id"] = absent

    async with scene(Bend(batch=edit), troubles=Troubles(failing={400: 1})) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {carpool.RequestRejected}
    assert w.asked(CREATE) == 1


async def test_trap_05_a_file_that_is_named_and_not_there_costs_nobody_the_other() -> None:
    def edit(batch: Found) -> None:
        if batch["status"] == "completed":
            batch["error_file_id"] = "file-nowhere"

    async with scene(Bend(batch=edit), within=HOUR) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.asked(CREATE) == 1


FORMS: dict[str, tuple[Found, tuple[int, str]]] = {
    "rejected": ({"error": None, "response": {"status_code": 400, "body": {"error": {"code": "x"}}}}, (400, "x")),
    "expired": ({"error": {"code": "batch_expired", "message": "m"}, "response": None}, (0, "batch_expired")),
    "bare-string": ({"error": "it failed"}, (0, "error")),
    "string-body": ({"response": {"status_code": 200, "body": '{"a":1}'}}, (200, "")),
    "no-response": ({"error": None}, (0, "no_response")),
    "nothing": ({}, (0, "no_response")),
}


@pytest.mark.parametrize("form", FORMS)
def test_trap_06_a_row_is_read_in_every_form_seen(form: str) -> None:
    line, expected = FORMS[form]
    row = parse_row(json.dumps({"custom_id": "p-1", **line}).encode())
    assert (row.custom_id, row.status_code, row.code) == ("p-1", *expected)
    assert row.ok is (form == "string-body")
    assert form != "string-body" or row.body == b'{"a":1}'


async def test_trap_07_after_a_cancel_nobody_waits_for_counts_that_add_up() -> None:
    async with scene(pace=Pace(running=100)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, PEERS)
        await anyio.sleep(55)
        await w.pool.cancel()
    (batch,) = w.emulator.books().batches
    assert batch.completed + batch.failed < batch.total
    assert (len(w.answers()), len(w.errors())) == (2, 2)


@pytest.mark.parametrize("trouble", ["expiring", "cancelled"])
async def test_trap_08_what_ran_before_the_end_was_paid_for_and_is_given(trouble: str) -> None:
    async with scene(troubles=Troubles(**{trouble: 0.5}), seed=0) as w:  # type: ignore[arg-type]
        await w.ask_all(texts(20))
    all_answered_once(w, texts(20))
    assert [batch.total for batch in w.emulator.books().batches] == [20, 10]


async def test_trap_09_rows_in_neither_file() -> None:
    """One server, on expiry: 426 rows of 3,000 and no error file."""
    async with scene(troubles=Troubles(expiring=0.5, silent_rest=1), seed=0) as w:
        await w.ask_all(texts(60))
    all_answered_once(w, texts(60))
    assert w.asked(DOWNLOAD) == 2
    assert w.ends() == ["expired", "completed"]


@pytest.mark.parametrize("custom_id", ["nobody-1", None, 7, "", "\x00", "x" * 100_000, {}, True])
async def test_trap_09_rows_that_nobody_sent(custom_id: Any) -> None:
    def file(kind: str, content: bytes) -> bytes:
        stranger = json.dumps({**rows(content)[0], "custom_id": custom_id}).encode()
        return stranger + b"\n" + content + stranger + b"\n"

    async with scene(Bend(file=file)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.asked(CREATE) == 1
    assert [notice.kind for notice in w.notices] in ([], ["strangers"])


@pytest.mark.parametrize("number", ["01", "+1", "\uff11", "1 ", "99", "", "1.0", "-1"])
async def test_trap_09_a_custom_id_that_is_nearly_ours_answers_nobody(number: str) -> None:
    def file(kind: str, content: bytes) -> bytes:
        first = next(row for row in rows(content) if row["custom_id"].endswith("-1"))
        first["custom_id"] = first["custom_id"][:-1] + number
        first["response"]["body"] = {"choices": [{"message": {"content": "for nobody"}}]}
        return json.dumps(first).encode() + b"\n" + content

    async with scene(Bend(file=file)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.asked(CREATE) == 1
    assert [notice.kind for notice in w.notices] in ([], ["strangers"])


async def test_trap_09_rows_that_appear_twice() -> None:
    async with scene(Bend(file=lambda kind, content: content * 3), troubles=Troubles(doubled=0.5)) as w:
        await w.ask_all(texts(20))
    all_answered_once(w, texts(20))
    assert (w.asked(CREATE), w.notices) == (1, [])


UNUSUAL = "one\u2028two\u2029three\u0085four"


async def test_trap_10_line_separators_of_unicode_stand_raw_in_answers() -> None:
    async with scene() as w:
        await w.ask_all([UNUSUAL, *PEERS])
    all_answered_once(w, [UNUSUAL, *PEERS])
    assert w.asked(CREATE) == 1


def test_trap_10_a_line_is_the_same_wherever_the_chunks_of_a_download_end() -> None:
    lines = [json.dumps(UNUSUAL, ensure_ascii=False).encode(), b"", b'"\r"', b"last"]
    content = b"\n".join(lines)
    for first in range(len(content) + 1):
        for second in range(first, len(content) + 1, 7):
            cut = Lines()
            chunks = (content[:first], content[first:second], content[second:])
            assert [line for chunk in chunks for line in cut.feed(chunk)] + cut.close() == lines


@pytest.mark.parametrize("fault", ["truncated", "cut", "reset", "server_error", "lost_reply"])
async def test_trap_11_a_download_that_ends_early_is_fetched_again(fault: str) -> None:
    faults = Faults(only={DOWNLOAD}, nth={1, 2, 3}, **{fault: 1.0})
    async with scene(faults=faults) as w:
        await w.ask_all(texts(60))
    all_answered_once(w, texts(60))
    assert (w.asked(CREATE), w.asked(DOWNLOAD)) == (1, 4)


async def test_trap_11_a_download_that_is_shorter_than_announced_is_noticed_where_nothing_counts_the_rows() -> None:
    """It ends behind a whole line, too: nothing but its Content-Length tells."""
    downloads = 0

    def after(request: httpx2.Request, reply: httpx2.Response) -> httpx2.Response | None:
        nonlocal downloads
        downloads += request.url.path.endswith("/content")
        if downloads > 2 or not request.url.path.endswith("/content"):
            return None
        half = b"".join(reply.content.splitlines(keepends=True)[:15])
        headers = {"content-length": str(len(reply.content))}
        return httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(half))

    bend = Bend(batch=lambda batch: batch.pop("request_counts"), file=lambda kind, content: content, after=after)
    async with scene(bend, troubles=Troubles(expiring=0.5, silent_rest=1), seed=0) as w:
        await w.ask_all(texts(60))
    all_answered_once(w, texts(60))
    assert [batch.total for batch in w.emulator.books().batches] == [60, 30]
    assert downloads == 4


@pytest.mark.parametrize("page", [b"", b"<html>Down for maintenance.</html>", b"{}\n", b"null\n[]\n7\n", b"\xff\x00"])
async def test_trap_11_something_else_in_place_of_a_file_is_fetched_again(page: bytes) -> None:
    downloads = 0

    def file(kind: str, content: bytes) -> bytes:
        nonlocal downloads
        downloads += 1
        return page if downloads < 3 else content

    async with scene(Bend(file=file)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert (w.asked(CREATE), downloads) == (1, 3)


async def test_trap_12_what_was_just_made_cannot_be_found_for_a_while() -> None:
    async with scene(file_lag=5, creation_lag=5, listing_lag=5, faults=Faults(lost_create=0.5), seed=1) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("fault", ["lost_create", "lost_reply", "server_error", "reset", "too_many"])
async def test_trap_13_a_lost_reply_to_a_creation_makes_no_second_paid_batch(fault: str) -> None:
    async with scene(faults=Faults(only={CREATE}, nth={1, 2}, **{fault: 1.0}), listing_lag=5) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("kind", ["500", "page", "half", "no id", "empty"])
async def test_trap_13_a_reply_to_a_creation_that_says_nothing_is_a_lost_one(kind: str) -> None:
    contents = {"500": b"", "page": b"<html>", "half": b'{"id":"batch', "no id": b'{"object":"batch"}', "empty": b""}

    def after(request: httpx2.Request, reply: httpx2.Response) -> httpx2.Response | None:
        if (request.method, request.url.path) != ("POST", "/v1/batches"):
            return None
        return httpx2.Response(500 if kind == "500" else 200, content=contents[kind])

    async with scene(Bend(after=after)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.asked(CREATE) == 1


@pytest.mark.parametrize("status", ["scheduling", "IN_PROGRESS", "FINALIZING"])
async def test_trap_14_unknown_statuses_are_no_end(status: str) -> None:
    def edit(batch: Found) -> None:
        batch["status"] = status if batch["status"] == "in_progress" else batch["status"].upper()

    async with scene(Bend(batch=edit), pace=Pace(validating=5, running=60)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("step", ["validating", "running", "finalizing"])
async def test_trap_15_a_step_may_take_hours(step: str) -> None:
    async with scene(pool={"timing": UNHURRIED}, pace=Pace(**{step: 12 * HOUR})) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert [notice.kind for notice in w.notices] == ["late"]


async def test_trap_15_cancelling_may_take_25_minutes() -> None:
    async with scene(pace=Pace(running=100, cancelling=1_500)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, PEERS)
        await anyio.sleep(55)
        start = anyio.current_time()
        await cancel_elsewhere(w, w.emulator.books().batches[0].id)
    assert anyio.current_time() - start > 1_500
    all_answered_once(w, PEERS)
    assert w.ends() == ["cancelled", "completed"]


@pytest.mark.parametrize("status", [404, 409, 500])
async def test_trap_15_a_batch_that_neither_ends_nor_can_be_cancelled_leaves_nobody_waiting(status: int) -> None:
    """What had run in it is out of reach, and runs once more."""

    def instead(route: str, number: int) -> httpx2.Response | None:
        return refused(status) if route == CANCEL else None

    bend, troubles = Bend(instead=instead), Troubles(stuck=0.5)
    async with scene(bend, pool={"timing": UNHURRIED}, troubles=troubles, seed=0, equal=2) as w:
        await w.ask_all(PEERS)
    assert w.answers() == {text: text for text in PEERS}
    assert w.ends() == ["in_progress", "completed"]


async def test_trap_16_tokens_may_be_released_late() -> None:
    """How late is learned: who counts on them at once is refused every other time, and takes half as long again."""
    settings = {"limits": {"*": 1_000}, "counter": lambda *_: 100}
    queue: Found = {"enqueued_tokens": {"*": 1_000}, "count": lambda given: 100, "release_after": 30}
    async with scene(pool=settings, pace=Pace(running=300), **queue) as w:
        start = anyio.current_time()
        await w.ask_all(texts(100))
        took = anyio.current_time() - start
    all_answered_once(w, texts(100))
    assert took < 4_800
    assert 0 < w.emulator.books().refusals() < 40


async def test_trap_17_a_connection_that_breaks_after_a_400_spoils_no_other_call() -> None:
    refusals = spoilt = 0

    def after(request: httpx2.Request, reply: httpx2.Response) -> None:
        nonlocal refusals, spoilt
        refusals += reply.status_code == 400
        spoilt += reply.status_code == 400 and request.headers.get("connection") != "close"

    async with scene(Bend(after=after), file_lag=5) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert (refusals > 0, spoilt) == (True, 0)


@pytest.mark.parametrize(
    "trouble", [{}, {"expiring": 0.5}, {"cancelled": 0.5}, {"failed_validation": 0.5}, {"failing": {400: 0.5}}]
)
async def test_trap_18_no_file_is_left_and_all_were_made_to_expire(trouble: dict[str, Any]) -> None:
    async with scene(troubles=Troubles(**trouble), seed=0) as w:
        await w.ask_all(PEERS)
    books = w.emulator.books()
    assert books.files == ()
    assert {file.expires_after for file in books.uploads} == {2_592_000}
    assert {batch.output_expires_after for batch in books.batches} == {2_592_000}


async def test_trap_19_a_refusal_is_an_answer_and_a_status_of_0_is_none() -> None:
    refusal = {"message": {"role": "assistant", "content": None, "refusal": "No."}, "finish_reason": "length"}

    def answer(endpoint: str, given: Found) -> Any:
        return Answer(0, b"null") if ODD in str(given) else {"choices": [refusal]}

    async with scene(answer=answer) as w:
        await w.ask_all([*PEERS, ODD])
    assert all(isinstance(w.settled[text], carpool.Response) for text in PEERS)
    assert w.error(ODD).status_code is None


# --- of other libraries


async def test_trap_20_downloads_are_made_with_the_key_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    keys = set[str]()
    bend = Bend(after=lambda request, reply: keys.add(request.headers["authorization"]))
    async with scene(bend, api_key="sk-key", troubles=Troubles(failing={400: 0.5}), seed=1) as w:
        await w.ask_all(texts(20))
    assert keys == {"Bearer sk-key"}
    assert w.asked(DOWNLOAD) == 2
    assert w.asked(DELETE) == 3


@pytest.mark.parametrize("value", [object(), float("nan"), [math.inf], lambda: None, 1j])
async def test_trap_21_a_parameter_that_is_no_json_is_refused_in_its_caller_alone(value: Any) -> None:
    async with scene() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, PEERS)
        await anyio.sleep(0.5)
        with pytest.raises(carpool.Unbatchable, match="JSON"):
            await w.pool.request(CHAT, body("text", metadata=value))
    all_answered_once(w, PEERS)


async def test_trap_22_a_caller_that_goes_during_the_submission_leaves_nobody_waiting() -> None:
    faults = Faults(only={UPLOAD, CREATE}, nth=range(1, 4), too_many=1)
    async with scene(faults=faults) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, PEERS)
        with anyio.move_on_after(2):
            await w.pool.request(CHAT, body("the first to go"))
    all_answered_once(w, PEERS)


async def test_trap_22_new_callers_do_not_wait_for_a_submission_that_fails_for_minutes() -> None:
    def send(route: str, number: int, content: bytes) -> bytes:
        if route == UPLOAD and b"gpt-5-mini" in content and anyio.current_time() < start + 600:
            raise httpx2.WriteTimeout("The upload hangs.")
        return content

    async with scene(Bend(send=send)) as w, anyio.create_task_group() as tasks:
        start = anyio.current_time()
        tasks.start_soon(w.ask_all, PEERS)
        await anyio.sleep(5)
        await w.pool.request(CHAT, body("text", model="another"))
        assert anyio.current_time() - start < 30
        assert w.settled == {}
    all_answered_once(w, PEERS)


@pytest.mark.parametrize("fault", ["server_error", "too_many", "reset"])
async def test_trap_23_errors_while_checking_fail_nothing(fault: str) -> None:
    routes = {CHECK, "GET /v1/batches", "GET /v1/files"}
    async with scene(faults=Faults(only=routes, nth=range(1, 10), **{fault: 1.0}), pace=Pace(running=60)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("fault", ["server_error", "too_many", "reset"])
async def test_trap_23_errors_while_resuming_submit_no_paid_duplicate(fault: str, tmp_path: Path) -> None:
    routes = {CHECK, "GET /v1/batches", "GET /v1/files"}
    faults = Faults(only=routes, nth=range(2, 12), **{fault: 1.0})
    async with site(tmp_path, faults=faults, pace=Pace(running=60)) as at:
        async with at.interrupted() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(_ask_and_go, w, 10.0)
        with anyio.fail_after(HOUR):
            async with at.open() as w:
                await w.ask_all(PEERS)
    assert w.answers() == {text: text for text in PEERS}
    assert set(at.emulator.books().bodies.values()) == {1}
    assert len(at.emulator.books().batches) == 1


@pytest.mark.parametrize("status", [401, 404])
async def test_trap_23_errors_with_good_checks_between_them_fail_nothing(status: int) -> None:
    """A key that is refused, or a batch that is not there, is given up when that lasts: not when it comes again."""
    times = [HOUR, 2 * HOUR]

    def instead(route: str, number: int) -> httpx2.Response | None:
        if route != CHECK or not times or anyio.current_time() - start < times[0]:
            return None
        del times[0]
        return refused(status)

    start = anyio.current_time()
    async with scene(Bend(instead=instead), pool={"timing": UNHURRIED}, pace=Pace(running=4 * HOUR)) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert (times, w.ends()) == ([], ["completed"])


async def test_trap_23_files_that_are_not_there_twice_fail_nothing_where_something_came_between() -> None:
    """Each time for ten minutes: a quarter of an hour is as long as that is believed."""
    times: list[float] = []

    def instead(route: str, number: int) -> httpx2.Response | None:
        if route != DOWNLOAD:
            return None
        now = anyio.current_time()
        if not times:
            times.append(now)
        if len(times) == 1 and now - times[0] >= 600:
            times.append(now)
            return httpx2.Response(200, content=b'{"custom_id": "')
        return refused(404) if now - times[-1] < 600 else None

    async with scene(Bend(instead=instead), within=2 * HOUR) as w:
        await w.ask_all(PEERS)
    all_answered_once(w, PEERS)
    assert (len(times), w.ends()) == (2, ["completed"])


async def _ask_and_go(w: Any, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await w.ask_all(PEERS)


@pytest.mark.parametrize("row", [{"failing": {400: 0.2}}, {"failing": {500: 0.2}}, {"timed_out": 0.2}, {"torn": 0.2}])
async def test_trap_24_one_bad_row_fails_no_other(row: dict[str, Any]) -> None:
    async with scene(troubles=Troubles(**row), seed=4, pool={"retry": carpool.Retry(max_attempts=1)}) as w:
        await w.ask_all(texts(20))
    assert 0 < len(w.errors()) < 10
    assert len(w.settled) == 20
    assert w.ends() == ["completed"]


async def test_trap_25_a_missing_row_leaves_nobody_waiting() -> None:
    async with scene(troubles=Troubles(missing=1), within=HOUR) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {carpool.ResultMissing}
    assert {len(w.error(text).attempts) for text in PEERS} == {3}


@pytest.mark.parametrize(
    ("status", "kind", "times"),
    [
        ("cancelled", carpool.RequestCancelled, 3),
        ("expired", carpool.RequestExpired, 5),
        ("completed", carpool.ResultMissing, 3),
    ],
)
async def test_trap_25_a_batch_that_ends_without_files_leaves_nobody_waiting(
    status: str, kind: Any, times: int
) -> None:
    def edit(batch: Found) -> None:
        batch |= {"status": status, "output_file_id": None, "error_file_id": None, "request_counts": None}

    async with scene(Bend(batch=edit), pace=Pace(validating=80_000), within=HOUR) as w:
        await w.ask_all(PEERS)
    assert w.kinds() == {kind}
    assert len(w.errors()) == 4
    assert w.asked(CREATE) == times


async def test_trap_26_both_files_are_read() -> None:
    def answer(endpoint: str, given: Found) -> Any:
        text = given["messages"][0]["content"]
        if text == ODD:
            return Answer(400, {"error": {"message": "The true cause.", "code": "cause"}})
        return {"choices": [{"message": {"content": text}}]}

    async with scene(answer=answer) as w:
        await w.ask_all([*PEERS, ODD])
    assert (w.error(ODD).code, w.error(ODD).message) == ("cause", "The true cause.")
    all_answered_once(w, PEERS)
    assert w.asked(DOWNLOAD) == 2


@pytest.mark.parametrize("status", [400, 500])
async def test_trap_27_failures_are_not_kept_for_the_next_run(status: int, tmp_path: Path) -> None:
    async with site(tmp_path, answer=lambda *_: Answer(status, {"error": {"message": "No."}})) as at:
        async with at.open() as w:
            await w.ask_all(PEERS)
        assert len(w.errors()) == 4
        at.emulator.answer = lambda endpoint, given: {"choices": [{"message": {"content": "now"}}]}
        async with at.open() as w:
            await w.ask_all(PEERS)
    assert w.answers() == dict.fromkeys(PEERS, "now")


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/responses"])
async def test_trap_28_what_cannot_be_batched_is_refused_and_never_sent_live(endpoint: str) -> None:
    async with scene() as w:
        with pytest.raises(carpool.Unbatchable, match="stream"):
            await w.pool.request(endpoint, body("text", stream=True))
        with pytest.raises(carpool.Unbatchable, match="endpoint"):
            await w.pool.request("/v1/audio/speech", body("text"))
    assert w.bent.requests == []


async def test_trap_30_batches_are_not_created_all_at_once_and_those_refused_are_not_failed() -> None:
    queue: Found = {"enqueued_tokens": {"*": 1_000}, "count": lambda given: 100}
    async with scene(pool={"counter": lambda *_: 100}, pace=Pace(running=60), **queue) as w:
        await w.ask_all(texts(50))
    all_answered_once(w, texts(50))
    assert w.emulator.books().refusals() <= 3


class Slowly(httpx2.AsyncByteStream):
    """Send a line a second."""

    def __init__(self, content: bytes) -> None:
        self._lines = content.split(b"\n")[:-1]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield line + b"\n"
            await anyio.sleep(1)


async def test_trap_31_answers_are_given_while_the_rest_of_their_file_is_still_to_come() -> None:
    def after(request: httpx2.Request, reply: httpx2.Response) -> httpx2.Response | None:
        if not request.url.path.endswith("/content"):
            return None
        return httpx2.Response(200, stream=Slowly(reply.content))

    given: list[float] = []

    async def ask(text: str) -> None:
        await w.ask(text)
        given.append(anyio.current_time())

    megabyte = "x" * 1_100_000  # a download is read in pieces of one
    bend = Bend(after=after, file=lambda kind, content: content)
    async with scene(bend, answer=lambda *_: {"text": megabyte}) as w, anyio.create_task_group() as tasks:
        for text in PEERS:
            tasks.start_soon(ask, text)
    assert len(w.answers()) == 4
    assert given[-1] - given[0] > 2


async def test_trap_31_a_pending_call_costs_few_bytes() -> None:
    count, size = 2_000, 4_000
    async with scene(pool={"timing": carpool.Timing(linger=500, max_linger=500)}) as w:
        tracemalloc.start()
        try:
            async with anyio.create_task_group() as tasks:
                bodies = (body(f"{number} " + "x" * size) for number in range(count))
                tasks.start_soon(partial(w.pool.gather, bodies, endpoint=CHAT))
                await anyio.sleep(100)
                pending, _ = tracemalloc.get_traced_memory()
                tasks.cancel_scope.cancel()
        finally:
            tracemalloc.stop()
    assert pending < count * size / 2


@pytest.mark.parametrize(
    "line",
    ["class A(StrEnum): ...", "class A(enum.StrEnum): ...", "class A(str, Enum): ...", "class A(str, e.Enum): ..."],
)
def test_trap_32_texts_that_are_enumerations_are_seen(line: str) -> None:
    assert texts_that_are_enumerations(line) == ["A"]


def test_trap_32_nothing_rests_on_what_newer_pythons_do_with_enumerations() -> None:
    """On Python 3.11 `"x" in SomeStrEnum` raises TypeError; CI runs all tests there, and here there is none."""
    sources = [*Path(carpool.__file__).parent.rglob("*.py")]
    assert sources
    assert [path for path in sources if texts_that_are_enumerations(path.read_text())] == []


def texts_that_are_enumerations(source: str) -> list[str]:
    """Name the classes that are both, by one base or by two."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases} for node in classes}
    return [name for name, of_it in bases.items() if "StrEnum" in of_it or {"str", "Enum"} <= of_it]


@pytest.mark.parametrize("model", ["gpt-6-astra", "no-such-model", "ünï"])
async def test_trap_33_a_model_that_tiktoken_does_not_know_is_counted(model: str) -> None:
    async with scene(pool={"limits": {"*": 1_000}}, enqueued_tokens={"*": 1_000}) as w:
        requests = [body(f"{number} " + "word " * 100, model=model) for number in range(10)]
        responses = await w.pool.gather(requests, endpoint=CHAT)
    assert len(responses) == 10


@pytest.mark.parametrize(
    "told", [pytest.param(test, id=f"trap-{line}-{test}") for line, tests in ELSEWHERE.items() for test in tests]
)
def test_traps_that_are_shown_elsewhere_are_shown_there(told: str) -> None:
    path, _, name = told.partition("::")
    assert name in names_of_tests(path)


def test_every_trap_has_a_test() -> None:
    assert_told(globals(), {f"trap_{line:02}" for line in range(1, 35) if line not in ELSEWHERE})

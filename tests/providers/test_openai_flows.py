"""What is asked of OpenAI, call by call; the test plays the server, without an event loop."""

import json
import re

import pytest
from msgspec import structs
from openai_kit import BATCH, LANE, ids, ok, page, play, remote

from carpool.models import NEWEST, NO_REPLY, BatchProblem, BatchStatus, Call, CallFailed, PackedBatch, Page, Reply
from carpool.models import Upload as FilePart
from carpool.providers import Provider
from carpool.providers.openai import ENDPOINTS, OpenAI

openai: Provider = OpenAI()
keeping: Provider = OpenAI(keep_files=True)
THIRTY_DAYS = 30 * 24 * 3_600


# --- upload


def test_an_upload_carries_its_client_key_in_the_file_name() -> None:
    calls, file_id = play(openai.upload(BATCH), ok({"id": "file-1", "status": "processed"}))
    form = {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": str(THIRTY_DAYS),
    }
    assert calls == [Call("POST", "/files", False, form=form, upload=FilePart("pool-b7.jsonl", (), 123))]
    assert file_id == "file-1"


@pytest.mark.parametrize("status", [404, 405])
def test_an_upload_to_where_nothing_is_served_is_a_wrong_address(status: int) -> None:
    with pytest.raises(CallFailed, match="mostly ends in /v1: Invalid URL") as caught:
        play(openai.upload(BATCH), Reply(status, b'{"error":{"message":"Invalid URL (POST /files)"}}'))
    assert (caught.value.failure.kind, caught.value.failure.status_code) == ("address", status)


def test_an_input_file_to_be_kept_is_given_no_expiry() -> None:
    calls, file_id = play(keeping.upload(BATCH), ok({"id": "file-1"}))
    part = FilePart("pool-b7.jsonl", (), 123)
    assert calls == [Call("POST", "/files", False, form={"purpose": "batch"}, upload=part)]
    assert file_id == "file-1"


@pytest.mark.parametrize("content", [{}, {"id": None}, {"id": 5}, {"error": {"message": "gone"}}])
def test_a_reply_without_an_id_is_no_reply(content: object) -> None:
    for flow in (openai.upload(BATCH), openai.create(BATCH, "file-1"), openai.check(["b"])):
        next(flow)
        with pytest.raises(CallFailed, match="without an id") as caught:
            flow.send(ok(content))
        assert caught.value.failure.kind == "lost"


# --- create


def test_a_creation_names_file_endpoint_window_and_client_key() -> None:
    calls, status = play(openai.create(BATCH, "file-1"), ok(remote("batch_1", "pool-b7", "validating")))
    (call,) = calls
    assert (call.method, call.path, call.repeat) == ("POST", "/batches", False)
    assert json.loads(call.json or b"") == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"carpool": "pool-b7", "carpool_tokens": "0"},
        "output_expires_after": {"anchor": "created_at", "seconds": THIRTY_DAYS},
    }
    assert status == BatchStatus("batch_1", "pool-b7", "validating")


def test_output_files_to_be_kept_are_given_no_expiry() -> None:
    calls, _ = play(keeping.create(BATCH, "file-1"), ok(remote("batch_1")))
    assert json.loads(calls[0].json or b"") == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"carpool": "pool-b7", "carpool_tokens": "0"},
    }


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ((), None),
        (("search",), "search"),
        (("search", "team a", "\u00e9t\u00e9"), "search, team a, \u00e9t\u00e9"),
        (("a" * 300, "b" * 300, "c"), f"{'a' * 300}, c"),
        (("a" * 513,), None),
        (("a" * 512, "b"), "a" * 512),
    ],
)
def test_a_creation_tells_tags_as_far_as_metadata_takes_them(tags: tuple[str, ...], told: str | None) -> None:
    calls, _ = play(openai.create(structs.replace(BATCH, tags=tags), "file-1"), ok(remote("batch_1")))
    assert json.loads(calls[0].json or b"")["metadata"].get("tags") == told


# --- reading a batch object


def test_a_whole_batch_object_is_read() -> None:
    entry = remote(
        "batch_1",
        "k",
        "completed",
        input_file_id="file-in",
        output_file_id="file-out",
        error_file_id="file-err",
        request_counts={"total": 9, "completed": 5, "failed": 3},
        errors={"object": "list", "data": [{"code": "c", "message": "m", "param": "body", "line": 3}]},
        usage={"input_tokens": 1500, "output_tokens": 500, "total_tokens": 2000},
    )
    _, (status,) = play(openai.check(["batch_1"]), ok(entry))
    assert status == BatchStatus(
        id="batch_1",
        key="k",
        status="completed",
        input_file_id="file-in",
        output_file_id="file-out",
        error_file_id="file-err",
        answered=8,
        problems=(BatchProblem("c", "m", 3),),
        no_room=None,
        succeeded=5,
        input_tokens=1500,
    )


@pytest.mark.parametrize("nothing", ["absent", None, "", 0, [], {}])
def test_everything_but_the_id_may_be_absent_null_or_empty(nothing: object) -> None:
    fields = ["status", "input_file_id", "output_file_id", "error_file_id", "request_counts", "metadata", "errors"]
    entry = {"id": "b"} if nothing == "absent" else {"id": "b", **dict.fromkeys(fields, nothing)}
    _, found = play(openai.check(["b"]), ok(entry))
    assert found == [BatchStatus("b", None, "unknown")]


@pytest.mark.parametrize(
    ("counts", "answered"),
    [
        ({"total": 0, "completed": 0, "failed": 0}, 0),
        ({"total": 3, "completed": None, "failed": 2}, 2),
        ({"total": 3, "completed": 1}, 1),
        ({"total": 3}, None),
    ],
)
def test_counts_that_are_missing_are_not_counted(counts: object, answered: int | None) -> None:
    _, (status,) = play(openai.check(["b"]), ok(remote("b", request_counts=counts)))
    assert status.answered == answered


def test_statuses_come_in_lower_case_whatever_the_server_writes() -> None:
    _, (status,) = play(openai.check(["b"]), ok(remote("b", status="COMPLETED")))
    assert status.status == "completed"


def test_other_spellings_of_cancelled_are_understood() -> None:
    _, (status,) = play(openai.check(["b"]), ok(remote("b", status="Canceled")))
    assert status.status == "cancelled"


def test_problems_come_in_any_form() -> None:
    data = [
        {"code": "a", "message": "m", "line": "7"},
        {"message": "m", "line": True},
        {"code": None, "message": None, "line": None},
        "odd",
        {},
    ]
    _, (status,) = play(openai.check(["b"]), ok(remote("b", errors={"data": data})))
    assert [(problem.code, problem.message, problem.line) for problem in status.problems] == [
        ("a", "m", None),
        ("error", "m", None),
        ("error", "", None),
        ("", "", None),
    ]


# --- check


def test_one_batch_is_asked_for_singly() -> None:
    calls, found = play(openai.check(["b1"]), ok(remote("b1")))
    assert calls == [Call("GET", "/batches/b1", True)]
    assert ids(found) == ["b1"]


def test_several_batches_are_asked_for_by_listing_them() -> None:
    calls, found = play(
        openai.check(["b1", "b2", "b3", "b4"]),
        page(remote("b1"), remote("x"), remote("b2"), more=True),
        page(remote("b4"), remote("b3"), more=True),
    )
    assert [call.query.get("after") for call in calls] == [None, "b2"]
    assert ids(found) == ["b1", "b2", "b4", "b3"]


def test_what_no_page_holds_is_asked_for_singly() -> None:
    calls, found = play(
        openai.check(["b1", "b2", "b3"]),
        page(remote("b1"), remote("x"), more=True),  # one hit: more pages would cost more than they tell
        ok(remote("b2")),
        ok({"error": {"message": "No batch found"}}, 404),
    )
    assert [call.path for call in calls] == ["/batches", "/batches/b2", "/batches/b3"]
    assert ids(found) == ["b1", "b2"]


def test_the_last_one_missing_is_asked_for_singly() -> None:
    calls, found = play(openai.check(["b1", "b2", "b3"]), page(remote("b1"), remote("b2"), more=True), ok(remote("b3")))
    assert [call.path for call in calls] == ["/batches", "/batches/b3"]
    assert ids(found) == ["b1", "b2", "b3"]


def test_a_listing_that_ends_too_early_is_made_up_for() -> None:
    calls, found = play(
        openai.check(["b1", "b2", "b3", "b4"]),
        page(remote("b1"), remote("b2")),
        ok(remote("b3")),
        ok(remote("b4")),
    )
    assert [call.path for call in calls] == ["/batches", "/batches/b3", "/batches/b4"]
    assert ids(found) == ["b1", "b2", "b3", "b4"]


def test_a_listing_that_repeats_a_batch_tells_of_it_once() -> None:
    _, found = play(openai.check(["b1", "b2"]), page(remote("b1"), remote("b1"), remote("b2")))
    assert sorted(set(ids(found))) == ["b1", "b2"]


@pytest.mark.parametrize("status", [401, 429, 500, 0])
def test_a_check_that_was_refused_fails(status: int) -> None:
    flow = openai.check(["b1"])
    next(flow)
    with pytest.raises(CallFailed):
        flow.send(Reply(status, b""))


def test_a_key_that_may_not_list_asks_singly() -> None:
    forbidden = Reply(403, b'{"error":{"message":"Missing scopes: api.batch.list"}}')
    calls, statuses = play(openai.check(["b1", "b2"]), forbidden, ok(remote("b1")), ok(remote("b2")))
    assert [call.path for call in calls] == ["/batches", "/batches/b1", "/batches/b2"]
    assert [status.id for status in statuses] == ["b1", "b2"]


@pytest.mark.parametrize(("status", "is_noted"), [(403, True), (404, True), (501, True), (500, False), (429, False)])
def test_a_listing_that_fails_is_not_repeated_and_given_up_where_there_is_none(status: int, is_noted: bool) -> None:
    calls, standings = play(openai.look(["b1"], "", ["b1", "b2"]), Reply(status, b"{}"), ok(remote("b1")))
    assert [call.repeat for call in calls] == [False, True]
    assert [page.next for page in standings.pages] == [None] * is_noted


def test_a_refused_key_ends_a_check_at_once() -> None:
    for listing in (Reply(401, b""), page()):
        flow = openai.check(["b1", "b2"])
        next(flow)
        assert flow.send(listing).path == "/batches/b1"
        with pytest.raises(CallFailed):
            flow.send(Reply(401, b""))


@pytest.mark.parametrize("status", [429, 500, 0])
def test_a_server_that_gives_neither_a_listing_nor_a_batch_is_asked_no_further(status: int) -> None:
    with pytest.raises(CallFailed):
        play(openai.check(["b1", "b2", "b3"]), Reply(status, b""), Reply(status, b""))


@pytest.mark.parametrize("status", [404, 405, 500])
def test_without_a_listing_batches_are_asked_for_singly(status: int) -> None:
    _, found = play(openai.check(["b1", "b2"]), Reply(status, b""), ok(remote("b1")), ok(remote("b2")))
    assert ids(found) == ["b1", "b2"]


def test_a_batch_that_cannot_be_read_does_not_hide_the_others() -> None:
    _, found = play(openai.check(["b1", "b2", "b3"]), page(remote("b1")), Reply(500, b""), ok(remote("b3")))
    assert [(status.id, status.status == NO_REPLY) for status in found] == [("b1", False), ("b2", True), ("b3", False)]


# --- look


def test_a_listing_is_read_at_its_place_and_tells_of_others_by_the_way() -> None:
    calls, standings = play(
        openai.look(["b2"], "x", ["b2", "b3", "b9"]),
        page(remote("b3"), remote("y"), remote("b2"), remote("z"), more=True),
    )
    assert [(call.path, call.query.get("after")) for call in calls] == [("/batches", "x")]
    assert ids(standings.statuses) == ["b3", "b2"]
    assert standings.pages == (Page(("b3", "b2"), "x", "z"),)


def test_the_place_of_a_page_is_behind_what_comes_before_the_batches_that_are_known() -> None:
    _, standings = play(openai.look(["b1"], NEWEST, ["b1"]), page(remote("x"), remote("y"), remote("b1"), remote("z")))
    assert standings.pages == (Page(("b1",), "y", None),)


def test_of_each_page_that_was_read_is_said_what_it_shows() -> None:
    calls, standings = play(
        openai.look(["b1", "b2", "b3", "b4"], NEWEST, ()),
        page(remote("b1"), remote("b2"), more=True),
        page(remote("b3"), remote("b4"), more=True),
    )
    assert [call.query.get("after") for call in calls] == [None, "b2"]
    assert standings.pages == (Page(("b1", "b2"), NEWEST, "b2"), Page(("b3", "b4"), "b2", "b4"))


def test_what_is_at_no_place_is_asked_for_singly() -> None:
    calls, standings = play(openai.look(["b1"], None, ()), ok(remote("b1")))
    assert [call.path for call in calls] == ["/batches/b1"]
    assert standings.pages == ()


@pytest.mark.parametrize(("status", "pages"), [(404, (Page((), "x", None),)), (405, (Page((), "x", None),)), (500, ())])
def test_a_server_that_has_no_listing_shows_nothing(status: int, pages: tuple[Page, ...]) -> None:
    _, standings = play(openai.look(["b1"], "x", ["b2"]), Reply(status, b""), ok(remote("b1")))
    assert ids(standings.statuses) == ["b1"]
    assert standings.pages == pages


# --- collect, cancel, delete


@pytest.mark.parametrize(
    ("output", "errors", "paths"),
    [
        ("o", "e", ["/files/o/content", "/files/e/content"]),
        ("o", None, ["/files/o/content"]),
        (None, "e", ["/files/e/content"]),
        (None, None, []),
    ],
)
def test_both_files_are_read_where_there_are_any(output: str | None, errors: str | None, paths: list[str]) -> None:
    calls = openai.collect(BatchStatus("b", None, "completed", output_file_id=output, error_file_id=errors))
    assert calls == [Call("GET", path, True) for path in paths]


@pytest.mark.parametrize(
    ("status", "body", "final"),
    [(409, b"", True), (429, b"", False), (500, b"", False), (0, b"", False), (400, b"", True)],
)
def test_a_cancellation_that_comes_too_late_is_not_repeated(status: int, body: bytes, final: bool) -> None:
    assert openai.is_final(openai.cancel("b1"), Reply(status, body)) == final


@pytest.mark.parametrize(("status", "final"), [(409, False), (408, False), (429, False), (502, False), (403, True)])
def test_other_refusals_that_may_pass_are_not_final(status: int, final: bool) -> None:
    assert openai.is_final(openai.delete("file-1"), Reply(status, b"")) == final


CALL = openai.encode("/v1/embeddings", {"model": "m", "input": "x"})


def test_a_live_call_is_sent_once_and_its_reply_read_as_a_row() -> None:
    flow = openai.live(CALL)
    assert next(flow) == Call("POST", "/embeddings", False, json=CALL.body, patience=600.0)
    with pytest.raises(StopIteration) as stop:
        flow.send(Reply(200, b'{"data":[]}'))
    row = stop.value.value
    assert (row.ok, row.status_code, row.body, row.custom_id) == (True, 200, b'{"data":[]}', "")


def test_a_live_call_in_the_flex_tier_says_so_and_has_more_time() -> None:
    call = next(openai.live(CALL, "flex"))
    assert json.loads(call.json or b"") == {**json.loads(CALL.body), "service_tier": "flex"}
    assert call.patience == 900.0
    assert not call.repeat


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        (Reply(400, b'{"error":{"code":"bad","message":"No."}}'), "bad", "No."),
        (Reply(503, b"busy"), "error", "busy"),
        (Reply(0, b"ReadError"), "error", "ReadError"),
    ],
)
def test_a_live_call_that_failed_is_a_row_that_failed(reply: Reply, code: str, message: str) -> None:
    flow = openai.live(CALL)
    next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(reply)
    row = stop.value.value
    assert (row.ok, row.status_code, row.code, row.message) == (False, reply.status, code, message)


def test_a_key_that_is_refused_live_fails_the_flow() -> None:
    flow = openai.live(CALL)
    next(flow)
    with pytest.raises(CallFailed) as caught:
        flow.send(Reply(401, b'{"error":{"message":"Wrong key."}}'))
    assert caught.value.failure.kind == "auth"


def test_a_batch_is_cancelled_and_a_file_deleted_by_one_call_that_may_be_repeated() -> None:
    assert openai.cancel("b1") == Call("POST", "/batches/b1/cancel", True, json=b"{}")
    assert openai.delete("file-1") == Call("DELETE", "/files/file-1", True)


# --- input lines


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_frame_around_a_body_makes_a_valid_line(endpoint: str) -> None:
    call = openai.encode(endpoint, {"model": "m", "input": "h\u2028i\n", "n": 1})
    head, middle, end = openai.frame("pool", endpoint)
    line = head + b"17" + middle + call.body + end
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "custom_id": "pool-17",
        "method": "POST",
        "url": endpoint,
        "body": {"model": "m", "input": "h\u2028i\n", "n": 1},
    }
    assert call.model == "m"


@pytest.mark.parametrize("number", [1, 10**9, 2**63])
def test_ids_and_keys_are_such_as_every_provider_takes(number: int) -> None:
    pool = "0192f3c2b1a4"
    head, middle, _ = openai.frame(pool, ENDPOINTS[0])
    custom_id = json.loads(head + b"%d" % number + middle.split(b",")[0] + b"}")["custom_id"]
    assert re.fullmatch("[A-Za-z0-9_-]{1,64}", custom_id)
    upload = next(openai.upload(PackedBatch(f"{pool}-b{number}", LANE, (), 1))).upload
    assert upload is not None
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}\.jsonl", upload.filename)

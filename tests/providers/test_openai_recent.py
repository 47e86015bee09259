"""What the listing tells of the account's newest batches."""

import json
from typing import Any

import pytest

from carpool.models import BatchProblem, BatchStatus, Call, CallFailed, NoRoom, Reply
from carpool.providers.openai import OpenAI, Recent
from carpool.providers.replies import Listed

openai = OpenAI()
NOW = 1_774_437_191
REFUSED = (
    "Enqueued token limit reached for gpt-4o-mini-2024-07-18 in organization org-1. Limit: 2,000,000 enqueued tokens."
)
REFUSED_AT_AZURE = (
    "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'gpt-4.1-batch'."
)


def page(*entries: object, more: bool = False) -> Reply:
    return Reply(200, json.dumps({"object": "list", "data": entries, "has_more": more}).encode())


def made(id_: str, age: float | None = 0, **more: Any) -> dict[str, Any]:
    return {"id": id_, "created_at": None if age is None else NOW - age, **more}


def play(*replies: Reply, since: float = NOW - 100, pages: int = 50) -> tuple[list[Call], Recent]:
    """Answer the calls in turn; every reply must be used."""
    flow = openai.recent(since, pages)
    calls = [next(flow)]
    calls += [flow.send(reply) for reply in replies[:-1]]
    with pytest.raises(StopIteration) as stop:
        flow.send(replies[-1])
    recent = stop.value.value
    assert isinstance(recent, Recent)
    return calls, recent


def ids(recent: Recent) -> list[str]:
    return [batch.status.id for batch in recent.batches]


def listed(**fields: Any) -> Listed:
    (batch,) = play(page(made("b", **fields)))[1].batches
    return batch


def test_pages_are_read_back_to_the_instant_asked_for() -> None:
    calls, recent = play(
        page(made("b1", 0), made("b2", 40), more=True),
        page(made("b3", 60), made("b4", 100), more=True),
        page(made("b5", 100), made("b6", 101), more=True),
    )
    assert [call.query for call in calls] == [
        {"limit": "100"},
        {"limit": "100", "after": "b2"},
        {"limit": "100", "after": "b4"},
    ]
    assert all((call.method, call.path, call.repeat) == ("GET", "/batches", True) for call in calls)
    assert ids(recent) == ["b1", "b2", "b3", "b4", "b5"]
    assert recent.complete


@pytest.mark.parametrize("last", [page(), page(more=True), page(made("b1", 3)), page(made("b1", 3), made("b0", 200))])
def test_the_listing_ends_where_the_provider_says_so(last: Reply) -> None:
    _, recent = play(last)
    assert recent.complete
    assert set(ids(recent)) <= {"b1"}


def test_no_more_pages_are_read_than_allowed_and_that_is_told() -> None:
    calls, recent = play(page(made("b1", 1), more=True), page(made("b2", 2), more=True), pages=2)
    assert len(calls) == 2
    assert ids(recent) == ["b1", "b2"]
    assert not recent.complete


def test_those_that_are_chosen_are_listed_and_no_page_more_is_read_than_they_take() -> None:
    flow = openai.recent(NOW - 100, 9, lambda batch: batch.status.status == "failed", 2)
    replies = [
        page(made("b1", 1, status="failed"), made("b2", 2), more=True),
        page(made("b3", 3, status="failed"), made("b4", 4, status="failed"), more=True),
    ]
    next(flow)
    flow.send(replies[0])
    with pytest.raises(StopIteration) as stop:
        flow.send(replies[1])
    assert ids(stop.value.value) == ["b1", "b3"]
    assert not stop.value.value.complete


def test_as_many_as_there_are_is_all_of_them() -> None:
    flow = openai.recent(NOW - 100, 9, most=2)
    next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(page(made("b1", 1), made("b2", 2)))
    assert stop.value.value.complete


def test_a_server_that_lists_the_oldest_first_is_read_to_the_end_and_the_newest_come_first() -> None:
    replies = [page(made("b1", 900), made("b2", 800), more=True), page(made("b3", 9), made("b4", 5), more=True)]
    calls, recent = play(*replies, page(made("b5", 3)))
    assert len(calls) == 3
    assert (ids(recent), recent.complete) == (["b5", "b4", "b3"], True)


def test_of_those_that_are_listed_the_oldest_first_the_newest_are_given() -> None:
    flow = openai.recent(NOW - 100, 9, most=2)
    next(flow)
    flow.send(page(made("b1", 9), made("b2", 8), made("b3", 7), more=True))
    with pytest.raises(StopIteration) as stop:
        flow.send(page(made("b4", 6), made("b5", 5)))
    assert (ids(stop.value.value), stop.value.value.complete) == (["b5", "b4"], False)


def test_a_server_that_turns_the_same_page_for_ever_is_left_and_that_is_told() -> None:
    replies = [page(made("b1", 1), more=True)] * 2
    _, recent = play(*replies)
    assert (ids(recent), recent.complete) == (["b1"], False)


@pytest.mark.parametrize("counts", [None, {}, {"total": 0, "failed": None}, {"total": True, "failed": "1"}])
def test_counts_that_are_none_are_not_told(counts: object) -> None:
    batch = listed(status="validating", request_counts=counts)
    assert (batch.total, batch.failed) == (None, None)


def test_a_batch_that_two_pages_hold_is_told_of_once() -> None:
    _, recent = play(page(made("b1", 1), made("b2", 2), more=True), page(made("b2", 2), made("b3", 3)))
    assert ids(recent) == ["b1", "b2", "b3"]


def test_a_batch_that_does_not_say_how_old_it_is_counts_as_new() -> None:
    _, recent = play(page(made("b1", None), {"id": "b2"}, more=True), page(made("b3", None)))
    assert ids(recent) == ["b1", "b2", "b3"]


def test_a_listing_that_is_refused_fails() -> None:
    for status in (0, 401, 404, 500):
        flow = openai.recent(0, 5)
        next(flow)
        with pytest.raises(CallFailed):
            flow.send(Reply(status, b""))


def test_a_whole_batch_is_read() -> None:
    batch = listed(
        status="completed",
        endpoint="/v1/chat/completions",
        model="gpt-5.4-mini-2026-03-17",
        in_progress_at=NOW + 3,
        finalizing_at=NOW + 131,
        completed_at=NOW + 133,
        failed_at=None,
        metadata={"carpool": "pool-b7", "carpool_tokens": "1812003"},
        request_counts={"total": 9, "completed": 9, "failed": 0},
        usage={"input_tokens": 1500},
        expires_at=NOW + 86_400,
    )
    assert batch == Listed(
        BatchStatus("b", "pool-b7", "completed", answered=9, succeeded=9, input_tokens=1500),
        endpoint="/v1/chat/completions",
        model="gpt-5.4-mini-2026-03-17",
        tokens=1_812_003,
        created_at=NOW,
        in_progress_at=NOW + 3,
        ended_at=NOW + 133,
        total=9,
        failed=0,
        expires_at=NOW + 86_400,
    )
    assert not batch.open


@pytest.mark.parametrize("nothing", ["absent", None, "", [], {}])
def test_everything_but_the_id_may_be_absent_null_or_empty(nothing: object) -> None:
    fields = ["status", "endpoint", "model", "metadata", "created_at", "in_progress_at", "errors"]
    entry = {"id": "b"} if nothing == "absent" else {"id": "b", **dict.fromkeys(fields, nothing)}
    (batch,) = play(page(entry))[1].batches
    assert batch == Listed(BatchStatus("b", None, "unknown"))
    assert batch.open


@pytest.mark.parametrize(
    ("message", "model", "limit"),
    [(REFUSED, "gpt-4o-mini-2024-07-18", 2_000_000), (REFUSED_AT_AZURE, "gpt-4.1-batch", 30_000)],
)
def test_a_refusal_names_the_model_where_the_batch_does_not(message: str, model: str, limit: int) -> None:
    errors = {"data": [{"code": "other", "message": None}, {"code": "token_limit_exceeded", "message": message}]}
    batch = listed(status="failed", model=None, errors=errors, failed_at=NOW + 1)
    assert (batch.model, batch.status.no_room, batch.ended_at) == (model, NoRoom(limit), NOW + 1)
    assert listed(status="failed", model="gpt-4o", errors=errors).model == "gpt-4o"


def test_a_batch_that_failed_otherwise_names_no_model() -> None:
    batch = listed(status="failed", errors={"data": [{"code": "empty_file", "message": "The input file is empty."}]})
    assert batch.model is None
    assert batch.status.problems == (BatchProblem("empty_file", "The input file is empty.", None),)


@pytest.mark.parametrize(
    ("status", "stamp", "open_"),
    [
        ("failed", "failed_at", False),
        ("completed", "completed_at", False),
        ("expired", "expired_at", False),
        ("cancelled", "cancelled_at", False),
        ("Cancelled", "cancelled_at", False),
        ("canceled", "cancelled_at", False),
        ("validating", "created_at", True),
        ("in_progress", "in_progress_at", True),
        ("finalizing", "finalizing_at", True),
        ("cancelling", "cancelling_at", True),
        ("paused", "paused_at", True),
    ],
)
def test_a_batch_ends_with_its_status(status: str, stamp: str, open_: bool) -> None:
    batch = listed(status=status, **{stamp: NOW + 9})
    assert (batch.open, batch.ended_at) == (open_, None if open_ else NOW + 9)


@pytest.mark.parametrize("stamp", [None, "", "2026-03-25T11:13:11Z", True, 0, -1, 1e300, [NOW]])
def test_a_stamp_is_a_number_of_seconds_or_none(stamp: object) -> None:
    batch = listed(status="completed", in_progress_at=stamp, completed_at=stamp)
    assert (batch.in_progress_at, batch.ended_at) == (None, None)


@pytest.mark.parametrize("noted", [None, "", "0", "many", "-5", "1.5", "1,000", "²", "9" * 400, 5, ["5"]])
def test_tokens_are_noted_as_digits_or_not_at_all(noted: object) -> None:
    assert listed(metadata={"carpool_tokens": noted}).tokens is None

"""What people who look at their account are told: one batch with all that it says, and the files that are there."""

from typing import Any

import pytest
from openai_kit import ok, page, play, serve

from carpool.models import Call, CallFailed, Reply
from carpool.providers.openai import OpenAI
from carpool.providers.overview import Details, Files, RemoteFile, details, files, is_deleted, size

NOW = 1_774_437_191
BATCH = {
    "id": "batch_6a1f",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "model": "gpt-5.4-mini-2026-03-17",
    "input_file_id": "file-in",
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "file-out",
    "error_file_id": "",
    "completed_at": NOW + 133,
    "in_progress_at": NOW + 3,
    "created_at": NOW,
    "expires_at": NOW + 86_400,
    "finalizing_at": NOW + 131,
    "failed_at": None,
    "request_counts": {"total": 9, "completed": 8, "failed": 1},
    "usage": {
        "input_tokens": 1500,
        "input_tokens_details": {"cached_tokens": 1024},
        "output_tokens": 500,
        "output_tokens_details": {"reasoning_tokens": 300},
        "total_tokens": 2000,
        "exact": True,
    },
    "metadata": {"carpool": "0123456789ab-b7", "part": 3},
}


def told(**more: Any) -> Details:
    _, found = play(details("batch_6a1f"), ok({"id": "batch_6a1f", **more}))
    assert found is not None
    return found


def entry(id_: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "object": "file", "purpose": "batch", **more}


def ids(found: Files) -> list[str]:
    return [file.id for file in found.files]


# --- one batch


def test_one_batch_tells_all_that_it_says() -> None:
    calls, found = play(details("batch_6a1f"), ok(BATCH))
    assert calls == [Call("GET", "/batches/batch_6a1f", True)]
    assert found is not None
    listed = found.listed
    assert (listed.status.id, listed.status.key, listed.status.output_file_id) == (
        "batch_6a1f",
        "0123456789ab-b7",
        "file-out",
    )
    assert (listed.total, listed.status.answered, listed.failed, listed.expires_at) == (9, 9, 1, NOW + 86_400)
    assert found.window == "24h"
    assert list(found.stamps.items()) == [
        ("created", NOW),
        ("in_progress", NOW + 3),
        ("finalizing", NOW + 131),
        ("completed", NOW + 133),
    ]
    assert found.usage == {
        "input_tokens": 1500,
        "cached_tokens": 1024,
        "output_tokens": 500,
        "reasoning_tokens": 300,
        "total_tokens": 2000,
    }
    assert found.metadata == {"carpool": "0123456789ab-b7", "part": "3"}


@pytest.mark.parametrize("nothing", [None, "", [], {}, 0])
def test_everything_but_the_id_may_be_none(nothing: object) -> None:
    names = ("completion_window", "usage", "metadata", "created_at", "request_counts")
    found = told(**dict.fromkeys(names, nothing))
    assert (found.window, found.stamps, found.usage, found.metadata) == (None, {}, {}, {})


def test_an_id_is_no_path() -> None:
    calls, _ = play(details("../files/x?y"), ok({"id": "b"}))
    assert calls[0].path == "/batches/..%2Ffiles%2Fx%3Fy"


def test_a_batch_that_is_unknown_is_none() -> None:
    _, found = play(details("batch_none"), ok({"error": {"message": "No batch found"}}, 404))
    assert found is None


@pytest.mark.parametrize("reply", [ok({}, 401), ok({}, 500), Reply(0, b"reset"), ok({"error": {}}), ok([])])
def test_a_batch_that_cannot_be_told_of_fails(reply: Reply) -> None:
    flow = details("batch_6a1f")
    next(flow)
    with pytest.raises(CallFailed):
        flow.send(reply)


# --- files


def test_files_are_read_page_by_page() -> None:
    first = page(entry("f1", filename="a.jsonl", bytes=7, created_at=NOW), entry("f2", bytes=0), more=True)
    calls, found = play(files("batch", 9), first, page(entry("f3", filename="")))
    query = {"purpose": "batch", "limit": "100", "order": "desc"}
    assert [call.query for call in calls] == [query, {**query, "after": "f2"}]
    assert all((call.method, call.path, call.repeat) == ("GET", "/files", True) for call in calls)
    assert found == Files((RemoteFile("f1", "a.jsonl", 7, NOW), RemoteFile("f2"), RemoteFile("f3")), True)


def test_files_of_another_purpose_are_left_out() -> None:
    entries = [entry("f1"), entry("f2", purpose="batch_output"), {"id": "f3"}]
    _, found = play(files("batch", 9), page(*entries))
    assert ids(found) == ["f1", "f3"]


def test_no_more_pages_of_files_are_read_than_allowed_and_that_is_told() -> None:
    calls, found = play(files("batch", 2), page(entry("f1"), more=True), page(entry("f2"), more=True))
    assert len(calls) == 2
    assert (ids(found), found.complete) == (["f1", "f2"], False)


def test_a_listing_that_turns_the_same_page_for_ever_is_left_and_that_is_told() -> None:
    calls, found = serve(files("batch", 99), lambda call: page(entry("f1"), more=True))
    assert len(calls) == 2
    assert (ids(found), found.complete) == (["f1"], False)


@pytest.mark.parametrize("reply", [ok({}, 401), ok({}, 404), Reply(200, b"<html>")])
def test_a_listing_of_files_that_is_refused_fails(reply: Reply) -> None:
    flow = files("batch", 9)
    next(flow)
    with pytest.raises(CallFailed):
        flow.send(reply)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (ok(entry("f", bytes=391_505_535)), 391_505_535),
        (ok(entry("f", bytes=0)), None),
        (ok(entry("f", bytes="7")), None),
        (ok({}, 404), None),
        (ok({}, 403), None),
        (Reply(200, b"rows"), None),
    ],
)
def test_the_bytes_of_a_file_are_told_where_the_provider_says(reply: Reply, told: int | None) -> None:
    calls, found = play(size("f/1"), reply)
    assert calls == [Call("GET", "/files/f%2F1", True)]
    assert found == told


@pytest.mark.parametrize(
    ("reply", "deleted"),
    [
        (ok({"id": "f", "deleted": True}), True),
        (ok({"id": "f", "deleted": False}), False),
        (ok({"id": "f"}), True),
        (Reply(204, b""), True),
    ],
)
def test_a_file_is_deleted_unless_the_provider_says_that_it_is_not(reply: Reply, deleted: bool) -> None:
    assert is_deleted(reply) == deleted


def test_the_content_of_a_file_is_safe_to_fetch_again() -> None:
    assert OpenAI().content("f/1") == Call("GET", "/files/f%2F1/content", True)

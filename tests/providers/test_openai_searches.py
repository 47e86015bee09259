"""What is looked for in the listings after a reply was lost: batches that may exist, files that may have arrived."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec import structs
from openai_kit import BATCH, ids, ok, page, play, remote, serve

from carpool.models import NO_REPLY, Call, CallFailed, Flow, Reply
from carpool.models import Upload as FilePart
from carpool.providers import Provider
from carpool.providers.openai import OpenAI

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

openai: Provider = OpenAI()
NOW = 1_774_437_191.0
SKEW = 3_600
PACKED = structs.replace(BATCH, packed_at=NOW)
AGAIN = structs.replace(PACKED, again=True)

NO_STAMPS = [None, "", "2026-03-25T11:13:11Z", str(int(NOW)), True, 0, -1, 1e300, int(NOW - 10**8) * 1_000, [NOW]]


def aged(entry: dict[str, Any], age: float) -> dict[str, Any]:
    """Let an object be created so many seconds before NOW."""
    return {**entry, "created_at": NOW - age}


def file(id_: str, name: object = "pool-b7.jsonl", size: object = 123, **more: Any) -> dict[str, Any]:
    return {"id": id_, "object": "file", "filename": name, "bytes": size, "purpose": "batch", **more}


def cursors(calls: Sequence[Call]) -> list[str | None]:
    return [call.query.get("after") for call in calls]


def listing(entries: Sequence[dict[str, Any]], size: int) -> Callable[[Call], Reply]:
    """Serve entries by pages, as the provider does."""
    places = {entry["id"]: at for at, entry in enumerate(entries, 1)}

    def answer(call: Call) -> Reply:
        start = places[call.query["after"]] if "after" in call.query else 0
        return page(*entries[start : start + size], more=start + size < len(entries))

    return answer


def find_one(since: float = NOW) -> Flow[Any]:
    """Look for a batch that no listing holds."""
    return openai.find({"k": "file"}, since)


searches = pytest.mark.parametrize(
    "search", [find_one, lambda: openai.uploads(PACKED.sought)], ids=["of a batch", "of uploads"]
)


# --- how far a listing is read


@searches
def test_a_listing_is_read_an_hour_beyond_the_time_since_when(search: Callable[[], Flow[Any]]) -> None:
    calls, found = play(
        search(),
        page(aged(remote("b1"), -SKEW), aged(remote("b2"), 0), more=True),
        page(aged(remote("b3"), 1), aged(remote("b4"), SKEW), more=True),
        page(aged(remote("b5"), SKEW), aged(remote("b6"), SKEW + 1), more=True),
    )
    assert cursors(calls) == [None, "b2", "b4"]
    assert len({(call.method, call.path, call.repeat, call.query["limit"]) for call in calls}) == 1
    assert found == []


@searches
@pytest.mark.parametrize(
    "last",
    [
        page(),
        page(more=True),
        page(remote("b2"), more=False),
        page("no object", {"id": None}, {"id": 5}, {}, more=True),
        ok({"data": {}, "has_more": True}),
        ok({"data": None}),
        ok({"value": [remote("b2")]}),
        ok([remote("b2")]),
        ok([]),
        ok({"data": [remote("b2")]}),
        ok({"data": [remote("b2")], "has_more": None}),
    ],
)
def test_a_search_ends_with_the_listing(search: Callable[[], Flow[Any]], last: Reply) -> None:
    assert play(search(), last)[1] == []
    assert play(search(), page(remote("b1"), more=True), last)[1] == []


@searches
@pytest.mark.parametrize("stamp", NO_STAMPS)
def test_a_listing_that_does_not_tell_ages_is_read_to_its_end(search: Callable[[], Flow[Any]], stamp: object) -> None:
    pages = [page({**remote(f"b{at}"), "created_at": stamp}, more=at < 30) for at in range(31)]
    assert play(search(), *pages)[1] == []


@searches
def test_a_listing_may_leave_out_ages(search: Callable[[], Flow[Any]]) -> None:
    old = aged(remote("b1"), 10 * SKEW)
    calls, _ = play(search(), page(old, remote("b2"), more=True), page(remote("b3"), old, more=True))
    assert cursors(calls) == [None, "b2"]


@searches
def test_what_is_no_object_is_no_cursor(search: Callable[[], Flow[Any]]) -> None:
    calls, _ = play(search(), page(remote("b1"), "no object", {"id": None}, {"id": 7}, more=True), page())
    assert cursors(calls) == [None, "b1"]


@searches
def test_a_server_that_turns_the_same_page_for_ever_is_left(search: Callable[[], Flow[Any]]) -> None:
    calls, found = serve(search(), lambda call: page(aged(remote("b1"), 0), aged(remote("b2"), 1), more=True))
    assert cursors(calls) == [None, "b2"]
    assert found == []


@searches
@pytest.mark.parametrize("turns", [2, 3, 7])
def test_a_server_that_turns_its_pages_in_a_circle_is_left(search: Callable[[], Flow[Any]], turns: int) -> None:
    numbers = count()
    calls, _ = serve(search(), lambda call: page(remote(f"b{next(numbers) % turns}"), more=True))
    assert cursors(calls) == [None, *(f"b{at}" for at in range(turns))]


@searches
def test_a_server_whose_pages_overlap_is_read_on(search: Callable[[], Flow[Any]]) -> None:
    calls, _ = play(
        search(),
        page(remote("b1"), remote("b2"), more=True),
        page(remote("b2"), remote("b3"), more=True),
        page(remote("b3"), remote("b4"), more=False),
    )
    assert cursors(calls) == [None, "b2", "b3"]


# --- batches


def test_lost_batches_are_found_by_their_keys_over_several_pages() -> None:
    calls, found = play(
        openai.find({"k1": "file-1", "k2": "file-2"}, NOW),
        page(remote("b1"), remote("b2", "k1"), remote("b3", "other"), more=True),
        page(remote("b4"), more=True),
        page(remote("b5", "k2", "COMPLETED"), remote("b6"), more=True),
    )
    assert calls == [
        Call("GET", "/batches", True, {"limit": "100"}),
        Call("GET", "/batches", True, {"limit": "100", "after": "b3"}),
        Call("GET", "/batches", True, {"limit": "100", "after": "b4"}),
    ]
    assert [(status.id, status.key, status.status) for status in found] == [
        ("b2", "k1", "in_progress"),
        ("b5", "k2", "completed"),
    ]


def test_a_batch_whose_metadata_is_not_echoed_is_found_by_its_input_file() -> None:
    silent = remote("batch_1", input_file_id="file-2")
    _, (found,) = play(openai.find({"k1": "file-1", "k2": "file-2"}, NOW), page(remote("x"), silent))
    assert (found.id, found.key) == ("batch_1", "k2")


def test_batches_of_others_are_not_found() -> None:
    others = [remote("b1", "k10"), remote("b2", input_file_id="file-10"), {"id": "b3", "metadata": {"other": "k1"}}]
    assert play(openai.find({"k1": "file-1"}, NOW), page(*others))[1] == []


def test_a_batch_that_is_older_than_it_may_be_is_found_where_it_stands_on_a_page_that_was_read() -> None:
    # Clocks may be set: what carries the key is the batch.
    _, found = play(openai.find({"k1": "file-1"}, NOW), page(aged(remote("b1", "k1"), 99 * SKEW), more=True))
    assert ids(found) == ["b1"]


def test_a_search_ends_when_all_are_found() -> None:
    calls, found = play(
        openai.find({"k1": "file-1", "k2": "file-2"}, NOW),
        page(aged(remote("b1", "k2"), 0), aged(remote("b2"), 1), more=True),
        page(aged(remote("b3", "k1"), 2), aged(remote("b4"), 3), more=True),
    )
    assert (len(calls), ids(found)) == (2, ["b1", "b3"])


def test_a_lost_batch_is_found_behind_the_newest_two_thousand() -> None:
    entries = [aged(remote(f"b{at}", f"k{at}"), at) for at in range(3_000)]
    calls, found = serve(openai.find({"k2345": "file"}, NOW), listing(entries, 100))
    assert (len(calls), ids(found)) == (24, ["b2345"])


def test_a_batch_that_two_pages_hold_is_told_of_once() -> None:
    _, found = play(
        openai.find({"k1": "file-1", "k2": "file-2"}, NOW),
        page(remote("b1", "k1"), remote("b2"), more=True),
        page(remote("b1", "k1"), remote("b3", input_file_id="file-1"), more=False),
    )
    assert ids(found) == ["b1"]


def test_a_page_that_comes_again_and_again_tells_of_a_batch_once() -> None:
    calls, found = serve(
        openai.find({"k1": "file-1", "k2": "file-2"}, NOW), lambda call: page(remote("b1", "k1"), more=True)
    )
    assert (len(calls), ids(found)) == (2, ["b1"])


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "gone"), (405, "rejected"), (401, "auth"), (429, "busy"), (500, "lost"), (0, "lost")]
)
def test_a_listing_that_cannot_be_read_does_not_say_that_nothing_was_created(status: int, kind: str) -> None:
    for before in ([], [page(remote("b1"), more=True)]):
        with pytest.raises(CallFailed) as caught:
            play(find_one(), *before, Reply(status, b""))
        assert caught.value.failure.kind == kind


@st.composite
def listings(draw: st.DrawFn) -> list[tuple[float, str]]:
    """Make ages and keys of batches, the newest first."""
    ages = draw(st.lists(st.integers(-SKEW, 3 * SKEW), max_size=40))
    return [(age, draw(st.sampled_from(["k1", "k2", "k3", "x", "y"]))) for age in sorted(ages)]


@unhurried
@given(listings(), st.integers(1, 10), st.sets(st.sampled_from(["k1", "k2", "k3"]), min_size=1))
def test_whatever_was_created_since_then_is_found(made: list[tuple[float, str]], size: int, keys: set[str]) -> None:
    entries = [aged(remote(f"b{at}", key), age) for at, (age, key) in enumerate(made)]
    calls, found = serve(openai.find(dict.fromkeys(keys, "file"), NOW), listing(entries, size))

    assert {status.key for status in found} >= {key for age, key in made if age <= SKEW} & keys
    assert {status.key for status in found} <= keys
    assert all(made[int(status.id[1:])][1] == status.key for status in found)
    # No page is read behind one that ends before the time.
    young = sum(age <= SKEW for age, _ in made)
    assert len(calls) <= young // size + 1


# --- uploads


def test_uploads_are_looked_for_by_name_and_size() -> None:
    files = page(
        file("file-1", size=100),
        file("file-2", "pool-b77.jsonl"),
        file("file-3"),
        {"id": "file-4", "bytes": 123},
        {"id": "file-5", "filename": "pool-b7.jsonl"},
        file("file-6", "POOL-B7.jsonl"),
        file("file-7", size="123"),
        file("file-8", None, None),
        {"filename": "pool-b7.jsonl", "bytes": 123},
        "no object",
        file("file-9"),
    )
    calls, found = play(openai.uploads(PACKED.sought), files)
    assert calls == [Call("GET", "/files", True, {"purpose": "batch", "limit": "100", "order": "desc"})]
    assert found == ["file-3", "file-9"]


def test_all_uploads_of_a_batch_are_found_over_several_pages() -> None:
    calls, found = play(
        openai.uploads(PACKED.sought),
        page(file("file-1"), file("file-2", "x"), more=True),
        page(file("file-3", "x"), more=True),
        page(file("file-4"), file("file-5"), more=False),
    )
    query = {"purpose": "batch", "limit": "100", "order": "desc"}
    assert calls == [
        Call("GET", "/files", True, query),
        Call("GET", "/files", True, {**query, "after": "file-2"}),
        Call("GET", "/files", True, {**query, "after": "file-3"}),
    ]
    assert found == ["file-1", "file-4", "file-5"]


def test_uploads_are_found_whether_or_not_one_may_have_been_lost() -> None:
    for batch in (PACKED, AGAIN):
        assert play(openai.uploads(batch.sought), page(file("file-1")))[1] == ["file-1"]


def test_of_a_batch_that_does_not_say_when_it_was_packed_the_whole_listing_is_read() -> None:
    entries = [aged(file(f"file-{at}", "x"), 1_000_000.0 * at) for at in range(1_000)]
    calls, found = serve(openai.uploads(BATCH.sought), listing([*entries, aged(file("file-x"), NOW - 1)], 100))
    assert (len(calls), found) == (11, ["file-x"])


def test_uploads_are_found_behind_the_newest_thousands() -> None:
    entries = [aged(file(f"file-{at}", "pool-b7.jsonl" if at % 1_000 == 999 else "x"), 1) for at in range(10_000)]
    calls, found = serve(openai.uploads(PACKED.sought), listing(entries, 100))
    assert (len(calls), len(found), found[-1]) == (100, 10, "file-9999")


UNHEARD = [Reply(429, b""), Reply(500, b""), Reply(0, b""), Reply(200, b"<html>")]


@pytest.mark.parametrize("reply", UNHEARD)
@pytest.mark.parametrize("before", [[], [page(file("file-1"), more=True)]])
def test_a_search_for_all_uploads_needs_every_reply(reply: Reply, before: list[Reply]) -> None:
    with pytest.raises(CallFailed):
        play(openai.uploads(PACKED.sought), *before, reply)


@pytest.mark.parametrize("reply", UNHEARD)
def test_an_upload_is_made_again_where_none_can_be_looked_for(reply: Reply) -> None:
    calls, file_id = play(openai.upload(AGAIN), reply, ok(file("file-9")))
    assert ([call.method for call in calls], file_id) == (["GET", "POST"], "file-9")


@pytest.mark.parametrize("reply", [Reply(404, b""), Reply(405, b"")])
def test_where_files_cannot_be_listed_those_seen_before_are_all(reply: Reply) -> None:
    assert play(openai.uploads(PACKED.sought), reply)[1] == []
    before = page(file("file-1"), file("file-2", "x"), more=True)
    calls, found = play(openai.uploads(PACKED.sought), before, reply)
    assert (cursors(calls), found) == ([None, "file-2"], ["file-1"])


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("before", [[], [page(file("file-1", "x"), more=True)]])
def test_a_refused_key_ends_a_search_for_uploads_at_once(status: int, before: list[Reply]) -> None:
    flows: list[Flow[Any]] = [openai.uploads(PACKED.sought), openai.upload(AGAIN)]
    for flow in flows:
        with pytest.raises(CallFailed) as caught:
            play(flow, *before, Reply(status, b""))
        assert caught.value.failure.kind == "auth"


@unhurried
@given(listings(), st.integers(1, 10))
def test_whatever_was_uploaded_since_then_is_found(made: list[tuple[float, str]], size: int) -> None:
    entries = [
        aged(file(f"file-{at}", "pool-b7.jsonl" if key == "k1" else key), age) for at, (age, key) in enumerate(made)
    ]
    calls, found = serve(openai.uploads(PACKED.sought), listing(entries, size))

    wanted = [f"file-{at}" for at, (_, key) in enumerate(made) if key == "k1"]
    young = sum(age <= SKEW for age, _ in made)
    assert found == wanted[: len(found)]
    assert len(found) >= sum(key == "k1" for _, key in made[:young])
    assert len(calls) <= young // size + 1


# --- uploading again


def test_an_upload_that_arrived_is_not_sent_again() -> None:
    calls, file_id = play(openai.upload(AGAIN), page(file("file-1", "x"), file("file-2", size=5), file("file-3")))
    assert calls == [Call("GET", "/files", True, {"purpose": "batch", "limit": "100", "order": "desc"})]
    assert file_id == "file-3"


def test_an_upload_that_arrived_is_found_behind_the_first_page() -> None:
    calls, file_id = serve(
        openai.upload(AGAIN), listing([*(file(f"file-{at}", "x") for at in range(250)), file("file-x")], 100)
    )
    assert {(call.method, call.path) for call in calls} == {("GET", "/files")}
    assert (len(calls), file_id) == (3, "file-x")


def test_of_several_uploads_the_newest_is_taken() -> None:
    pages = page(file("file-1", "x"), file("file-2"), more=True), page(file("file-3"))
    flow = openai.upload(AGAIN)
    # Whether the rest of the listing is read does not matter.
    _, file_id = serve(flow, lambda call: pages["after" in call.query])
    assert file_id == "file-2"


@pytest.mark.parametrize(
    "files",
    [
        page(),
        page(file("file-1", "x"), file("file-2", size=5)),
        page(aged(file("file-1", "x"), SKEW + 1), more=True),
        ok({}),
        ok({"data": None}),
        Reply(404, b""),
        Reply(405, b""),
        Reply(429, b""),
        Reply(500, b""),
        Reply(0, b""),
        Reply(200, b"<html>"),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_an_upload_that_is_not_found_is_sent_again(files: Reply, keep: bool) -> None:
    provider = OpenAI(keep_files=keep)
    calls, file_id = play(provider.upload(AGAIN), files, ok({"id": "file-5"}))
    assert [(call.method, call.path) for call in calls] == [("GET", "/files"), ("POST", "/files")]
    assert calls[1] == next(provider.upload(PACKED))
    assert calls[1].upload == FilePart("pool-b7.jsonl", (), 123)
    assert file_id == "file-5"


def test_an_upload_that_cannot_have_arrived_is_not_looked_for() -> None:
    calls, _ = play(openai.upload(PACKED), ok({"id": "file-1"}))
    assert [(call.method, call.path) for call in calls] == [("POST", "/files")]


def test_what_one_page_tells_is_not_lost_with_the_next_and_of_the_rest_nothing_is_known() -> None:
    first = page(remote("b1", "k1"), more=True)
    _, found = play(openai.find({"k1": "f1", "k2": "f2"}, NOW), first, Reply(500, b""))
    assert [(status.key, status.status == NO_REPLY) for status in found] == [("k1", False), ("k2", True)]

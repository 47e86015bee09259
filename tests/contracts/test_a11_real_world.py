"""Contracts A11: what users of batch APIs reported, row by row."""

import json
import math
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
from contracts_kit import (
    CANCEL,
    CHECK,
    CREATE,
    DOWNLOAD,
    HOUR,
    UNHURRIED,
    UPLOAD,
    Bend,
    Found,
    assert_told,
    refused,
    scene,
    texts,
)
from virtual import CHAT, body

import carpool
from carpool.testing import Faults, Pace, Troubles

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

TABLE = (  # the rows of the table, in its order
    "cannot_find_file",
    "create_never_raises_for_the_token_limit",
    "a_failed_batch_cannot_be_cancelled",
    "a_small_batch_fails_on_the_token_limit",
    "tokens_are_not_released",
    "stuck_at_none_done",
    "in_progress_for_more_than_twelve_hours",
    "expired_with_server_errors",
    "completed_without_an_output_file",
    "a_truncated_download",
    "a_download_is_always_a_502",
    "fewer_rows_than_requested",
    "uploads_time_out",
    "a_batch_vanishes",
    "batches_missing_in_the_listing",
    "a_404_shortly_after_the_creation",
    "a_lost_reply_to_a_creation",
    "an_expired_batch_keeps_its_rows",
    "clones_hang_on_duplicate_custom_ids",
    "no_report_was_found",
)
BLINK = {"timing": carpool.Timing(linger=0.1, poll_min=1)}
WEIGHED = {"counter": lambda *_: 100}


def weigh(given: Found) -> int:
    """Count as the pool does: what is tested is not how well it guesses."""
    return 100


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


async def ask_models(w: Any, models: list[str]) -> None:
    """Ask for one answer of each model, all at once."""
    async with anyio.create_task_group() as tasks:
        for model in models:
            tasks.start_soon(w.pool.request, CHAT, body("text", model=model))


async def test_a11_cannot_find_file_right_after_the_upload_of_many_at_once() -> None:
    async with scene(file_lag=8) as w:
        await ask_models(w, [f"model-{number}" for number in range(30)])
    assert w.ends() == ["completed"] * 30
    assert w.asked(UPLOAD) == 30
    assert w.asked(CREATE) <= 30 * 7


async def test_a11_cannot_find_file_for_ever_is_told() -> None:
    async with scene(file_lag=math.inf, within=HOUR) as w:
        await w.ask_all(texts(4))
    assert "Cannot find file" in w.error("text 0").message
    assert len(w.errors()) == 4
    assert not w.emulator.books().files


async def test_a11_create_never_raises_for_the_token_limit_so_that_it_is_heard_of_later() -> None:
    async with scene(pool=WEIGHED, enqueued_tokens={"*": 1_000}, count=weigh, pace=Pace(running=60)) as w:
        await w.ask_all(texts(40))
    assert len(w.answers()) == 40
    assert w.ends()[0] == "failed"
    assert w.emulator.books().refusals() <= 3


async def test_a11_a_failed_batch_cannot_be_cancelled_and_is_not() -> None:
    async with scene(models=["another"]) as w:
        await w.ask_all(texts(4))
    assert (w.asked(CANCEL), w.ends()) == (0, ["failed"])
    assert not w.emulator.books().files


async def test_a11_a_small_batch_fails_on_the_token_limit_of_a_queue_that_others_fill() -> None:
    others = iter([90_000] * 5)
    async with scene(enqueued_tokens={"*": 90_000}, other_tokens=lambda model, now: next(others, 0)) as w:
        await w.ask_all(texts(15))
    assert len(w.answers()) == 15
    assert w.emulator.books().refusals() >= 1


async def test_a11_tokens_are_not_released_for_a_while_after_completion() -> None:
    queue: Found = {"enqueued_tokens": {"*": 1_000}, "count": weigh, "release_after": 10}
    async with scene(pool=WEIGHED, pace=Pace(running=60), **queue) as w:
        await w.ask_all(texts(40))
    assert len(w.answers()) == 40
    assert w.emulator.books().refusals() < 30


async def test_a11_stuck_at_none_done_while_a_batch_of_another_model_runs() -> None:
    async with (
        scene(pool={"timing": UNHURRIED}, troubles=Troubles(stuck=0.5), seed=0) as w,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(w.ask_all, texts(15))
        await anyio.sleep(HOUR)
        assert (await w.pool.request(CHAT, body("one row", model="another"))).text == "one row"
        assert w.settled == {}
        await anyio.sleep(6 * HOUR)
        assert [notice.kind for notice in w.notices] == ["late"]
    assert len(w.answers()) == 15
    assert w.ends()[0] in ("cancelling", "cancelled")


async def test_a11_stuck_at_none_done_is_ended_by_a_timeout_of_the_call() -> None:
    async with scene(pool={"timeout": HOUR}, troubles=Troubles(stuck=1), within=2 * HOUR) as w:
        await w.ask_all(texts(15))
    assert w.kinds() == {carpool.RequestExpired}
    assert len(w.errors()) == 15


async def test_a11_in_progress_for_more_than_twelve_hours_is_waited_for_and_told_once() -> None:
    async with scene(pace=Pace(running=14 * HOUR)) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert [notice.kind for notice in w.notices] == ["late"]
    assert w.asked(CHECK) < 14 * 60 * 2


async def test_a11_expired_with_server_errors_is_run_again() -> None:
    troubles = Troubles(expiring=0.5, failing={500: 0.3})
    async with scene(troubles=troubles, seed=0) as w:
        await w.ask_all(texts(30))
    assert w.ends()[0] == "expired"
    assert len(w.answers()) >= 28
    assert all(len(w.error(text).attempts) >= 3 for text in w.errors())
    assert {w.paid(text) for text in w.answers()} == {1}


async def test_a11_completed_without_an_output_file_is_read_from_its_error_file() -> None:
    async with scene(troubles=Troubles(failing={400: 1})) as w:
        await w.ask_all(texts(9))
    assert w.kinds() == {carpool.RequestRejected}
    assert len(w.errors()) == 9


@pytest.mark.parametrize("absent", [None, ""])
@pytest.mark.parametrize("files", [("output",), ("error",), ("output", "error")], ids="-".join)
async def test_a11_completed_without_an_output_file_that_is_named_later_is_waited_for(
    files: tuple[str, ...], absent: str | None
) -> None:
    """[INF] A listing, or another replica, may lag behind the end of a batch."""
    looks = 0

    def edit(batch: Found) -> None:
        nonlocal looks
        looks += batch["status"] == "completed"
        if looks < 3:
            batch |= {f"{kind}_file_id": absent for kind in files}

    async with scene(Bend(batch=edit), troubles=Troubles(failing={400: 0.5}), seed=1) as w:
        await w.ask_all(texts(20))
    assert len(w.settled) == 20
    assert w.kinds() == {carpool.RequestRejected}
    assert w.asked(CREATE) == 1


@pytest.mark.parametrize("fault", ["truncated", "cut"])
async def test_a11_a_truncated_download_is_fetched_again_and_no_row_is_paid_twice(fault: str) -> None:
    faults = Faults(only={DOWNLOAD}, nth={1, 2}, **{fault: 1.0})
    async with scene(faults=faults) as w:
        await w.ask_all(texts(50))
    assert len(w.answers()) == 50
    assert (w.asked(DOWNLOAD), w.asked(CREATE)) == (3, 1)


async def test_a11_a_truncated_download_for_ever_gives_what_there_is_and_tells_the_rest() -> None:
    bend = Bend(file=lambda kind, content: content[: len(content) // 2])
    async with scene(bend, pool={"retry": carpool.Retry(max_attempts=1)}) as w:
        await w.ask_all(texts(50))
    assert 20 < len(w.answers()) < 30
    assert w.kinds() == {carpool.ResultMissing}
    assert len(w.settled) == 50
    assert w.asked(CREATE) == 1
    assert [file.purpose for file in w.emulator.books().files] == ["batch", "batch_output"]  # kept: they are paid for


async def test_a11_a_download_is_always_a_502_until_somebody_mends_it() -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        return refused(502, "Bad gateway") if route == DOWNLOAD and number < 30 else None

    async with scene(Bend(instead=instead)) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert w.asked(CREATE) == 1


async def test_a11_a_download_is_always_a_502_is_told_and_the_files_are_left_where_they_are() -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        return refused(502, "Bad gateway") if route == DOWNLOAD else None

    async with scene(Bend(instead=instead), within=6 * HOUR) as w:
        await w.ask_all(texts(4))
    assert w.kinds() == {carpool.ResultMissing}
    assert "out of reach" in w.error("text 0").message
    assert len(w.errors()) == 4
    assert w.asked(CREATE) == 1
    assert "batch_output" in {file.purpose for file in w.emulator.books().files}


async def test_a11_fewer_rows_than_requested_or_more() -> None:
    async with scene(troubles=Troubles(missing=0.2, doubled=0.2, foreign=0.2), seed=3) as w:
        await w.ask_all(texts(30))
    books = w.emulator.books()
    assert w.answers() == {text: text for text in texts(30)}
    assert sum(books.lost.values()) > 0
    assert sum(books.paid.values()) == 30 + sum(books.lost.values())


@pytest.mark.parametrize("fault", ["lost_upload", "reset", "server_error", "too_many"])
async def test_a11_uploads_time_out_and_are_made_again_and_none_is_left(fault: str) -> None:
    async with scene(faults=Faults(only={UPLOAD}, nth=range(1, 6), **{fault: 1.0})) as w:
        await w.ask_all(texts(4))
    assert {w.paid(text) for text in texts(4)} == {1}
    assert w.ends() == ["completed"]
    assert not w.emulator.books().files


async def test_a11_uploads_time_out_for_ever_and_it_is_told() -> None:
    async with scene(faults=Faults(only={UPLOAD}, reset=1), within=HOUR) as w:
        await w.ask_all(texts(4))
    assert w.kinds() == {carpool.RequestFailed}
    assert len(w.errors()) == 4
    assert w.asked(CREATE) == 0


VANISHED: dict[str, Callable[[], httpx2.Response]] = {
    "404": lambda: refused(404, "No batch found with id 'batch_1'."),
    "error-200": lambda: httpx2.Response(200, json={"error": {"message": "Not found."}}),
    "page-200": lambda: httpx2.Response(200, text="<html>Down for maintenance.</html>"),
    "502": lambda: refused(502),
    "403": lambda: refused(403, "The key of another project."),
}


@pytest.mark.parametrize("how", VANISHED)
async def test_a11_a_batch_vanishes_for_a_while(how: str) -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        return VANISHED[how]() if route == CHECK and number <= 8 else None

    async with scene(Bend(instead=instead)) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert w.asked(CREATE) == 1


@pytest.mark.parametrize("how", ["404", "error-200", "403"])
async def test_a11_a_batch_vanishes_for_ever_and_its_callers_are_told(how: str) -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        return VANISHED[how]() if route == CHECK else None

    async with scene(Bend(instead=instead), within=30 * HOUR) as w:
        await w.ask_all(texts(4))
    (kind,) = w.kinds()
    assert kind is (carpool.AuthenticationFailed if how == "403" else carpool.ResultMissing)
    assert len(w.errors()) == 4
    assert w.asked(CREATE) == 1  # it may well run, and be billed


async def test_a11_batches_missing_in_the_listing_are_asked_for_singly() -> None:
    async with scene(listing_lag=math.inf, pace=Pace(running=30)) as w:
        await ask_models(w, ["one", "two", "three"])
    assert w.ends() == ["completed"] * 3


@pytest.mark.parametrize("envelope", ["value", "list"])
async def test_a11_batches_missing_in_the_listing_as_it_has_another_envelope(envelope: str) -> None:
    """[D0, D1] Azure names the entries "value", Together gives a bare list; a lost creation is found all the same."""

    def page(content: Found) -> Any:
        return content["data"] if envelope == "list" else {"value": content["data"]}

    async with scene(Bend(page=page), faults=Faults(lost_create=1, nth={1}), within=HOUR) as w:
        await w.ask_all(texts(4))
    assert {w.paid(text) for text in texts(4)} == {1}
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("envelope", ["value", "list"])
async def test_a11_batches_in_another_envelope_are_checked(envelope: str) -> None:
    def page(content: Found) -> Any:
        return content["data"] if envelope == "list" else {"value": content["data"]}

    async with scene(Bend(page=page), pace=Pace(running=30)) as w:
        await ask_models(w, ["one", "two", "three"])
    assert w.ends() == ["completed"] * 3


async def test_a11_a_404_shortly_after_the_creation_is_no_end() -> None:
    async with scene(pool=BLINK, creation_lag=15) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert w.ends() == ["completed"]


async def test_a11_a_lost_reply_to_a_creation_makes_no_second_batch() -> None:
    async with scene(faults=Faults(lost_create=1, nth={1})) as w:
        await w.ask_all(texts(4))
    assert {w.paid(text) for text in texts(4)} == {1}
    assert (w.asked(CREATE), w.ends()) == (1, ["completed"])


async def test_a11_a_lost_reply_to_a_creation_is_found_though_the_listing_lags() -> None:
    async with scene(faults=Faults(lost_create=1, nth={1}), listing_lag=7) as w:
        await w.ask_all(texts(4))
    assert (w.asked(CREATE), w.ends()) == (1, ["completed"])


async def test_a11_an_expired_batch_keeps_its_rows_and_the_rest_is_submitted_again() -> None:
    async with scene(troubles=Troubles(expiring=0.5), seed=0, pace=Pace(running=100)) as w:
        await w.ask_all(texts(20))
    first, second = w.emulator.books().batches
    assert (first.status, second.status) == ("expired", "completed")
    assert (first.completed, second.total) == (10, 10)
    assert len(w.answers()) == 20


async def test_a11_clones_hang_on_duplicate_custom_ids_of_which_there_are_none() -> None:
    uploads: list[list[str]] = []

    def send(route: str, number: int, content: bytes) -> bytes:
        if route == UPLOAD:
            lines = [line for line in content.split(b"\n") if line.startswith(b'{"custom_id"')]
            uploads.append([json.loads(line)["custom_id"] for line in lines])
        return content

    async with scene(Bend(send=send), troubles=Troubles(missing=0.3), equal=30) as w:
        await w.pool.gather([body("the same")] * 30, endpoint=CHAT, return_exceptions=True)
    assert len(uploads) > 1
    for ids in uploads:
        assert len(ids) == len(set(ids))
        assert all(len(custom_id) <= 64 and custom_id.replace("-", "").isalnum() for custom_id in ids)
        assert set(ids) <= set(uploads[0])  # it never changes


async def test_a11_no_report_was_found_of_a_409_to_a_creation_and_it_does_no_harm() -> None:
    def after(request: httpx2.Request, reply: httpx2.Response) -> httpx2.Response | None:
        created = (request.method, request.url.path) == ("POST", "/v1/batches")
        return refused(409, "Conflict.") if created else None

    async with scene(Bend(after=after), within=HOUR) as w:
        await w.ask_all(texts(4))
    assert {w.paid(text) for text in texts(4)} == {1}
    assert w.asked(CREATE) == 1


@pytest.mark.parametrize("metadata", [None, {}, {"other": "text"}])
async def test_a11_no_report_was_found_of_lost_metadata_and_it_does_no_harm(metadata: Any) -> None:
    def edit(batch: Found) -> None:
        batch["metadata"] = metadata

    async with scene(Bend(batch=edit), faults=Faults(lost_create=1, nth={1}), within=HOUR) as w:
        await w.ask_all(texts(4))
    assert {w.paid(text) for text in texts(4)} == {1}
    assert w.asked(CREATE) == 1


def test_a11_every_row_has_a_test() -> None:
    assert_told(globals(), {f"a11_{row}" for row in TABLE})

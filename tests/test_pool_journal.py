"""The whole pool with a journal, on virtual time, on both backends: what one process leaves, and the next one finds."""

import logging
import os
import sqlite3
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import msgspec
import pytest
from virtual import CHAT, EMBEDDINGS, InMemory, Samples, Site, World, body, run_here, site

import carpool
from carpool.journal import Known
from carpool.journal.sqlite import Sqlite
from carpool.settings import Ports
from carpool.testing import Answer, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def runs(at: Site) -> set[int]:
    """Give how often bodies were run: {1} where each was run once."""
    return set(at.emulator.books().bodies.values())


async def gather_texts(pool: carpool.Pool, wanted: list[str]) -> list[str]:
    return [response.text for response in await pool.gather([body(text) for text in wanted], endpoint=CHAT)]


# --- resuming


async def test_the_same_program_is_answered_from_disk(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(100))
        asked = len(at.transport.requests)
        for _ in range(2):
            async with at.open() as w:
                start = anyio.current_time()
                await w.ask_all(texts(100))
                assert anyio.current_time() == start
            assert w.answers() == {text: text for text in texts(100)}
            assert w.pool.stats() == carpool.Stats(100, 100, 0, 0, (), state="closed")
        assert len(at.transport.requests) == asked
    assert runs(at) == {1}


async def test_a_response_from_disk_is_the_one_that_was_given(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        given = []
        for _ in range(2):
            async with at.open() as w:
                given.append(await w.pool.request(CHAT, body("ünï\u2028code")))
    assert given[0] == given[1]
    assert given[0].batch_id == at.emulator.books().batches[0].id


async def test_equal_prompts_stay_separate_samples_in_every_run(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:
        seen = []
        for _ in range(3):
            async with at.open() as w:
                seen.append(await gather_texts(w.pool, ["same"] * 5))
        assert seen[0] == seen[1] == seen[2]
        assert len(set(seen[0])) == 5
        async with at.open() as w:
            more = await gather_texts(w.pool, ["same"] * 7)
        assert set(seen[0]) < set(more)
        assert len(set(more)) == 7
    assert at.emulator.books().times(body("same")) == 7


async def test_equal_prompts_that_come_one_by_one_are_separate_samples_too(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:
        seen: list[list[str]] = []
        for _ in range(2):
            async with at.open() as w:
                seen.append([(await w.pool.request(CHAT, body("same"))).text for _ in range(4)])
    assert seen[0] == seen[1] == [f"same #{number}" for number in range(1, 5)]


async def test_many_equal_calls_at_once_take_no_long_time(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await gather_texts(w.pool, ["same"] * 6_000)
        async with at.open() as w:
            start = time.perf_counter()  # real seconds
            responses = await w.pool.gather([body("same")] * 6_000, endpoint=CHAT)
            took = time.perf_counter() - start
    assert len({response.custom_id for response in responses}) == 6_000
    assert at.emulator.books().times(body("same")) == 6_000
    assert took < 2.5


async def test_a_key_is_what_a_request_is_known_by(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:

        async def ask(key: str, text: str) -> str:
            async with at.open() as w:
                return (await w.pool.request(carpool.Request(CHAT, body(text), key=key))).text

        assert [await ask("a", "old"), await ask("a", "new"), await ask("a", "old")] == ["old #1"] * 3
        assert [await ask("b", "old"), await ask("b", "x"), await ask("", "old")] == ["old #2", "old #2", "old #3"]


async def test_the_form_of_a_body_does_not_matter_but_its_endpoint_does(tmp_path: Path) -> None:
    given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"}
    forms: list[Any] = [given, msgspec.json.encode(given), msgspec.json.encode(given).decode()]
    async with site(tmp_path) as at:
        for form in forms:
            async with at.open() as w:
                await w.pool.request(CHAT, form)
        assert at.emulator.books().times(given) == 1
        async with at.open() as w:
            await w.pool.request("/v1/completions", given)
            await w.pool.request(EMBEDDINGS, given)
        assert at.emulator.books().times(given) == 3


def rejecting(endpoint: str, given: dict[str, Any]) -> Any:
    return Answer(400, {"error": {"message": "no", "code": "bad"}})


@pytest.mark.parametrize(
    "broken", [{"answer": rejecting}, {"models": ["other"]}, {"pace": Pace(running=90, window=50)}]
)
async def test_failures_are_never_reused(tmp_path: Path, broken: dict[str, Any]) -> None:
    """Rows that are refused, that the validation condemns, that expire."""
    async with site(tmp_path, **broken) as at:
        async with at.open() as w:
            await w.ask_all(texts(4))
        failed = w.errors().keys()
        assert failed
    async with site(tmp_path) as at:
        async with at.open() as w:
            assert w.pool.stats().lanes == ()
            await w.ask_all(texts(4))
        assert sorted(w.answers()) == texts(4)
        assert {text for text in texts(4) if at.emulator.books().times(body(text))} == failed
        assert at.files("segment*") == set()


async def test_a_request_that_was_above_the_limit_is_tried_again(tmp_path: Path) -> None:
    long = "word " * 2_000
    async with site(tmp_path) as at:
        async with at.open(limits={"*": 1_000}) as w:
            with pytest.raises(carpool.LimitExceeded):
                await w.pool.request(CHAT, body(long))
        async with at.open() as w:
            assert (await w.pool.request(CHAT, body(long))).text == long
    assert runs(at) == {1}


async def test_a_failure_is_not_reused_within_the_process_either(tmp_path: Path) -> None:
    async with site(tmp_path, answer=rejecting) as at, at.open() as w:
        with anyio.move_on_after(0.5):
            await w.pool.request(CHAT, body("gone"))  # from now on calls are looked up
        for _ in range(3):
            with pytest.raises(carpool.RequestRejected):
                await w.pool.request(CHAT, body("bad"))
    assert at.emulator.books().times(body("bad")) == 3


async def test_with_undelivered_only_what_no_caller_received_is_given_again(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.open(reuse="undelivered") as w:
            await w.ask("received")
            with anyio.move_on_after(30):
                await w.pool.request(CHAT, body("lost"))
            tasks.start_soon(w.ask, "keeps the pool open")
            await anyio.sleep(100)
        for sample in (1, 2):
            async with at.open(reuse="undelivered") as w:
                await w.ask_all(["received", "lost"])
            assert w.answers() == {"received": f"received #{sample + 1}", "lost": f"lost #{sample}"}


async def test_with_never_the_past_is_ignored(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:
        for sample in (1, 2, 3):
            async with at.open(reuse="never") as w:
                assert await gather_texts(w.pool, ["same"]) == [f"same #{sample}"]
        async with at.open() as w:
            assert await gather_texts(w.pool, ["same"] * 3) == ["same #1", "same #2", "same #3"]


async def test_a_caller_that_goes_after_submission_leaves_a_row_for_an_equal_call(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open() as w:
        with anyio.move_on_after(30):
            await w.pool.request(CHAT, body("same"))
        await w.ask("same")  # while it is under way
        assert anyio.current_time() < 100
        with anyio.move_on_after(30):
            await w.pool.request(CHAT, body("other"))
        await anyio.sleep(100)
        start = anyio.current_time()
        await w.ask("other")  # when it is answered
        assert anyio.current_time() == start
        await w.ask("other")  # and that was all
    assert w.answers() == {"same": "same", "other": "other"}
    assert at.emulator.books().times(body("same")) == 1
    assert at.emulator.books().times(body("other")) == 2


async def test_a_caller_that_goes_again_and_again_costs_one_run(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open() as w:
        for _ in range(12):
            with anyio.move_on_after(4):
                await w.pool.request(CHAT, body("same"))
        await w.ask("same")
        assert w.answers() == {"same": "same"}
    assert runs(at) == {1}


async def test_a_caller_that_goes_while_its_call_waits_costs_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            with anyio.move_on_after(0.5):
                await w.pool.request(CHAT, body("gone"))
            await anyio.sleep(100)
            assert not at.emulator.books().uploads
            await w.ask("gone")
        async with at.open() as w:
            await w.ask("gone")
        assert w.answers() == {"gone": "gone"}
        assert at.files("segment*") == set()
    assert runs(at) == {1}


async def test_calls_that_were_cancelled_while_they_waited_are_run_once_when_they_come_again(tmp_path: Path) -> None:
    """Looked for in vain, they join behind those that came after them."""
    async with site(tmp_path) as at, at.open() as w, anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.5):
            await w.pool.gather([body(text) for text in texts(10)[::2]], endpoint=CHAT)
        await anyio.sleep(1)
        tasks.start_soon(w.ask_all, texts(20))
        await anyio.sleep(100)
        assert len(w.answers()) == 20
        (lane,) = w.pool.stats().lanes
        assert (lane.waiting, lane.submitted) == (0, 0)
    assert runs(at) == {1}
    assert len(at.emulator.books().batches) == 1


async def test_what_is_not_asked_for_is_kept_and_found_when_it_is(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with anyio.create_task_group() as tasks, at.interrupted(timing=PATIENT) as w:
            tasks.start_soon(w.ask_all, texts(10))
            await anyio.sleep(10)
        assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
        async with at.open() as w:
            await anyio.sleep(100)
            (lane,) = w.pool.stats().lanes
            assert (lane.dormant, lane.waiting, lane.submitted) == (10, 0, 0)
        async with at.open() as w:
            assert w.pool.stats().lanes[0].dormant == 10
            await w.ask("text 3")
        async with at.open() as w:
            assert w.pool.stats().lanes[0].dormant == 9
            await w.ask_all(texts(10))
        assert w.answers() == {text: text for text in texts(10)}
        assert at.files("segment*") == set()
        assert at.files("shard*") == set()
    assert runs(at) == {1}
    custom_ids = {custom_id for custom_id, _ in at.emulator.books().runs}
    assert len(custom_ids) == 10


class LookUps:
    """Count the look-ups in the journal, and take `seconds` over each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []  # how many requests each look-up was for
        self.seconds = 0.0
        find = Sqlite.find

        async def counted(journal: Sqlite, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
            self.asked.append(len(digests))
            await anyio.sleep(self.seconds)
            return await find(journal, digests)

        patch.setattr(Sqlite, "find", counted)


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> LookUps:
    return LookUps(monkeypatch)


async def test_the_calls_of_one_turn_are_looked_up_together(tmp_path: Path, look_ups: LookUps) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(100))
        assert look_ups.asked == []  # there is nothing yet to be found
        async with at.open() as w:
            await w.ask_all(texts(200))
        assert look_ups.asked == [200]
    assert runs(at) == {1}


async def test_what_is_under_way_is_awaited_by_the_next_process(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask_all, texts(20))
            await anyio.sleep(30)
        assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
        async with at.open() as w:
            assert w.pool.stats().lanes[0].submitted == 20
            await w.ask_all(texts(25))
        assert w.answers() == {text: text for text in texts(25)}
        assert at.emulator.books().files == ()
    assert runs(at) == {1}


@pytest.mark.parametrize("after", [0.9, 1.0, 1.1, 2, 4, 7, 20, 70, 72, 74])
async def test_leaving_at_any_moment_loses_nothing_and_pays_once(tmp_path: Path, after: float) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask_all, texts(20))
            await anyio.sleep(after)
        async with at.open() as w:
            await w.ask_all(texts(20))
        assert w.answers() == {text: text for text in texts(20)}
        assert at.emulator.books().files == ()
        assert at.files("segment*") == set()
    assert runs(at) == {1}


async def test_a_call_takes_an_answer_that_is_in_hand_and_not_recorded_yet(tmp_path: Path) -> None:
    """A batch's output file has been read, its error file has not."""

    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        text = given["messages"][0]["content"]
        odd = int(text[-1]) % 2
        return rejecting(endpoint, given) if odd else {"choices": [{"message": {"content": text}}]}

    class Pausing(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            read = [path for _, path in self.requests if path.endswith("/content")]
            if read and request.url.path.endswith("/content") and request.url.path not in read:
                await anyio.sleep(100)
            return await super().handle_async_request(request)

    async with site(tmp_path, answer=answer) as at:
        at.transport = Pausing(at.emulator.app)
        async with anyio.create_task_group() as tasks, at.open() as w:
            with anyio.move_on_after(2):
                await w.pool.gather([body(text) for text in texts(10)], endpoint=CHAT)
            await anyio.sleep(10)
            assert (w.pool.stats().answered, w.pool.stats().failed) == (5, 0)
            tasks.start_soon(w.ask_all, texts(10))
            await anyio.sleep(1)
            assert sorted(w.answers()) == texts(10)[::2]
            assert w.errors() == {}
        assert sorted(w.errors()) == texts(10)[1::2]
        assert runs(at) == {1}
        async with at.open() as w:
            await w.ask_all(texts(10))
        assert sorted(w.answers()) == texts(10)[::2]
        assert all(at.emulator.books().times(body(text)) == 1 for text in w.answers())


async def test_callers_that_leave_during_the_look_up_disturb_nobody(tmp_path: Path, look_ups: LookUps) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(10))
        look_ups.seconds = 10
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(5))
            with anyio.move_on_after(5):
                await w.pool.gather([body(text) for text in ("new", *texts(10)[5:])], endpoint=CHAT)
            await anyio.sleep(20)
            assert len(w.answers()) == 5
            await w.ask_all(texts(10)[5:])
        assert w.answers() == {text: text for text in texts(10)}
        assert at.emulator.books().times(body("new")) == 0
    assert runs(at) == {1}


async def slow_model(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
    await anyio.sleep(500 if given["model"] == "slow" else 0)
    return {"choices": [{"message": {"content": given["messages"][0]["content"]}}]}


async def test_a_gather_that_is_cancelled_gives_back_what_was_answered(tmp_path: Path) -> None:
    """Nobody was given it: the next try must not pay again."""
    wanted = [body(text, model=model) for model in ("slow", "fast") for text in texts(5)]
    async with site(tmp_path, answer=slow_model) as at, at.open() as w:
        with anyio.move_on_after(300) as scope:
            await w.pool.gather(wanted, endpoint=CHAT)
        assert scope.cancelled_caught
        assert w.pool.stats().answered == 5
        await w.pool.gather(wanted, endpoint=CHAT)
    assert runs(at) == {1}


async def test_a_gather_that_raises_gives_back_what_was_answered(tmp_path: Path) -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        text = given["messages"][0]["content"]
        return rejecting(endpoint, given) if text == "bad" else {"choices": [{"message": {"content": text}}]}

    async with site(tmp_path, answer=answer) as at, at.open() as w:
        with pytest.raises(carpool.RequestRejected):
            await gather_texts(w.pool, [*texts(5), "bad"])
        assert await gather_texts(w.pool, texts(5)) == texts(5)
    assert runs(at) == {1}


# --- whose journal it is


async def test_another_base_url_or_organization_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask("one")
        with pytest.raises(carpool.JournalError, match="another folder") as caught:
            await at.pool(url="http://other/v1").start()
        assert "http://emulator/v1" in str(caught.value)
        for variable in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            with monkeypatch.context() as patch:
                patch.setenv(variable, "org-other")
                with pytest.raises(carpool.JournalError, match="org-other"):
                    await at.pool().start()
        async with at.open() as w:
            await w.ask("one")
    assert runs(at) == {1}


async def test_a_rotated_key_is_taken_and_the_key_of_another_account_is_not(tmp_path: Path) -> None:
    accounts = {"Bearer sk-one": 1, "Bearer sk-two": 1, "Bearer sk-stranger": 2}

    class Accounts(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if accounts[request.headers["Authorization"]] == 2:
                self.requests.append((request.method, request.url.path))
                return httpx2.Response(404, json={"error": {"message": "No batch found."}})
            return await super().handle_async_request(request)

    async with site(tmp_path, pace=SLOW) as at:
        at.transport = Accounts(at.emulator.app)
        async with anyio.create_task_group() as tasks, at.interrupted(key="sk-one") as w:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(30)
        for _ in range(2):
            with pytest.raises(carpool.JournalError, match="another account"):
                await at.pool("sk-stranger").start()
        async with at.open(key="sk-two") as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
        assert at.emulator.books().files == ()
        assert len([path for _, path in at.transport.requests if path.endswith("/content")]) == 1
    assert runs(at) == {1}


async def test_another_key_is_refused_while_it_cannot_be_found_out_whose_it_is(tmp_path: Path) -> None:
    """To go on would end in giving up answers that the right key could have fetched."""
    down: list[bool] = []

    class Stranger(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if down:
                raise httpx2.ConnectError("down")
            if request.headers["Authorization"] == "Bearer sk-stranger":
                return httpx2.Response(404, json={"error": {"message": "No batch found."}})
            return await super().handle_async_request(request)

    async with site(tmp_path, pace=Pace(running=2_000)) as at:
        at.transport = Stranger(at.emulator.app)
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(30)
        down.append(True)
        with pytest.raises(carpool.JournalError, match="cannot be found out"):
            await at.pool("sk-stranger").start()
        down.clear()
        async with at.open() as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert runs(at) == {1}


async def test_a_wrong_key_is_refused_at_the_start_when_there_is_something_under_way(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW, api_key="sk-key") as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask, "one")
            await anyio.sleep(30)
        with pytest.raises(carpool.AuthenticationFailed):
            await at.pool("sk-wrong").start()
        async with at.open() as w:
            await w.ask("one")
        assert w.answers() == {"one": "one"}
    assert runs(at) == {1}


# --- leaving


async def test_leaving_does_not_wait_for_rows_that_nobody_awaits_and_leaves_them_running(tmp_path: Path) -> None:
    async with site(tmp_path, pace=Pace(running=1_000)) as at:
        async with at.open() as w:
            with anyio.move_on_after(30):
                await w.pool.request(CHAT, body("gone"))
            start = anyio.current_time()
        assert anyio.current_time() - start < 10
        assert [batch.status for batch in at.emulator.books().batches] == ["in_progress"]
        async with at.open() as w:
            await w.ask("gone")
        assert w.answers() == {"gone": "gone"}
        assert at.emulator.books().files == ()
    assert runs(at) == {1}


async def test_leaving_by_an_exception_cancels_and_deletes_nothing(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask_all, texts(5))
            await anyio.sleep(30)
            tasks.start_soon(w.ask_all, ["late", "later"])
            await anyio.sleep(0.1)
            start = anyio.current_time()
        assert anyio.current_time() - start < 1
        assert len(w.errors()) == 7
        books = at.emulator.books()
        assert [batch.status for batch in books.batches] == ["in_progress"]
        assert [file.purpose for file in books.files] == ["batch"]
        assert not [path for method, path in at.transport.requests if method == "DELETE" or path.endswith("/cancel")]
        async with at.open() as w:
            (lane,) = w.pool.stats().lanes
            assert (lane.submitted, lane.dormant) == (5, 2)
            await w.ask_all(["late", *texts(5)])
            assert w.pool.stats().lanes[0].dormant == 1
        assert len(w.answers()) == 6
    assert runs(at) == {1}


async def test_closing_settles_calls_that_are_still_being_looked_up(tmp_path: Path, look_ups: LookUps) -> None:
    look_ups.seconds = 1
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as w:
            await w.ask_all(texts(5))
        async with anyio.create_task_group() as tasks:
            async with at.open(timing=PATIENT) as w:
                tasks.start_soon(w.ask_all, texts(10))
                await anyio.sleep(0.5)
                assert w.pool.stats().accepted == 10
                start = anyio.current_time()
            assert anyio.current_time() - start < 100
        assert w.answers() == {text: text for text in texts(10)}
    assert runs(at) == {1}


async def test_a_flush_reaches_calls_that_are_still_being_looked_up(tmp_path: Path, look_ups: LookUps) -> None:
    look_ups.seconds = 1
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask("one")
        async with at.open(timing=PATIENT) as w:
            start = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask, "two")
                await anyio.sleep(0.5)
                await w.pool.flush()
            assert anyio.current_time() - start < 100


async def test_answers_that_were_given_late_are_given_again(tmp_path: Path) -> None:
    async with site(tmp_path, pace=Pace(validating=5, running=60, finalizing=5)) as s:
        async with s.interrupted() as w:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask_all, ["a", "b"])
                await anyio.sleep(30)
                tasks.cancel_scope.cancel()
            await anyio.sleep(200)
        await anyio.sleep(40 * 86_400)
        for _ in range(3):
            async with s.open() as w:
                await w.ask_all(["a", "b"])
            assert w.answers() == {"a": "a", "b": "b"}
            await anyio.sleep(60)
        assert set(s.emulator.books().bodies.values()) == {1}


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What would be left, the fixtures look for."""
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    async with site(tmp_path) as at:
        for _ in range(3):
            pool = at.pool()
            with pytest.raises(carpool.JournalError, match=r"new or an empty one"):
                await pool.start()
            with pytest.raises(carpool.PoolClosed):
                await pool.request(CHAT, body())
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


async def test_answers_go_where_the_journal_is_though_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        Path(tmp_path, name, "journal").mkdir(parents=True)
    async with site(tmp_path) as s:
        for times in range(2):
            monkeypatch.chdir(tmp_path / "here")
            pool = carpool.Pool("sk-key", "http://emulator/v1", journal="journal", _ports=at(s), progress=False)
            async with pool, anyio.create_task_group() as tasks:
                w = World(pool, s.emulator, s.transport)
                tasks.start_soon(w.ask, "text")
                await anyio.lowlevel.checkpoint()
                monkeypatch.chdir(tmp_path / "there")
            assert w.answers() == {"text": "text"}, times
        assert sum(s.emulator.books().bodies.values()) == 1
    assert not [*Path(tmp_path, "there", "journal").iterdir()]


def at(s: Site) -> Ports:
    return Ports(run_sync=run_here, transport=s.transport)


async def test_a_folder_that_is_none_or_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file")
    async with site(tmp_path) as at:
        with pytest.raises(carpool.JournalError, match="writable"):
            await at.pool().start()
        (tmp_path / "journal").unlink()
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal" / "journal.sqlite").write_text("no database at all " * 100)
        with pytest.raises(carpool.JournalError, match="no database"):
            await at.pool().start()


async def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"reuse": "sometimes"}, {"retention": -1}, {"retention": "week"}, {"retention": float("nan")}):
        with pytest.raises(carpool.ConfigurationError):
            carpool.Pool("key", journal="folder", **wrong)


# --- several pools on one folder


async def test_pools_that_share_a_folder_number_apart_and_are_both_answered(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples(), pace=SLOW) as at:
        async with at.open() as one, at.open() as two, anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask_all, texts(10))
            tasks.start_soon(two.ask_all, texts(10))
        assert len(one.answers()) == len(two.answers()) == 10
        assert not set(one.answers().values()) & set(two.answers().values())
        runs_ = at.emulator.books().runs
        assert len({custom_id for custom_id, _ in runs_}) == len(runs_) == 20
        async with at.open() as both:
            answers = await both.pool.gather([body(text) for text in texts(10) * 2], endpoint=CHAT)
        assert {answer.text for answer in answers} == {*one.answers().values(), *two.answers().values()}
        assert at.files("shard*") == set()
    assert set(at.emulator.books().bodies.values()) == {2}


async def test_the_living_adopt_the_batches_of_one_that_left(tmp_path: Path) -> None:
    async with site(tmp_path, pace=Pace(running=300)) as at:
        async with at.open() as living:
            async with anyio.create_task_group() as tasks, at.interrupted() as left:
                tasks.start_soon(left.ask_all, texts(10))
                await anyio.sleep(30)
                tasks.start_soon(left.ask, "waiting")
                await anyio.sleep(0.5)
            assert living.pool.stats().lanes == ()
            await anyio.sleep(61)
            (lane,) = living.pool.stats().lanes
            assert (lane.submitted, lane.dormant) == (10, 1)
            await living.ask_all(["waiting", *texts(10)])
        assert len(living.answers()) == 11
        assert at.emulator.books().files == ()
        assert at.files("segment*") == set()
    assert runs(at) == {1}


async def ask_slowly(w: World) -> None:
    with suppress(carpool.PoolClosed):
        await w.pool.request(CHAT, body(model="slow"))


async def test_the_living_number_their_batches_apart_from_those_they_adopt(tmp_path: Path) -> None:
    """A later batch of the one that left is over, and its number taken."""
    async with site(tmp_path, answer=slow_model) as at:
        async with at.open() as living:
            async with anyio.create_task_group() as tasks, at.interrupted() as left:
                tasks.start_soon(ask_slowly, left)
                await anyio.sleep(30)
                await left.ask("fast")
                await anyio.sleep(5)
            await anyio.sleep(61)
            await ask_slowly(living)
            await living.ask("new")
        assert living.answers() == {"new": "new"}
    assert runs(at) == {1}


async def test_the_living_find_what_another_answered_meanwhile(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as living:
            async with at.open() as other:
                await other.ask_all(texts(10))
            await anyio.sleep(61)
            await living.ask_all(texts(10))
        assert len(living.answers()) == 10
    assert runs(at) == {1}


async def test_what_two_adopt_at_once_is_paid_once(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as one, at.open() as two:
            async with anyio.create_task_group() as tasks, at.interrupted() as left:
                tasks.start_soon(left.ask_all, texts(10))
                await anyio.sleep(20)
            await anyio.sleep(200)
            await one.ask_all(texts(5))
            await two.ask_all(texts(10)[5:])
        assert len(one.answers()) == len(two.answers()) == 5
    assert runs(at) == {1}


# --- rows that were under way, and wait again


async def test_rows_that_found_no_room_are_asked_for_while_they_wait_again(tmp_path: Path) -> None:
    """The queue is full for hours; the batch of the earlier process fails at its validation."""
    others = [0]
    async with site(
        tmp_path, pace=Pace(validating=60), enqueued_tokens={"*": 10_000}, other_tokens=lambda model, at: others[0]
    ) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            tasks.start_soon(w.ask_all, texts(10))
            await anyio.sleep(30)
            others[0] = 10_000
        async with at.open() as w, anyio.create_task_group() as tasks:
            await anyio.sleep(100)
            for text in texts(10):
                tasks.start_soon(w.ask, text)
                await anyio.sleep(29)
            others[0] = 0
        assert len(w.answers()) == 10
    assert runs(at) == {1}


async def test_what_a_refusal_stated_is_known_to_the_next_process(tmp_path: Path) -> None:
    async with site(tmp_path, enqueued_tokens={"*": 500}) as at:
        async with at.open() as w:
            await w.ask_all([f"{number} " + "word " * 100 for number in range(20)])
        assert len(w.answers()) == 20
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "new")
            await anyio.sleep(0.5)
            (lane,) = w.pool.stats().lanes
            assert (lane.limit, lane.limit_source) == (500, "learned")


# --- the disk


class Disk:
    """Be full from some moment on: nothing can be written, what is there can be read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        pwrite, fsync, connect = os.pwrite, os.fsync, sqlite3.connect
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if disk.full and statement.split()[0] in ("INSERT", "UPDATE", "DELETE", "COMMIT"):
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise error
                return super().execute(statement, *values)

            def executemany(self, statement: str, values: Any) -> sqlite3.Cursor:
                self.execute("INSERT" if disk.full else "SELECT 1")
                return super().executemany(statement, values)

        def check() -> None:
            if disk.full:
                raise OSError(28, "No space left on device")

        def write(*args: Any) -> int:
            check()
            return pwrite(*args)

        def sync(*args: Any) -> None:
            check()
            fsync(*args)

        patch.setattr("os.pwrite", write)
        patch.setattr("os.fsync", sync)
        patch.setattr("sqlite3.connect", lambda *args, **more: connect(*args, factory=Connection, **more))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("after", [0.5, 0.99, 1.0, 1.01, 3, 30, 69, 71])
async def test_a_disk_that_is_full_from_some_moment_on_loses_nothing(tmp_path: Path, disk: Disk, after: float) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as w, anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask_all, texts(10))
            await anyio.sleep(after)
            disk.full = True
            tasks.start_soon(w.ask, "late")
            await anyio.sleep(200)
            with pytest.raises(carpool.JournalError, match="Free some room"):
                await w.pool.request(CHAT, body("refused"))
            deleted = [path for method, path in at.transport.requests if method == "DELETE" or "cancel" in path]
            assert deleted == []
        assert isinstance(w.settled.pop("late"), carpool.JournalError)
        if after >= 3:  # submitted
            assert len(w.answers()) == 10
        assert {type(error) for error in w.errors().values()} <= {carpool.JournalError}
        ran = len(at.emulator.books().runs)
        disk.full = False
        async with at.open() as w:
            await w.ask_all([*texts(10), "late"])
        assert len(w.answers()) == 11
        if after >= 3:
            assert ran == 10
        assert at.emulator.books().files == ()
        assert at.files("segment*") == at.files("shard*") == set()
    assert runs(at) == {1}


async def test_a_download_that_finds_no_room_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, full = os.pwrite, [True]

    def write(file: int, content: Any, offset: int) -> int:
        if full[0] and bytes(content[:4]) == b'{"id':  # so output lines begin
            raise OSError(28, "No space left on device")
        return pwrite(file, content, offset)

    monkeypatch.setattr("os.pwrite", write)
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(10))
            assert len(w.answers()) == 10
            with pytest.raises(carpool.JournalError, match="Free some room"):
                await w.pool.request(CHAT, body("refused"))
        full[0] = False
        async with at.open() as w:
            await w.ask_all(texts(10))
        assert len(w.answers()) == 10
    assert runs(at) == {1}


async def test_a_disk_that_is_full_when_opened_says_what_to_do(tmp_path: Path, disk: Disk) -> None:
    async with site(tmp_path) as at:
        disk.full = True
        for _ in range(2):
            with pytest.raises(carpool.JournalError, match="Free some room"):
                await at.pool().start()
        disk.full = False
        async with at.open() as w:
            await w.ask("one")
        disk.full = True
        with pytest.raises(carpool.JournalError, match="Free some room"):
            await at.pool().start()
        disk.full = False
        async with at.open() as w:
            await w.ask("one")
    assert runs(at) == {1}


# --- privacy


async def test_nothing_is_left_at_the_provider_and_everything_is_asked_to_expire(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await w.ask_all(texts(10))
        books = at.emulator.books()
        assert books.files == ()
        assert all(file.expires_after for file in books.uploads if file.purpose == "batch")
        assert all(batch.output_expires_after for batch in books.batches)


async def test_remote_files_are_kept_when_asked_for(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open(keep_remote_files=True) as w:
            await w.ask_all(texts(10))
        books = at.emulator.books()
        assert {file.purpose for file in books.files} == {"batch", "batch_output"}
        assert {file.expires_after for file in books.files} == {None}
        async with at.open(keep_remote_files=True) as w:
            await w.ask_all(texts(10))
        assert len(w.answers()) == 10


async def test_the_folder_is_for_its_owner_alone_and_holds_no_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with site(tmp_path, pace=SLOW) as at:
            async with at.open(key="sk-secret-1234567890") as w, anyio.create_task_group() as tasks:
                tasks.start_soon(w.ask_all, texts(10))
                await anyio.sleep(30)
                modes = {path.name: path.stat().st_mode & 0o777 for path in at.folder.iterdir()}
                assert at.folder.stat().st_mode & 0o777 == 0o700
                assert set(modes.values()) == {0o600}, modes
                assert len(modes) >= 4
                assert not at.holds(b"sk-secret")
            assert not at.holds(b"sk-secret")
            assert {path.stat().st_mode & 0o777 for path in at.folder.iterdir()} == {0o600}
    finally:
        os.umask(before)


async def test_with_no_retention_delivered_answers_go_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open(retention=0) as w:
            await w.ask_all(["a private matter", "another"])
            with anyio.move_on_after(30):
                await w.pool.request(CHAT, body("nobody heard"))
            await anyio.sleep(100)
        await anyio.sleep(10)
        assert at.holds(b"a private matter")
        assert at.holds(b"nobody heard")
        async with at.open(retention=0) as w:
            assert not at.holds(b"a private matter")
            assert at.holds(b"nobody heard")
            await w.ask("nobody heard")
        await anyio.sleep(10)
        assert at.emulator.books().times(body("nobody heard")) == 1
        async with at.open(retention=0):
            assert not at.holds(b"nobody heard")


async def test_rows_whose_answers_were_too_old_do_not_wait_again(tmp_path: Path) -> None:
    """Their segment lives on for another that waits in it."""
    async with site(tmp_path) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            await w.ask_all(texts(5))
            await anyio.sleep(5)
            tasks.start_soon(w.ask, "waits")
            await anyio.sleep(0.5)
        await anyio.sleep(10)
        async with at.open(retention=0) as w:
            assert w.pool.stats().lanes[0].dormant == 1
            await w.ask("waits")
        assert at.files("segment*") == at.files("shard*") == set()


async def leave_one_unheard(w: World) -> None:
    """Have six rows of two models answered in turn, and nobody there for the fourth."""

    async def leave() -> None:
        with anyio.move_on_after(10):
            await w.pool.request(CHAT, body("3", model="b"))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            if number == 3:
                tasks.start_soon(leave)
            else:
                tasks.start_soon(w.pool.request, CHAT, body(f"{number}", model="ab"[number % 2]))
            await anyio.lowlevel.checkpoint()
    await anyio.sleep(10)


async def test_old_answers_may_go_while_another_pool_is_open(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as w:
            await leave_one_unheard(w)
        async with at.open() as living:
            await living.pool.request(CHAT, body("1", model="b"))
            await anyio.sleep(10)
            async with at.open(retention=0):
                pass
            await living.pool.request(CHAT, body("3", model="b"))
        assert at.emulator.books().times(body("3", model="b")) == 1


async def test_what_is_answered_after_old_answers_went_is_found(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open() as w:
            await w.ask("old")
        async with at.open() as living:
            await living.ask("old")
            await anyio.sleep(10)
            async with at.open(retention=0):
                pass
            with anyio.move_on_after(30):
                await living.pool.request(CHAT, body("new"))
            await anyio.sleep(100)
            await living.ask("new")
        assert living.answers() == {"old": "old", "new": "new"}
    assert runs(at) == {1}


# --- what is said at the opening


async def test_opening_says_what_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")

    def said() -> str:
        (line,) = [record.getMessage() for record in caplog.records if " answered" in record.getMessage()]
        caplog.clear()
        return line

    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.interrupted() as w:
            assert "0 answered, 0 in flight, 0 waiting" in said()
            await w.ask_all(texts(3))
            tasks.start_soon(w.ask_all, texts(10)[3:7])
            await anyio.sleep(30)
            tasks.start_soon(w.ask_all, texts(10)[7:])
            await anyio.sleep(0.5)
        caplog.clear()
        async with at.open() as w:
            line = said()
            assert line.startswith(str(at.folder))
            assert "3 answered" in line
            assert "4 in flight, 3 waiting" in line


async def test_a_call_that_was_cancelled_and_came_again_is_not_paid_by_the_next_process(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:
        with suppress(ZeroDivisionError):
            async with at.open(timing=carpool.Timing(linger=1, max_linger=2)) as w:
                with anyio.move_on_after(0.2):
                    await w.pool.request(CHAT, body("a"))
                await anyio.sleep(5)
                await w.pool.request(CHAT, body("a"))
                1 / 0  # noqa: B018
        async with at.open() as w:
            await w.pool.request(CHAT, body("a"))
    assert at.emulator.books().times(body("a")) == 1


@pytest.mark.parametrize("turns", range(3))
async def test_a_caller_that_leaves_does_not_take_an_equal_call_along_that_is_being_looked_up(
    tmp_path: Path, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, first = Sqlite.find, anyio.CancelScope()
    leaving = anyio.Event()

    async def find_while_a_caller_leaves(self: Sqlite, digests: Collection[bytes]) -> dict[bytes, list[Known]]:
        known = await find(self, digests)
        if leaving.is_set():
            first.cancel()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        return known

    monkeypatch.setattr(Sqlite, "find", find_while_a_caller_leaves)
    async with site(tmp_path, answer=Samples()) as at:
        async with at.open() as w:
            await w.ask("something to be looked for")
        async with at.open(timing=carpool.Timing(linger=100, max_linger=200)) as w, anyio.create_task_group() as tasks:

            async def leave() -> None:
                with first:
                    await w.pool.request(CHAT, body("x"))

            tasks.start_soon(leave)
            await anyio.sleep(20)
            leaving.set()
            assert (await w.pool.request(CHAT, body("x"))).text
    assert at.emulator.books().times(body("x")) == 1

"""Submissions on whole pools, on virtual time, on both backends: recorded, answered, acked, and taken over."""

import gc
import pickle
import re
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from virtual import CHAT, Samples, Site, World, body, site, world

import carpool
from carpool.durable.receipt import Received
from carpool.engine.engine import Engine
from carpool.journal.sqlite import Sqlite
from carpool.testing import Answer, Faults, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def runs(at: Site) -> set[int]:
    """Give how often bodies were run: {1} where each was run once."""
    return set(at.emulator.books().bodies.values())


async def submit(w: World, *texts: str, **more: Any) -> list[str]:
    """Submit a chat for each text, under the text as its key, all at once; gives their custom_ids."""
    given: dict[str, str] = {}

    async def one(text: str) -> None:
        given[text] = await w.pool.submit(carpool.Request(CHAT, body(text), **more), key=text)

    async with anyio.create_task_group() as tasks:
        for text in texts:
            tasks.start_soon(one, text)
    return [given[text] for text in texts]


async def take(w: World, count: int, *, ack: bool = True) -> list[carpool.Outcome]:
    """Take so many outcomes, in the order of their keys."""
    taken: list[carpool.Outcome] = []
    async with w.pool.outcomes() as outcomes:
        while len(taken) < count:
            taken.append(await anext(outcomes))
            if ack:
                taken[-1].ack()
    return sorted(taken, key=lambda outcome: outcome.key or "")


async def nothing_comes(w: World, seconds: float = 1_000) -> bool:
    with anyio.move_on_after(seconds):
        await take(w, 1, ack=False)
        return False
    return True


def texts_of(outcomes: Iterable[carpool.Outcome]) -> dict[str | None, str]:
    return {outcome.key: outcome.result().text for outcome in outcomes}


# --- submitting


async def test_what_is_submitted_is_answered_and_acked_once(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            ids = await submit(w, "a", "b")
            outcomes = await take(w, 2)
            assert texts_of(outcomes) == {"a": "a", "b": "b"}
            assert [outcome.custom_id for outcome in outcomes] == ids
            assert [outcome.result().custom_id for outcome in outcomes] == ids
            assert {outcome.index for outcome in outcomes} == {0, 1}
            assert await nothing_comes(w)
        async with at.open() as w:
            assert await nothing_comes(w)
    assert runs(at) == {1}


async def test_the_same_key_is_the_same_submission_from_whatever_process(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w, at.open() as other:
            ids = await submit(w, "a")
            both: list[list[str]] = []

            async def again(process: World) -> None:
                both.append(await submit(process, "a", "new"))

            async with anyio.create_task_group() as tasks:
                for process in (w, other, w, other):
                    tasks.start_soon(again, process)
            assert len({*map(tuple, both)}) == 1
            assert both[0][:1] == ids
        async with at.open() as w:
            assert texts_of(await take(w, 2)) == {"a": "a", "new": "new"}
            assert await submit(w, "a", "new") == both[0]  # also when it was taken care of
            assert await nothing_comes(w)
    assert runs(at) == {1}


async def test_another_request_under_the_same_key_is_refused(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        refused: list[str] = []

        async def ask(text: str) -> None:
            try:
                await w.pool.submit(CHAT, body(text), key="a")
            except carpool.ConfigurationError as exc:
                assert "Another request was submitted under the key 'a'" in str(exc)  # noqa: PT017 - of whichever
                refused.append(text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "one")
            tasks.start_soon(ask, "two")
        (late,) = refused
        await ask("one")
        await ask("two")
        assert refused == [late, late]


async def test_without_a_key_each_is_another(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at, at.open() as w:
        ids = {await w.pool.submit(CHAT, body("same")) for _ in range(3)}
        outcomes = await take(w, 3)
        assert {outcome.key for outcome in outcomes} == {None}
        assert {outcome.custom_id for outcome in outcomes} == ids
        assert {outcome.result().text for outcome in outcomes} == {"same #1", "same #2", "same #3"}


async def test_the_key_is_by_default_that_of_the_request(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        first = await w.pool.submit(carpool.Request(CHAT, body("a"), key="k"))
        assert await w.pool.submit(CHAT, body("a"), key="k") == first
        numbered = await w.pool.submit(carpool.Request(CHAT, body("a"), key=7))
        assert await w.pool.submit(CHAT, body("a"), key="7") == numbered != first
        named = await w.pool.submit(carpool.Request(CHAT, body("a"), key="k"), key="other")
        assert named not in (first, numbered)


@pytest.mark.parametrize("key", ["", "\ud800", 1.5, True])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, key: Any) -> None:
    async with site(tmp_path) as at, at.open() as w:
        with pytest.raises(carpool.ConfigurationError, match="key of a submission"):
            await w.pool.submit(CHAT, body("a"), key=key)


async def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            with pytest.raises(carpool.Unbatchable):
                await w.pool.submit(CHAT, body("a", stream=True), key="a")
            with carpool.options(live=True), pytest.raises(carpool.ConfigurationError, match="rides in a batch"):
                await w.pool.submit(CHAT, body("a"), key="a")
        with pytest.raises(carpool.PoolClosed):
            await w.pool.submit(CHAT, body("a"), key="a")


async def test_a_journal_is_needed() -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="journal=FOLDER"):
            await w.pool.submit(CHAT, body("a"))
        with pytest.raises(carpool.ConfigurationError, match="journal=FOLDER"):
            w.pool.outcomes()


async def test_the_budget_is_looked_at_and_the_key_is_free_again(tmp_path: Path) -> None:
    prices = {"gpt-5-mini": {"input": 1e6, "output": 0.0}}  # a dollar for each token
    async with site(tmp_path) as at:
        async with at.open(budget=1.0, prices=prices) as w:
            for _ in range(2):
                with pytest.raises(carpool.BudgetExceeded):
                    await w.pool.submit(CHAT, body("a"), key="a")
        async with at.open() as w:
            await submit(w, "a")
            assert texts_of(await take(w, 1)) == {"a": "a"}


async def test_a_caller_that_is_cancelled_may_have_submitted(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit, w, "a")
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert texts_of(await take(w, 1)) == {"a": "a"}
        await submit(w, "a")
    assert runs(at) == {1}


async def test_calls_and_submissions_do_not_take_each_others_answers(tmp_path: Path) -> None:
    async with site(tmp_path, answer=Samples()) as at:
        async with at.open() as w:
            await submit(w, "same")
            await w.ask("same")
            (outcome,) = await take(w, 1, ack=False)
            assert {outcome.result().text, *w.answers().values()} == {"same #1", "same #2"}
        async with at.open() as w:
            await w.ask("same")
            assert {outcome.result().text, *w.answers().values()} == {"same #1", "same #2"}
            (again,) = await take(w, 1)
            assert again.result() == outcome.result()
    assert at.emulator.books().times(body("same")) == 2


async def test_tags_and_priorities_hold(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.interrupted(timing=PATIENT) as w:
            await submit(w, "a", tags=("x",), priority=3)
            assert w.pool.stats().tags["x"].accepted == 1
        async with at.open() as w:
            assert w.pool.stats().lanes[0].lane.priority == 3
            await take(w, 1)
            assert w.pool.stats().tags["x"].answered == 1


# --- failures


def bad(endpoint: str, given: dict[str, Any]) -> Any:
    text = given["messages"][0]["content"]
    if text.startswith("bad"):
        return Answer(400, {"error": {"message": "no such thing", "code": "nothing"}})
    return {"choices": [{"message": {"content": text}}]}


async def test_a_failure_is_kept_until_it_is_acked_and_may_then_be_submitted_anew(tmp_path: Path) -> None:
    async with site(tmp_path, answer=bad) as at:
        async with at.open() as w:
            (first,) = await submit(w, "bad")
            (outcome,) = await take(w, 1, ack=False)
        async with at.open() as w:
            (again,) = await take(w, 1, ack=False)
            for one in (outcome, again):
                error = one.error
                assert type(error) is carpool.RequestRejected
                assert not one.ok
                assert (error.status_code, error.code, error.message) == (400, "nothing", "no such thing")
                assert (error.custom_id, one.custom_id, one.key) == (first, first, "bad")
                assert error.batch_id == at.emulator.books().batches[0].id
            assert await submit(w, "bad") == [first]
            await take(w, 1)
            (second,) = await submit(w, "bad")
            assert second != first
            await take(w, 1)
        async with at.open() as w:
            assert await nothing_comes(w)
    assert at.emulator.books().times(body("bad")) == 2


async def test_a_failure_tells_each_attempt_also_in_a_later_process(tmp_path: Path) -> None:
    async with site(tmp_path, answer=lambda endpoint, given: Answer(503, {"error": {"message": "Not now."}})) as at:
        async with at.open() as w:
            await submit(w, "a", "b")
            first = await take(w, 2, ack=False)
        async with at.open() as w:
            later = await take(w, 2)
        batches = [batch.id for batch in at.emulator.books().batches]
    assert len(batches) == 3
    for outcome in (*first, *later):
        assert type(outcome.error) is carpool.RequestFailed
        assert [attempt.batch_id for attempt in outcome.error.attempts] == batches
        assert {(attempt.status_code, attempt.message) for attempt in outcome.error.attempts} == {(503, "Not now.")}
        assert "attempt 3" in str(outcome.error)


async def test_an_own_timeout_ends_a_submission_also_in_a_later_process(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open(timing=PATIENT) as w:
            await submit(w, "short", timeout=30)
            await submit(w, "running", timeout=40)
            (outcome,) = await take(w, 1)
            assert outcome.key == "short"
            assert type(outcome.error) is carpool.RequestExpired
            assert w.pool.stats().lanes[0].waiting == 1
            begun = anyio.current_time()
            await w.pool.flush()
            await anyio.sleep(5)
        async with at.open() as w:
            (late,) = await take(w, 1, ack=False)
            assert late.key == "running"
            assert type(late.error) is carpool.RequestExpired
            assert anyio.current_time() < begun + 40
            await anyio.sleep(1_000)  # its answer comes all the same
        async with at.open() as w:
            (late,) = await take(w, 1)
            assert type(late.error) is carpool.RequestExpired
    assert at.emulator.books().times(body("short")) == 0
    assert at.emulator.books().times(body("running")) == 1


async def test_what_becomes_urgent_is_sent_live(tmp_path: Path) -> None:
    async with site(tmp_path, pace=Pace(running=10_000)) as at:
        async with at.interrupted(escalate="live", timing=PATIENT) as w:
            await submit(w, "mine", timeout=100)
            assert texts_of(await take(w, 1)) == {"mine": "mine"}
            await submit(w, "theirs", timeout=100)
        async with at.open(escalate="live", timing=PATIENT) as w:
            begun = anyio.current_time()
            assert texts_of(await take(w, 1)) == {"theirs": "theirs"}
            assert anyio.current_time() < begun + 100
    assert set(at.emulator.books().live_bodies.values()) == {1}


async def test_cancelling_ends_submissions(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open(timing=PATIENT) as w:
        await submit(w, "a", "b")
        await w.pool.cancel()
        for outcome in await take(w, 2):
            assert type(outcome.error) is carpool.RequestCancelled
        await submit(w, "a")
        await w.pool.flush()
        assert texts_of(await take(w, 1)) == {"a": "a"}


async def test_a_spent_budget_is_an_outcome(tmp_path: Path) -> None:
    prices = {"gpt-5-mini": {"input": 0.0, "output": 1e6}}  # nothing is expected for output before the first answer
    async with site(tmp_path, pace=SLOW) as at, at.open(budget=0.5, prices=prices, timing=PATIENT) as w:
        await submit(w, "a")
        await w.pool.flush()
        await submit(w, "b")
        first, second = await take(w, 2)
        assert first.ok
        assert type(second.error) is carpool.BudgetExceeded


# --- taking over


async def test_the_next_process_goes_on_by_itself(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.interrupted() as w:
            await submit(w, "running")
            await anyio.sleep(5)
            await submit(w, "waiting")
        async with at.open(reuse="never", timeout=1, on_event=lambda event: None) as w:  # which are for calls
            assert texts_of(await take(w, 2)) == {"running": "running", "waiting": "waiting"}
    assert runs(at) == {1}


async def test_leaving_waits_for_no_submission(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with at.open(timing=PATIENT) as w:
            await submit(w, "a")
            begun = anyio.current_time()
        assert anyio.current_time() < begun + 5
        assert [batch.status for batch in at.emulator.books().batches] != []  # what waited was submitted
        async with at.open() as w:
            assert texts_of(await take(w, 1)) == {"a": "a"}
    assert runs(at) == {1}


async def test_a_process_that_dies_is_taken_over_while_others_run(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, at.open() as w:
        async with at.interrupted(timing=PATIENT) as dying:
            await submit(dying, "a", "b")
            assert await nothing_comes(w, 200)  # what is of another process that lives is its own
        assert texts_of(await take(w, 2)) == {"a": "a", "b": "b"}
    assert runs(at) == {1}


async def test_what_there_is_no_money_for_waits_for_a_process_that_has_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prices = {"gpt-5-mini": {"input": 1.0, "output": 0.0}}
    async with site(tmp_path) as at:
        async with at.interrupted(timing=PATIENT) as w:
            await submit(w, "a", "b")
        async with at.open(budget=1e-9, prices=prices) as w:
            assert await nothing_comes(w)
            assert w.pool.stats().lanes[0].dormant == 2
        assert "2 submissions of an earlier time wait" in caplog.text
        async with at.open(budget=1.0, prices=prices) as w:
            assert texts_of(await take(w, 2)) == {"a": "a", "b": "b"}
    assert runs(at) == {1}


async def test_answers_that_came_while_nobody_iterated_are_given_later(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await submit(w, "a", "b")
            await anyio.sleep(1_000)
        asked = len(at.transport.requests)
        async with at.open() as w:
            assert texts_of(await take(w, 2)) == {"a": "a", "b": "b"}
        assert len(at.transport.requests) == asked


async def test_retention_takes_acked_answers_only(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await submit(w, "kept")
            (outcome,) = await take(w, 1, ack=False)
            await w.pool.flush()
        async with at.open(retention=0) as w:
            await anyio.sleep(10)
        async with at.open(retention=0) as w:
            assert texts_of(await take(w, 1)) == {"kept": "kept"}
            await anyio.sleep(10)
        async with at.open(retention=0) as w:
            assert not at.files("download-*")
            assert await submit(w, "kept") != [outcome.custom_id]  # so late it is another


# --- taking outcomes


async def test_each_outcome_goes_to_one_iterator(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(200)]
    async with site(tmp_path) as at, at.open() as w:
        seen: list[list[str | None]] = [[], []]

        async def read(mine: list[str | None]) -> None:
            async for outcome in w.pool.outcomes():
                mine.append(outcome.key)
                outcome.ack()
                await anyio.lowlevel.checkpoint()
                if sum(map(len, seen)) == len(texts):
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for mine in seen:
                tasks.start_soon(read, mine)
            await submit(w, *texts)
        assert sorted(key or "" for mine in seen for key in mine) == sorted(texts)
        assert all(seen)


async def test_what_is_not_acked_goes_to_who_iterates_next(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        await submit(w, "a", "b", "c")
        async with w.pool.outcomes() as outcomes:
            first = await anext(outcomes)
            second = await anext(outcomes)
            second.ack()
            with anyio.move_on_after(100):
                await take(w, 2, ack=False)
                raise AssertionError("what this iterator has was given to another")
        left = await take(w, 2, ack=False)
        assert {outcome.key for outcome in left} == {"a", "b", "c"} - {second.key}
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)
        first.ack()  # also when it was given to others meanwhile
        async for outcome in w.pool.outcomes():
            assert outcome.key not in (first.key, second.key)
            break
        del outcome
        gc.collect()  # whoever breaks out of a loop forgets the iterator
        (last,) = await take(w, 1)
        assert last.key not in (first.key, second.key)


async def test_an_iterator_that_is_left_while_somebody_waits_for_it_ends(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        outcomes = w.pool.outcomes()
        seen: list[carpool.Outcome] = []

        async def read() -> None:
            seen.extend([outcome async for outcome in outcomes])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.sleep(5)
            await outcomes.aclose()
        assert seen == []
        await submit(w, "a")
        assert texts_of(await take(w, 1)) == {"a": "a"}


async def test_a_wait_that_is_cancelled_loses_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        await submit(w, *"abcdefgh")
        async with w.pool.outcomes() as outcomes:
            seen: set[str | None] = set()
            pause = 0
            while len(seen) < 8:
                pause += 1
                with anyio.CancelScope() as scope:

                    async def cancel(scope: anyio.CancelScope = scope, pause: int = pause) -> None:
                        for _ in range(pause % 40):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()

                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(cancel)
                        outcome = await anext(outcomes)
                        seen.add(outcome.key)
                        outcome.ack()
                if pause % 40 == 0:
                    await anyio.sleep(1)
        assert seen == set("abcdefgh")
        assert await nothing_comes(w)


@pytest.mark.parametrize("how", ["aclose", "drain", "leave"])
async def test_iterators_end_when_the_pool_is_left(tmp_path: Path, how: str) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        seen: list[str | None] = []
        async with at.open() as w:

            async def read() -> None:
                seen.extend([outcome.key async for outcome in w.pool.outcomes()])
                seen.append("over")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await submit(w, "a")
                await anyio.sleep(1_000)
                await submit(w, "b")
                await (w.pool.aclose() if how == "aclose" else w.pool.drain(10, submit=how == "drain"))
        assert seen == ["a", "over"]
        assert [outcome async for outcome in w.pool.outcomes()] == []
        async with at.open() as w:
            assert texts_of(await take(w, 2)) == {"a": "a", "b": "b"}


async def test_an_ack_that_comes_too_late_is_told_and_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await submit(w, "a")
            (outcome,) = await take(w, 1, ack=False)
        outcome.ack()
        assert f"{outcome.custom_id} was acked when its pool was over" in caplog.text
        async with at.open() as w:
            assert texts_of(await take(w, 1)) == {"a": "a"}


async def test_nothing_is_given_once_it_could_not_be_acked(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            await submit(w, "a", "b")
            await anyio.sleep(1_000)
            outcomes = w.pool.outcomes()
            (await anext(outcomes)).ack()
            await w.pool.drain(10)
            assert [outcome.key async for outcome in outcomes] == []
        async with at.open() as w:
            assert len(await take(w, 1)) == 1
            assert await nothing_comes(w)


async def test_acks_before_the_pool_is_left_are_recorded(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.interrupted() as w:
            await submit(w, "a", "b")
            for outcome in await take(w, 2, ack=False):
                outcome.ack()
                outcome.ack()
        async with at.open() as w:
            assert await nothing_comes(w)


async def test_an_outcome_in_a_file_that_is_gone_is_an_error_that_can_be_acked(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        async with at.open() as w:
            (first,) = await submit(w, "a")
            await anyio.sleep(1_000)
        for name in at.files("download-*"):
            (at.folder / name).write_bytes(b"?" * (at.folder / name).stat().st_size)
        async with at.open() as w:
            (outcome,) = await take(w, 1, ack=False)
            assert type(outcome.error) is carpool.JournalError
            for name in at.files("download-*"):
                (at.folder / name).unlink()
            (outcome,) = await take(w, 1)
            assert "cannot be read" in str(outcome.error)
            assert await submit(w, "a") != [first]
            assert texts_of(await take(w, 1)) == {"a": "a"}


async def test_a_disk_that_fails_is_told_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(file: int) -> None:
        raise OSError(28, "No space left on device")

    async with site(tmp_path) as at:
        failed: list[BaseException] = []

        async def expect(what: Awaitable[object]) -> None:
            try:
                await what
            except carpool.JournalError as exc:
                failed.append(exc)

        async with at.open(timing=PATIENT) as w:
            await submit(w, "a")
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", sync)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(expect, take(w, 1))
                    tasks.start_soon(expect, w.pool.submit(CHAT, body("b")))
                    tasks.start_soon(expect, w.pool.submit(CHAT, body("c"), key="c"))
                await expect(w.pool.submit(CHAT, body("d"), key="d"))
        assert ["Free some room" in str(exc) for exc in failed] == 4 * [True]
        async with at.open() as w:
            assert texts_of(await take(w, 1)) == {"a": "a"}
            await submit(w, "c")


async def test_a_key_that_cannot_be_claimed_is_told_and_may_be_claimed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def claim_keys(journal: Sqlite, asked: object) -> None:
        raise carpool.JournalError("The disk fails.")

    async with site(tmp_path) as at, at.open() as w:
        with monkeypatch.context() as patch:
            patch.setattr(Sqlite, "claim_keys", claim_keys)
            with pytest.raises(carpool.JournalError, match="The disk fails"):
                await w.pool.submit(CHAT, body("a"), key="a")
        await submit(w, "a")
        assert texts_of(await take(w, 1)) == {"a": "a"}


async def test_a_lost_reply_makes_no_second_batch(tmp_path: Path) -> None:
    async with site(tmp_path, faults=Faults(lost_create=1.0, nth={1})) as at:
        async with at.interrupted(timing=carpool.Timing(linger=0)) as w:
            await submit(w, "a")
            await anyio.sleep(0.1)
        async with at.open() as w:
            assert texts_of(await take(w, 1)) == {"a": "a"}
    assert runs(at) == {1}


async def test_the_page_shows_code_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parent.parent / "docs" / "how-to" / "submissions.md"
    code, *_ = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    shown: dict[str, Any] = {}
    exec(code, shown)
    async with site(tmp_path, answer=bad) as at, at.open() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(shown["give_out"], w.pool)
        for text in ("good", "bad"):
            await shown["take_in"](w.pool, f"ticket of {text}", text)
        await anyio.sleep(1_000)
        await w.pool.drain()
    said = sorted(capsys.readouterr().out.splitlines())
    assert said[0].startswith("ticket of bad no such thing (status 400, code nothing")
    assert said[1:] == ["ticket of good good"]


async def test_a_copy_of_an_outcome_is_like_it() -> None:
    said: list[str] = []
    response = carpool.Response("p-1", "batch_1", "r", 200, b"{}")
    outcome = Received(0, None, response, None, "k", "p-1", receipt=lambda: said.append("acked"))
    copy = pickle.loads(pickle.dumps(outcome))
    assert repr(copy) == repr(outcome)
    assert copy.result() == response
    copy.ack()
    assert not said
    outcome.ack()
    assert said == ["acked"]


async def test_when_the_pool_breaks_down_whoever_submits_or_takes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError

    told: list[carpool.CarpoolError] = []

    async def take_all(w: World) -> None:
        try:
            async for outcome in w.pool.outcomes():
                outcome.ack()
        except carpool.CarpoolError as exc:
            told.append(exc)

    async with site(tmp_path, pace=SLOW) as at, anyio.create_task_group() as tasks:
        async with at.open() as w:
            await submit(w, "kept")
            tasks.start_soon(take_all, w)
            await anyio.sleep(10)
            with monkeypatch.context() as broken:
                broken.setattr(Engine, "handle", explode)
                with pytest.raises(carpool.CarpoolError, match="broke down") as caught:
                    await w.pool.submit(CHAT, body("lost"))
                await anyio.sleep(1)
                await w.pool.drain(5)  # and does not explode again
        assert [type(exc) for exc in (caught.value, *told)] == [carpool.CarpoolError] * 2
        assert "broke down" in str(told[0])
        async with at.open() as w:
            assert texts_of(await take(w, 1)) == {"kept": "kept"}

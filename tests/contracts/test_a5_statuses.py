"""Contracts A5: each transition of a batch seen or jumped over, statuses that nobody knows, and what a cancel meets."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import anyio
import httpx2
import pytest
from contracts_kit import (
    CANCEL,
    CREATE,
    PACED,
    WATCHFUL,
    Bend,
    Found,
    assert_told,
    cancel_elsewhere,
    refused,
    scene,
    texts,
)

import carpool
from carpool.testing import Pace, Troubles

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

EAGER = {"timing": WATCHFUL}
STATUSES = ("validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


SHORT = Pace(validating=10, running=10, finalizing=10, window=25)


class Row(NamedTuple):
    """A row of the table: what leads to the transition, what the callers get, and how the batches end."""

    before: str
    after: str
    ends: list[str]
    answered: int = 4
    cancel_at: float | None = None
    emulator: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default


TABLE = (
    Row("create", "validating", ["completed"]),
    Row("validating", "failed", ["failed"], answered=0, emulator={"models": ["another"]}),
    Row("validating", "in_progress", ["completed"]),
    Row("in_progress", "finalizing", ["completed"]),
    Row("finalizing", "completed", ["completed"]),
    Row("validating", "cancelling", ["cancelled", "completed"], cancel_at=5),  # [INF]
    Row("in_progress", "cancelling", ["cancelled", "completed"], cancel_at=15),
    Row("finalizing", "cancelling", ["cancelled"], cancel_at=25),  # [INF]
    Row("cancelling", "cancelled", ["cancelled", "completed"], cancel_at=15),
    Row("in_progress", "expired", ["expired", "completed"], emulator={"troubles": Troubles(expiring=0.5), "seed": 0}),
    Row(
        "finalizing",
        "expired",
        ["expired"],
        emulator={"pace": Pace(validating=10, running=10, finalizing=9, window=25)},
    ),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"A5-{row.before}-{row.after}") for row in TABLE])
async def test_a5_each_transition_is_followed_and_nothing_is_paid_twice(row: Row) -> None:
    async with (
        scene(pool=EAGER, **{"pace": PACED, **row.emulator}) as w,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(w.ask_all, texts(4))
        if row.cancel_at is not None:
            await anyio.sleep(row.cancel_at)
            assert await cancel_elsewhere(w, w.emulator.books().batches[0].id) == 200
    assert (row.before, row.after) in pairwise(["create", *w.bent.statuses])
    assert (w.ends(), len(w.answers())) == (row.ends, row.answered)
    assert [w.paid(text) for text in texts(4)] == [row.answered // 4] * 4
    assert len(w.settled) == 4


async def test_a5_validating_failed_may_be_the_same_second() -> None:
    async with scene(models=["another"]) as w:
        await w.ask("text")
    assert isinstance(w.error("text"), carpool.RequestRejected)
    assert w.bent.statuses == ["validating", "failed"]


async def test_a5_validating_may_expire() -> None:
    """[UNVERIFIED] Whatever comes of it, nobody waits for ever."""
    async with scene(pace=Pace(validating=10, window=5)) as w:
        await w.ask("text")
    error = w.error("text")
    assert isinstance(error, carpool.RequestExpired)
    assert [attempt.code for attempt in error.attempts] == ["batch_expired"] * 5
    assert w.ends() == ["expired"] * 5
    assert w.paid("text") == 0


# --- jumps: fast batches skip polls


def masked(*hidden: str, shown: str = "validating") -> Bend:
    """Show another status in place of some."""

    def edit(batch: Found) -> None:
        if batch["status"] in hidden:
            batch["status"] = shown

    return Bend(batch=edit)


OPEN = ("validating", "in_progress", "finalizing")
JUMPS = [
    ("validating", "finalizing", masked("in_progress")),
    ("validating", "completed", masked("in_progress", "finalizing")),
    ("in_progress", "completed", masked("finalizing", shown="in_progress")),
    ("create", "in_progress", masked("validating", shown="in_progress")),
    ("create", "finalizing", masked("validating", "in_progress", shown="finalizing")),
]


@pytest.mark.parametrize(
    ("before", "after", "bend"), [pytest.param(*jump, id=f"A5-{jump[0]}-{jump[1]}") for jump in JUMPS]
)
async def test_a5_any_forward_jump_may_be_seen(before: str, after: str, bend: Bend) -> None:
    async with scene(bend, pool=EAGER, pace=PACED) as w:
        await w.ask_all(texts(4))
    assert (before, after) in pairwise(["create", *w.bent.statuses])
    assert len(w.answers()) == 4
    assert w.ends() == ["completed"]


@pytest.mark.parametrize(
    ("status", "emulator"),
    [
        ("completed", {}),
        ("failed", {"models": ["another"]}),
        ("expired", {"troubles": Troubles(expiring=0.5), "seed": 0}),
        ("cancelled", {"troubles": Troubles(cancelled=0.5), "seed": 0}),
    ],
)
async def test_a5_an_end_may_be_the_first_thing_heard(status: str, emulator: dict[str, Any]) -> None:
    slow = {"timing": carpool.Timing(poll_min=60, poll_max=60)}
    async with scene(masked(*OPEN, "cancelling"), pool=slow, **emulator) as w:
        await w.ask_all(texts(4))
    assert w.bent.statuses[:2] == ["validating", status]
    assert len(w.answers()) == (0 if status == "failed" else 4)


async def test_a5_a_creation_may_be_answered_with_an_end() -> None:
    def edit(batch: Found) -> None:
        if not batch["output_file_id"]:
            batch |= {"status": "failed", "errors": {"data": [{"code": "invalid_request", "message": "No."}]}}

    async with scene(Bend(batch=edit)) as w:
        await w.ask("text")
    assert isinstance(w.error("text"), carpool.RequestRejected)
    assert w.asked(CREATE) == 1


async def test_a5_a_status_that_is_older_than_what_is_known_changes_nothing() -> None:
    seen = iter(["in_progress", "validating", "finalizing", "in_progress", "unheard_of", "validating"])

    def edit(batch: Found) -> None:
        if batch["status"] != "completed":
            batch["status"] = next(seen, "in_progress")

    async with scene(Bend(batch=edit), pool=EAGER, pace=PACED) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert w.ends() == ["completed"]


# --- statuses that nobody knows, and other spellings


@pytest.mark.parametrize("status", ["scheduling", "queued", "PROGRESS", "", None, 7, ["in_progress"]])
async def test_a5_a_status_that_nobody_knows_is_no_end(status: Any) -> None:
    async with scene(masked("validating", "in_progress", shown=status), pool=EAGER, pace=PACED) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert w.ends() == ["completed"]


@pytest.mark.parametrize("spell", [str.upper, str.title, lambda status: status.replace("celled", "celed")])
@pytest.mark.parametrize("trouble", [{}, {"cancelled": 0.5}, {"expiring": 0.5}])
async def test_a5_statuses_may_be_spelled_otherwise(spell: Callable[[str], str], trouble: dict[str, Any]) -> None:
    def edit(batch: Found) -> None:
        batch["status"] = spell(batch["status"])

    async with scene(Bend(batch=edit), troubles=Troubles(**trouble), seed=0) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4


async def test_a5_no_stamp_is_needed_and_neither_are_counts() -> None:
    def edit(batch: Found) -> None:
        for name in [name for name in batch if name.endswith("_at") or name in ("request_counts", "usage", "model")]:
            del batch[name]

    async with scene(Bend(batch=edit), troubles=Troubles(expiring=0.5), seed=0) as w:
        await w.ask_all(texts(4))
    assert len(w.answers()) == 4
    assert w.ends() == ["expired", "completed"]


# --- what a cancel meets


async def test_a5_a_cancel_of_a_completed_batch_is_a_409_that_is_not_repeated_and_the_answers_are_given() -> None:
    async with scene(pool={"timing": carpool.Timing(poll_min=30)}) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(4))
        await anyio.sleep(5)
        assert w.ends() == ["completed"]
        await w.pool.cancel()
        assert await cancel_elsewhere(w, w.emulator.books().batches[0].id) == 409
    assert w.asked(CANCEL) == 1
    assert len(w.answers()) == 4


async def test_a5_a_cancel_of_a_failed_batch_is_a_409_and_the_callers_hear_of_the_validation() -> None:
    timing = carpool.Timing(poll_min=30)
    async with scene(pool={"timing": timing}, models=["another"]) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(4))
        await anyio.sleep(5)
        await w.pool.cancel()
    assert w.asked(CANCEL) == 1
    assert {w.error(text).code for text in texts(4)} == {"model_not_found"}


async def test_a5_a_cancel_of_a_cancelled_batch_is_a_200_and_nothing_is_sent_again() -> None:
    pace = Pace(running=100)
    async with scene(pool={"timing": carpool.Timing(poll_min=60)}, pace=pace) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(4))
        await anyio.sleep(52)
        assert await cancel_elsewhere(w, w.emulator.books().batches[0].id) == 200
        await anyio.sleep(1)
        assert w.ends() == ["cancelled"]
        await w.pool.cancel()
    assert w.kinds() == {carpool.RequestCancelled}
    assert (len(w.answers()), len(w.errors())) == (2, 2)
    assert w.ends() == ["cancelled"]
    assert sum(w.paid(text) for text in texts(4)) == 2


async def test_a5_a_cancel_of_an_unknown_batch_is_a_404_that_is_not_repeated() -> None:
    def instead(route: str, number: int) -> httpx2.Response | None:
        return refused(404, "No batch found with id 'batch_1'.") if route == CANCEL else None

    async with scene(Bend(instead=instead), pace=Pace(running=60)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(4))
        await anyio.sleep(30)
        await w.pool.cancel()
    assert w.asked(CANCEL) == 1
    assert len(w.answers()) == 4


async def test_a5_a_cancel_takes_as_long_as_it_takes_and_what_ran_is_given() -> None:
    async with scene(pace=Pace(running=100, cancelling=1_500)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(4))
        await anyio.sleep(60)
        await w.pool.cancel()
    assert (len(w.answers()), len(w.errors())) == (2, 2)
    assert w.kinds() == {carpool.RequestCancelled}


def test_a5_every_transition_and_every_rule_has_a_test() -> None:
    told = {("create", "validating"), ("validating", "failed"), ("validating", "in_progress")}
    told |= {("in_progress", "finalizing"), ("finalizing", "completed"), ("cancelling", "cancelled")}
    told |= {(status, "cancelling") for status in OPEN} | {("in_progress", "expired"), ("finalizing", "expired")}
    assert [(row.before, row.after) for row in TABLE if (row.before, row.after) in told] == [row[:2] for row in TABLE]
    assert len(TABLE) == len(told)
    rules = {"any_forward_jump", "a_status_that_nobody_knows", "a_cancel_of_an_unknown_batch"}
    rules |= {f"a_cancel_of_a_{status}_batch" for status in ("completed", "failed", "cancelled")}
    assert_told(globals(), {f"a5_{rule}" for rule in rules})

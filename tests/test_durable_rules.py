"""The rules of submissions, without a pool: where each stands, how errors are kept, who waits for whose key."""

from array import array
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import anyio
import msgspec
import pytest

import carpool
from carpool.durable.entry import Entry
from carpool.durable.failures import pack, unmet_by, unpack
from carpool.durable.keys import Keys
from carpool.durable.standing import Standing
from carpool.engine.commands import Fail, Settle
from carpool.engine.events import Unmet
from carpool.journal import Journal, Keyed
from carpool.models import Attempt, Encoded, Failure, Lane, Row
from carpool.options import PLAIN

LANE = Lane("/v1/chat/completions", "gpt-5-mini")
ONCE = (Attempt("batch_0", None, "batch_expired", "too late"),)
TWICE = (*ONCE, Attempt("batch_1", 503, "busy", "not now"))


# --- where each stands


def standing(*rows: int, ended: tuple[int, ...] = ()) -> Standing:
    made = Standing()
    for row in (*rows, *ended):
        made.add(row)
    assert made.close(ended) == [*ended]
    assert made.end(ended) == bool(ended)
    return made


def test_what_ended_is_taken_in_its_order_once() -> None:
    rows = standing(1, ended=(5, 3, 4))
    assert rows.take(2) == [5, 3]
    assert rows.take(2) == [4]
    assert not rows.has_ended
    assert rows.take(2) == []
    assert 1 in rows
    assert rows.is_open(1)
    assert not rows.is_open(5)


def test_only_what_came_of_a_row_first_counts() -> None:
    rows = standing(1, 2)
    assert rows.close([1, 7]) == [1]
    assert rows.close([1, 2]) == [2]
    assert not rows.end([7])
    assert rows.end([1, 1])
    assert not rows.end([1])
    assert rows.take(9) == [1]


def test_what_is_put_back_comes_first_unless_it_was_dropped() -> None:
    rows = standing(ended=(1, 2, 3, 4))
    assert rows.take(3) == [1, 2, 3]
    assert rows.drop(2)
    assert not rows.drop(2)
    rows.put_back([1, 2, 3, 4])
    assert rows.drop(3)
    assert rows.take(9) == [1, 4]


def test_nothing_is_left_of_what_was_dropped() -> None:
    rows = standing(1, ended=(2, 3))
    assert rows
    for row in (1, 2, 3):
        rows.drop(row)
    assert not rows
    assert not rows.has_ended
    assert 2 not in rows


# --- how errors are kept


@pytest.mark.parametrize(
    "kind",
    [
        carpool.RequestFailed,
        carpool.RequestRejected,
        carpool.RequestExpired,
        carpool.RequestCancelled,
        carpool.ResultMissing,
    ],
)
def test_an_error_of_a_request_comes_back_as_it_was(kind: type[carpool.RequestFailed]) -> None:
    told: dict[str, Any] = {"status_code": 418, "code": "teapot", "batch_id": "batch_1", "attempts": TWICE}
    error = kind("why", custom_id="p-1", body=b"more", **told)
    back = unpack(pack(error), "p-1")
    assert type(back) is kind
    assert isinstance(back, carpool.RequestFailed)
    assert (back.message, back.status_code, back.code, back.batch_id) == ("why", 418, "teapot", "batch_1")
    assert back.custom_id == "p-1"
    assert back.attempts == TWICE
    assert str(back) == str(error)


def test_an_error_that_was_kept_without_its_attempts_is_read() -> None:
    back = unpack(msgspec.msgpack.encode(["RequestRejected", "why", 418, "teapot", "batch_1"]), "p-1")
    assert type(back) is carpool.RequestRejected
    assert (back.message, back.status_code, back.code, back.batch_id) == ("why", 418, "teapot", "batch_1")
    assert back.attempts == ()


@pytest.mark.parametrize(
    "error",
    [
        carpool.AuthenticationFailed("a"),
        carpool.JournalError("b"),
        carpool.LimitExceeded("c"),
        carpool.BudgetExceeded("d"),
        carpool.CarpoolError("e"),
    ],
)
def test_any_other_error_keeps_its_kind_and_its_words(error: carpool.CarpoolError) -> None:
    back = unpack(pack(error), "p-1")
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_a_failure_ends_those_that_are_open_and_once() -> None:
    failure = Failure("cancelled", "stopped")
    rows = standing(1, 2, 3)
    (unmet,) = unmet_by(Fail("batch_1", (1, 2, 9), failure), rows.close)
    assert unmet.rows == array("Q", [1, 2])
    assert str(unpack(unmet.error, "p-1")) == "stopped (request p-1, batch batch_1)"
    assert unmet_by(Fail("batch_1", (1, 2, 9), failure), rows.close) == []


def test_rows_that_failed_alike_are_kept_together() -> None:
    def row(number: int, status: int, message: str = "") -> Row:
        return Row(f"p-{number}", status, "", b"", "" if status == 200 else "code", message)

    rows = standing(1, 2, 3, 4, 5)
    came = [row(1, 400, "a"), row(2, 200), row(3, 400, "a"), row(4, 500, "b"), row(9, 400, "a")]
    settle = Settle("batch_1", LANE, [1, 2, 3, 4, 9], came, "file")
    assert [[*unmet.rows] for unmet in unmet_by(settle, rows.close)] == [[1, 3], [4]]
    assert rows.is_open(2)
    assert unmet_by(Settle("batch_1", LANE, [2], came[1:2], "file"), rows.close) == []
    assert Unmet(array("Q"), b"") not in unmet_by(settle, rows.close)


def attempts_of(unmet: Unmet) -> tuple[Attempt, ...]:
    error = unpack(unmet.error, "p-1")
    assert isinstance(error, carpool.RequestFailed)
    return error.attempts


def test_rows_of_one_failure_are_parted_by_their_attempts() -> None:
    fail = Fail("batch_1", (1, 2, 3, 4), Failure("missing", "gone"), attempts={1: TWICE, 2: ONCE, 3: (*TWICE,)})
    parted = unmet_by(fail, standing(1, 2, 3, 4).close)
    assert {(*unmet.rows,): attempts_of(unmet) for unmet in parted} == {(1, 3): TWICE, (2,): ONCE, (4,): ()}


def test_of_very_many_that_failed_differently_the_first_are_told_apart() -> None:
    rows = range(1, 2_001)
    attempts = {row: (Attempt(f"batch_{row}", 500, "server_error", "oh"),) for row in rows}
    parted = unmet_by(Fail("batch_1", (*rows,), Failure("missing", "gone"), attempts=attempts), list)
    assert sorted(row for unmet in parted for row in unmet.rows) == [*rows]
    assert len(parted) == 501
    assert sum(len(attempts_of(unmet)) for unmet in parted) == 500


def test_of_very_many_rows_that_failed_differently_the_first_tell_their_attempts() -> None:
    rows = [*range(1, 2_001)]
    came = [Row(f"p-{number}", 503, "", b"", "busy", f"not now: {number}") for number in rows]
    parted = unmet_by(Settle("batch_1", LANE, rows, came, "file", dict.fromkeys(rows, TWICE)), list)
    assert [row for unmet in parted for row in unmet.rows] == rows
    assert sum(attempts_of(unmet) == TWICE for unmet in parted) == 500


def test_rows_that_failed_tell_their_attempts() -> None:
    came = [Row(f"p-{number}", 503, "", b"", "busy", "not now") for number in (1, 2, 3)]
    settle = Settle("batch_1", LANE, [1, 2, 3], came, "file", {1: TWICE, 2: TWICE[1:], 3: TWICE})
    parted = unmet_by(settle, standing(1, 2, 3).close)
    assert {(*unmet.rows,): attempts_of(unmet) for unmet in parted} == {(1, 3): TWICE, (2,): TWICE[1:]}


# --- who waits for whose key


class Ticket:
    """Wait for one submission."""

    def __init__(self) -> None:
        self.came: list[str | BaseException] = []

    def done(self) -> bool:
        return bool(self.came)

    def set_result(self, result: carpool.Response, /) -> None:
        self.came.append(result.custom_id)

    def set_exception(self, exception: BaseException, /) -> None:
        self.came.append(exception)


class Desk:
    """Claim keys that others may hold, and join what is free."""

    def __init__(self, held: dict[str, Keyed]) -> None:
        self.held = held
        self.asked: list[list[str]] = []
        self.joined: list[str | None] = []
        self.steps: list[Callable[[], Awaitable[None]]] = []
        self.over = False
        journal = cast("Journal", self)
        self.keys = Keys(journal, self.steps.append, self._join, self._known, lambda: self.over, self._late, self._free)

    async def claim_keys(self, asked: Mapping[str, bytes]) -> dict[str, Keyed]:
        self.asked.append([*asked])
        return {key: self.held[key] for key in asked if key in self.held}

    def _join(self, entry: Entry) -> None:
        self.joined.append(entry.key)
        self.keys.over(entry)

    def _known(self, entry: Entry, row: int) -> None:
        entry.settle(f"p-{row}")

    def _late(self, entry: Entry) -> None:
        entry.refuse(lambda _: carpool.PoolClosed("closed"))

    async def _free(self) -> None:
        return

    def ask(self, key: str, body: bytes = b"{}") -> Ticket:
        ticket = Ticket()
        self.keys.ask(Entry(Encoded(LANE.endpoint, LANE.model, body, 0), PLAIN, key, ticket))
        return ticket

    async def run(self) -> None:
        await self.steps.pop()()


def digest(body: bytes = b"{}") -> bytes:
    return Entry(Encoded(LANE.endpoint, LANE.model, body, 0), PLAIN, "k", Ticket()).digest


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.mark.anyio
async def test_whoever_is_second_waits_until_the_first_has_recorded() -> None:
    desk = Desk({"k": Keyed(None, digest())})
    ticket = desk.ask("k")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        await anyio.sleep(1)
        assert len(desk.asked) > 10
        assert not ticket.done()
        desk.held["k"] = Keyed(7, digest())
    assert ticket.came == ["p-7"]
    assert desk.joined == []
    assert desk.keys.entries() == []


@pytest.mark.anyio
async def test_whoever_is_second_goes_first_when_the_first_has_died() -> None:
    desk = Desk({"k": Keyed(None, digest())})
    desk.ask("k")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.run)
        await anyio.sleep(1)
        free = desk.ask("free")  # is not held up for long
        await anyio.sleep(1)
        assert desk.joined == ["free"]
        assert not free.done()
        del desk.held["k"]
    assert desk.joined == ["free", "k"]


@pytest.mark.anyio
async def test_a_pool_that_is_left_waits_for_no_other_process() -> None:
    desk = Desk({"k": Keyed(None, digest())})
    ticket = desk.ask("k")
    desk.over = True
    await desk.run()
    assert [type(came) for came in ticket.came] == [carpool.PoolClosed]


@pytest.mark.anyio
async def test_one_claim_serves_all_who_ask_at_once() -> None:
    desk = Desk({"known": Keyed(1, digest()), "other": Keyed(2, digest(b"[]"))})
    tickets = [desk.ask(key) for key in ("known", "known", "other", "new")]
    different = desk.ask("known", b"[]")
    assert len(desk.steps) == 1
    await desk.run()
    assert desk.asked == [["known", "other", "new"]]
    assert [ticket.came for ticket in tickets[:2]] == [["p-1"], ["p-1"]]
    assert [type(ticket.came[0]) for ticket in (tickets[2], different)] == 2 * [carpool.ConfigurationError]
    assert desk.joined == ["new"]
    desk.ask("new")  # under it something was recorded meanwhile: the journal is asked again
    assert len(desk.steps) == 1

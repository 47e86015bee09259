"""Rows go to the pool, and what comes of them to OUTPUT, in the order of INPUT or as it comes."""

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.cli.filerun import stream as stream_module
from carpool.cli.filerun.endings import Stopped
from carpool.cli.filerun.output import Output
from carpool.cli.filerun.rows import Bad, Row, Rows
from carpool.cli.filerun.stream import Stream
from carpool.cli.filerun.tally import Tally
from carpool.errors import BudgetExceeded, CarpoolError, LimitExceeded, RequestRejected, Unbatchable
from carpool.models import Response
from carpool.outcomes import Outcome


class Rig(Output):
    """Keep in memory what would be written."""

    def __init__(self) -> None:
        super().__init__(Path("out"), -1, texts=True, made=False)
        self.written: list[bytes] = []

    def add(self, row: bytes, *, failed: bool = False) -> None:
        self.written.append(row)
        self.failed += failed

    @property
    def numbers(self) -> list[int]:
        return [int(json.loads(row)["id"].split("_")[1]) for row in self.written]


def good(number: int) -> Row:
    return Row(number << 32 | number, 10 * number, b'"%d"' % number, "/v1/responses", b'{"model":"m"}')


def bad(number: int) -> Bad:
    return Bad(number << 32 | number, 10 * number, b"null", "it is odd")


def answered(index: int) -> Outcome:
    return Outcome(index, None, Response("", "b", "r", 200, b'{"of":%d}' % index), None)


def failed(index: int, error: CarpoolError) -> Outcome:
    return Outcome(index, None, None, error)


class Parts:
    """Give rows, some at a time."""

    def __init__(self, *parts: Rows) -> None:
        self._parts = iter(parts)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Rows:
        for rows in self._parts:
            return rows
        raise StopAsyncIteration


def rigged(*, ordered: bool = True, texts: bool = False) -> tuple[Stream, Rig, Tally]:
    rig, tally = Rig(), Tally("in", lambda _: None)
    return Stream(rig, tally, ordered=ordered, texts=texts), rig, tally


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 7), st.data())
def test_bad_rows_take_their_places_among_the_answers(kinds: list[bool], size: int, data: st.DataObject) -> None:
    rows: Rows = [good(n) if kind else bad(n) for n, kind in enumerate(kinds, 1)]
    stream, rig, tally = rigged()

    async def play() -> None:
        asked = settled = 0
        async with aclosing(stream.requests(Parts(*(rows[n : n + size] for n in range(0, len(rows), size))))) as source:
            async for request in source:
                asked += 1
                assert request.key == [row.key for row in rows if isinstance(row, Row)][asked - 1]
                for _ in range(data.draw(st.integers(0, asked - settled))):
                    stream.settle(answered(settled))
                    settled += 1
                assert rig.numbers == [*range(1, len(rig.written) + 1)]
        assert tally.total == asked
        for index in range(settled, asked):
            stream.settle(answered(index))
        stream.finish()

    anyio.run(play)
    assert rig.numbers == [*range(1, len(rows) + 1)]
    assert [json.loads(row)["error"] is None for row in rig.written] == kinds
    assert (tally.answered, tally.bad) == (sum(kinds), len(kinds) - sum(kinds))


@pytest.mark.anyio
async def test_a_bad_row_is_written_as_soon_as_nothing_stands_before_it() -> None:
    stream, rig, _ = rigged()
    async with aclosing(stream.requests(Parts([bad(1), good(2), bad(3), good(4)]))) as source:
        await anext(source)
        assert rig.numbers == [1]
        stream.settle(answered(0))
        await anext(source)
        assert rig.numbers == [1, 2, 3]


@pytest.mark.anyio
async def test_as_they_come_bad_rows_wait_for_nobody() -> None:
    stream, rig, _ = rigged(ordered=False)
    async with aclosing(stream.requests(Parts([good(1), bad(2), good(3), good(4)]))) as source:
        for _ in range(3):
            await anext(source)
        for index in (2, 0):
            stream.settle(answered(index))
        assert rig.numbers == [2, 4, 1]


@pytest.mark.anyio
@pytest.mark.parametrize("texts", [False, True])
async def test_reading_waits_while_too_many_bad_rows_do(monkeypatch: pytest.MonkeyPatch, texts: bool) -> None:
    monkeypatch.setattr(stream_module, "_HELD", 5_000)  # bytes in memory, of which a text has but few
    stream, rig, tally = rigged(texts=texts)
    async with aclosing(stream.requests(Parts([good(1), *map(bad, range(2, 100)), good(100)]))) as source:
        await anext(source)

        async def read_on() -> None:  # what anext() gives is no coroutine, which older versions of anyio ask for
            await anext(source)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_on)
            await anyio.wait_all_tasks_blocked()
            assert rig.written == []
            assert tally.bad < 90
            assert not tally.codes  # of rows that are in OUTPUT
            stream.settle(answered(0))
            with anyio.fail_after(5):
                await anyio.wait_all_tasks_blocked()
        assert len(rig.written) == 99
        assert texts or rig.numbers == [*range(1, 100)]
        assert tally.codes.total() == rig.failed == 98


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Unbatchable("No model."), "invalid_request", True),
        (LimitExceeded("Too large."), "limit_exceeded", True),
        (RequestRejected("No.", code="no_such_thing"), "no_such_thing", False),
    ],
)
async def test_what_a_row_fails_by_is_a_row_and_counted(error: CarpoolError, code: str, told: bool) -> None:
    stream, rig, tally = rigged()
    async with aclosing(stream.requests(Parts([good(7)]))) as source:
        await anext(source)
        stream.settle(failed(0, error))
        (row,) = map(json.loads, rig.written)
        assert (row["custom_id"], row["response"], row["error"]["code"]) == ("7", None, code)
        assert row["error"]["message"].startswith("in:70: ") is told
        assert (tally.bad, tally.codes) == (told, {code: 1})


@pytest.mark.anyio
@pytest.mark.parametrize("ordered", [True, False])
async def test_what_all_fail_by_stops_the_run(ordered: bool) -> None:
    stream, rig, _ = rigged(ordered=ordered)
    async with aclosing(stream.requests(Parts([good(1)]))) as source:
        await anext(source)
        with pytest.raises(Stopped, match="broke down"):
            stream.settle(failed(0, CarpoolError("it broke down")))
        assert rig.written == []


@pytest.mark.anyio
async def test_without_money_what_is_under_way_is_awaited_and_nothing_more_is_asked() -> None:
    stream, rig, _ = rigged(ordered=False)
    async with aclosing(stream.requests(Parts([good(1), good(2), good(3), good(4)]))) as source:
        for _ in range(3):
            await anext(source)
        stream.settle(failed(2, BudgetExceeded("It is spent.")))
        assert await anext(source, None) is None
        stream.settle(failed(1, BudgetExceeded("Indeed.")))
        stream.settle(answered(0))
        with pytest.raises(Stopped, match=r"It is spent\."):
            stream.finish()
        assert rig.numbers == [1]


@pytest.mark.anyio
async def test_texts_alone() -> None:
    stream, rig, _ = rigged(texts=True)
    async with aclosing(stream.requests(Parts([good(1), bad(2), good(3)]))) as source:
        for _ in range(2):
            await anext(source)
        body: dict[str, Any] = {"choices": [{"text": "a\n"}]}
        stream.settle(Outcome(0, None, Response("", "b", "r", 200, json.dumps(body).encode()), None))
        stream.settle(failed(1, RequestRejected("No.")))
        assert rig.written == [b'"a\\n"\n', b"null\n", b"null\n"]

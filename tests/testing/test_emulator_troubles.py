"""What goes wrong within batches, row by row and as a whole, and what the books say of it; on virtual time."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from emulating import CHAT, DAY, Client, body, jsonl, line, parsed, some

from carpool.testing import Answer, Books, Emulator, Pace, Troubles, digest

pytestmark = pytest.mark.anyio

PACED = Pace(validating=10, running=100, finalizing=10, cancelling=600)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Ended:
    """Hold a batch that has ended: its object, and the lines of its two files."""

    def __init__(self, batch: dict[str, Any], output: list[bytes], errors: list[bytes]) -> None:
        counts = batch["request_counts"]
        self.status = batch["status"]
        self.counts = (counts["total"], counts["completed"], counts["failed"])
        self.usage = batch["usage"]
        self.problems = batch["errors"] and batch["errors"]["data"]
        self.output = output
        self.errors = errors

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(entry) for entry in self.output]

    def ids(self) -> set[str]:
        return {row["custom_id"] for row in self.rows()}

    def failures(self) -> dict[str, dict[str, Any]]:
        return parsed(b"".join(self.errors))


async def lines(client: Client, file_id: str | None) -> list[bytes]:
    content = b"" if file_id is None else (await client.http.get(f"/files/{file_id}/content")).content
    assert content.endswith(b"\n") or not content
    return content.splitlines(keepends=True)


async def ended(client: Client, content: bytes, seconds: float = 1.0) -> Ended:
    batch = await client.get(await begun(client, content, seconds))
    return Ended(batch, await lines(client, batch["output_file_id"]), await lines(client, batch["error_file_id"]))


async def begun(client: Client, content: bytes, seconds: float) -> str:
    batch_id = await client.create(await client.upload(content))
    await anyio.sleep(seconds)
    return batch_id


async def run(content: bytes, seconds: float = 1.0, **settings: Any) -> tuple[Ended, Books]:
    async with Emulator(**settings).inline() as emulator:
        return await ended(Client(emulator), content, seconds), emulator.books()


def paid(books: Books) -> int:
    return sum(books.paid.values())


async def test_without_troubles_every_row_is_paid_once_and_none_is_lost() -> None:
    batch, books = await run(some(20))
    assert (batch.status, batch.counts, len(batch.ids())) == ("completed", (20, 20, 0), 20)
    assert books.paid == books.bodies == Counter({digest(body(f"text {number}")): 1 for number in range(20)})
    assert (books.unpaid, books.lost) == ({}, {})


async def test_rows_fail_with_the_statuses_asked_for_and_are_neither_run_nor_billed() -> None:
    failing = dict.fromkeys((400, 408, 429, 500, 503), 0.1)
    batch, books = await run(some(200), troubles=Troubles(failing=failing))
    failures = batch.failures()
    good = len(batch.output)
    assert batch.counts == (200, good, 200 - good)
    assert 60 < good < 140
    assert len(failures) == len(batch.errors) == 200 - good
    assert {row["response"]["status_code"] for row in failures.values()} == set(failing)
    assert {row["error"] for row in failures.values()} == {None}
    errors = {row["response"]["status_code"]: row["response"]["body"]["error"] for row in failures.values()}
    assert all(set(error) == {"message", "type", "param", "code"} for error in errors.values())
    assert [errors[status]["type"] for status in (400, 429, 500)] == [
        "invalid_request_error",
        "requests",
        "server_error",
    ]
    assert errors[429]["code"] == "rate_limit_exceeded"
    assert sum(books.bodies.values()) == paid(books) == good
    assert not {name for name, _ in books.runs} & set(failures)


async def test_the_status_0_counts_as_completed() -> None:
    batch, books = await run(some(3), troubles=Troubles(failing={0: 1.0}))
    assert batch.counts == (3, 3, 0)
    assert {row["response"]["status_code"] for row in batch.rows()} == {0}
    assert not books.bodies


async def test_rows_time_out() -> None:
    batch, books = await run(some(5), troubles=Troubles(timed_out=1.0))
    assert batch.counts == (5, 0, 5)
    assert {(row["response"], row["error"]["code"]) for row in batch.failures().values()} == {(None, "request_timeout")}
    assert not books.bodies


async def test_missing_rows_were_billed_and_are_in_no_file() -> None:
    batch, books = await run(some(100), troubles=Troubles(missing=0.3))
    missing = 100 - len(batch.ids())
    assert 10 < missing < 50
    assert (batch.counts, batch.errors) == ((100, 100, 0), [])
    assert batch.usage["output_tokens"] >= 100
    assert paid(books) == 100
    assert books.lost == Counter({digest(body(f"text {n}")): 1 for n in range(100) if f"r-{n}" not in batch.ids()})


async def test_torn_lines_were_billed_and_are_no_json() -> None:
    batch, books = await run(some(60), troubles=Troubles(torn=0.5))
    torn = 0
    for entry in batch.output:
        try:
            json.loads(entry)
        except ValueError:
            torn += 1
    assert len(batch.output) == 60
    assert 15 < torn < 45
    assert (paid(books), sum(books.lost.values())) == (60, torn)


async def test_doubled_lines_stand_side_by_side_or_apart() -> None:
    batch, books = await run(some(60), troubles=Troubles(doubled=0.5))
    counted = Counter(row["custom_id"] for row in batch.rows())
    doubled = {name for name, number in counted.items() if number == 2}
    assert len(counted) == 60
    assert 15 < len(doubled) < 45
    assert len(batch.output) == 60 + len(doubled)
    places = {name: [at for at, row in enumerate(batch.rows()) if row["custom_id"] == name] for name in doubled}
    assert {second - first == 1 for first, second in places.values()} == {True, False}
    assert batch.counts == (60, 60, 0)
    assert set(books.bodies.values()) == {1}


async def test_a_failure_is_doubled_in_the_error_file() -> None:
    batch, _ = await run(some(4), answer=lambda endpoint, given: Answer(400, {}), troubles=Troubles(doubled=1.0))
    assert (batch.output, len(batch.errors)) == ([], 8)


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/responses", "/v1/embeddings"])
async def test_foreign_rows_stand_beside_ones_own(endpoint: str) -> None:
    given = {"model": "m", "messages": [{"content": "hi"}], "input": "hi"}
    content = jsonl(line(f"r-{number}", url=endpoint, content=given) for number in range(60))
    async with Emulator(troubles=Troubles(foreign=0.5)).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create(await client.upload(content), endpoint)
        await anyio.sleep(1)
        batch = await client.get(batch_id)
        ids = [json.loads(entry)["custom_id"] for entry in await lines(client, batch["output_file_id"])]
    own = {f"r-{number}" for number in range(60)}
    foreign = [name for name in ids if name not in own]
    assert own < set(ids)
    assert 15 < len(foreign) < 45
    assert 5 < foreign.count(None) < 40
    assert len(set(foreign) - {None}) == len(foreign) - foreign.count(None)
    assert (batch["request_counts"]["completed"], paid(emulator.books())) == (60, 60)


async def test_answers_that_are_no_success_are_not_paid() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        match given["messages"][0]["content"]:
            case "text 0":
                raise TimeoutError
            case "text 1":
                return Answer(500, {})
            case _:
                return {}

    _, books = await run(some(3), answer=answer)
    assert [books.times(body(f"text {number}")) for number in range(3)] == [1, 1, 1]
    assert books.paid == Counter({digest(body("text 2")): 1})
    assert set(books.unpaid) == {digest(body("text 0")), digest(body("text 1"))}


@pytest.mark.parametrize("wide", [False, True])
async def test_an_expiring_batch_ends_half_way(wide: bool) -> None:
    async def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    settings: dict[str, Any] = {"answer": answer} if wide else {}
    batch, books = await run(some(10), 61, troubles=Troubles(expiring=1.0), pace=PACED, **settings)
    assert (batch.status, batch.counts, len(batch.output)) == ("expired", (10, 5, 0), 5)
    failures = batch.failures()
    assert {row["error"]["code"] for row in failures.values()} == {"batch_expired"}
    assert batch.ids() | set(failures) == {f"r-{number}" for number in range(10)}
    assert paid(books) == 5


async def test_a_batch_that_the_provider_cancels_ends_half_way() -> None:
    async with Emulator(troubles=Troubles(cancelled=1.0), pace=PACED).inline() as emulator:
        client = Client(emulator)
        batch_id = await begun(client, some(10), 70)
        assert (await client.get(batch_id))["status"] == "cancelling"
        await anyio.sleep(600)
        batch = await client.get(batch_id)
        assert (batch["status"], batch["request_counts"]) == ("cancelled", {"total": 10, "completed": 5, "failed": 0})
        errors = await client.rows(batch["error_file_id"])
        assert {row["error"]["code"] for row in errors.values()} == {"batch_cancelled"}
        assert len(await client.rows(batch["output_file_id"])) == len(errors) == 5


async def test_a_stuck_batch_runs_on_until_it_is_cancelled() -> None:
    async with Emulator(troubles=Troubles(stuck=1.0), pace=PACED, enqueued_tokens={"*": 10**6}).inline() as emulator:
        client = Client(emulator)
        batch_id = await begun(client, some(10), 3 * DAY)
        batch = await client.get(batch_id)
        assert (batch["status"], batch["request_counts"]["completed"]) == ("in_progress", 5)
        assert emulator.books().queue[-1].tokens > 0
        await client.http.post(f"/batches/{batch_id}/cancel")
        await anyio.sleep(601)
        batch = await client.get(batch_id)
        assert batch["status"] == "cancelled"
        assert len(await client.rows(batch["output_file_id"])) == len(await client.rows(batch["error_file_id"])) == 5
        assert emulator.books().queue[-1].tokens == 0


@pytest.mark.parametrize("refuse_at", ["validation", "creation"])
async def test_a_validation_fails_of_itself_and_holds_no_tokens(refuse_at: Any) -> None:
    settings: dict[str, Any] = {"refuse_at": refuse_at, "enqueued_tokens": {"*": 10**6}}
    batch, books = await run(some(3), troubles=Troubles(failed_validation=1.0), **settings)
    assert (batch.status, batch.counts, batch.output, batch.errors) == ("failed", (0, 0, 0), [], [])
    assert [(problem["code"], problem["line"]) for problem in batch.problems] == [("server_error", None)]
    assert not books.bodies
    assert not books.queue or books.queue[-1].tokens == 0


async def test_a_line_that_is_wrong_is_told_rather_than_a_trouble() -> None:
    batch, _ = await run(jsonl([line("a"), line("a")]), troubles=Troubles(failed_validation=1.0))
    assert [problem["code"] for problem in batch.problems] == ["duplicate_custom_id"]


@pytest.mark.parametrize("settings", [{"troubles": Troubles(expiring=1.0, silent_rest=1.0)}, {}])
async def test_a_silent_rest_is_in_no_file(settings: dict[str, Any]) -> None:
    settings = {"troubles": Troubles(silent_rest=1.0), "pace": Pace(running=200, window=101)} | settings
    batch, books = await run(some(10), 200, **settings)
    assert (batch.status, batch.counts, len(batch.output), batch.errors) == ("expired", (10, 5, 0), 5, [])
    assert (paid(books), books.lost) == (5, {})


async def test_what_is_cancelled_tells_its_rest() -> None:
    batch, _ = await run(some(10), troubles=Troubles(cancelled=1.0, silent_rest=1.0))
    assert len(batch.errors) == 5


MIXED = Troubles(
    failing={429: 0.05, 500: 0.05}, timed_out=0.05, missing=0.05, doubled=0.05, foreign=0.05, torn=0.05,
    expiring=0.2, cancelled=0.2, stuck=0.1, failed_validation=0.2, silent_rest=0.5,
)  # fmt: skip


async def told(seed: int, pause: float = 1.0, **settings: Any) -> list[tuple[Any, ...]]:
    """Give the end of ten batches, apart from the order in which their rows ran."""
    async with Emulator(seed=seed, troubles=MIXED, **settings).inline() as emulator:
        client = Client(emulator)
        batches = [await ended(client, some(40), pause) for _ in range(10)]
    return [(one.status, one.counts, sorted(one.output), sorted(one.errors)) for one in batches]


async def test_the_same_seed_gives_the_same_troubles_at_any_pace() -> None:
    async def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(int(given["messages"][0]["content"][5:]) % 7)
        return {}

    first = await told(1)
    assert first == await told(1)
    assert first == await told(1, 50, pace=Pace(validating=3, running=20))
    assert first != await told(2)
    assert len({status for status, *_ in first}) > 2
    counted = [entry[:2] for entry in first]
    assert counted == [entry[:2] for entry in await told(1, 200, answer=answer, pace=Pace(running=20))]


@pytest.mark.parametrize("troubles", [Troubles(failing={500: 0.5}), Troubles(failed_validation=0.5)])
async def test_another_seed_gives_other_troubles(troubles: Troubles) -> None:
    async def failures(seed: int) -> list[tuple[str, set[str]]]:
        async with Emulator(seed=seed, troubles=troubles).inline() as emulator:
            client = Client(emulator)
            batches = [await ended(client, some(20)) for _ in range(8)]
        return [(batch.status, set(batch.failures())) for batch in batches]

    assert await failures(1) == await failures(1) != await failures(2)


async def test_a_row_that_is_sent_again_has_new_luck() -> None:
    async with Emulator(troubles=Troubles(failing={500: 0.5})).inline() as emulator:
        client = Client(emulator)
        failed = [frozenset((await ended(client, some(30))).failures()) for _ in range(5)]
    assert len(set(failed)) == 5


async def test_rates_hold() -> None:
    batch, _ = await run(some(5000), troubles=Troubles(failing={429: 0.1, 500: 0.01}, timed_out=0.1))
    codes = Counter(
        row["response"]["status_code"] if row["response"] else row["error"]["code"] for row in batch.failures().values()
    )
    assert codes[429] == pytest.approx(500, rel=0.2)
    assert codes[500] == pytest.approx(50, rel=0.5)
    assert codes["request_timeout"] == pytest.approx(500, rel=0.2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Troubles(missing=1.5),
        lambda: Troubles(stuck=-0.1),
        lambda: Troubles(silent_rest=2),
        lambda: Troubles(failing={500: 1.1}),
        lambda: Troubles(failing={200: 0.1}),
        lambda: Troubles(failing={600: 0.1}),
        lambda: Troubles(failing={500: 0.6}, torn=0.6),
        lambda: Troubles(expiring=0.6, stuck=0.6),
    ],
)
async def test_what_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"Troubles|add up"):
        make()


async def test_rows_and_batches_add_up_apart() -> None:
    Troubles(missing=1.0, expiring=1.0, silent_rest=1.0)

"""The whole life of batches on virtual time, on asyncio and trio, without thread or socket."""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio.testing
from emulating import CHAT, DAY, MALFORMED, Client, VirtualLoop, body, jsonl, leftovers, line, some

from carpool.testing import Answer, Emulator, Faults, Pace, Refused, digest

pytestmark = pytest.mark.anyio

PACED = Pace(validating=10, running=100, finalizing=10, cancelling=600)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualLoop}
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A folder of its own, as other processes of this machine may run emulators too.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = leftovers()
    yield
    assert leftovers() == before


async def counted(client: Client, batch_id: str) -> tuple[str, int, int, int]:
    batch = await client.get(batch_id)
    counts = batch["request_counts"]
    return batch["status"], counts["total"], counts["completed"], counts["failed"]


async def test_each_step_takes_its_time() -> None:
    emulator = Emulator(pace=PACED)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(10)))
        await anyio.sleep(9.5)
        assert await counted(client, batch_id) == ("validating", 0, 0, 0)
        await anyio.sleep(1)
        assert await counted(client, batch_id) == ("in_progress", 10, 0, 0)
        await anyio.sleep(50)
        assert await counted(client, batch_id) == ("in_progress", 10, 5, 0)
        await anyio.sleep(50)
        assert await counted(client, batch_id) == ("finalizing", 10, 10, 0)
        await anyio.sleep(10)
        batch = await client.get(batch_id)
        stamps = [batch[f"{name}_at"] - batch["created_at"] for name in ("in_progress", "finalizing", "completed")]
        assert stamps == pytest.approx([10, 110, 120], abs=1)
        assert batch["expires_at"] - batch["created_at"] == DAY
        assert batch["error_file_id"] is None
        rows = await client.rows(batch["output_file_id"])
        assert set(rows) == {f"r-{index}" for index in range(10)}
        assert list(rows) != sorted(rows)
        assert rows["r-3"]["response"]["body"]["choices"][0]["message"]["content"] == "text 3"
        assert (rows["r-3"]["response"]["status_code"], rows["r-3"]["error"]) == (200, None)
        assert batch["usage"]["total_tokens"] == sum(
            row["response"]["body"]["usage"]["total_tokens"] for row in rows.values()
        )


async def test_tokens_per_second_stretch_the_run() -> None:
    emulator = Emulator(pace=Pace(tokens_per_second=1.0), count=lambda body: 100)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(10)))
        await anyio.sleep(550)
        assert await counted(client, batch_id) == ("in_progress", 10, 5, 0)


async def test_a_cancelled_batch_keeps_what_ran() -> None:
    emulator = Emulator(pace=PACED)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(8)))
        await anyio.sleep(61)
        reply = await client.http.post(f"/batches/{batch_id}/cancel")
        assert (reply.status_code, reply.json()["status"]) == (200, "cancelling")
        await anyio.sleep(599)
        assert await counted(client, batch_id) == ("cancelling", 8, 4, 0)
        assert (await client.http.post(f"/batches/{batch_id}/cancel")).status_code == 200
        await anyio.sleep(2)
        assert await counted(client, batch_id) == ("cancelled", 8, 4, 0)
        batch = await client.get(batch_id)
        output, errors = await client.rows(batch["output_file_id"]), await client.rows(batch["error_file_id"])
        assert len(output) == len(errors) == 4
        assert not set(output) & set(errors)
        assert {(row["response"], row["error"]["code"]) for row in errors.values()} == {(None, "batch_cancelled")}
        assert (await client.http.post(f"/batches/{batch_id}/cancel")).status_code == 200


@pytest.mark.parametrize("moment", [5.0, 115.0])
async def test_a_batch_can_be_cancelled_before_and_after_it_runs(moment: float) -> None:
    emulator = Emulator(pace=PACED)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(3)))
        await anyio.sleep(moment)
        await client.http.post(f"/batches/{batch_id}/cancel")
        await anyio.sleep(601)
        batch = await client.get(batch_id)
        assert batch["status"] == "cancelled"
        rows = await client.rows(batch["output_file_id"]), await client.rows(batch["error_file_id"])
        assert (len(rows[0]), len(rows[1])) == ((0, 3) if moment == 5 else (3, 0))
        assert (batch["output_file_id"] is None) == (moment == 5)


async def test_an_expired_batch_keeps_what_ran() -> None:
    emulator = Emulator(pace=Pace(running=200, window=110), enqueued_tokens={"*": 10_000}, release_after=50)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(10)))
        await anyio.sleep(111)
        assert await counted(client, batch_id) == ("expired", 10, 5, 0)
        batch = await client.get(batch_id)
        output, errors = await client.rows(batch["output_file_id"]), await client.rows(batch["error_file_id"])
        assert len(output) == len(errors) == 5
        assert {row["error"]["code"] for row in errors.values()} == {"batch_expired"}
        assert (await client.http.post(f"/batches/{batch_id}/cancel")).status_code == 409
        books = emulator.books()
        assert sum(books.bodies.values()) == 5
        assert books.billed.input_tokens == batch["usage"]["input_tokens"] > 0
        assert books.times(body("text 0")) + books.times(body("text 1")) <= 2


async def test_failed_rows_go_to_the_error_file() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> bytes | dict[str, Any] | Answer:
        match given["messages"][0]["content"]:
            case "text 0":
                raise Refused(400, "too long", param="messages", code="invalid")
            case "text 1":
                raise TimeoutError
            case "text 2":
                return Answer(503, {"error": {"message": "busy"}})
            case "text 3":
                raise RuntimeError("a bug")
            case "text 4":
                return b'{\n"said": "\xe2\x80\xa8"}'
            case _:
                return {"endpoint": endpoint}

    emulator = Emulator(answer=answer)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(6)))
        await anyio.sleep(1)
        assert await counted(client, batch_id) == ("completed", 6, 2, 4)
        batch = await client.get(batch_id)
        errors = await client.rows(batch["error_file_id"])
        assert errors["r-0"]["response"]["status_code"] == 400
        assert errors["r-0"]["response"]["body"]["error"] == {
            "message": "too long", "type": "invalid_request_error", "param": "messages", "code": "invalid",
        }  # fmt: skip
        assert errors["r-0"]["error"] is None
        assert (errors["r-1"]["response"], errors["r-1"]["error"]["code"]) == (None, "request_timeout")
        assert errors["r-2"]["response"]["status_code"] == 503
        assert "a bug" in errors["r-3"]["response"]["body"]["error"]["message"]
        output = await client.rows(batch["output_file_id"])
        assert output["r-4"]["response"]["body"] == {"said": "\u2028"}
        assert output["r-5"]["response"]["body"] == {"endpoint": CHAT}


async def test_what_is_no_answer_fails_its_row_and_says_what_to_mend() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        number = int(given["messages"][0]["content"].removeprefix("text "))
        if number == len(MALFORMED):
            return {"good": True}
        reply, _ = MALFORMED[number]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async with Emulator(answer=answer).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(len(MALFORMED) + 1)))
        await anyio.sleep(1)
        batch = await client.get(batch_id)
        errors, output = await client.rows(batch["error_file_id"]), await client.rows(batch["output_file_id"])
    assert batch["status"] == "completed"
    assert {custom_id: row["response"]["body"] for custom_id, row in output.items()} == {
        f"r-{len(MALFORMED)}": {"good": True}
    }
    for number, (_, told) in enumerate(MALFORMED):
        response = errors[f"r-{number}"]["response"]
        assert response["status_code"] == 500
        assert told in response["body"]["error"]["message"]


async def test_a_batch_whose_rows_all_fail_has_no_output_file() -> None:
    emulator = Emulator(answer=lambda endpoint, given: Answer(400, {}))
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(3)))
        await anyio.sleep(1)
        batch = await client.get(batch_id)
        assert (batch["status"], batch["output_file_id"]) == ("completed", None)
        assert batch["error_file_id"] is not None


async def test_awaited_answers_run_side_by_side_within_bounds() -> None:
    under_way, most = 0, 0

    async def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await anyio.sleep(10)
        under_way -= 1
        return {}

    emulator = Emulator(answer=answer, upstream_concurrency=5)
    async with emulator.inline():
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(20)))
        await anyio.sleep(35)
        assert await counted(client, batch_id) == ("in_progress", 20, 15, 0)
        await anyio.sleep(10)
        assert await counted(client, batch_id) == ("completed", 20, 20, 0)
        assert most == 5


async def test_validation_fails_without_files_and_without_tokens() -> None:
    emulator = Emulator(models=["gpt-4o"])
    async with emulator.inline():
        client = Client(emulator)
        bad = jsonl([line("a"), line("a"), line("b", content=body() | {"model": "no"})])
        batch_id = await client.create(await client.upload(bad))
        lost = await client.create("file-nowhere")
        empty = await client.create(await client.upload(b"", purpose="user_data"))
        await anyio.sleep(1)
        batch = await client.get(batch_id)
        assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
        assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [
            ("duplicate_custom_id", 2),
            ("model_not_found", 3),
        ]
        assert (await client.get(lost))["errors"]["data"][0]["param"] == "file_id"
        assert (await client.get(empty))["errors"]["data"][0]["code"] == "empty_file"
        assert not emulator.books().runs


async def test_a_batch_without_its_file_can_be_cancelled() -> None:
    async with Emulator(pace=PACED).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create("file-nowhere")
        await client.http.post(f"/batches/{batch_id}/cancel")
        await anyio.sleep(700)
        assert await counted(client, batch_id) == ("cancelled", 0, 0, 0)


async def test_an_input_file_may_be_deleted_while_its_batch_runs() -> None:
    async with Emulator(pace=PACED).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(4))
        batch_id = await client.create(file_id)
        await anyio.sleep(50)
        assert (await client.http.delete(f"/files/{file_id}")).json()["deleted"]
        await anyio.sleep(100)
        assert await counted(client, batch_id) == ("completed", 4, 4, 0)


async def test_two_batches_that_fit_alone_race_and_the_tokens_come_back_late() -> None:
    emulator = Emulator(
        pace=Pace(validating=1, running=10), enqueued_tokens={"gpt-4o": 150}, release_after=100, count=lambda body: 100
    )
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(1))
        pair = [await client.create(file_id), await client.create(file_id)]
        await anyio.sleep(5)
        failed, running = sorted([await client.get(one) for one in pair], key=lambda batch: batch["status"])
        assert (failed["status"], running["status"]) == ("failed", "in_progress")
        error = failed["errors"]["data"][0]
        assert error["code"] == "token_limit_exceeded"
        assert "Limit: 150 enqueued tokens." in error["message"]
        await anyio.sleep(20)
        assert (await client.get(running["id"]))["status"] == "completed"
        third = await client.create(file_id)
        await anyio.sleep(2)
        assert (await client.get(third))["status"] == "failed"
        await anyio.sleep(100)
        fourth = await client.create(file_id)
        await anyio.sleep(20)
        assert (await client.get(fourth))["status"] == "completed"


async def test_the_books_tell_runs_routes_and_files() -> None:
    emulator = Emulator()
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(2))
        first = await client.create(file_id, metadata={"key": "one"})
        await anyio.sleep(1)
        second = await client.create(file_id)
        await anyio.sleep(1)
        await client.http.post("/chat/completions", json=body())
        await client.http.delete(f"/files/{file_id}")
    books = emulator.books()
    assert books.runs["r-0", digest(body("text 0"))] == (first, second)
    assert books.times(body("text 1")) == 2
    assert digest(b'{ "b": 1, "a": [2] }') == digest({"a": [2], "b": 1})
    assert books.live == 1
    assert books.routes == {
        "POST /v1/files": 1, "POST /v1/batches": 2, "POST /v1/chat/completions": 1, "DELETE /v1/files/{id}": 1,
    }  # fmt: skip
    assert [(batch.id, batch.status, batch.completed) for batch in books.batches] == [
        (first, "completed", 2),
        (second, "completed", 2),
    ]
    assert books.batches[0].metadata == {"key": "one"}
    assert [file.purpose for file in books.files] == ["batch_output", "batch_output"]
    assert "2 batches (2 completed), 4 requests run" in str(books)


async def test_the_books_tell_what_life_was_asked_for_files_that_are_gone() -> None:
    async with Emulator(faults=Faults(lost_upload=1.0, nth={3})).inline() as emulator:
        client = Client(emulator)
        asked = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        expiring = await client.upload(some(1), **asked)
        plain = await client.upload(b"{}", purpose="evals", name="a.json")
        with pytest.raises(ConnectionResetError):
            await client.upload(some(2), **asked)
        with pytest.raises(AssertionError, match="Must be"):
            await client.upload(b"not json")
        await client.create(expiring, output_expires_after={"anchor": "created_at", "seconds": 7200})
        await client.create(expiring)
        await anyio.sleep(1)
        await client.http.delete(f"/files/{expiring}")
        await client.http.delete(f"/files/{plain}")
        await anyio.sleep(3600)
        await client.page("files")
        books = emulator.books()
        assert [(file.filename, file.purpose, file.bytes, file.expires_after) for file in books.uploads] == [
            ("in.jsonl", "batch", len(some(1)), 3600),
            ("a.json", "evals", 2, None),
            ("in.jsonl", "batch", len(some(2)), 3600),
        ]
        assert [file.id for file in books.uploads[:2]] == [expiring, plain]
        assert [batch.output_expires_after for batch in books.batches] == [7200, None]
        assert sorted(str(file.expires_after) for file in books.files) == ["7200", "None"]


async def test_listings_lag_and_nothing_else_does() -> None:
    async with Emulator(listing_lag=30).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(1))
        batch_id = await client.create(file_id)
        await anyio.sleep(29)
        assert await client.page("files") == await client.page("batches") == ([], False)
        batch = await client.get(batch_id)
        assert batch["status"] == "completed"
        assert (await client.http.get(f"/files/{file_id}")).status_code == 200
        assert len(await client.rows(batch["output_file_id"])) == 1
        await anyio.sleep(2)
        assert await client.page("files") == ([batch["output_file_id"], file_id], False)
        assert await client.page("batches") == ([batch_id], False)


async def test_pages_go_on_though_what_is_beside_the_cursor_is_hidden() -> None:
    async with Emulator(listing_lag=30).inline() as emulator:
        client = Client(emulator)
        files = [await client.upload(some(1), purpose="evals") for _ in range(3)]
        batches = [await client.create(files[0]) for _ in range(3)]
        await anyio.sleep(31)
        files += [await client.upload(some(1), purpose="evals") for _ in range(2)]
        batches += [await client.create(files[0]) for _ in range(2)]
        assert await client.page("batches", limit=2) == (batches[2:0:-1], True)
        assert await client.page("batches", limit=2, after=batches[1]) == (batches[:1], False)
        assert await client.page("batches", limit=2, after=batches[4]) == (batches[2:0:-1], True)
        evals = {"purpose": "evals", "order": "asc"}
        assert await client.page("files", **evals, limit=3) == (files[:3], False)
        assert await client.page("files", **evals, after=files[2]) == ([], False)
        assert await client.page("files", **evals, after=files[3]) == ([], False)
        await anyio.sleep(31)
        assert await client.page("files", **evals, after=files[2]) == (files[3:], False)


async def test_files_expire_on_virtual_time() -> None:
    emulator = Emulator()
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(1))
        expires = {"anchor": "created_at", "seconds": 3600}
        batch_id = await client.create(file_id, output_expires_after=expires)
        await anyio.sleep(3590)
        output = (await client.get(batch_id))["output_file_id"]
        assert (await client.http.get(f"/files/{output}")).status_code == 200
        await anyio.sleep(20)
        assert (await client.http.get(f"/files/{output}/content")).status_code == 404
        assert (await client.http.get(f"/files/{file_id}")).status_code == 200
        await anyio.sleep(30 * DAY)
        assert (await client.http.get("/files")).json()["data"] == []


async def test_faults_break_without_a_transport_too() -> None:
    emulator = Emulator(faults=Faults(lost_create=1.0))
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(1))
        given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        with pytest.raises(ConnectionResetError):
            await client.http.post("/batches", json=given)
        await anyio.sleep(1)
        assert [batch["status"] for batch in (await client.http.get("/batches")).json()["data"]] == ["completed"]


async def test_leaving_ends_the_batches_and_keeps_the_exception_of_the_body() -> None:
    emulator = Emulator(pace=PACED)

    async def fail() -> None:
        async with emulator.inline():
            client = Client(emulator)
            await client.create(await client.upload(some(3)))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail()
    assert emulator.books().batches[0].status == "validating"
    with pytest.raises(RuntimeError, match="used once"):
        async with emulator.inline():
            pass


async def test_a_cancelled_caller_leaves() -> None:
    with anyio.move_on_after(5) as scope:
        async with Emulator(pace=PACED).inline() as emulator:
            client = Client(emulator)
            await client.create(await client.upload(some(3)))
            await anyio.sleep(1000)
    assert scope.cancelled_caught


async def test_the_same_seed_gives_the_same_faults() -> None:
    async def statuses(seed: int) -> list[int]:
        faults = Faults(server_error=0.3, too_many=0.3, only={"GET /v1/batches"})
        async with Emulator(faults=faults, seed=seed).inline() as emulator:
            client = Client(emulator)
            assert (await client.http.get("/files")).status_code == 200
            return [(await client.http.get("/batches")).status_code for _ in range(200)]

    first = await statuses(1)
    assert first == await statuses(1)
    assert first != await statuses(2)
    assert {200, 429, 500, 502, 503} == set(first)


async def test_faults_strike_the_chosen_requests_of_each_route() -> None:
    async with Emulator(faults=Faults(lost_upload=1.0, lost_create=1.0, nth={1})).inline() as emulator:
        client = Client(emulator)
        with pytest.raises(ConnectionResetError):
            await client.upload(some(1))
        file_id = await client.upload(some(1))
        with pytest.raises(ConnectionResetError):
            await client.create(file_id)
        await client.create(file_id)
        await client.create(await client.upload(some(1)))
    books = emulator.books()
    assert (len(books.uploads), len(books.batches)) == (3, 3)


async def test_a_choice_of_requests_moves_no_other_fault() -> None:
    async def statuses(**chosen: Any) -> list[int]:
        faults = Faults(server_error=0.3, too_many=0.3, only={"GET /v1/batches"}, **chosen)
        async with Emulator(faults=faults).inline() as emulator:
            client = Client(emulator)
            return [(await client.http.get("/batches")).status_code for _ in range(60)]

    everywhere = await statuses()
    assert await statuses(nth=range(1, 31)) == everywhere[:30] + [200] * 30
    assert await statuses(nth=range(2, 61, 2)) == [200 if n % 2 else everywhere[n - 1] for n in range(1, 61)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Emulator(port=-1),
        lambda: Emulator(upstream="127.0.0.1:80"),
        lambda: Emulator(upstream="http://a/v1", answer=lambda endpoint, body: {}),
        lambda: Emulator(upstream_concurrency=0),
        lambda: Emulator(enqueued_tokens={"m": -1}),
        lambda: Emulator(release_after=-1),
        lambda: Emulator(listing_lag=-1),
        lambda: Emulator(listing_lag=math.nan),
        lambda: Emulator(refuse_at="noon"),  # type: ignore[arg-type]
        lambda: Emulator().set_limit("m", -1),
        lambda: Emulator(max_file_bytes=0),
        lambda: Pace(running=-1),
        lambda: Pace(window=0),
        lambda: Pace(tokens_per_second=0),
        lambda: Faults(reset=1.5),
        lambda: Faults(reset=0.6, lost_create=0.6),
        lambda: Faults(only="POST /v1/files"),
        lambda: Faults(reset=1.0, nth={0, 1}),
    ],
)
async def test_what_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()

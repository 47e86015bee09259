"""The queue of enqueued tokens: what it admits, when and how it refuses, and what the books tell of it."""

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import openai
import pytest
from emulating import CHAT, Client, body, jsonl, line, some
from openai import OpenAI
from openai.types import Batch

from carpool.testing import Emulator, LimitLine, Pace, QueueLine
from carpool.testing.ledger import Ledger

pytestmark = pytest.mark.anyio

PACED = Pace(validating=10, running=100)
AZURE = (
    "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'gpt-4o'. "
    "Please either increase the limit or try again once the current jobs have finished."
)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def hundred(_body: object) -> int:
    return 100


def in_a_thread(func: Callable[..., object], *args: object) -> None:
    thread = threading.Thread(target=func, args=args)
    thread.start()
    thread.join()


def told(emulator: Emulator) -> list[tuple[float, str, int, int | None]]:
    """Give the lines of the queue, their times from the first on."""
    queue = emulator.books().queue
    return [
        (pytest.approx(one.at - queue[0].at, abs=1e-3), one.change, one.tokens, one.limit)  # type: ignore[misc]
        for one in queue
    ]


async def refused(client: Client, file_id: str) -> tuple[int, dict[str, Any]]:
    given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    reply = await client.http.post("/batches", json=given)
    return reply.status_code, reply.json()["error"]


async def test_the_books_tell_what_came_and_went() -> None:
    async with Emulator(pace=PACED, count=hundred, enqueued_tokens={"gpt-4o": 350}).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(2))
        first = await client.create(file_id)
        await anyio.sleep(50)
        second = await client.create(file_id)
        await anyio.sleep(70)
        third = await client.create(file_id)
        await anyio.sleep(20)
        assert told(emulator) == [
            (0, "admitted", 200, 350), (50, "refused", 200, 350), (100, "released", 0, 350), (120, "admitted", 200, 350)
        ]  # fmt: skip
        books = emulator.books()
        assert [one.batch_id for one in books.queue] == [first, second, first, third]
        assert (books.refusals(), books.refusals("gpt-4o"), books.refusals("other")) == (1, 1, 0)
        assert books.utilisation("gpt-4o") == pytest.approx(100 * 200 / 350 / 120, abs=1e-4)
        assert books.utilisation("other") == 0.0
        assert books.queue[0].at % 1 != 0


async def test_a_late_release_is_told_when_it_fell_due() -> None:
    emulator = Emulator(pace=PACED, count=hundred, release_after=30)
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(1))
        first = await client.create(file_id)
        await anyio.sleep(115)
        second = await client.create(file_id)
        await anyio.sleep(20)
        assert [change for _, change, _, _ in told(emulator)] == ["admitted", "admitted"]
        await anyio.sleep(1000)
        assert told(emulator) == [
            (0, "admitted", 100, None), (115, "admitted", 200, None), (130, "released", 100, None),
            (245, "released", 0, None),
        ]  # fmt: skip
        assert [one.batch_id for one in emulator.books().queue] == [first, second, first, second]
        assert emulator.books().utilisation("gpt-4o") == 0.0
        await client.create(file_id)
        await anyio.sleep(111)
    assert [change for _, change, _, _ in told(emulator)][4:] == ["admitted"], "the clock stands still after the end"


async def test_models_have_queues_of_their_own() -> None:
    limits = {"gpt-4o": 100, "*": 400}
    async with Emulator(pace=PACED, count=hundred, enqueued_tokens=limits).inline() as emulator:
        client = Client(emulator)
        await client.create(await client.upload(some(1)))
        other = body() | {"model": "other"}
        await client.create(await client.upload(jsonl([line(content=other)])))
        await anyio.sleep(20)
        books = emulator.books()
        assert {(one.model, one.tokens, one.limit) for one in books.queue} == {
            ("gpt-4o", 100, 100),
            ("other", 100, 400),
        }
        assert (books.utilisation("gpt-4o"), books.utilisation("other")) == (1.0, 0.25), "one instant alone"


async def test_a_limit_changes_while_batches_run() -> None:
    emulator = Emulator(pace=PACED, count=hundred, enqueued_tokens={"gpt-4o": 100})
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(1))
        await client.create(file_id)
        await client.create(file_id)
        await anyio.sleep(60)
        emulator.set_limit("gpt-4o", 200)
        await client.create(file_id)
        await anyio.sleep(20)
        in_a_thread(emulator.set_limit, "gpt-4o", 0)
        books = emulator.books()
        assert [(one.change, one.limit) for one in books.queue] == [
            ("admitted", 100),
            ("refused", 100),
            ("admitted", 200),
        ]
        raised, closed = books.limits[1:]
        assert (raised.model, raised.tokens, closed.tokens) == ("gpt-4o", 200, 0)
        began, ended = books.queue[0].at, books.queue[-1].at
        assert raised.at == pytest.approx(began + 50, abs=1e-3)
        assert closed.at >= ended
        assert books.utilisation("gpt-4o") == pytest.approx(
            ((raised.at - began) + (ended - raised.at) / 2) / (ended - began)
        )
        await client.create(file_id)
        await anyio.sleep(200)
        assert told(emulator)[3][1:] == ("refused", 200, 0)


def test_a_limit_may_be_set_before_the_start_and_for_all_models() -> None:
    emulator = Emulator()
    emulator.set_limit("*", 7)
    assert emulator.books().limits == (LimitLine(0.0, "*", 7),)
    assert emulator.books().queue == ()


def test_a_ledger_tells_its_lines_in_the_order_of_time() -> None:
    ledger = Ledger({"m": 10}, release_after=5.0)
    ledger.reserve("a", "m", 10, 1.0)
    ledger.release("a", 2.0)
    ledger.release("a", 3.0)
    ledger.reserve("b", "m", 1, 6.5)
    ledger.reserve("c", "m", 1, 7.0)
    ledger.release("b", 6.5)
    assert ledger.lines(7.0) == (
        QueueLine(1.0, "m", 10, 10, "a", "admitted"),
        QueueLine(6.5, "m", 10, 10, "b", "refused"),
        QueueLine(7.0, "m", 0, 10, "a", "released"),
        QueueLine(7.0, "m", 1, 10, "c", "admitted"),
    )


async def test_others_are_asked_at_each_admission_on_the_emulators_clock() -> None:
    asked: list[tuple[str, float]] = []

    def others(model: str, now: float) -> int:
        asked.append((model, now))
        return 50 if now < asked[0][1] + 290 else 0

    began = time.time()
    limits = {"gpt-4o": 100}
    async with Emulator(pace=PACED, count=hundred, enqueued_tokens=limits, other_tokens=others).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(1))
        await client.create(file_id)
        await anyio.sleep(299)
        await client.create(file_id)
        await anyio.sleep(100)
        assert told(emulator) == [(0, "refused", 0, 100), (299, "admitted", 100, 100)]
        assert [model for model, _ in asked] == ["gpt-4o", "gpt-4o"]
        assert asked[0][1] == pytest.approx(began + 10, abs=5)
        assert asked[1][1] == pytest.approx(asked[0][1] + 299, abs=1)


@pytest.mark.parametrize(
    ("endpoint", "content"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/embeddings", {"input": ["hello", "you"]}),
        ("/v1/images/generations", {"prompt": "hello"}),
    ],
)
async def test_an_echo_bills_what_is_counted(endpoint: str, content: dict[str, Any]) -> None:
    entry = jsonl([line(url=endpoint, content={"model": "m", **content})])
    async with Emulator(count=lambda given: 1000 + len(given)).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create(await client.upload(entry), endpoint)
        await anyio.sleep(1)
        batch = await client.get(batch_id)
        (row,) = (await client.rows(batch["output_file_id"])).values()
        usage = row["response"]["body"]["usage"]
        counted = 1001 + len(content)
        assert usage.get("prompt_tokens", usage.get("input_tokens")) == counted
        made = usage.get("completion_tokens", usage.get("output_tokens", 0))
        assert usage["total_tokens"] == counted + made
        assert batch["usage"]["input_tokens"] == counted == emulator.books().queue[0].tokens
        live = await client.http.post(endpoint.removeprefix("/v1"), json={"model": "m", **content})
        assert live.json()["usage"] == usage


async def test_an_answer_of_ones_own_keeps_its_usage() -> None:
    answer = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    async with Emulator(answer=lambda endpoint, given: answer, count=hundred).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(2)))
        await anyio.sleep(1)
        assert (await client.get(batch_id))["usage"]["input_tokens"] == 6


async def test_an_older_server_tells_no_usage() -> None:
    async with Emulator(usage=False).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(2)))
        await anyio.sleep(1)
        assert (await client.get(batch_id))["usage"] is None
        assert (await client.http.get("/batches")).json()["data"][0]["usage"] is None
        assert emulator.books().billed.input_tokens > 0


async def test_a_creation_is_refused_where_there_is_no_room() -> None:
    emulator = Emulator(
        pace=PACED, count=hundred, enqueued_tokens={"gpt-4o": 250}, refuse_at="creation", release_after=40
    )
    async with emulator.inline():
        client = Client(emulator)
        file_id = await client.upload(some(2))
        batch_id = await client.create(file_id)
        assert [(one.batch_id, one.tokens) for one in emulator.books().queue] == [(batch_id, 200)]
        status, error = await refused(client, file_id)
        assert (status, error["code"], error["param"]) == (429, "token_limit_exceeded", None)
        assert error["message"].startswith(
            "Enqueued token limit reached for gpt-4o in organization org-emulated. Limit: 250 "
        )
        assert len((await client.http.get("/batches")).json()["data"]) == 1
        await anyio.sleep(140)
        assert (await refused(client, file_id))[0] == 429
        await anyio.sleep(20)
        again = await client.create(file_id)
        await anyio.sleep(20)
        assert (await client.get(again))["status"] == "in_progress"
        await client.http.post(f"/batches/{again}/cancel")
        await anyio.sleep(100)
        batches = [(batch.id, batch.status, batch.completed) for batch in emulator.books().batches]
        assert batches[0] == (batch_id, "completed", 2)
        assert batches[1][:2] == (again, "cancelled")
        assert [(one.change, one.tokens) for one in emulator.books().queue] == [
            ("admitted", 200), ("refused", 200), ("refused", 200), ("released", 0), ("admitted", 200), ("released", 0)
        ]  # fmt: skip


async def test_refusing_at_creation_leaves_the_other_errors_to_the_validation() -> None:
    async with Emulator(enqueued_tokens={"*": 100}, refuse_at="creation").inline() as emulator:
        client = Client(emulator)
        bad = await client.create(await client.upload(some(50) + jsonl([line("r-0")])))
        lost = await client.create("file-nowhere")
        reply = await client.http.post("/batches", json={"endpoint": CHAT})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input_file_id")
        await anyio.sleep(1)
        assert (await client.get(bad))["errors"]["data"][0]["code"] == "duplicate_custom_id"
        assert (await client.get(lost))["errors"]["data"][0]["param"] == "file_id"
        assert emulator.books().queue == ()


@pytest.mark.parametrize("refuse_at", ["validation", "creation"])
async def test_a_server_words_its_refusal_as_it_likes(refuse_at: Any) -> None:
    def azure(model: str, limit: int) -> str:
        return AZURE.replace("30K", f"{limit // 1000}K").replace("gpt-4o", model)

    limits = {"gpt-4o": 30_000}
    async with Emulator(
        count=lambda given: 30_001, enqueued_tokens=limits, refuse_at=refuse_at, room_message=azure
    ).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(1))
        if refuse_at == "creation":
            error = (await refused(client, file_id))[1]
        else:
            batch_id = await client.create(file_id)
            await anyio.sleep(1)
            error = (await client.get(batch_id))["errors"]["data"][0]
        assert (error["code"], error["message"]) == ("token_limit_exceeded", AZURE)


def test_the_official_sdk_meets_the_limit_and_a_raised_one() -> None:
    with (
        Emulator(count=hundred, pace=Pace(running=60), enqueued_tokens={"*": 100}, refuse_at="creation") as emulator,
        OpenAI(base_url=emulator.url, api_key="k", max_retries=0) as client,
    ):
        file = client.files.create(file=("in.jsonl", io.BytesIO(some(1))), purpose="batch")

        def create() -> Batch:
            return client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )

        create()
        with pytest.raises(openai.RateLimitError) as full:
            create()
        assert full.value.code == "token_limit_exceeded"
        in_a_thread(emulator.set_limit, "*", 200)
        create()
        books = emulator.books()
    assert [one.change for one in books.queue] == ["admitted", "refused", "admitted"]
    assert books.queue[0].at == pytest.approx(time.time(), abs=30)
    assert 0.5 < books.utilisation("gpt-4o") <= 1.0

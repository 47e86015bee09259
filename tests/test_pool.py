"""The whole pool on virtual time, on both backends, against the emulator in memory."""

import asyncio
import contextlib
import logging
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from virtual import CHAT, EMBEDDINGS, InMemory, Interrupted, World, body, world

import carpool
from carpool.testing import Answer, Faults, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

SLOW = Pace(validating=5, running=60, finalizing=5)


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


# --- answers


async def test_each_of_many_callers_gets_its_own_answer_from_one_batch() -> None:
    async with world(pace=SLOW) as w:
        await w.ask_all(texts(1_000))
    assert w.answers() == {text: text for text in texts(1_000)}
    assert len(w.emulator.books().batches) == 1


async def test_a_response_says_where_it_came_from() -> None:
    async with world() as w:
        response = await w.pool.request(CHAT, body("hello"))
    (batch,) = w.emulator.books().batches
    assert (response.batch_id, response.status_code) == (batch.id, 200)
    assert response.text == "hello"
    assert response.json()["object"] == "chat.completion"
    assert response.usage == carpool.Usage(1, 1, 0)
    assert response.request_id.startswith("req")
    assert response.custom_id in {custom_id for custom_id, _ in w.emulator.books().runs}


@pytest.mark.parametrize("form", [dict, str, bytes, carpool.Request])
async def test_a_body_may_be_a_mapping_text_bytes_or_a_request(form: Any) -> None:
    import json

    async with world() as w:
        plain = body("ünï\u2028code")
        if form is carpool.Request:
            response = await w.pool.request(carpool.Request(CHAT, plain))
        else:
            text = json.dumps(plain, indent=2)
            given: Any = {dict: plain, str: text, bytes: text.encode()}[form]
            response = await w.pool.request(CHAT, given)
    assert response.text == "ünï\u2028code"
    assert w.emulator.books().times(plain) == 1


async def test_lanes_travel_in_batches_of_their_own() -> None:
    async with world() as w, anyio.create_task_group() as tasks:
        for model in ("a", "b"):
            tasks.start_soon(w.pool.request, CHAT, body(model, model=model))
            tasks.start_soon(w.pool.request, EMBEDDINGS, {"model": model, "input": "text"})
    assert sorted(batch.endpoint for batch in w.emulator.books().batches) == [CHAT, CHAT, EMBEDDINGS, EMBEDDINGS]


@pytest.mark.parametrize(
    ("endpoint", "given"),
    [
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": ["one", "two"]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/moderations", {"input": "hi"}),
        ("/v1/images/generations", {"prompt": "hi"}),
        ("/v1/images/edits", {"prompt": "hi", "images": []}),
    ],
)
async def test_every_endpoint_is_answered(endpoint: str, given: dict[str, Any]) -> None:
    async with world() as w:
        response = await w.pool.request(endpoint, {"model": "m", **given})
    assert response.status_code == 200


async def test_equal_requests_are_separate_samples() -> None:
    async with world() as w:
        responses = await w.pool.gather([body("same")] * 3, endpoint=CHAT)
    assert len({response.custom_id for response in responses}) == 3
    assert w.emulator.books().times(body("same")) == 3


# --- settings of single calls


async def test_calls_are_counted_under_their_tags() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any] | Answer:
        return Answer(400, {"error": {"message": "no"}}) if "bad" in str(given) else {"choices": []}

    async with world(answer=answer) as w:
        requests = [
            carpool.Request(CHAT, body("a"), tags=("search", "team")),
            carpool.Request(CHAT, body("bad"), tags=("search", "search")),
            carpool.Request(CHAT, body("c")),
        ]
        await w.pool.gather(requests, return_exceptions=True)
        with carpool.options(tags=["block"]):
            await w.pool.gather([body("d"), carpool.Request(CHAT, body("e"), tags=())], endpoint=CHAT)
        tags = w.pool.stats().tags
        told = [batch.metadata for batch in w.emulator.books().batches]
    assert [(batch or {}).get("tags") for batch in told] == ["search, team", "block"]
    seen = {tag: (counts.accepted, counts.answered, counts.failed) for tag, counts in tags.items()}
    assert seen == {"search": (2, 1, 1), "team": (1, 1, 0), "block": (1, 1, 0)}


async def test_calls_whose_callers_went_are_counted_when_their_rows_end_and_not_under_their_tags() -> None:
    async with world(pool={"timing": carpool.Timing(abandon=1_000)}, pace=SLOW) as w:
        with anyio.move_on_after(10), carpool.options(tags=["gone"]):
            await w.pool.request(CHAT, body("submitted"))
        with anyio.move_on_after(0.1):
            await w.pool.request(CHAT, body("taken out of the queue"))
        await w.ask("b")
        stats = w.pool.stats()
    assert (stats.tags["gone"].accepted, stats.tags["gone"].answered, stats.tags["gone"].failed) == (1, 0, 0)
    assert (stats.accepted, stats.answered, stats.failed) == (3, 2, 0)


@pytest.mark.parametrize("by", ["request", "block"])
async def test_the_urgent_go_first_where_the_queue_is_limited(by: str) -> None:
    ended: list[str] = []

    async def ask(w: World, text: str, priority: int) -> None:
        if by == "request":
            await w.pool.request(carpool.Request(CHAT, body(text), priority=priority))
        else:
            with carpool.options(priority=priority):
                await w.pool.request(CHAT, body(text))
        ended.append(text)

    settings = {"limits": {"*": 20}, "counter": lambda *_: 10}
    async with world(pool=settings, pace=SLOW) as w, anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(ask, w, f"plain {number}", 0)
        await anyio.sleep(30)
        for number in range(2):
            tasks.start_soon(ask, w, f"urgent {number}", 1)
    assert max(ended.index("urgent 0"), ended.index("urgent 1")) < 8
    assert len(ended) == 14


@pytest.mark.parametrize(
    "setting",
    [
        {"priority": 1.5},
        {"priority": True},
        {"tags": "one"},
        {"priority": 101},
        {"tags": [["a"]]},
        {"tags": 5},
        {"key": 1.5},
    ],
)
async def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any]) -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match=next(iter(setting))):
            await w.pool.request(carpool.Request(CHAT, body(), **setting))
        if "key" not in setting:
            with pytest.raises(carpool.ConfigurationError), carpool.options(**setting):
                pass
    assert w.emulator.books().runs == {}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"base_url": 5}, "base_url"),
        ({"api_key": 7}, "must be a str"),
        ({"journal": 5}, "journal"),
        ({"journal": b"folder"}, "journal"),
        ({"journal": ""}, "journal"),
        ({"thread": "yes"}, "thread"),
        ({"keep_remote_files": 2}, "keep_remote_files"),
    ],
)
def test_a_pools_settings_that_make_no_sense_are_refused_at_once(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(carpool.ConfigurationError, match=said):
        carpool.Pool(**{"api_key": "sk-key", "base_url": "http://emulator/v1", **setting})


@pytest.mark.parametrize("requests", [5, "one", b"one", {"model": "m"}, None])
async def test_what_holds_no_requests_is_refused(requests: Any) -> None:
    async with world() as w:
        for ask in (w.pool.gather, w.pool.estimate):
            with pytest.raises(carpool.ConfigurationError, match="iterable"):
                await ask(requests, endpoint=CHAT)


async def test_batches_are_cancelled_by_their_ids() -> None:
    async with world() as w:
        with pytest.raises(carpool.ConfigurationError, match="batch_abc123"):
            await w.pool.cancel(5)  # type: ignore[arg-type]


def test_a_share_is_no_more_than_all() -> None:
    with pytest.raises(carpool.ConfigurationError, match="share"):
        carpool.Timing(poll_fraction=2)


async def test_a_base_url_where_nothing_is_served_is_told_of() -> None:
    def elsewhere(request: httpx2.Request) -> None:
        request.url = request.url.copy_with(path=request.url.path.removeprefix("/v1"))

    async with world(before=elsewhere) as w:
        with pytest.raises(carpool.ConfigurationError, match="mostly ends in /v1"):
            await w.pool.request(CHAT, body())


def test_settings_of_a_block_are_no_decorator_as_they_would_not_hold_in_a_coroutine() -> None:
    with pytest.raises(TypeError):
        carpool.options(timeout=1)(asyncio.sleep)  # type: ignore[operator]


# --- when batches go out


async def test_a_batch_goes_out_when_no_call_has_come_for_the_linger() -> None:
    async with world(pool={"timing": carpool.Timing(linger=3, max_linger=100)}) as w:
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(w.ask, f"text {number}")
                await anyio.sleep(2)
    assert len(w.emulator.books().batches) == 1
    assert 8 + 3 <= anyio.current_time() - start < 8 + 3 + 5


async def test_a_batch_goes_out_after_the_longest_linger_though_calls_keep_coming() -> None:
    async with world(pool={"timing": carpool.Timing(linger=3, max_linger=10)}) as w, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(w.ask, f"text {number}")
            await anyio.sleep(2)
    assert len(w.emulator.books().batches) == 2


async def test_flush_sends_what_waits_at_once() -> None:
    async with world(pool={"timing": carpool.Timing(linger=1000, max_linger=1000)}) as w:
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.ask, "now")
            await anyio.wait_all_tasks_blocked()
            await w.pool.flush()
        assert anyio.current_time() - start < 10


async def test_stats_and_repr_say_what_is_under_way() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        for text in texts(7):
            tasks.start_soon(w.ask, text)
        await anyio.wait_all_tasks_blocked()
        (lane,) = w.pool.stats().lanes
        assert (lane.lane.endpoint, lane.lane.model, lane.waiting, lane.submitted) == (CHAT, "gpt-5-mini", 7, 0)
        await anyio.sleep(30)
        stats = w.pool.stats()
        assert (stats.accepted, stats.answered, stats.batches, stats.lanes[0].submitted) == (7, 0, 1, 7)
        await anyio.sleep(100)
        assert w.pool.stats().answered == 7
        assert "open, 7 accepted, 7 answered, 0 failed, 0 waiting, 0 in flight, 1 batch>" in repr(w.pool)


# --- bad input


@pytest.mark.parametrize(
    ("endpoint", "given", "error", "says"),
    [
        (CHAT, {"messages": []}, carpool.Unbatchable, "no model"),
        (CHAT, {"model": "m", "stream": True}, carpool.Unbatchable, "stream"),
        (CHAT, {"model": "m", "x": object()}, carpool.Unbatchable, "not JSON"),
        (CHAT, {"model": "m", "x": [float("nan")]}, carpool.Unbatchable, "NaN"),
        (CHAT, "{not json", carpool.Unbatchable, "cannot be read"),
        (CHAT, None, carpool.Unbatchable, "JSON object"),
        (CHAT, {"model": "m", "x": "y" * 190_000_000}, carpool.LimitExceeded, "190,000,000"),
        (EMBEDDINGS, {"model": "m", "input": ["x"] * 50_001}, carpool.LimitExceeded, "50,001"),
        ("/v1/audio/speech", {"model": "m"}, carpool.Unbatchable, "/v1/chat/completions"),
    ],
)
async def test_bad_input_is_refused_at_once_in_its_caller_alone(
    endpoint: str, given: Any, error: type[Exception], says: str
) -> None:
    async with world() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask, "good")
        start = anyio.current_time()
        with pytest.raises(error, match=says):
            await w.pool.request(endpoint, given)
        assert anyio.current_time() == start
    assert w.answers() == {"good": "good"}
    assert len(w.emulator.books().runs) == 1


async def test_a_wrong_key_fails_those_concerned_and_is_not_tried_again() -> None:
    async with world(api_key="sk-other") as w:
        await w.ask_all(texts(50))
    assert {type(error) for error in w.errors().values()} == {carpool.AuthenticationFailed}
    assert len(w.errors()) == 50
    assert w.transport.requests == [("POST", "/v1/files")]


@pytest.mark.parametrize("key", ["sk with blanks", "sk-\nX-Header: x", "schlüssel", ""])
async def test_an_impossible_key_is_refused_without_being_shown(key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        world() as w,
        carpool.Pool(lambda: key, "http://emulator/v1", _ports=w.ports) as pool,
    ):
        with pytest.raises(carpool.AuthenticationFailed) as caught:
            await pool.request(CHAT, body())
    assert not key or (key not in str(caught.value) and key not in caplog.text)


def test_a_pool_without_a_key_or_with_a_strange_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(carpool.ConfigurationError, match="OPENAI_API_KEY"):
        carpool.Pool()
    for url in ("api.openai.com", "ftp://host/v1", "https:///v1", "https://user:secret@host/v1"):
        with pytest.raises(carpool.ConfigurationError, match="base_url") as caught:
            carpool.Pool("key", url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"linger": -1}, {"linger": 40}, {"poll_min": 0}, {"poll_max": 1}, {"lookup": "5"}])
def test_impossible_timing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(carpool.ConfigurationError, match="Timing"):
        carpool.Timing(**wrong)


async def test_a_pool_that_is_not_open_says_so() -> None:
    pool = carpool.Pool("key", "http://emulator/v1")
    with pytest.raises(carpool.PoolClosed, match="async with"):
        await pool.request(CHAT, body())
    assert "not open" in repr(pool)


# --- failures of rows and batches


async def test_a_row_that_is_refused_fails_for_its_caller_alone() -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        text = given["messages"][0]["content"]
        error = {"error": {"message": "Too long.", "type": "invalid_request_error", "code": "context_length_exceeded"}}
        return Answer(400, error) if text == "text 3" else {"choices": [{"message": {"content": text}}]}

    async with world(answer=answer) as w:
        await w.ask_all(texts(5))
    assert sorted(w.answers()) == ["text 0", "text 1", "text 2", "text 4"]
    error = w.errors()["text 3"]
    assert isinstance(error, carpool.RequestRejected)
    assert (error.status_code, error.code, error.message) == (400, "context_length_exceeded", "Too long.")
    assert error.batch_id
    assert error.custom_id
    assert "Too long." in str(error)


@pytest.mark.parametrize(("status", "kind"), [(429, carpool.RequestFailed), (500, carpool.RequestFailed)])
async def test_a_row_that_failed_otherwise_is_no_rejection(status: int, kind: type[Exception]) -> None:
    async with world(answer=lambda endpoint, given: Answer(status, {"error": {"message": "no"}})) as w:
        with pytest.raises(carpool.RequestFailed) as caught:
            await w.pool.request(CHAT, body())
    assert type(caught.value) is kind
    assert caught.value.status_code == status


async def test_an_expired_batch_gives_its_finished_rows_and_the_rest_goes_again() -> None:
    async with world(pace=Pace(running=100, window=50)) as w:
        await w.ask_all(texts(100))
    books = w.emulator.books()
    assert [batch.status for batch in books.batches] == ["expired"] * 5  # of which each runs half of its rows in time
    assert len(w.answers()) == sum(batch.completed for batch in books.batches) >= 95
    assert max(books.bodies.values()) == 1
    for error in w.errors().values():
        assert isinstance(error, carpool.RequestExpired)
        assert [attempt.batch_id for attempt in error.attempts] == [batch.id for batch in books.batches]


async def test_a_batch_cancelled_by_somebody_else_gives_its_finished_rows_and_the_rest_goes_again() -> None:
    async with world(pace=Pace(running=100)) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(100))
        await anyio.sleep(50)
        (batch,) = w.emulator.books().batches
        async with httpx2.AsyncClient(transport=w.transport, base_url="http://emulator/v1") as client:
            await client.post(f"/batches/{batch.id}/cancel")
    assert len(w.answers()) == 100
    assert [batch.status for batch in w.emulator.books().batches] == ["cancelled", "completed"]
    assert max(w.emulator.books().bodies.values()) == 1


async def test_a_model_without_batches_is_refused_with_the_validations_words() -> None:
    async with world(models=["gpt-4o"]) as w:
        with pytest.raises(carpool.RequestRejected, match="not supported by the Batch API") as caught:
            await w.pool.request(CHAT, body())
    assert caught.value.code == "model_not_found"


async def test_rows_that_the_validation_names_are_refused_and_the_rest_goes_again() -> None:
    async with world() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(10))
        with pytest.raises(carpool.RequestRejected, match="Messages parameter is required"):
            await w.pool.request(CHAT, {"model": "gpt-5-mini"})
    assert len(w.answers()) == 10
    assert [batch.status for batch in w.emulator.books().batches] == ["failed", "completed"]


async def test_calls_refused_for_lack_of_room_wait_and_are_all_answered() -> None:
    limits = {"gpt-5-mini": 2_000}
    async with world(pace=SLOW, enqueued_tokens=limits, count=lambda given: 100) as w:
        await w.ask_all(texts(70))
    assert len(w.answers()) == 70
    assert all(times == 1 for times in w.emulator.books().bodies.values())


async def test_a_call_that_never_finds_room_is_told_so() -> None:
    async with world(enqueued_tokens={"*": 50}, count=lambda given: 100) as w:
        with pytest.raises(carpool.LimitExceeded, match="enqueued-token limit"):
            await w.pool.request(CHAT, body())


# --- callers that go


async def test_a_caller_that_goes_while_its_call_waits_takes_it_out_of_the_queue() -> None:
    async with world() as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(5))
        with anyio.move_on_after(0.5):
            await w.pool.request(CHAT, body("gone"))
    assert len(w.answers()) == 5
    assert w.emulator.books().times(body("gone")) == 0


async def test_a_caller_that_goes_after_submission_disturbs_nobody() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        tasks.start_soon(w.ask_all, texts(5))
        with anyio.move_on_after(30):
            await w.pool.request(CHAT, body("gone"))
    assert len(w.answers()) == 5
    assert w.emulator.books().times(body("gone")) == 1


async def test_the_first_caller_may_go_and_the_others_are_answered() -> None:
    async with world(pace=SLOW) as w, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(w.ask_all, texts(5))
            tasks.start_soon(_cancel_later, scope)
            await w.pool.request(CHAT, body("first"))
        assert scope.cancelled_caught
    assert len(w.answers()) == 5


async def _cancel_later(scope: anyio.CancelScope) -> None:
    await anyio.sleep(2)
    scope.cancel()


# --- gather


async def test_gather_gives_answers_in_the_order_of_the_requests() -> None:
    async with world() as w:
        responses = await w.pool.gather([body(text) for text in texts(1_200)], endpoint=CHAT)
    assert [response.text for response in responses] == texts(1_200)


async def test_gather_raises_only_after_all_have_settled() -> None:
    mixed = [carpool.Request(CHAT, body("one")), carpool.Request(CHAT, {"model": "m", "stream": True})]
    async with world(pace=SLOW) as w:
        with pytest.raises(carpool.Unbatchable):
            await w.pool.gather(mixed)
        assert w.pool.stats().answered == 1


async def test_gather_can_return_errors_in_their_places() -> None:
    async with world() as w:
        outcomes = await w.pool.gather([body("one"), {"model": ""}, body("two")], endpoint=CHAT, return_exceptions=True)
        bare = await w.pool.gather([body("one")], return_exceptions=True)
    assert isinstance(outcomes[1], carpool.Unbatchable)
    assert [r.text for r in outcomes if isinstance(r, carpool.Response)] == ["one", "two"]
    assert isinstance(bare[0], carpool.ConfigurationError)


async def test_a_gather_that_is_cancelled_takes_its_calls_out_of_the_queue() -> None:
    async with world() as w:
        with anyio.move_on_after(0.5):
            await w.pool.gather([body(text) for text in texts(20)], endpoint=CHAT)
    assert not w.emulator.books().runs


# --- leaving


async def test_leaving_submits_what_waits_and_settles_every_caller() -> None:
    async with anyio.create_task_group() as tasks:
        async with world(pool={"timing": carpool.Timing(linger=1_000, max_linger=1_000)}, pace=SLOW) as w:
            tasks.start_soon(w.ask_all, texts(5))
            await anyio.wait_all_tasks_blocked()
            start = anyio.current_time()
        assert len(w.answers()) == 5
        assert anyio.current_time() - start < 100
    with pytest.raises(carpool.PoolClosed):
        await w.pool.request(CHAT, body())
    with pytest.raises(carpool.PoolClosed, match="once"):
        await w.pool.start()


async def test_leaving_does_not_wait_for_rows_that_nobody_awaits() -> None:
    async with world(pace=Pace(running=5_000)) as w:
        with anyio.move_on_after(30):
            await w.pool.request(CHAT, body("gone"))
        start = anyio.current_time()
    assert anyio.current_time() - start < 10
    assert w.emulator.books().batches[0].status in ("cancelling", "cancelled")


async def test_leaving_by_an_exception_settles_callers_cancels_batches_and_deletes_uploads() -> None:
    async with anyio.create_task_group() as tasks:
        with contextlib.suppress(ZeroDivisionError):
            async with world(pace=Pace(running=5_000)) as w:
                tasks.start_soon(w.ask_all, texts(5))
                await anyio.sleep(60)
                start = anyio.current_time()
                raise ZeroDivisionError
        assert anyio.current_time() - start <= 6
    assert {type(error) for error in w.errors().values()} == {carpool.PoolClosed}
    assert len(w.errors()) == 5
    books = w.emulator.books()
    assert [batch.status for batch in books.batches] == ["cancelled"]
    assert [file.purpose for file in books.files if file.purpose == "batch"] == []


async def test_leaving_by_cancellation_is_prompt() -> None:
    async with world(pace=Pace(running=5_000)) as outer:
        with anyio.move_on_after(60) as scope:
            async with carpool.Pool("sk", "http://emulator/v1", _ports=outer.ports) as pool:
                await pool.request(CHAT, body())
        assert scope.cancelled_caught
        assert outer.emulator.books().batches[0].status in ("cancelling", "cancelled")


async def test_leaving_while_a_batch_ends_is_prompt_and_tells_no_untruth(caplog: pytest.LogCaptureFixture) -> None:
    async with world(pace=Pace(running=60)) as outer:

        class Late(InMemory):
            async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
                if request.url.path.endswith("/cancel"):
                    self.requests.append((request.method, request.url.path))
                    return httpx2.Response(409, json={"error": {"message": "It has ended."}})
                return await super().handle_async_request(request)

        late = Late(outer.emulator.app)
        start = 0.0
        async with anyio.create_task_group() as tasks:
            with contextlib.suppress(Interrupted):
                ports = outer.ports._replace(transport=late)
                async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
                    tasks.start_soon(World(pool, outer.emulator, late).ask, "text")
                    await anyio.sleep(10)
                    start = anyio.current_time()
                    raise Interrupted
            assert anyio.current_time() - start < 1
    assert ("POST", f"/v1/batches/{outer.emulator.books().batches[0].id}/cancel") in late.requests
    assert "runs on and is billed" not in caplog.text


async def test_closing_that_is_cancelled_leaves_as_by_an_exception() -> None:
    async with world(pace=Pace(running=5_000)) as outer, anyio.create_task_group() as tasks:
        pool = carpool.Pool("sk", "http://emulator/v1", _ports=outer.ports)
        await pool.start()
        inner = World(pool, outer.emulator, outer.transport)
        tasks.start_soon(inner.ask, "text")
        await anyio.sleep(30)
        with anyio.move_on_after(30) as scope:
            await pool.aclose()
        assert scope.cancelled_caught
        assert isinstance(inner.settled["text"], carpool.PoolClosed)


async def test_start_and_aclose_may_be_called_from_different_tasks() -> None:
    async with world() as outer:
        pool = carpool.Pool("sk", "http://emulator/v1", _ports=outer.ports)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.start)
        response = await pool.request(CHAT, body("cell"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.aclose)
    assert response.text == "cell"


async def test_starting_and_closing_at_once_does_not_hang() -> None:
    async with world() as outer:
        pool = carpool.Pool("sk", "http://emulator/v1", _ports=outer.ports)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.start)
            tasks.start_soon(_close_when_started, pool)


async def _close_when_started(pool: carpool.Pool) -> None:
    while "not open" in repr(pool):
        await anyio.lowlevel.checkpoint()
    await pool.aclose()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    async with world() as outer:
        for _ in range(5):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await carpool.Pool("sk", "http://emulator/v1", _ports=outer.ports).start()


async def test_two_tasks_may_close_the_pool() -> None:
    async with world(pace=SLOW) as outer, anyio.create_task_group() as tasks:
        pool = carpool.Pool("sk", "http://emulator/v1", _ports=outer.ports)
        await pool.start()
        inner = World(pool, outer.emulator, outer.transport)
        tasks.start_soon(inner.ask, "text")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(pool.aclose)
        tasks.start_soon(pool.aclose)
    assert inner.answers() == {"text": "text"}


@pytest.mark.parametrize("header", [("Retry-After", "86400"), ("retry-after-ms", "inf"), ("Retry-After", "9e999")])
async def test_a_server_that_asks_for_endless_pauses_does_not_keep_us_from_leaving(header: tuple[str, str]) -> None:
    class Pausing(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.method == "DELETE":
                return httpx2.Response(429, headers=[header])
            return await super().handle_async_request(request)

    async with world() as outer:
        ports = outer.ports._replace(transport=Pausing(outer.emulator.app))
        async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
            await pool.request(CHAT, body())
            start = anyio.current_time()
        assert anyio.current_time() - start <= 61


async def test_a_chore_that_fails_in_a_strange_way_harms_nobody() -> None:
    def explode(request: httpx2.Request) -> None:
        if request.method == "DELETE":
            raise RuntimeError("a bug")

    async with world(before=explode) as w:
        await w.ask("one")
        await w.ask("two")
    assert sorted(w.answers()) == ["one", "two"]


async def test_a_lost_creation_is_looked_for_and_cancelled_when_we_leave() -> None:
    lost: list[str] = []

    class Losing(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if request.method == "POST" and request.url.path == "/v1/batches":
                lost.append("create")
                raise httpx2.ReadError("connection reset")
            if request.url.path == "/v1/batches" and len(lost) == 1:
                lost.append("first look")
                return httpx2.Response(200, json={"object": "list", "data": [], "has_more": False})
            return response

    async with world(pace=Pace(running=5_000)) as outer:
        ports = outer.ports._replace(transport=Losing(outer.emulator.app))
        with anyio.move_on_after(1.2):
            async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
                await pool.request(CHAT, body())
        assert lost == ["create", "first look"]
        assert [batch.status for batch in outer.emulator.books().batches] in (["cancelling"], ["cancelled"])


# --- clean-up


async def test_no_remote_file_is_left() -> None:
    async with world(answer=lambda endpoint, given: Answer(400) if "3" in str(given) else b"{}") as w:
        await w.ask_all(texts(10))
    assert w.emulator.books().files == ()


async def test_remote_files_are_kept_when_asked_for() -> None:
    async with world(pool={"keep_remote_files": True}) as w:
        await w.ask_all(texts(10))
    assert {file.purpose for file in w.emulator.books().files} == {"batch", "batch_output"}


# --- the network fails


async def test_a_server_that_is_not_there_fails_every_call_in_the_end() -> None:
    def refuse(request: httpx2.Request) -> None:
        raise httpx2.ConnectError("refused")

    async with world(before=refuse) as w:
        await w.ask_all(texts(5))
        assert anyio.current_time() < 3_600
    assert {type(error) for error in w.errors().values()} == {carpool.RequestFailed}
    assert len(w.errors()) == 5


async def test_lost_replies_to_upload_and_create_cost_no_second_run() -> None:
    async with world(faults=Faults(lost_upload=0.6, lost_create=0.6), seed=3) as w:
        for number in range(10):
            await w.ask(f"text {number}")
    books = w.emulator.books()
    assert len(w.answers()) == 10
    assert set(books.bodies.values()) == {1}
    assert books.files == ()


@pytest.mark.parametrize("seed", range(12))
async def test_under_every_network_fault_each_call_is_answered_and_run_once(seed: int) -> None:
    faults = Faults(lost_upload=0.1, lost_create=0.1, server_error=0.1, too_many=0.1, reset=0.1)
    async with world(faults=faults, seed=seed, pace=Pace(running=20)) as w, anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(w.ask, f"text {number}")
            await anyio.sleep(number % 5)
    assert len(w.answers()) == 60
    assert set(w.emulator.books().bodies.values()) == {1}


@pytest.mark.parametrize("status", [200, 502])
async def test_a_download_that_breaks_off_is_fetched_again(status: int) -> None:
    broken: list[str] = []

    class Cutting(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if request.url.path.endswith("/content") and len(broken) < 3:
                broken.append(request.url.path)
                content = b"".join([chunk async for chunk in response.stream])  # type: ignore[union-attr]
                return httpx2.Response(status, stream=_HalfStream(content))
            return response

    async with world() as w:
        ports = w.ports._replace(transport=Cutting(w.emulator.app))
        async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
            responses = await pool.gather([body(text) for text in texts(100)], endpoint=CHAT)
    assert [response.text for response in responses] == texts(100)
    assert len(broken) == 3


class _HalfStream(httpx2.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._parts = [content[: len(content) // 2]]

    def __aiter__(self) -> "_HalfStream":
        return self

    async def __anext__(self) -> bytes:
        if self._parts:
            return self._parts.pop()
        raise httpx2.RemoteProtocolError("peer closed connection without sending complete message body")


async def test_a_file_with_fewer_rows_than_were_counted_is_fetched_again() -> None:
    short: list[str] = []

    class Shortening(InMemory):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if request.url.path.endswith("/content") and not short:
                short.append(request.url.path)
                content = b"".join([chunk async for chunk in response.stream])  # type: ignore[union-attr]
                return httpx2.Response(200, content=b"\n".join(content.split(b"\n")[:40]))
            return response

    async with world() as w:
        ports = w.ports._replace(transport=Shortening(w.emulator.app))
        async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
            responses = await pool.gather([body(text) for text in texts(100)], endpoint=CHAT)
    assert [response.text for response in responses] == texts(100)
    assert short


async def test_a_fault_of_our_own_fails_the_callers_concerned_and_hangs_nobody() -> None:
    def explode(request: httpx2.Request) -> None:
        if request.url.path == "/v1/batches":
            raise RuntimeError("a bug")

    async with world(before=explode) as w:
        await w.ask_all(texts(5))
    assert {type(error) for error in w.errors().values()} == {carpool.RequestFailed}


async def test_a_full_disk_fails_the_callers_concerned() -> None:
    is_full = False

    async def no_space(func: Any, /, *args: object) -> Any:
        if is_full:
            raise OSError(28, "No space left on device")
        return func(*args)

    async with world() as outer:
        ports = outer.ports._replace(run_sync=no_space)
        async with carpool.Pool("sk", "http://emulator/v1", _ports=ports) as pool:
            is_full = True
            with pytest.raises(carpool.JournalError, match="No space left"):
                await pool.request(CHAT, body())

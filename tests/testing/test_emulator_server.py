"""The server over real sockets, driven by the official SDK."""

import io
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import pytest
from emulating import CHAT, body, jsonl, leftovers, line, parsed, some
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from carpool.testing import Answer, Emulator, Faults, Pace, Refused, digest, echo


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A folder of its own, as other processes of this machine may run emulators too.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = leftovers()
    yield
    assert leftovers() == before


def client_of(emulator: Emulator, key: str = "sk-test") -> OpenAI:
    return OpenAI(base_url=emulator.url, api_key=key, max_retries=0, timeout=30)


def upload(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch").id


def create(client: OpenAI, file_id: str, endpoint: Any = CHAT) -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")


def ended(client: OpenAI, batch_id: str) -> Batch:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.01)
    raise AssertionError("the batch did not end")


def test_a_batch_goes_through_the_official_sdk() -> None:
    with Emulator() as emulator, client_of(emulator) as client:
        given = client.files.create(
            file=("in.jsonl", some(5)), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert (given.filename, given.purpose, given.bytes, given.status) == (
            "in.jsonl",
            "batch",
            len(some(5)),
            "processed",
        )
        assert given.expires_at == given.created_at + 3600
        batch = client.batches.create(
            input_file_id=given.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"submission_id": "s-1"},
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert (batch.status, batch.metadata) == ("validating", {"submission_id": "s-1"})
        batch = ended(client, batch.id)
        assert batch.status == "completed"
        assert batch.error_file_id is None
        assert batch.output_file_id is not None
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 5
        assert batch.usage is not None
        assert batch.usage.input_tokens > 0
        content = client.files.content(batch.output_file_id)
        assert content.response.headers["x-request-id"].startswith("req_")
        assert int(content.response.headers["content-length"]) == len(content.content)
        assert set(parsed(content.content)) == {f"r-{index}" for index in range(5)}
        output = client.files.retrieve(batch.output_file_id)
        assert output.expires_at == output.created_at + 7200
        assert client.files.delete(given.id).deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            client.files.retrieve(given.id)
        with pytest.raises(openai.ConflictError) as conflict:
            client.batches.cancel(batch.id)
        assert conflict.value.body == {
            "message": "Cannot cancel a batch with status 'completed'.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    assert [file.id for file in emulator.books().files] == [batch.output_file_id]


def test_lists_are_paged() -> None:
    with Emulator(pace=Pace(validating=60)) as emulator, client_of(emulator) as client:
        files = [upload(client, some(1)) for _ in range(3)]
        batches = [create(client, files[0]).id for _ in range(25)]
        page = client.batches.list()
        assert [batch.id for batch in page.data] == batches[:4:-1]
        assert page.has_more
        assert [batch.id for batch in client.batches.list(limit=7)] == batches[::-1]
        assert [batch.id for batch in client.batches.list(after=batches[1]).data] == batches[:1]
        assert [file.id for file in client.files.list()] == files[::-1]
        assert [file.id for file in client.files.list(order="asc", limit=2)] == files
        assert client.files.list(purpose="vision").data == []
        with pytest.raises(openai.BadRequestError, match="Expected a value <= 100, but got 101"):
            client.batches.list(limit=101)
        with pytest.raises(openai.BadRequestError, match="Expected a value >= 1"):
            client.batches.list(limit=0)
        with pytest.raises(openai.NotFoundError):
            client.batches.list(after="batch_no")


def test_a_batch_is_cancelled() -> None:
    with Emulator(pace=Pace(running=60)) as emulator, client_of(emulator) as client:
        batch = create(client, upload(client, some(3)))
        while client.batches.retrieve(batch.id).status != "in_progress":
            time.sleep(0.01)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch.id)
        assert batch.error_file_id is not None
        rows = parsed(client.files.content(batch.error_file_id).content)
        assert {row["error"]["code"] for row in rows.values()} == {"batch_cancelled"}


def test_refusals_are_error_objects() -> None:
    with Emulator(api_key="sk-right") as emulator:
        with client_of(emulator, "sk-wrong-key-1234") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.batches.list()
        assert refused.value.code == "invalid_api_key"
        assert "Incorrect API key provided: sk-**********1234." in str(refused.value)
        assert (
            httpx2.get(f"{emulator.url}/models").json()["error"]["message"].startswith("You didn't provide an API key")
        )
        with client_of(emulator, "sk-right") as client:
            with pytest.raises(openai.BadRequestError) as bad:
                create(client, "file-x", "/v1/x")
            assert (bad.value.param, bad.value.code) == ("endpoint", "invalid_value")
            assert "Invalid value: '/v1/x'. Supported values are: '/v1/" in str(bad.value)
            with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
                upload(client, b"")
            with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
                upload(client, b"not json\n")
            with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
                client.files.create(file=("in.txt", some(1)), purpose="batch")
            with pytest.raises(openai.NotFoundError, match="No batch found with id 'batch_x'"):
                client.batches.retrieve("batch_x")
            headers = {"authorization": "Bearer sk-right"}
            for reply, status in (
                (httpx2.post(f"{emulator.url}/files", headers=headers, content=b"x"), 400),
                (httpx2.post(f"{emulator.url}/files", headers=headers, files={"other": b"x"}), 400),
                (httpx2.post(f"{emulator.url}/files", headers=headers, files={"file": ("a.jsonl", b"{}")}), 400),
                (httpx2.post(f"{emulator.url}/batches", headers=headers, content=b"{"), 400),
                (httpx2.post(f"{emulator.url}/batches", headers=headers, content=b"[]"), 400),
                (httpx2.get(f"{emulator.url}/nothing", headers=headers), 404),
                (httpx2.put(f"{emulator.url}/batches", headers=headers), 405),
            ):
                assert reply.status_code == status
                assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
                assert reply.headers["x-request-id"]


def test_a_file_above_the_limit_is_refused_while_it_streams() -> None:
    with Emulator(max_file_bytes=100_000, max_body_bytes=1000) as emulator, client_of(emulator) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            upload(client, some(1) + b" " * 100_000)
        assert refused.value.status_code == 413
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 1000}])
        assert refused.value.status_code == 413
        assert upload(client, some(1))
        assert len(emulator.books().files) == 1


def test_every_live_endpoint_answers_in_its_form() -> None:
    with Emulator() as emulator, client_of(emulator) as client:
        chat = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": [{"type": "text", "text": "one"}]}]
        )
        assert chat.choices[0].message.content == "one"
        assert chat.usage is not None
        talk: Any = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "no"}]
        assert client.responses.create(model="m", input="two").output_text == "two"
        assert client.responses.create(model="m", input=talk).output_text == "first"
        floats = client.embeddings.create(model="m", input=["a", "b"], encoding_format="float", dimensions=3).data
        packed = client.embeddings.create(model="m", input=["a", "b"], dimensions=3).data
        assert [one.embedding for one in floats] == [one.embedding for one in packed]
        assert [len(one.embedding) for one in floats] == [3, 3]
        assert floats[0].embedding != floats[1].embedding
        assert len(client.embeddings.create(model="m", input=[1, 2, 3]).data) == 1
        assert client.completions.create(model="m", prompt="three").choices[0].text == "three"
        assert len(client.moderations.create(model="m", input=["a", "b"]).results) == 2
        images = client.images.generate(model="m", prompt="four", n=2).data
        assert images is not None
        assert [image.revised_prompt for image in images] == ["four", "four"]
        with pytest.raises(openai.BadRequestError, match="does not stream"):
            client.chat.completions.create(model="m", messages=[], stream=True)
        assert emulator.books().live == 10


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [(-1, 1, 0), (None, 1, 0), ({"a": 1}, 1, 0), (["abcdefgh", -1.5, None], 3, 2), ([[1, 2], [3]], 2, 3)],
)
def test_whatever_is_to_be_embedded_an_echo_has_a_vector_of_it(given: object, vectors: int, tokens: int) -> None:
    answer = json.loads(echo("/v1/embeddings", {"model": "m", "input": given}))
    assert (len(answer["data"]), answer["usage"]["prompt_tokens"]) == (vectors, tokens)


def test_no_vector_has_more_numbers_than_any_models() -> None:
    body: dict[str, Any] = {"model": "m", "input": "one", "dimensions": 16_384}
    assert len(json.loads(echo("/v1/embeddings", body))["data"][0]["embedding"]) == 16_384
    with pytest.raises(Refused, match="dimensions"):
        echo("/v1/embeddings", body | {"dimensions": 16_385})


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/embeddings", "/v1/moderations", "/v1/completions"])
def test_every_endpoint_rides_in_a_batch(endpoint: str) -> None:
    content = {"model": "m", "input": "hello", "prompt": "hello"}
    with Emulator() as emulator, client_of(emulator) as client:
        batch = create(client, upload(client, jsonl([line("a", url=endpoint, content=content)])), endpoint)
        batch = ended(client, batch.id)
        assert (batch.status, batch.model) == ("completed", "m")
        assert [model.id for model in client.models.list()] == ["m"]


def test_an_upstream_answers_the_rows() -> None:
    with Emulator(api_key="up", faults=Faults(server_error=0.2, only={f"POST {CHAT}"})) as model:
        with Emulator(upstream=model.url, upstream_key="up") as emulator, client_of(emulator) as client:
            batch = ended(client, create(client, upload(client, some(200))).id)
            assert batch.output_file_id is not None
            assert batch.error_file_id is not None
            good = parsed(client.files.content(batch.output_file_id).content)
            bad = parsed(client.files.content(batch.error_file_id).content)
            assert client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]) is not None
        assert len(good) + len(bad) == 200
        assert {row["response"]["status_code"] for row in bad.values()} == {500, 502, 503}
        assert any(isinstance(row["response"]["body"], str) for row in bad.values())
        assert all(
            row["response"]["body"]["choices"][0]["message"]["content"] == f"text {custom_id[2:]}"
            for custom_id, row in good.items()
        )
        assert model.books().live == 200 + 1 - len(bad)


def test_an_upstream_that_is_not_there_fails_the_rows() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with Emulator(upstream=url) as emulator, client_of(emulator) as client:
            batch = ended(client, create(client, upload(client, some(2))).id)
            assert batch.error_file_id is not None
            rows = parsed(client.files.content(batch.error_file_id).content)
    assert {row["response"]["status_code"] for row in rows.values()} == {502}


def test_what_is_no_answer_does_not_end_the_emulator() -> None:
    wrong: Any = "200"
    with Emulator(answer=lambda endpoint, given: Answer(wrong)) as emulator, client_of(emulator) as client:
        for _ in range(2):
            batch = ended(client, create(client, upload(client, some(1))).id)
            assert batch.error_file_id is not None
            (row,) = parsed(client.files.content(batch.error_file_id).content).values()
            assert "the status of an Answer is a whole number" in row["response"]["body"]["error"]["message"]
            emulator.answer = lambda endpoint, given: Answer(1_000)


def test_lost_replies_were_processed_and_resets_were_not() -> None:
    with Emulator(faults=Faults(lost_upload=1.0)) as emulator, client_of(emulator) as client:
        with pytest.raises(openai.APIConnectionError):
            upload(client, some(1))
        assert [file.filename for file in client.files.list()] == ["in.jsonl"]
    with Emulator(faults=Faults(lost_create=1.0)) as emulator, client_of(emulator) as client:
        file_id = upload(client, some(1))
        with pytest.raises(openai.APIConnectionError):
            create(client, file_id)
        assert ended(client, client.batches.list().data[0].id).status == "completed"
    with Emulator(faults=Faults(reset=1.0, only=["POST /v1/batches"])) as emulator, client_of(emulator) as client:
        file_id = upload(client, some(1))
        with pytest.raises(openai.APIConnectionError):
            create(client, file_id)
        assert client.batches.list().data == []
        assert emulator.books().routes["POST /v1/batches"] == 1


def test_too_many_tells_when_to_come_back_half_of_the_time() -> None:
    with Emulator(faults=Faults(too_many=1.0)) as emulator, httpx2.Client() as client:
        replies = [client.get(f"{emulator.url}/batches") for _ in range(60)]
    assert {reply.status_code for reply in replies} == {429}
    assert replies[0].json()["error"]["code"] == "rate_limit_exceeded"
    hints = {("retry-after" in reply.headers, "retry-after-ms" in reply.headers) for reply in replies}
    assert hints == {(True, False), (False, True), (False, False)}


@pytest.mark.anyio
async def test_it_serves_from_asyncio_and_trio() -> None:
    async with Emulator() as emulator, AsyncOpenAI(base_url=emulator.url, api_key="k", max_retries=0) as client:
        file = await client.files.create(file=("in.jsonl", some(3)), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        with anyio.fail_after(10):
            while batch.status != "completed":
                await anyio.sleep(0.01)
                batch = await client.batches.retrieve(batch.id)
    assert emulator.books().runs["r-0", digest(body("text 0"))] == (batch.id,)


@pytest.mark.anyio
async def test_leaving_an_async_with_leaves_no_thread() -> None:
    before = threading.active_count()
    async with Emulator() as emulator, httpx2.AsyncClient() as client:
        assert (await client.get(f"{emulator.url}/batches")).status_code == 200
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_port_in_use_is_an_error_on_entering() -> None:
    with Emulator() as emulator:
        port = int(emulator.url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(OSError, match="in use"), Emulator(port=port):
            pass


def test_leaving_ends_what_is_under_way() -> None:
    with Emulator(pace=Pace(running=1000)) as emulator, client_of(emulator) as client:
        create(client, upload(client, some(3)))
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_a_hundred_thousand_rows_stream_through_the_disk() -> None:
    number = 100_000
    content = b"".join(
        b'{"custom_id":"r-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{}]}}\n'
        % index
        for index in range(number)
    )
    answer = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    with Emulator(answer=lambda endpoint, body: answer, max_requests=number) as emulator, client_of(emulator) as client:
        file_id = upload(client, content)
        assert leftovers()[1], "a large file is on disk"
        assert client.files.content(file_id).content == content
        batch = create(client, file_id)
        slowest = 0.0
        while batch.status != "completed":
            began = time.monotonic()
            batch = client.batches.retrieve(batch.id)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1.0
        assert batch.usage is not None
        assert batch.usage.input_tokens == 3 * number
        assert batch.output_file_id is not None
        with client.files.with_streaming_response.content(batch.output_file_id) as reply:
            assert sum(chunk.count(b"\n") for chunk in reply.iter_bytes()) == number

"""Replies that are lost, downloads that end early, and what is new and not seen yet."""

import math
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
from emulating import CHAT, Client, some

from carpool.testing import Emulator, Faults

DOWNLOAD = "GET /v1/files/{id}/content"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


async def refused(client: Client, file_id: str) -> tuple[int, dict[str, Any]]:
    given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    reply = await client.http.post("/batches", json=given)
    return reply.status_code, reply.json()["error"]


@pytest.mark.anyio
async def test_any_reply_can_be_lost_after_it_was_processed() -> None:
    lost = {"POST /v1/batches/{id}/cancel", "DELETE /v1/files/{id}"}
    async with Emulator(faults=Faults(lost_reply=1.0, only=lost)).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(1))
        batch_id = await client.create(file_id)
        with pytest.raises(ConnectionResetError):
            await client.http.post(f"/batches/{batch_id}/cancel")
        assert (await client.get(batch_id))["status"] in ("cancelling", "cancelled")
        with pytest.raises(ConnectionResetError):
            await client.http.delete(f"/files/{file_id}")
        assert (await client.http.get(f"/files/{file_id}")).status_code == 404


async def downloads(number: int, **rates: Any) -> tuple[bytes, list[httpx2.Response]]:
    """Download one file again and again, the other routes whole."""
    async with Emulator(faults=Faults(**rates)).inline() as emulator:
        client = Client(emulator)
        content = some(50)
        file_id = await client.upload(content)
        assert len((await client.http.get("/files")).json()["data"]) == 1
        assert (await client.http.get("/files/file-no/content")).json()["error"]["param"] == "id"
        return content, [await client.http.get(f"/files/{file_id}/content") for _ in range(number)]


@pytest.mark.anyio
async def test_a_truncated_download_is_shorter_than_its_content_length() -> None:
    content, replies = await downloads(60, truncated=0.5)
    short = [reply for reply in replies if reply.content != content]
    assert {reply.status_code for reply in replies} == {200}
    assert 15 < len(short) < 45
    assert {int(reply.headers["content-length"]) for reply in replies} == {len(content)}
    assert all(content.startswith(reply.content) for reply in short)
    assert len({len(reply.content) for reply in short}) > 10


@pytest.mark.anyio
async def test_a_cut_download_does_not_tell() -> None:
    content, replies = await downloads(60, cut=0.5)
    short = [reply for reply in replies if reply.content != content]
    assert 15 < len(short) < 45
    assert all(content.startswith(reply.content) for reply in short)
    assert {reply.content.endswith(b"\n") for reply in short} >= {False}
    lengths = [int(reply.headers.get("content-length", len(reply.content))) for reply in short]
    assert lengths == [len(reply.content) for reply in short]
    assert {"content-length" in reply.headers for reply in short} == {True, False}


@pytest.mark.anyio
async def test_a_row_is_whole_at_the_second_download() -> None:
    faults = Faults(truncated=1.0, nth={1})
    async with Emulator(faults=faults).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(9))
        contents = [(await client.http.get(f"/files/{file_id}/content")).content for _ in range(2)]
    assert len(contents[0]) < len(contents[1]) == len(some(9))


def test_over_a_socket_a_truncated_download_is_a_broken_connection_and_a_cut_one_is_none() -> None:
    content = some(5000)
    with Emulator(faults=Faults(truncated=1.0)) as emulator, httpx2.Client(base_url=emulator.url) as client:
        file_id = upload(client, content)
        received: list[bytes] = []
        with client.stream("GET", f"/files/{file_id}/content") as reply:
            assert (reply.status_code, int(reply.headers["content-length"])) == (200, len(content))
            with pytest.raises(httpx2.RemoteProtocolError, match=r"without sending complete"):
                received.extend(reply.iter_bytes())
        assert received
        assert content.startswith(b"".join(received))
        assert client.get("/batches").status_code == 200
    with Emulator(faults=Faults(cut=1.0)) as emulator, httpx2.Client(base_url=emulator.url) as client:
        file_id = upload(client, content)
        replies = [client.get(f"/files/{file_id}/content") for _ in range(10)]
        assert all(content.startswith(reply.content) and reply.content != content for reply in replies)
        assert {"content-length" in reply.headers for reply in replies} == {True, False}


def upload(client: httpx2.Client, content: bytes) -> str:
    reply = client.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    return str(reply.json()["id"])


@pytest.mark.anyio
async def test_a_new_batch_is_a_404_for_a_while() -> None:
    async with Emulator(creation_lag=15).inline() as emulator:
        client = Client(emulator)
        batch_id = await client.create(await client.upload(some(1)))
        await anyio.sleep(14)
        reply = await client.http.get(f"/batches/{batch_id}")
        assert (reply.status_code, reply.json()["error"]["message"]) == (404, f"No batch found with id '{batch_id}'.")
        assert (await client.page("batches"))[0] == [batch_id]
        await anyio.sleep(2)
        assert (await client.get(batch_id))["status"] == "completed"


@pytest.mark.anyio
async def test_a_new_file_cannot_be_found_for_a_while() -> None:
    async with Emulator(file_lag=5).inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(1))
        assert (await client.http.get(f"/files/{file_id}")).status_code == 200
        status, error = await refused(client, file_id)
        message = f"Cannot find file {file_id}, or project proj_emulated does not have access to it."
        assert (status, error["message"], error["type"]) == (400, message, "invalid_request_error")
        await anyio.sleep(6)
        assert await client.create(file_id)
        assert len(emulator.books().batches) == 1


@pytest.mark.anyio
async def test_creations_are_refused_while_the_billing_limit_is_reached() -> None:
    async with Emulator().inline() as emulator:
        client = Client(emulator)
        file_id = await client.upload(some(1))
        emulator.set_billing_limit(reached=True)
        status, error = await refused(client, file_id)
        assert (status, error["code"]) == (400, "billing_hard_limit_reached")
        emulator.set_billing_limit(reached=False)
        assert await client.create(file_id)
        assert len(emulator.books().batches) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Faults(lost_reply=0.6, lost_create=0.6),
        lambda: Faults(truncated=0.6, cut=0.6),
        lambda: Faults(cut=0.6, reset=0.6),
        lambda: Faults(truncated=1.1),
        lambda: Emulator(creation_lag=-1),
        lambda: Emulator(file_lag=math.nan),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


def test_rates_of_different_routes_do_not_add_up() -> None:
    Faults(lost_create=0.9, lost_upload=0.9, truncated=0.5, cut=0.4)

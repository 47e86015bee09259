"""What lies on disk and at the provider: private, under names of ours alone, and nowhere else."""

import inspect
import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from virtual import CHAT, body, run_here, site, world

import carpool
from carpool.cli import emulate
from carpool.providers.openai import quote_id
from carpool.settings import Ports
from carpool.testing import Emulator

pytestmark = pytest.mark.anyio

MARK = "Erika Mustermann"  # stands for what users write
OURS = re.compile(r"journal\.sqlite(-wal|-shm)?|shard-\d+\.lock|(segment|download)-\d+-\d+\.jsonl")


@pytest.fixture
def anyio_backend(virtual_backend: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return virtual_backend


@pytest.fixture
def no_mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Give the modes of a folder and of all that is in it."""
    found = {"": stat.S_IMODE(folder.stat().st_mode)}
    for path in folder.rglob("*"):
        found[path.name] = stat.S_IMODE(path.stat().st_mode)
    return found


# --- who may read it


@pytest.mark.usefixtures("no_mask")
async def test_whatever_a_run_writes_its_owner_alone_may_read(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def look(_request: object) -> None:
        seen.update(modes(tmp_path / "journal"))

    async with site(tmp_path, before=look) as s, s.open() as w:
        await w.pool.submit(carpool.Request(CHAT, body("submitted")), key="k")
        await w.ask_all(["one", "two"])
        async with w.pool.as_completed([body("three")], endpoint=CHAT) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True]
        look(None)
    kinds = {name.partition("-")[0] if "sqlite" not in name else name for name in seen}
    assert {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "shard", "segment", "download"} <= kinds
    assert seen.pop("") == 0o700
    assert set(seen.values()) == {0o600}, seen
    assert all(OURS.fullmatch(name) for name in seen), seen


@pytest.mark.usefixtures("no_mask")
async def test_without_a_journal_its_temporary_files_are_private_too() -> None:
    seen: dict[str, int] = {}

    def look(_request: object) -> None:
        for folder in Path(tempfile.gettempdir()).glob("carpool-*"):
            seen.update(modes(folder))

    async with world(before=look) as w:
        await w.ask_all([f"{'x' * 10_000} {number}" for number in range(300)])
    assert seen.pop("") == 0o700
    assert seen
    assert set(seen.values()) == {0o600}


# --- names


class Witness(httpx2.AsyncBaseTransport):
    """Keep what was sent."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.sent: list[tuple[str, bytes]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        content = b"".join([part async for part in request.stream])
        self.sent.append((str(request.url), content))
        request.stream = httpx2.ByteStream(content)
        return await self._inner.handle_async_request(request)


async def test_nothing_of_a_users_is_in_names_ids_and_metadata(tmp_path: Path) -> None:
    """But tags, which are there to be seen."""
    async with site(tmp_path) as s:
        witness = Witness(s.transport)
        pool = carpool.Pool("sk-key", "http://emulator/v1", journal=s.folder, progress=False, _ports=_ports(witness))
        async with pool:
            response = await pool.request(carpool.Request(CHAT, body(MARK), key=f"key of {MARK}", tags=("night",)))
            await pool.submit(carpool.Request(CHAT, body(f"{MARK} again")), key=f"other of {MARK}")
        names = {path.name for path in s.folder.iterdir()}
    assert re.fullmatch(r"[0-9a-f]{12}-\d+", response.custom_id)
    assert all(OURS.fullmatch(name) for name in names)
    assert not [url for url, _ in witness.sent if "rika" in url or "key" in url]
    creations = [json.loads(content) for url, content in witness.sent if url.endswith("/batches") and content]
    uploads = [content for url, content in witness.sent if url.endswith("/files") and content]
    assert creations
    assert uploads
    for creation in creations:
        assert creation["metadata"].keys() <= {"carpool", "carpool_tokens", "tags"}
        assert re.fullmatch(r"[0-9a-f]{12}-b\d+", creation["metadata"]["carpool"])
        assert re.fullmatch(r"\d+", creation["metadata"]["carpool_tokens"])
        assert creation["metadata"].get("tags", "night") == "night"
    for upload in uploads:
        head, _, lines = upload.partition(b"application/jsonl\r\n\r\n")
        assert re.search(rb'filename="[0-9a-f]{12}-b\d+\.jsonl"', head)
        assert b"rika" not in head
        ids = re.findall(rb'\{"custom_id":"([^"]*)"', lines)
        assert ids
        assert all(re.fullmatch(rb"[0-9a-f]{12}-\d+", id_) for id_ in ids)


def _ports(transport: httpx2.AsyncBaseTransport) -> Any:
    return Ports(run_sync=run_here, transport=transport)


HOSTILE = ["../../../escaped", "/etc/passwd", "..", "a/../../b", "%2e%2e%2fescaped", "x?y#z", "\u2028", "-rf"]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_ids_of_a_provider_are_no_paths(hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on disk nor at the provider, where they would be other calls."""
    asked: list[str] = []
    async with site(tmp_path) as s:
        reply = s.transport.handle_async_request
        real: dict[str, str] = {}

        async def renamed(request: httpx2.Request) -> httpx2.Response:
            asked.append(request.url.raw_path.decode())
            for name, id_ in real.items():
                if f"/files/{name}/" in asked[-1]:
                    request.url = request.url.copy_with(raw_path=asked[-1].replace(name, id_).encode())
            response: httpx2.Response = await reply(request)
            content = await response.aread()
            if b'"object":"batch"' not in content:
                return response
            told = json.loads(content)
            for batch in told.get("data", [told]):
                if batch["output_file_id"]:
                    real[_quoted(hostile)] = batch["output_file_id"]
                    batch["output_file_id"] = hostile
            return httpx2.Response(200, json=told)

        monkeypatch.setattr(s.transport, "handle_async_request", renamed)
        async with s.open() as w:
            await w.ask("hi")
        assert all(OURS.fullmatch(path.name) for path in s.folder.iterdir())
    assert w.answers() == {"hi": "hi"}
    assert {path.name for path in tmp_path.iterdir()} <= {"journal"}
    for path in asked:
        assert re.fullmatch(r"/v1/(files|batches)(/[^/?#]+(/content|/cancel)?)?(\?[^#]*)?", path), path


def _quoted(id_: str) -> str:
    return quote_id(id_)


# --- who can connect, and with how much


def test_the_emulator_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    assert inspect.signature(Emulator).parameters["host"].default == "127.0.0.1"
    assert inspect.signature(emulate.emulate).parameters["host"].default == "127.0.0.1"
    with Emulator() as emulator:
        port = int(emulator.url.rsplit(":", 1)[1].partition("/")[0])
        with pytest.raises(OSError, match=r"refused|assign|timed out"):  # on macOS there is no such address
            socket.create_connection(("127.0.0.2", port), 2)


def test_bodies_have_limits_by_default() -> None:
    defaults = {name: entry.default for name, entry in inspect.signature(Emulator).parameters.items()}
    assert defaults["max_file_bytes"] == 200_000_000
    assert defaults["max_body_bytes"] == 64_000_000


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/chat/completions"])
def test_a_body_that_does_not_end_is_refused_by_the_emulator(path: str) -> None:
    with Emulator(max_body_bytes=100_000) as emulator:
        host, _, port = emulator.url.removeprefix("http://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(21):  # it is read on to twice what may be, so that most clients come to read the refusal
                connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            told = connection.recv(4_096)
    assert b" 413 " in told.partition(b"\r\n")[0]

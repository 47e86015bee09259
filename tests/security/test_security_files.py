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

import anyio
import httpx2
import pytest
from virtual import CHAT, World, body, run_here, site, world

import carpool
from carpool.cli import emulate
from carpool.providers.openai import quote_id
from carpool.settings import Ports
from carpool.testing import Emulator, Pace

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


class Renaming(httpx2.AsyncBaseTransport):
    """Give the batch, its input file or its output file a name of ours, and keep what was asked for."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, field: str, name: str) -> None:
        self._inner = inner
        self._field = field
        self._name = name
        self._real = ""
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.decode()
        self.asked.append(f"{request.method} {path}")
        kind = "batches" if self._field == "id" else "files"
        real = re.sub(rf"(/{kind}/){re.escape(quote_id(self._name))}(?=/|$)", rf"\1{self._real}", path)
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        content = b"".join([part async for part in request.stream])
        content = content.replace(json.dumps(self._name, ensure_ascii=False).encode(), b'"%b"' % self._real.encode())
        headers = {**request.headers, "content-length": str(len(content))}
        url = request.url.copy_with(raw_path=real.encode())
        request = httpx2.Request(request.method, url, headers=headers, content=content)
        response = await self._inner.handle_async_request(request)
        if response.status_code != 200 or real.endswith("/content"):
            return response
        told = json.loads(await response.aread())
        for entry in told.get("data", [told]):
            self._rename(entry)
        return httpx2.Response(200, json=told)

    def _rename(self, entry: dict[str, Any]) -> None:
        field = self._field
        if entry["object"] == "file":
            field = "id" if field == "input_file_id" and entry.get("purpose") == "batch" else ""
        if entry.get(field):
            self._real, entry[field] = entry[field], self._name


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    ("field", "calls"),
    [
        ("id", ["GET /v1/batches/{}", "POST /v1/batches/{}/cancel"]),
        ("input_file_id", ["DELETE /v1/files/{}"]),
        ("output_file_id", ["GET /v1/files/{}/content", "DELETE /v1/files/{}"]),
    ],
)
async def test_ids_of_a_provider_are_no_paths(hostile: str, field: str, calls: list[str], tmp_path: Path) -> None:
    """Neither on disk nor at the provider, where they would be other calls."""
    async with site(tmp_path, pace=Pace(running=100)) as s:
        renaming = Renaming(s.transport, field, hostile)
        pool = carpool.Pool("sk-key", "http://emulator/v1", journal=s.folder, progress=False, _ports=_ports(renaming))
        async with pool, anyio.create_task_group() as tasks:
            w = World(pool, s.emulator, s.transport)
            tasks.start_soon(w.ask_all, ["one", "two", "three", "four"])
            await anyio.sleep(55)
            await pool.cancel()
        assert all(OURS.fullmatch(path.name) for path in s.folder.iterdir())
        assert s.emulator.books().files == ()
    assert (len(w.answers()), len(w.errors())) == (2, 2)  # half of them had run
    assert {path.name for path in tmp_path.iterdir()} <= {"journal"}
    assert {call.format(quote_id(hostile)) for call in calls} <= {*renaming.asked}
    for asked in renaming.asked:
        assert re.fullmatch(r"[A-Z]+ /v1/(files|batches)(/[^/?#]+(/content|/cancel)?)?(\?[^#]*)?", asked), asked


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

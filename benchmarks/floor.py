"""The straight line: create, encode, write, upload, download, split, decode, resolve, and nothing else.

A task for each caller, a future for each task, one file for each 50,000. No retries, no limits, no errors, no
clean-up: what is left when everything that makes a library useful is left out.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import msgspec

from . import workload

CHUNK = 2**20
FILE = 50_000
POLL = 0.2


class _Reply(msgspec.Struct):
    body: msgspec.Raw


class _Row(msgspec.Struct):
    custom_id: str
    response: _Reply


_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Row).decode


async def floor(count: int, url: str, options: workload.Options = workload.DEFAULT) -> list[bytes]:
    """Answer so many calls."""
    loop = asyncio.get_running_loop()
    lines: list[bytes] = []
    futures: dict[str, asyncio.Future[bytes]] = {}

    async def call(number: int) -> bytes:
        body = _encode(workload.payload(number, options.size))
        custom_id = f"floor-{number}"
        head = b'{"custom_id":"%b","method":"POST","url":"/v1/chat/completions","body":' % custom_id.encode()
        lines.append(b"".join((head, body, b"}\n")))
        future: asyncio.Future[bytes] = loop.create_future()
        futures[custom_id] = future
        return await future

    tasks = [asyncio.create_task(call(number)) for number in range(count)]
    await asyncio.sleep(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{start}.jsonl") for start in range(0, count, FILE)]
        for path in paths:
            await asyncio.to_thread(_write, path, lines[:FILE])
            del lines[:FILE]
        async with httpx2.AsyncClient(base_url=url, headers={"Authorization": "Bearer any"}, timeout=600) as client:
            batch_ids = [await _submit(client, path) for path in paths]
            for batch_id in batch_ids:
                await _receive(client, batch_id, futures)
    return await asyncio.gather(*tasks)


def _write(path: Path, lines: list[bytes]) -> None:
    with path.open("wb", buffering=CHUNK) as file:
        file.writelines(lines)


async def _submit(client: httpx2.AsyncClient, path: Path) -> str:
    head = (
        b'--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--cut\r\nContent-Disposition: '
        b'form-data; name="file"; filename="floor.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
    )
    tail = b"\r\n--cut--\r\n"

    async def content() -> AsyncIterator[bytes]:
        yield head
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        yield tail

    length = str(len(head) + path.stat().st_size + len(tail))
    headers = {"Content-Type": "multipart/form-data; boundary=cut", "Content-Length": length}
    uploaded = (await client.post("files", content=content(), headers=headers)).json()
    body = {"input_file_id": uploaded["id"], "endpoint": workload.ENDPOINT, "completion_window": "24h"}
    created = (await client.post("batches", json=body)).json()
    return str(created["id"])


async def _receive(client: httpx2.AsyncClient, batch_id: str, futures: dict[str, asyncio.Future[bytes]]) -> None:
    while (batch := (await client.get(f"batches/{batch_id}")).json())["status"] != "completed":
        await asyncio.sleep(POLL)
    tail = b""
    async with client.stream("GET", f"files/{batch['output_file_id']}/content") as response:
        async for chunk in response.aiter_raw():
            *lines, tail = (tail + chunk).split(b"\n")
            for line in lines:
                row = _decode(line)
                futures.pop(row.custom_id).set_result(bytes(row.response.body))


if __name__ == "__main__":
    workload.main(floor)

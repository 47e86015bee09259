"""A provider that keeps nothing but the custom_ids of a file: what it reads and writes may be larger than memory."""

import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_HEAD = 200  # bytes of a line that are kept: the custom_id is in them
_CHUNK = 2**20
_CUSTOM_ID = re.compile(rb'\{"custom_id":"([^"]+)"')


class Provider:
    """Answer each row with `answer` bytes that begin with its custom_id.

    With `held`, batches of more than one row do not end until `release`.
    """

    def __init__(self, answer: int, *, held: bool = False) -> None:
        self.sizes: list[int] = []
        self._answer = answer
        self._held = held
        self._numbers = count(1)
        self._files: dict[str, list[bytes]] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def release(self) -> None:
        """Let all batches end."""
        self._held = False

    def app(self) -> Starlette:
        """Give the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/files", self._upload, methods=["POST"]),
                Route("/v1/files/{id}", self._delete, methods=["DELETE"]),
                Route("/v1/files/{id}/content", self._content),
                Route("/v1/batches", self._create, methods=["POST"]),
                Route("/v1/batches", self._list),
                Route("/v1/batches/{id}", self._get),
                Route("/v1/batches/{id}/cancel", self._get, methods=["POST"]),
            ]
        )

    async def _upload(self, request: Request) -> Response:
        heads, size, custom_ids = Heads(), 0, []
        async for chunk in request.stream():
            size += len(chunk)
            custom_ids += [match[1] for head in heads.feed(chunk) if (match := _CUSTOM_ID.match(head))]
        file_id = f"file-{next(self._numbers)}"
        self._files[file_id] = custom_ids
        self.sizes.append(size)
        return JSONResponse({"id": file_id, "object": "file", "bytes": size, "filename": "input.jsonl"})

    async def _delete(self, request: Request) -> Response:
        self._files.pop(request.path_params["id"], None)
        return JSONResponse({"id": request.path_params["id"], "object": "file", "deleted": True})

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        number = next(self._numbers)
        output = f"file-{number}"
        self._files[output] = self._files[asked["input_file_id"]]
        total = len(self._files[output])
        batch = {
            "id": f"batch_{number}",
            "object": "batch",
            "created_at": 1_774_437_322 + number,
            "metadata": asked.get("metadata"),
            "input_file_id": asked["input_file_id"],
            "output_file_id": output,
            "error_file_id": None,
            "request_counts": {"total": total, "completed": total, "failed": 0},
        }
        self._batches[f"batch_{number}"] = batch
        return JSONResponse(self._seen(batch))

    def _seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._held and batch["request_counts"]["total"] > 1:
            return {**batch, "status": "in_progress", "output_file_id": None}
        return {**batch, "status": "completed"}

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self._seen(self._batches[request.path_params["id"]]))

    async def _list(self, request: Request) -> Response:
        newest = list(reversed(self._batches.values()))
        after = request.query_params.get("after")
        start = 0 if after is None else 1 + next(n for n, batch in enumerate(newest) if batch["id"] == after)
        page = newest[start : start + 100]
        data = [self._seen(batch) for batch in page]
        return JSONResponse({"object": "list", "data": data, "has_more": start + 100 < len(newest)})

    async def _content(self, request: Request) -> Response:
        custom_ids = self._files[request.path_params["id"]]
        size = sum(map(len, map(self._row, custom_ids)))
        headers = {"Content-Length": f"{size}"}
        return StreamingResponse(self._output(custom_ids), headers=headers, media_type="application/octet-stream")

    async def _output(self, custom_ids: list[bytes]) -> AsyncIterator[bytes]:
        lines: list[bytes] = []
        size = 0
        for custom_id in custom_ids:
            lines.append(self._row(custom_id))
            size += len(lines[-1])
            if size >= _CHUNK:
                yield b"".join(lines)
                lines, size = [], 0
        yield b"".join(lines)

    def _row(self, custom_id: bytes) -> bytes:
        return (
            b'{"id":"row","custom_id":"%b","response":{"status_code":200,"request_id":"request","body":{"choices":[{'
            b'"message":{"content":"%b"}}]}},"error":null}\n'
        ) % (custom_id, custom_id.ljust(self._answer, b"."))


class Heads:
    """Give the beginning of each line, in bounded memory however long the lines are."""

    def __init__(self) -> None:
        self._head = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Give those of the lines that end here."""
        first, *others = chunk.split(b"\n")
        heads = [(self._head + first[:_HEAD])[:_HEAD], *(other[:_HEAD] for other in others)]
        self._head = heads.pop()
        return heads


@contextmanager
def served(provider: Provider) -> Iterator[str]:
    """Serve it from a thread, and give its URL."""
    config = uvicorn.Config(
        provider.app(),
        http="h11",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="provider")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


def parsed(content: bytes) -> str:
    """Give an answer's text."""
    text: str = json.loads(content)["choices"][0]["message"]["content"]
    return text

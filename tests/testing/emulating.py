"""What the tests of the emulator share: input files, a virtual clock, a client of the inline application."""

import gc
import glob
import json
import os
import tempfile
import threading
from collections.abc import Iterable
from typing import Any

import httpx2
from virtual import VirtualLoop

from carpool.testing import Answer, Emulator, Refused

__all__ = ["CHAT", "DAY", "MALFORMED", "Client", "VirtualLoop", "body", "jsonl", "leftovers", "line", "parsed", "some"]

CHAT = "/v1/chat/completions"
DAY = 86_400
# What an answer may give by mistake, and what its author is told.
MALFORMED: tuple[tuple[object, str], ...] = (
    ("text", "an answer is a mapping, JSON as bytes, or an Answer with one of these, not str"),
    (None, "an answer is a mapping, JSON as bytes, or an Answer with one of these, not NoneType"),
    ([{}], "an answer is a mapping, JSON as bytes, or an Answer with one of these, not list"),
    ({"a": object()}, "the body of an answer is no JSON: "),
    ({"a": "\ud800"}, "the body of an answer is no JSON: "),
    (b'{"a":', "the body of an answer is no JSON: "),
    (b'{"a": "\xff"}', "the body of an answer is no JSON: "),
    (Answer(body={"a": object()}), "the body of an answer is no JSON: "),
    (Answer(body="text"), "an answer is a mapping, JSON as bytes, or an Answer with one of these, not str"),  # type: ignore[arg-type]
    (Answer("200"), "the status of an Answer is a whole number, 200 to 599, or 0, not '200'"),  # type: ignore[arg-type]
    (Answer(None), "the status of an Answer is a whole number, 200 to 599, or 0, not None"),  # type: ignore[arg-type]
    (Answer(99), "the status of an Answer is a whole number, 200 to 599, or 0, not 99"),
    (Answer(1000), "the status of an Answer is a whole number, 200 to 599, or 0, not 1000"),
    (Answer(headers={"a": 1}), "the headers of an Answer are a mapping of texts to texts"),  # type: ignore[dict-item]
    (Answer(headers=None), "the headers of an Answer are a mapping of texts to texts"),  # type: ignore[arg-type]
    (Refused("400", "no"), "the status of an Answer is a whole number, 200 to 599, or 0, not '400'"),  # type: ignore[arg-type]
    (Refused(400, "\ud800"), "the body of an answer is no JSON: "),
    (RuntimeError("\ud800"), "RuntimeError: ?"),
)


def body(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}


def line(custom_id: str = "r-0", *, url: str = CHAT, content: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": body() if content is None else content,
        **more,
    }


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in lines)


def some(number: int) -> bytes:
    return jsonl(line(f"r-{index}", content=body(f"text {index}")) for index in range(number))


def parsed(content: bytes) -> dict[str, dict[str, Any]]:
    return {row["custom_id"]: row for row in map(json.loads, content.split(b"\n")[:-1])}


def leftovers() -> tuple[list[str], list[str], int]:
    """Give the threads, the temporary folders and the number of open descriptors that are there now."""
    gc.collect()
    # The SDK asks for worker threads, which both backends keep for a while.
    foreign = ("pytest_timeout", "AnyIO worker", "Trio thread")
    threads = sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(foreign))
    folders = sorted(glob.glob(os.path.join(tempfile.gettempdir(), "carpool-emulator-*")))
    return threads, folders, len(os.listdir("/dev/fd"))


class Client:
    """Drive the application of an emulator without sockets."""

    def __init__(self, emulator: Emulator) -> None:
        transport = httpx2.ASGITransport(app=emulator.app)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://emulator/v1", timeout=None)

    async def upload(self, content: bytes, purpose: str = "batch", name: str = "in.jsonl", **more: str) -> str:
        reply = await self.http.post("/files", files={"file": (name, content)}, data={"purpose": purpose, **more})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    async def create(self, file_id: str, endpoint: str = CHAT, **more: Any) -> str:
        given = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}
        reply = await self.http.post("/batches", json=given)
        assert reply.status_code == 200, reply.text
        assert reply.json()["status"] == "validating"
        return str(reply.json()["id"])

    async def get(self, batch_id: str) -> dict[str, Any]:
        batch: dict[str, Any] = (await self.http.get(f"/batches/{batch_id}")).json()
        return batch

    async def page(self, kind: str, **query: Any) -> tuple[list[str], bool]:
        """Give the ids on a page of files or batches, and whether there are more."""
        page = (await self.http.get(f"/{kind}", params=query)).json()
        ids = [entry["id"] for entry in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return ids, page["has_more"]

    async def rows(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        return {} if file_id is None else parsed((await self.http.get(f"/files/{file_id}/content")).content)

"""The multipart form of an upload, streamed from the spool."""

from collections.abc import AsyncIterator, Callable
from secrets import token_hex
from typing import TypeAlias

import httpx2

from ..models import Run, Upload

Read: TypeAlias = Callable[[tuple[Run, ...]], AsyncIterator[bytes]]


class Form(httpx2.AsyncByteStream):
    """Stream a multipart form with one file: an iterator of its own, since httpx2's would read the file in the loop."""

    def __init__(self, fields: dict[str, str], upload: Upload, read: Read) -> None:
        boundary = token_hex(16)
        disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [f'{disposition}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
        parts.append(f'{disposition}"file"; filename="{upload.filename}"\r\nContent-Type: application/jsonl\r\n\r\n')
        self._head = "".join(parts).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._upload = upload
        self._read = read
        self.headers: dict[str, str] = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + upload.size + len(self._tail)),
        }

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chain(self._head, self._read(self._upload.runs), self._tail)


class _Chain:
    """Iterate over head, middle and tail: no generator, which a broken connection would leave half run."""

    def __init__(self, head: bytes, middle: AsyncIterator[bytes], tail: bytes) -> None:
        self._head: bytes | None = head
        self._middle = middle
        self._tail: bytes | None = tail

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._head is not None:
            head, self._head = self._head, None
            return head
        try:
            return await anext(self._middle)
        except StopAsyncIteration:
            if self._tail is None:
                raise
            tail, self._tail = self._tail, None
            return tail

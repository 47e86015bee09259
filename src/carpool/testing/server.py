"""The routes, on Starlette."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .account import Account, Batch, File, no_batch
from .bodies import read_json
from .course import validate
from .door import refusal
from .live import Live
from .multipart import Form, read_form
from .parameters import check_create, check_expiry
from .refusals import Refused, bad_type, bad_value, missing, out_of_range
from .setting import Setting
from .validation import ENDPOINTS, Validation

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
FIRST_LINE = 1_000_000


class Described(Protocol):
    """Be a file or a batch."""

    id: str
    created_at: float

    def describe(self) -> dict[str, Any]:
        """Give what the server says of it."""
        ...


@dataclass(frozen=True)
class Lags:
    """Give the seconds for which what is new is not seen: in listings, by a batch's id, by the creation of a batch."""

    listing: float = 0.0
    creation: float = 0.0
    file: float = 0.0


@dataclass
class Server:
    """Answer requests from an account; `start` is called with each batch created, and its file's validation if done."""

    account: Account
    setting: Setting
    start: Callable[[Batch, Validation | None], None]
    live: Live
    lags: Lags
    max_file_bytes: int
    max_body_bytes: int

    def app(self) -> Starlette:
        """Give the application."""
        routes = [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.list_files, methods=["GET"]),
            Route("/v1/files/{id}", self.get_file, methods=["GET"]),
            Route("/v1/files/{id}", self.delete_file, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content, methods=["GET"]),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.list_batches, methods=["GET"]),
            Route("/v1/batches/{id}", self.get_batch, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/models", self.list_models, methods=["GET"]),
            *(Route(endpoint, self.live.answer, methods=["POST"]) for endpoint in ENDPOINTS),
        ]
        return Starlette(routes=routes, exception_handlers={Refused: _on_error, HTTPException: _on_error})

    @property
    def _now(self) -> float:
        return self.setting.clock()

    async def upload(self, request: Request) -> Response:
        """Keep an uploaded file; one for batches must look like JSONL."""
        content = self.setting.store.create()
        try:
            kind = request.headers.get("content-type", "")
            form = await read_form(kind, request.stream(), content, self.max_file_bytes)
            purpose, expires_after = _check_form(form)
            if purpose == "batch":
                _check_first_line(form)
        except BaseException:
            content.discard()
            raise
        name = form.filename or "upload"
        file = self.account.add_file(
            content, filename=name, purpose=purpose, now=self._now, expires_after=expires_after
        )
        self.setting.notes.uploaded(file)
        return _json(file.describe())

    async def list_files(self, request: Request) -> Response:
        """List files by page, the newest first unless asked otherwise."""
        query = request.query_params
        purpose, order = query.get("purpose"), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad_value("order", order, "'asc', 'desc'")
        files = [file for file in self.account.list_files(self._now) if purpose in (None, file.purpose)]
        return self._page(request, files if order == "asc" else files[::-1], 10_000, 10_000)

    async def get_file(self, request: Request) -> Response:
        """Describe a file."""
        return _json(self._file(request).describe())

    async def delete_file(self, request: Request) -> Response:
        """Delete a file."""
        file_id = request.path_params["id"]
        self.account.delete_file(file_id, self._now)
        return _json({"id": file_id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        """Stream the bytes of a file."""
        content = self._file(request).content

        async def blocks() -> AsyncIterator[bytes]:
            for block in content.blocks():
                yield block

        headers = {"content-length": str(content.size)}
        return StreamingResponse(blocks(), media_type="application/octet-stream", headers=headers)

    async def create(self, request: Request) -> Response:
        """Create a batch; its content is judged later, but for its tokens where those are refused at creation."""
        body = await read_json(request.stream(), self.max_body_bytes)
        check_create(body)
        self._check_account(body["input_file_id"])
        validation = None
        if self.setting.refuse_at == "creation":
            validation = await validate(body["input_file_id"], body["endpoint"], self.setting)
        batch = self.account.create(body, self._now, validation)
        self.start(batch, validation)
        return _json(batch.describe())

    async def list_batches(self, request: Request) -> Response:
        """List batches by page, the newest first."""
        return self._page(request, list(self.account.batches.values())[::-1], 20, 100)

    async def get_batch(self, request: Request) -> Response:
        """Describe a batch."""
        batch = self.account.batch(request.path_params["id"])
        if self._now < batch.created_at + self.lags.creation:
            raise no_batch(batch.id)
        return _json(batch.describe())

    async def cancel(self, request: Request) -> Response:
        """Begin to cancel a batch."""
        batch = self.account.cancel(request.path_params["id"], self._now)
        scope = self.setting.scopes.get(batch.id)
        if scope is not None and batch.status == "cancelling":
            scope.cancel()
        return _json(batch.describe())

    async def list_models(self, _request: Request) -> Response:
        """List the supported models, or where all are, those that batches have named."""
        seen = {batch.model for batch in self.account.batches.values() if batch.model is not None}
        names = sorted(seen if self.setting.models is None else self.setting.models)
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "emulator"} for name in names]
        return _json({"object": "list", "data": models})

    def _check_account(self, file_id: str) -> None:
        if self.setting.billing_limit_reached:
            raise Refused(400, "Billing hard limit has been reached.", code="billing_hard_limit_reached")
        file = self.account.files.get(file_id)
        if file is not None and self._now < file.created_at + self.lags.file:
            message = f"Cannot find file {file_id}, or project proj_emulated does not have access to it."
            raise Refused(400, message, param="input_file_id")

    def _file(self, request: Request) -> File:
        return self.account.file(request.path_params["id"], self._now)

    def _page(self, request: Request, entries: Sequence[Described], default: int, most: int) -> Response:
        limit, after = _limit(request, default, most), request.query_params.get("after")
        ids = [entry.id for entry in entries]
        if after is not None and after not in ids:
            raise Refused(404, f"No object found with id '{after}'.", param="after")
        start = 0 if after is None else ids.index(after) + 1
        newest = self._now - self.lags.listing
        listed = [entry for entry in entries[start:] if entry.created_at <= newest]
        shown = listed[:limit]
        return _json(
            {
                "object": "list",
                "data": [entry.describe() for entry in shown],
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": limit < len(listed),
            }
        )


def _check_form(form: Form) -> tuple[str, int | None]:
    if form.filename is None:
        raise missing("file")
    purpose = form.fields.get("purpose")
    if not purpose:
        raise missing("purpose")
    if purpose not in PURPOSES:
        raise bad_value("purpose", purpose, ", ".join(f"'{name}'" for name in PURPOSES))
    anchor, seconds = form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return purpose, None
    given: object = int(seconds) if seconds is not None and seconds.isdecimal() and len(seconds) < 20 else seconds
    expires = {"anchor": anchor, "seconds": given}
    check_expiry("expires_after", expires)
    return purpose, int(seconds or 0)


def _check_first_line(form: Form) -> None:
    """Refuse a file that is no JSONL at sight; a byte order mark is found later, at validation."""
    with form.content.reading() as read:
        start = read(0, FIRST_LINE)
    line, feed, _ = start.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    good = (form.filename or "").endswith(".jsonl")
    if good and (feed or len(start) < FIRST_LINE):
        try:
            msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            good = False
    if not good:
        raise Refused(400, "Invalid file format for Batch API. Must be .jsonl")


def _limit(request: Request, default: int, most: int) -> int:
    text = request.query_params.get("limit")
    if text is None:
        return default
    try:
        limit = int(text)
    except ValueError:
        raise bad_type("limit", "an integer", text) from None
    if not 1 <= limit <= most:
        raise out_of_range("limit", limit, 1, most)
    return limit


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _read_out(request: Request) -> None:
    """Read a request to its end before it is refused: else the connection breaks, often before the reply is read."""
    with suppress(ClientDisconnect):
        async for _ in request.stream():
            pass


async def _on_error(request: Request, exc: Exception) -> Response:
    match exc:
        case Refused():
            return refusal(exc)
        case HTTPException(status_code=405):
            await _read_out(request)
            message = f"Not allowed to {request.method} on {request.url.path}."
            return refusal(Refused(405, message, code="method_not_supported"))
        case _:
            await _read_out(request)
            return refusal(Refused(404, f"Invalid URL ({request.method} {request.url.path})", code="unknown_url"))

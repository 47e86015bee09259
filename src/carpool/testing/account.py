"""The files and batches of one account: pure state, and time is an argument (seconds since the epoch)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .ledger import Ledger
from .parameters import check_create
from .refusals import Refused
from .rows import Usage
from .store import Content
from .validation import Found, Validation, problem

DAY = 86_400
LIFE = 30 * DAY
TERMINAL = frozenset({"failed", "completed", "expired", "cancelled"})

_NEXT = {
    "validating": {"failed", "in_progress", "cancelling", "expired"},
    "in_progress": {"finalizing", "cancelling", "expired"},
    "finalizing": {"completed", "cancelling", "expired"},
    "cancelling": {"cancelled"},
}
_STAMPS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@dataclass
class File:
    """Hold one file and when it goes by itself; `expires_after` is the life that was asked for it."""

    id: str
    filename: str
    purpose: str
    created_at: float
    expires_at: float | None
    expires_after: int | None
    content: Content

    def describe(self) -> dict[str, Any]:
        """Give the file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.content.size,
            "created_at": int(self.created_at),
            "expires_at": None if self.expires_at is None else int(self.expires_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass
class Batch:
    """Hold one batch; `errors` are those of its validation, `tokens` the prompt tokens it counts in the queue.

    `tells_usage` False leaves the usage out of the batch object.
    """

    id: str
    number: int
    endpoint: str
    input_file_id: str
    created_at: float
    window: float
    metadata: dict[str, str] | None
    output_expires_after: int | None
    status: str = "validating"
    model: str | None = None
    errors: list[Found] = field(default_factory=list)
    tokens: int = 0
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)
    tells_usage: bool = True
    output_file_id: str | None = None
    error_file_id: str | None = None
    stamps: dict[str, int] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Give the batch object."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_at),
            "expires_at": int(self.created_at + self.window),
            **{f"{status}_at": self.stamps.get(status) for status in _STAMPS},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": self.usage.describe() if self.tells_usage else None,
            "metadata": self.metadata,
        }


class Account:
    """Hold the files and batches of one account, and allow only what the API allows.

    Raises Refused with the API's own status and error object. An expired file is as good as deleted. `usage` False
    leaves the usage out of the batch objects: those made before September 2025 have none (contracts A4).
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        window: float = DAY,
        organization: str = "org-emulated",
        seed: int = 0,
        usage: bool = True,
    ) -> None:
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self.ledger: Ledger = ledger or Ledger(organization=organization)
        self._window = window
        self._organization = organization
        self._seed = seed
        self._usage = usage
        self._made = 0

    def _new_id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}{self._seed:04x}{self._made:08x}"

    def add_file(
        self, content: Content, *, filename: str, purpose: str, now: float, expires_after: int | None = None
    ) -> File:
        """Keep a file; `expires_after` is in seconds, None for the default of its purpose."""
        life = LIFE if expires_after is None and purpose in ("batch", "batch_output") else expires_after
        expires_at = None if life is None else now + life
        file = File(self._new_id("file-"), filename, purpose, now, expires_at, expires_after, content)
        self.files[file.id] = file
        return file

    def file(self, file_id: str, now: float) -> File:
        """Find a file."""
        self._expire_files(now)
        if file_id not in self.files:
            raise Refused(404, f"No such File object: {file_id}", param="id")
        return self.files[file_id]

    def delete_file(self, file_id: str, now: float) -> None:
        """Delete a file and its bytes."""
        self.file(file_id, now).content.discard()
        del self.files[file_id]

    def list_files(self, now: float) -> list[File]:
        """Give every file, oldest first."""
        self._expire_files(now)
        return list(self.files.values())

    def _expire_files(self, now: float) -> None:
        for file in [file for file in self.files.values() if file.expires_at is not None and file.expires_at <= now]:
            file.content.discard()
            del self.files[file.id]

    def create(self, body: Mapping[str, Any], now: float, validation: Validation | None = None) -> Batch:
        """Create a batch from the body of the request; what is wrong with its file comes out later, at validation.

        A validation given already decides at once whether there is room in the queue: a 429 where there is none.
        """
        check_create(body)
        expires = body.get("output_expires_after")
        batch = Batch(
            id=self._new_id("batch_"),
            number=len(self.batches) + 1,
            endpoint=body["endpoint"],
            input_file_id=body["input_file_id"],
            created_at=now,
            window=self._window,
            metadata=body.get("metadata"),
            output_expires_after=None if expires is None else expires["seconds"],
            tells_usage=self._usage,
        )
        refusal = None if validation is None else self._reserve(batch, validation, now)
        if refusal is not None:
            raise Refused(429, refusal, kind="tokens", code="token_limit_exceeded")
        self.batches[batch.id] = batch
        return batch

    def batch(self, batch_id: str) -> Batch:
        """Find a batch."""
        if batch_id not in self.batches:
            raise no_batch(batch_id)
        return self.batches[batch_id]

    def cancel(self, batch_id: str, now: float) -> Batch:
        """Begin to cancel a batch; a batch that is being cancelled, or was, stays as it is."""
        batch = self.batch(batch_id)
        if batch.status in ("completed", "failed", "expired"):
            raise Refused(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status not in ("cancelling", "cancelled"):
            self.advance(batch, "cancelling", now)
        return batch

    def admit(self, batch: Batch, validation: Validation, now: float) -> bool:
        """Decide over a validated batch: it runs, or it fails with what was found or for want of room in the queue."""
        errors = list(validation.errors)
        refusal = self._reserve(batch, validation, now)
        if refusal is not None:
            errors.append(problem("token_limit_exceeded", refusal))
        if errors:
            self.fail(batch, errors, now)
            return False
        batch.model = validation.model
        batch.tokens = validation.tokens
        batch.total = len(validation.starts)
        self.advance(batch, "in_progress", now)
        return True

    def _reserve(self, batch: Batch, validation: Validation, now: float) -> str | None:
        if validation.errors or validation.model is None:
            return None
        return self.ledger.reserve(batch.id, validation.model, validation.tokens, now)

    def fail(self, batch: Batch, errors: Iterable[Found], now: float) -> None:
        """End a batch at its validation."""
        batch.errors = list(errors)
        self.advance(batch, "failed", now)

    def fail_without_file(self, batch: Batch, now: float) -> None:
        """End a batch whose input file is not there."""
        message = (
            f"Cannot find file {batch.input_file_id}, or organization {self._organization} does not have access to it."
        )
        self.fail(batch, [problem("invalid_request", message, param="file_id")], now)

    def settle(self, batch: Batch, succeeded: bool, usage: Usage | None) -> None:
        """Count a row that ran."""
        if succeeded:
            batch.completed += 1
        else:
            batch.failed += 1
        if usage is not None:
            batch.usage.add(usage)

    def attach(self, batch: Batch, output: Content, errors: Content, now: float) -> None:
        """Give a batch its files: none where there is no row for it."""
        batch.output_file_id = self._attached(batch, output, "output", now)
        batch.error_file_id = self._attached(batch, errors, "error", now)

    def _attached(self, batch: Batch, content: Content, kind: str, now: float) -> str | None:
        content.seal()
        if not content.size:
            content.discard()
            return None
        filename, life = f"{batch.id}_{kind}.jsonl", batch.output_expires_after
        file = self.add_file(content, filename=filename, purpose="batch_output", now=now, expires_after=life)
        return file.id

    def advance(self, batch: Batch, status: str, now: float) -> None:
        """Move a batch to its next status, and release its tokens at its end; an illegal step is a KeyError."""
        if status not in _NEXT[batch.status]:
            raise KeyError(f"{batch.status} -> {status}")
        batch.status = status
        batch.stamps[status] = int(now)
        if status in TERMINAL:
            self.ledger.release(batch.id, now)


def no_batch(batch_id: str) -> Refused:
    """Refuse an id that no batch has."""
    return Refused(404, f"No batch found with id '{batch_id}'.")

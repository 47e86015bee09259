"""The exceptions of carpool, one tree.

CarpoolError
├── RequestFailed            this request was not answered
│   ├── RequestRejected      the provider refused it (4xx), or the batch's validation did
│   ├── RequestExpired       the completion window, or its own timeout, ended first
│   ├── RequestCancelled     it was cancelled by Pool.cancel, or its batches were from elsewhere
│   └── ResultMissing        its batch ended and no file mentions it
├── OutputInvalid            the answer is there, and is not what it was to be
├── Unbatchable              this request cannot travel in a batch; nothing was sent
├── LimitExceeded            one request is larger than a whole file or the whole queue limit
├── BudgetExceeded           what may be spent is spent
├── PoolFull                 as many calls are under way as may be
├── AuthenticationFailed     the provider refused the key
├── PoolClosed               the pool ended before the answer came, or was not open yet
├── JournalError             the disk refused
└── ConfigurationError       a setting is wrong
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from .models import Attempt, Response

Reason: TypeAlias = Literal["refused", "truncated", "filtered", "missing", "invalid"]


class CarpoolError(Exception):
    """Stand for anything that carpool raises."""


class RequestFailed(CarpoolError):
    """Say that one request was accepted and could not be answered.

    `status_code` is the row's HTTP status, None where the provider gave none; `code` and `message` are the
    provider's own, `body` its whole reply, b"" without one; `batch_id` is None when no batch was created. `attempts`
    tells of each time that it failed, the last one included; it is empty where nothing was sent.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        custom_id: str | None = None,
        batch_id: str | None = None,
        request_id: str | None = None,
        body: bytes = b"",
        attempts: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.custom_id = custom_id
        self.batch_id = batch_id
        self.request_id = request_id
        self.body = body
        self.attempts: tuple[Attempt, ...] = tuple(attempts)

    def __str__(self) -> str:
        known: dict[str, Any] = {
            "status": self.status_code,
            "code": self.code,
            "request": self.custom_id,
            "batch": self.batch_id,
            "attempt": len(self.attempts) if len(self.attempts) > 1 else None,
        }
        where = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
        return f"{self.message} ({where})" if where else self.message


class RequestRejected(RequestFailed):
    """Say that the provider refused the request itself: sending it again would be refused again."""


class RequestExpired(RequestFailed):
    """Say that the completion window, or the call's own timeout, ended before the answer came.

    In the first case it was not billed (OpenAI's guide "Batch API"). In the second it is, where it was packed into a
    batch, which runs on.
    """


class RequestCancelled(RequestFailed):
    """Say that the request was cancelled by `Pool.cancel`, or its batches from elsewhere before it ran.

    After `Pool.cancel` it is not sent again. One whose batch was cancelled by hand, or by the provider, is, until it
    has failed `Retry.max_attempts` times. What a batch did not come to was not billed (OpenAI's guide "Batch API"); a
    live call may have been.
    """


class ResultMissing(RequestFailed):
    """Say that the batch ended and neither of its files mentions the request."""


class OutputInvalid(CarpoolError):
    """Say that an answer, which is kept as `response`, is not what it was to be.

    `reason` is "refused" (by the model), "truncated" (it came to the end of its output tokens), "filtered" (by the
    provider), "missing" (there is no text, or no vectors, in it) or "invalid" (what is there does not fit).
    """

    def __init__(self, message: str, response: Response, reason: Reason) -> None:
        super().__init__(message, response, reason)  # all of them, so that it can be pickled and copied
        self.message = message
        self.response = response
        self.reason = reason

    def __str__(self) -> str:
        known = {"request": self.response.custom_id, "batch": self.response.batch_id}
        where = ", ".join(f"{name} {value}" for name, value in known.items() if value)
        return f"{self.message} ({where})" if where else self.message


class Unbatchable(CarpoolError):
    """Say that a request cannot travel in a batch, and what to change; nothing was sent.

    `param` is the parameter that is in the way, None where it is not one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class LimitExceeded(CarpoolError):
    """Say that a single request is larger than a whole input file or the whole queue limit."""


class BudgetExceeded(CarpoolError):
    """Say that the pool's budget is spent, or that its account may spend no more."""


class PoolFull(CarpoolError):
    """Say that as many calls are under way as may be; this one was not taken, and may be made again later."""


class AuthenticationFailed(CarpoolError):
    """Say that the provider refused the API key (401 or 403)."""


class PoolClosed(CarpoolError):
    """Say that the pool is not open: not entered yet, or left before the answer came."""


class JournalError(CarpoolError):
    """Say that requests could not be kept on disk, and why."""


class ConfigurationError(CarpoolError):
    """Say that a setting is missing or wrong, and what to set."""

"""What a caller gets: the answer in a row, or the error that says what happened."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CarpoolError,
    ConfigurationError,
    JournalError,
    LimitExceeded,
    PoolClosed,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    ResultMissing,
)
from .models import OUT_OF_MONEY, Attempt, Failure, Request, Response, Row

_OF_REQUESTS: dict[str, type[RequestFailed]] = {
    "rejected": RequestRejected,
    "expired": RequestExpired,
    "cancelled": RequestCancelled,
    "missing": ResultMissing,
}
_OF_SETTINGS: dict[str, type[CarpoolError]] = {
    "auth": AuthenticationFailed,
    "address": ConfigurationError,
    "disk": JournalError,
    "full": LimitExceeded,
    "budget": BudgetExceeded,
    "closed": PoolClosed,
}
# The documented codes of rows without a response (contracts A7).
_OF_CODES: dict[str, type[RequestFailed]] = {"batch_expired": RequestExpired, "batch_cancelled": RequestCancelled}


class Outcome(msgspec.Struct, frozen=True):
    """Hold what came of one request of a stream, or of a submission: a `response`, or an `error`.

    `index` counts the requests of the stream from 0, in the order of its source; `request` is what the source gave,
    None where that is not kept. Of a submission `index` counts the outcomes given, `key` is what it was submitted
    under, and `custom_id` what `Pool.submit` gave.
    """

    index: int
    request: Request | Mapping[str, Any] | str | bytes | None
    response: Response | None
    error: CarpoolError | None
    key: str | None = None
    custom_id: str | None = None

    @property
    def ok(self) -> bool:
        """Tell whether there is a response."""
        return self.error is None

    def result(self) -> Response:
        """Give the response, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.response is not None  # noqa: S101 - it is one of the two
        return self.response

    def ack(self) -> None:
        """Say that somebody has taken care of it: that of a submission is not given again, a stream's never is."""


def response_of(row: Row, batch_id: str) -> Response:
    """Give the answer in a row that is `ok`."""
    return responses_of((row,), batch_id)[0]


def responses_of(rows: Iterable[Row], batch_id: str) -> list[Response]:
    """Give the answers in rows that are `ok`."""
    return [Response(row.custom_id, batch_id, row.request_id, row.status_code, row.body) for row in rows]


def error_of_row(row: Row, batch_id: str, attempts: Sequence[Attempt] = ()) -> CarpoolError:
    """Say why a row holds no answer, and how often it was tried."""
    if row.code in OUT_OF_MONEY:
        return BudgetExceeded(row.message)
    kind = _OF_CODES.get(row.code)
    if kind is None:
        kind = RequestRejected if 400 <= row.status_code < 500 and row.status_code not in (408, 429) else RequestFailed
    return kind(
        row.message or f"The provider answered with status {row.status_code}.",
        status_code=row.status_code or None,
        code=row.code or None,
        custom_id=row.custom_id or None,
        batch_id=batch_id or None,
        request_id=row.request_id or None,
        body=row.body if row.status_code else b"",
        attempts=attempts,
    )


def error_of_failure(
    failure: Failure, custom_id: str, batch_id: str | None, attempts: Sequence[Attempt] = ()
) -> CarpoolError:
    """Say why a request ended without a row."""
    other = _OF_SETTINGS.get(failure.kind)
    if other is not None:
        return other(failure.message)
    return _OF_REQUESTS.get(failure.kind, RequestFailed)(
        failure.message,
        status_code=failure.status_code,
        code=failure.code,
        custom_id=custom_id,
        batch_id=batch_id,
        attempts=attempts,
    )

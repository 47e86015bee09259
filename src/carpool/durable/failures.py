"""Why a submission has no answer, as it is kept."""

from array import array
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ..engine.commands import Fail, Settle
from ..engine.events import Unmet
from ..errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CarpoolError,
    ConfigurationError,
    JournalError,
    LimitExceeded,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    ResultMissing,
)
from ..models import Attempt
from ..outcomes import error_of_failure, error_of_row

_OF_REQUESTS: dict[str, type[RequestFailed]] = {
    kind.__name__: kind for kind in (RequestFailed, RequestRejected, RequestExpired, RequestCancelled, ResultMissing)
}
_OF_SETTINGS: dict[str, type[CarpoolError]] = {
    kind.__name__: kind
    for kind in (AuthenticationFailed, ConfigurationError, JournalError, LimitExceeded, BudgetExceeded)
}


class _Kept(msgspec.Struct, array_like=True, gc=False):
    kind: str
    message: str
    status_code: int | None = None
    code: str | None = None
    batch_id: str | None = None
    attempts: tuple[Attempt, ...] = ()  # those kept earlier have none


_HISTORIES = 500  # of rows that fail together, are kept: some milliseconds

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


def pack(error: CarpoolError) -> bytes:
    """Pack an error: its kind, message, status, code, batch and attempts."""
    kind = type(error).__name__
    if isinstance(error, RequestFailed):
        return _encode(_Kept(kind, error.message, error.status_code, error.code, error.batch_id, error.attempts))
    return _encode(_Kept(kind, str(error)))


def unpack(packed: bytes, custom_id: str) -> CarpoolError:
    """Give an error, of the request of this custom_id."""
    kept = _decode(packed)
    kind = _OF_REQUESTS.get(kept.kind)
    if kind is None:
        return _OF_SETTINGS.get(kept.kind, CarpoolError)(kept.message)
    return kind(
        kept.message,
        status_code=kept.status_code,
        code=kept.code,
        custom_id=custom_id,
        batch_id=kept.batch_id,
        attempts=kept.attempts,
    )


def unmet_by(command: Fail | Settle, close: Callable[[Iterable[int]], Sequence[int]]) -> list[Unmet]:
    """Give the facts of the submissions that a command ends without an answer; `close` says which rows are theirs."""
    if isinstance(command, Fail):
        parted = _by_attempts(command, close(command.numbers))
        return [
            _unmet(rows, error_of_failure(command.failure, "", command.batch_id, attempts))
            for attempts, rows in parted.items()
        ]
    failed = [(number, row) for number, row in zip(command.numbers, command.rows, strict=True) if not row.ok]
    closed = frozenset(close([number for number, _ in failed])) if failed else frozenset[int]()
    alike: dict[bytes, list[int]] = {}
    for number, row in failed:
        if number in closed:
            attempts = command.attempts.get(number, ()) if len(alike) < _HISTORIES else ()
            error = error_of_row(row, command.batch_id, attempts)
            alike.setdefault(pack(error), []).append(number)
    return [Unmet(array("Q", rows), packed) for packed, rows in alike.items()]


def _by_attempts(command: Fail, rows: Iterable[int]) -> dict[tuple[Attempt, ...], list[int]]:
    """Part rows by what became of them each time: tens of thousands fail together, and most of them alike.

    Where they do not, as messages quote an id each, the first histories are kept: it is one step of the event loop.
    """
    parted: dict[tuple[Attempt, ...], list[int]] = {}
    for row in rows:
        attempts = command.attempts.get(row, ())
        kept = attempts in parted or len(parted) < _HISTORIES
        parted.setdefault(attempts if kept else (), []).append(row)
    return parted


def _unmet(rows: Iterable[int], error: CarpoolError) -> Unmet:
    return Unmet(array("Q", rows), pack(error))

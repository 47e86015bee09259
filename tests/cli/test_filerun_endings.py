"""What may be mended by another try ends a run with 3, and what cannot be used with 2."""

import errno
import os
import sqlite3

import pytest

from carpool.cli.filerun.endings import Refused, Stopped, ending_of, unwritable
from carpool.errors import AuthenticationFailed, CarpoolError, ConfigurationError, JournalError
from carpool.models import CallFailed, Failure


def caused(cause: BaseException) -> JournalError:
    error = JournalError("The journal cannot be used.")
    error.__cause__ = cause
    return error


def of_sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("odd")
    error.sqlite_errorcode = code
    return error


def of_disk(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    "error",
    [
        caused(of_disk(errno.ENOSPC)),
        caused(of_disk(errno.EDQUOT)),
        caused(of_sqlite(sqlite3.SQLITE_FULL)),
        caused(of_sqlite(sqlite3.SQLITE_IOERR_WRITE)),
        caused(of_sqlite(sqlite3.SQLITE_BUSY)),
        caused(CallFailed(Failure("busy", "Nobody is there."))),
    ],
)
def test_what_may_be_another_time_stops_a_run(error: CarpoolError) -> None:
    assert isinstance(ending_of(error), Stopped)


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("No."),
        JournalError("It belongs to another account."),
        caused(of_disk(errno.EACCES)),
        caused(of_sqlite(sqlite3.SQLITE_CORRUPT)),
        caused(sqlite3.DatabaseError("odd")),
        caused(ValueError("odd")),
    ],
)
def test_what_will_not_be_is_refused(error: CarpoolError) -> None:
    assert isinstance(ending_of(error), Refused)


def test_a_key_that_is_refused_is_not_shown() -> None:
    ending = ending_of(AuthenticationFailed("Incorrect API key provided: sk-abc*def."))
    assert isinstance(ending, Stopped)
    assert "OPENAI_API_KEY" in str(ending)
    assert "abc" not in str(ending)


def test_an_output_that_cannot_be_written_is_refused_and_stops_where_room_is_missing() -> None:
    assert isinstance(unwritable("OUTPUT out", of_disk(errno.ENOTDIR)), Refused)
    assert isinstance(unwritable("OUTPUT out", of_disk(errno.ENOSPC)), Stopped)

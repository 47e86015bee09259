"""How a run ends before its end."""

import errno
import re

from ...errors import AuthenticationFailed, CarpoolError
from ...models import CallFailed

_KEY = re.compile(r"\bsk-\S+")
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_PASSING_OF_SQLITE = frozenset({5, 10, 13})  # SQLITE_BUSY, SQLITE_IOERR, SQLITE_FULL


class Refused(Exception):
    """Say why INPUT, OUTPUT or an option cannot be used as they are."""


class Stopped(Exception):
    """Say what happened, after which the same command goes on."""


def why(error: CarpoolError) -> str:
    """Say what ended a run, without the key, of which a provider's refusal quotes parts."""
    said = str(error)
    if isinstance(error, AuthenticationFailed):
        said = f"The provider refuses what OPENAI_API_KEY holds: {_KEY.sub('...', said)}"
    return said if said.endswith(".") else f"{said}."


def ending_of(error: CarpoolError) -> Refused | Stopped:
    """Tell which it is where a pool cannot be opened: what may be another time stops a run, all else is refused."""
    passes = isinstance(error, AuthenticationFailed) or _passes(error.__cause__)
    return Stopped(why(error)) if passes else Refused(str(error))


def unwritable(name: str, error: OSError) -> Refused | Stopped:
    """Tell which it is where a file cannot be written."""
    return (Stopped if _passes(error) else Refused)(f"{name} cannot be written: {error.strerror}.")


def _passes(cause: BaseException | None) -> bool:
    if isinstance(cause, OSError):
        return cause.errno in _PASSING
    code = getattr(cause, "sqlite_errorcode", 0)
    return isinstance(cause, CallFailed) or code & 0xFF in _PASSING_OF_SQLITE

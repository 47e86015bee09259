"""The command `carpool`."""

import logging
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command; exits with 2 where the extra that it needs is not installed."""
    try:
        _load()
    except KeyboardInterrupt:  # nothing has begun
        sys.exit(130)
    from .app import app
    from .ending import ended
    from .saying import give_up_what_is_unsaid

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names and models have characters of all sorts
    warnings = logging.StreamHandler()
    warnings.setLevel(logging.WARNING)
    log = logging.getLogger("carpool")
    log.addHandler(warnings)  # the library is quiet where nobody says where records go; a command has a user
    try:
        app(prog_name="carpool")
    except OSError as exc:  # what concerns files is told where they are read and written
        what = exc.filename or "the standard output cannot be written"
        sys.exit(ended(1, f"{what}: {exc.strerror}").exit_code)
    finally:
        log.removeHandler(warnings)
        give_up_what_is_unsaid()


def _load() -> None:
    try:
        import typer  # noqa: F401 - asked for here, so that a missing extra is one sentence and no traceback
    except ModuleNotFoundError:
        sys.stderr.write("carpool: the command needs typer: install carpool with its extra cli\n")
        sys.exit(2)
    from . import app  # noqa: F401 - it takes a moment, in which somebody may change their mind

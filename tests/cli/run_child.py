"""The command as a program, which does not linger: a process to be stopped."""

import os
import resource
import ssl

import httpcore2  # noqa: F401 - a run imports these when it needs them: here once for all that are forked
import uvloop  # noqa: F401
from typer.testing import CliRunner

from carpool import config
from carpool.cli.app import app
from carpool.cli.filerun import output
from carpool.pytest_plugin import AT_ONCE

CliRunner().invoke(app, ["run", os.devnull])  # so are those that the options need


def main(arguments: list[str], environment: dict[str, str], stdin: str, stderr: str, room: int | None) -> None:
    """Run it in a process that was forked for that; files may grow to `room` bytes, as on a disk that is full."""
    os.environ.update(environment)
    for path, flags, number in ((stdin, os.O_RDONLY, 0), (os.devnull, os.O_WRONLY, 1), (stderr, os.O_WRONLY, 2)):
        os.dup2(os.open(path, flags), number)
    config.DEFAULT_TIMING = AT_ONCE
    output.PAUSE = 0.1
    ssl.create_default_context = lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is encrypted
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    app(["run", *arguments], prog_name="carpool")

"""However a run ends, its exit code is true: 1 says that all rows are in OUTPUT."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from run_kit import KEY, answer, read, rows_of, run, write

from carpool import config
from carpool.cli import run as command
from carpool.pytest_plugin import AT_ONCE
from carpool.testing import Emulator


@pytest.fixture(autouse=True)
def _environment(no_environment: None, no_certificates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(config, "DEFAULT_TIMING", AT_ONCE)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(answer=answer) as served:
        yield served


class Broken(io.StringIO):
    """Refuse whatever is written, as a full disk does."""

    def write(self, text: str) -> int:
        """Refuse it."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def code_of(*arguments: Any, **options: Any) -> int:
    """Call the command, with the standard streams as they are."""
    with pytest.raises(typer.Exit) as ended:
        command.run(*arguments, **options)
    return ended.value.exit_code


@pytest.mark.parametrize("stream", [Broken(), None], ids=["full", "closed"])
@pytest.mark.parametrize("json_events", [False, True])
def test_a_run_that_nobody_can_hear_goes_on(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Broken | None, json_events: bool
) -> None:
    source, out = write(tmp_path / "in.jsonl", [b"bad", *rows_of(8), b"bad"]), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert code_of(str(source), out, base_url=emulator.url, json_events=json_events) == 1
        assert code_of(str(source), out / "out") == 2
    assert [row["error"] is None for row in read(out)] == [False, *[True] * 8, False]


def test_a_summary_that_cannot_be_written_is_told_by_the_exit_code(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(write(tmp_path / "in.jsonl", rows_of(2))), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken())
        assert code_of(source, out, base_url=emulator.url, as_json=True) == 3
        assert code_of(source, dry_run=True) == 3
        assert code_of(source, out) == 0  # nothing is written there
    assert f"the standard output cannot be written: {os.strerror(errno.ENOSPC)}" in capsys.readouterr().err
    assert len(read(out)) == 2


def test_the_interpreter_has_no_exit_code_of_its_own_for_what_could_not_be_said(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [b"bad", *rows_of(1)])
    reading, writing = os.pipe()
    os.close(reading)
    try:
        program = "from carpool.cli import main; main()"
        given = [sys.executable, "-c", program, "run", str(source), "--dry-run"]
        done = subprocess.run(given, check=False, timeout=60, stdout=subprocess.PIPE, stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert b"1 request," in done.stdout


def _break(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError("odd"), 3), (KeyboardInterrupt(), 130)])
def test_what_nobody_foresaw_does_not_look_like_a_run_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    source = write(tmp_path / "in.jsonl", rows_of(1))
    monkeypatch.setattr(command, "run_file", lambda *_: _break(error))
    result = run(None, source, "-o", tmp_path / "out.jsonl")
    assert result.exit_code == code
    assert ("ZeroDivisionError('odd')" in result.stderr) is (code == 3)

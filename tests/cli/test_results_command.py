"""`carpool results`, by typer's runner against servers over loopback, and as a real process."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from account_kit import KEY, NOWHERE, POOL, Account, run, scripted
from typer.testing import CliRunner, Result

from carpool.cli import fetching, remote
from carpool.cli.app import app
from carpool.cli.downloads import downloads
from carpool.cli.fetching import Arrived, Expected, judge
from carpool.cli.landing import landing, problem_with
from carpool.cli.results import results
from carpool.testing import Emulator, Faults, Pace, Troubles
from carpool.wire import wire

CONTENT = "GET /v1/files/{id}/content"


@pytest.fixture(autouse=True)
def _environment(no_environment: None, no_certificates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(fetching, "_PAUSE", 0.001)
    monkeypatch.setattr(wire, "_PAUSE", 0.001)


@pytest.fixture
def account() -> Iterator[Account]:
    with Emulator(api_key=KEY, troubles=Troubles(failing={400: 0.3})) as emulator, Account(emulator) as served:
        yield served


def fetch(account: Account | str, *arguments: str) -> Result:
    return run(results, account if isinstance(account, str) else account.emulator, *arguments)


def contents(account: Account, batch_id: str) -> tuple[bytes, bytes]:
    """Give the output and the error file of a batch."""
    batch = account.batch(batch_id)
    return account.content(batch["output_file_id"]), account.content(batch["error_file_id"])


# --- what is fetched


def test_the_rows_of_both_files_come_byte_for_byte(account: Account, tmp_path: Path) -> None:
    batch_id = account.run(f"{POOL}-b1", 40)
    output, errors = contents(account, batch_id)
    target = tmp_path / "answers.jsonl"
    result = fetch(account, batch_id, "-o", str(target))
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_bytes() == output + errors
    counts = f"{output.count(10)} rows of output and {errors.count(10)} rows of error"
    assert re.fullmatch(rf"carpool: {counts}, [\d.]+ kB, in {target}\n", result.stderr)
    assert list(tmp_path.iterdir()) == [target]


def test_without_a_file_they_come_on_standard_output(account: Account) -> None:
    batch_id = account.run(None, 9)
    assert fetch(account, batch_id).stdout_bytes == b"".join(contents(account, batch_id))
    assert fetch(account, batch_id, "-o", "-").stdout_bytes == b"".join(contents(account, batch_id))


@pytest.mark.parametrize(("option", "which"), [("--output", 0), ("--errors", 1)])
def test_one_file_alone(account: Account, option: str, which: int) -> None:
    batch_id = account.run(None, 20)
    assert fetch(account, batch_id, option).stdout_bytes == contents(account, batch_id)[which]


def test_where_no_row_failed_there_are_no_error_rows() -> None:
    with Emulator(api_key=KEY) as emulator, Account(emulator) as account:
        batch_id = account.run()
        assert fetch(account, batch_id).stdout.count("\n") == 3
        result = fetch(account, batch_id, "--errors")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "carpool: no rows, 0 B\n")


def test_where_every_row_failed_there_are_error_rows_alone(tmp_path: Path) -> None:
    with Emulator(api_key=KEY, troubles=Troubles(failing={400: 1.0})) as emulator, Account(emulator) as account:
        batch_id = account.run()
        assert fetch(account, batch_id).stdout.count("\n") == 3
        assert fetch(account, batch_id, "--output", "-o", str(tmp_path / "none.jsonl")).exit_code == 0
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def test_what_a_cancelled_or_expired_batch_has_done_is_fetched() -> None:
    with Emulator(api_key=KEY, troubles=Troubles(expiring=1.0)) as emulator, Account(emulator) as account:
        batch_id = account.run(None, 10)
        rows = [json.loads(line) for line in fetch(account, batch_id).stdout.splitlines()]
    assert len(rows) == 10
    assert {row["error"]["code"] for row in rows if row["error"]} == {"batch_expired"}


def test_a_last_line_without_an_end_is_given_one() -> None:
    row = b'{"custom_id":"a","response":null,"error":{"code":"x"}}'
    files = {"output_file_id": "f1", "error_file_id": "f2"}
    answers = {"/batches/b": {"id": "b", "status": "completed", **files}, "/content": row}
    with scripted(answers) as url:
        assert fetch(url, "b").stdout_bytes == (row + b"\n") * 2


def test_line_breaks_of_unicode_are_no_ends_of_rows() -> None:
    row = '{"custom_id":"a","error":"\u2028\u2029\u0085"}\n'.encode()
    batch = {"id": "b", "status": "completed", "output_file_id": "f1", "request_counts": {"completed": 2}}
    with scripted({"/batches/b": batch, "/content": row * 2}) as url:
        result = fetch(url, "b")
    assert (result.exit_code, result.stdout_bytes) == (0, row * 2)


# --- whole or absent


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_ends_early_is_fetched_again(seed: int, tmp_path: Path) -> None:
    faults = Faults(truncated=0.5, cut=0.5, nth={1, 2, 4, 5}, only={CONTENT})
    emulator = Emulator(api_key=KEY, faults=faults, seed=seed, troubles=Troubles(failing={400: 0.3}))
    with emulator, Account(emulator) as account:
        batch_id = account.run(None, 300)
        result = fetch(account, batch_id, "-o", str(tmp_path / "a"))
        assert result.exit_code == 0
        assert (tmp_path / "a").read_bytes() == b"".join(contents(account, batch_id))


@pytest.mark.parametrize("faults", [Faults(truncated=1.0), Faults(cut=1.0), Faults(reset=1.0, only={CONTENT})])
@pytest.mark.parametrize("to_file", [True, False])
def test_what_always_ends_early_leaves_nothing(
    faults: Faults, to_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_REPEATS", 0)
    with Emulator(api_key=KEY, faults=faults, seed=5) as emulator, Account(emulator) as account:
        batch_id = account.run(None, 300)
        result = fetch(account, batch_id, *(["-o", str(tmp_path / "a")] if to_file else []))
        output = account.batch(batch_id)["output_file_id"]
    assert (result.exit_code, result.stdout, list(tmp_path.iterdir())) == (1, "", [])
    sentence = rf"carpool: The output file {output} of {batch_id} cannot be fetched whole from 127\.0\.0\.1:\d+, so "
    assert re.match(sentence + "nothing was written: ", result.stderr)
    assert result.stderr.count("\n") == 1


def test_rows_that_the_provider_lost_are_told_and_the_others_come(tmp_path: Path) -> None:
    with Emulator(api_key=KEY, troubles=Troubles(missing=0.2, torn=0.1)) as emulator, Account(emulator) as account:
        batch_id = account.run(None, 100)
        result = fetch(account, batch_id, "-o", str(tmp_path / "a"))
        output = account.content(account.batch(batch_id)["output_file_id"])
    assert result.exit_code == 3
    assert (tmp_path / "a").read_bytes() == output
    assert f"carpool: the output file holds {output.count(10)} rows, and the batch counts 100.\n" in result.stderr


def test_too_few_rows_of_nobody_knows_how_many_bytes_are_doubtful() -> None:
    batch = {"id": "b", "status": "completed", "output_file_id": "f1", "request_counts": {"completed": 2}}
    with scripted({"/batches/b": batch, "/content": b'{"custom_id":"a"}\n'}) as url:
        result = fetch(url, "b")
    assert (result.exit_code, result.stdout.count("\n")) == (3, 1)
    assert result.stderr.endswith(
        "holds 1 row, and the batch counts 2. Perhaps it ended early: the provider does not say how long it is.\n"
    )


@pytest.mark.parametrize(
    ("arrived", "expected", "verdict"),
    [
        (Arrived(10, 2), Expected(), "whole"),
        (Arrived(10, 2), Expected(10, 2), "whole"),
        (Arrived(10, 2), Expected(10), "whole"),
        (Arrived(10, 2), Expected(rows=2), "whole"),
        (Arrived(11, 3), Expected(10, 2), "whole"),
        (Arrived(0, 0), Expected(), "whole"),
        (Arrived(10, 2, torn=True), Expected(10), "whole"),  # so it stands there
        (Arrived(10, 2), Expected(12, 2), "whole"),  # what it says of its bytes is wrong
        (Arrived(10, 1), Expected(10, 2), "few rows"),
        (Arrived(10, 1), Expected(rows=2), "doubtful"),
        (Arrived(9, 2), Expected(10), "short"),
        (Arrived(9, 1), Expected(10, 2), "short"),
        (Arrived(9, 2, torn=True), Expected(10, 2), "short"),
        (Arrived(9, 2, torn=True), Expected(), "short"),
    ],
)
def test_whether_a_file_is_whole(arrived: Arrived, expected: Expected, verdict: str) -> None:
    assert judge(arrived, expected) == verdict


def test_a_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    row = b'{"custom_id":"a","response":{"status_code":200,"body":"' + b"x" * 10_000 + b'"},"error":null}\n'
    content = row * 3_000
    batch = {"id": "b", "status": "completed", "output_file_id": "f1"}
    with scripted({"/batches/b": batch, "/content": content}) as url:
        tracemalloc.start()
        try:
            assert fetch(url, "b", "-o", str(tmp_path / "a")).exit_code == 0
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "a").stat().st_size == len(content)
    assert peak < len(content) / 3


# --- where it goes


def test_a_file_that_exists_is_not_overwritten_and_nobody_is_asked(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("mine")
    result = fetch(NOWHERE, "b", "-o", str(target))
    assert (result.exit_code, result.stderr) == (
        2,
        f"carpool: {target} exists: name another file, or give --force to replace it.\n",
    )
    assert target.read_text() == "mine"


def test_with_force_it_is_replaced_and_keeps_its_mode(account: Account, tmp_path: Path) -> None:
    target, link = tmp_path / "a", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    batch_id = account.run()
    assert fetch(account, batch_id, "-o", str(link), "--force").exit_code == 0
    assert link.is_symlink()
    assert target.read_bytes() == b"".join(contents(account, batch_id))
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_mode_that_files_have(account: Account, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert fetch(account, account.run(), "-o", str(tmp_path / "a"), "--force").exit_code == 0
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_places_that_no_file_can_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    circle, astray = tmp_path / "circle", tmp_path / "astray"
    circle.symlink_to(circle)
    astray.symlink_to(tmp_path / "no" / "a")
    for path, force, words in (
        (tmp_path, True, "is a folder"),
        (tmp_path / "pipe", True, "is no ordinary file"),
        (Path("/dev/null"), True, "is no ordinary file"),
        (tmp_path / "no" / "a", False, "does not exist"),
        (tmp_path / ("x" * 300), False, "cannot be written"),
        (tmp_path / "pipe" / "a", False, "cannot be written: Not a directory"),
        (circle, False, "cannot be written: Too many levels of symbolic links"),
        (circle, True, "cannot be written: Too many levels of symbolic links"),
        (astray, False, f"The folder {tmp_path / 'no'} does not exist."),
    ):
        assert words in problem_with(path, force=force)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert problem_with(tmp_path / "a", force=False) == f"The folder {tmp_path} cannot be written to."
    assert fetch(NOWHERE, "b", "-o", str(tmp_path / "a")).exit_code == 2


def test_standard_output_may_be_named_as_a_file(account: Account, tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("before\n")
    command = [sys.executable, "-c", "from carpool.cli import main; main()", "results", batch_id := account.run()]
    options = ["--base-url", account.emulator.url, "-o", "/dev/stdout", "--force"]
    with target.open("ab") as file:
        subprocess.run([*command, *options], stdout=file, stderr=subprocess.DEVNULL, timeout=60, check=True)
    assert target.read_bytes() == b"before\n" + b"".join(contents(account, batch_id))


def test_a_file_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(FileExistsError), landing(target, force=False):
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("there", [True, False])
def test_where_there_are_no_hard_links_it_is_so_too(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    target = tmp_path / "a"
    if there:
        with pytest.raises(FileExistsError), landing(target, force=False) as file:
            target.write_bytes(b"theirs")
    else:
        with landing(target, force=False) as file:
            file.write(b"ours")
    assert target.read_bytes() == (b"theirs" if there else b"ours")
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_that_fails_otherwise_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(OSError, match="No space left"), landing(tmp_path / "a", force=False):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [10, 100])  # those that wait in the file's buffer, which is larger from Python 3.14 on
@pytest.mark.parametrize("to_file", [True, False])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    account: Account, to_file: bool, rows: int, tmp_path: Path
) -> None:
    batch_id = account.run(None, rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        result = fetch(account, batch_id, *(["-o", str(tmp_path / "a")] if to_file else []))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (result.exit_code, result.stdout, list(tmp_path.iterdir())) == (1, "", [])
    where = f"{tmp_path / 'a'} cannot be written" if to_file else "The rows cannot be kept in "
    assert result.stderr.startswith(f"carpool: {where}")
    assert result.stderr.endswith(": File too large.\n")


# macOS has none; a full disk itself is tested above, by a limit on the size of files.
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_standard_output_that_cannot_be_written_is_not_blamed_on_the_disk(account: Account) -> None:
    command = [sys.executable, "-c", "from carpool.cli import main; main()", "results", account.run()]
    with open("/dev/full", "wb") as full:
        url = ["--base-url", account.emulator.url]
        done = subprocess.run([*command, *url], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    said = "carpool: the standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


# --- batches that have no rows to fetch


def test_a_batch_that_is_not_over_says_how_it_stands() -> None:
    with Emulator(api_key=KEY, pace=Pace(running=3_600)) as emulator, Account(emulator) as account:
        batch_id = account.put()
        result = fetch(account, batch_id)
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        f"carpool: The batch {batch_id} is not over: it is in_progress, with 0/3 rows done. Its rows can be fetched "
        "when it has ended.\n",
    )


def test_an_output_file_that_is_named_from_the_beginning_is_no_end() -> None:
    with scripted({"/batches/b": {"id": "b", "status": "in_progress", "output_file_id": "f1"}}) as url:
        assert fetch(url, "b").stderr.startswith("carpool: The batch b is not over: it is in_progress. Its rows")


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"status": "failed"}, "The batch b failed at its validation, so no row ran: `carpool batches b` says why."),
        ({"status": "cancelled"}, "The batch b is cancelled and names no file: it left no rows."),
        ({"status": "completed", "error_file_id": ""}, "The batch b is completed and names no file: it left no rows."),
        (
            {"status": "completed", "error_file_id": "f", "request_counts": {"completed": 8, "failed": 1}},
            "The batch b has 8 rows of output and names no file with them: try again, or --errors alone.",
        ),
    ],
)
def test_a_batch_without_files_says_why(batch: dict[str, Any], words: str, tmp_path: Path) -> None:
    with scripted({"/batches/b": {"id": "b", **batch}}) as url:
        result = fetch(url, "b", "-o", str(tmp_path / "a"))
    assert (result.exit_code, result.stderr, list(tmp_path.iterdir())) == (1, f"carpool: {words}\n", [])


@pytest.mark.parametrize("key", [f"{POOL}-b1", None])
@pytest.mark.parametrize("kind", ["output", "error"])
def test_files_that_are_gone_are_told_and_where_their_rows_are(
    account: Account, kind: str, key: str | None, tmp_path: Path
) -> None:
    batch_id = account.run(key, 20)
    file_id = account.batch(batch_id)[f"{kind}_file_id"]
    account.http.delete(f"/files/{file_id}")
    result = fetch(account, batch_id, "-o", str(tmp_path / "a"))
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert result.stderr.startswith(
        f"carpool: The {kind} file {file_id} of {batch_id} is not at the provider any more: "
    )
    assert (f"in the folder of pool {POOL}" in result.stderr) == (key is not None)
    assert ("was deleted, or has expired" in result.stderr) == (key is None)
    other = "--errors" if kind == "output" else "--output"
    assert fetch(account, batch_id, other).exit_code == 0


# --- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["b", "--output", "--errors"], "carpool: --output and --errors exclude each other"),
        (["../.."], "carpool: '../..' is no id of a batch."),
        (["batch_\udcff"], r"carpool: 'batch_\udcff' is no id of a batch."),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_argument_is_told_and_nobody_is_asked(arguments: list[str], sentence: str) -> None:
    result = fetch(NOWHERE, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_an_unknown_batch_is_one_sentence(account: Account) -> None:
    result = fetch(account, "../files/file-1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"carpool: 127\.0\.0\.1:\d+ knows no batch \.\./files/file-1\.\n", result.stderr)


def test_ids_of_a_server_are_no_paths(tmp_path: Path) -> None:
    row = b'{"custom_id":"a"}\n'
    batch = {"id": "/etc/x", "status": "completed", "output_file_id": "../../../tmp/evil"}
    with scripted({"/batches/b": batch, "%2Fevil/content": row}) as url:
        assert fetch(url, "b", "-o", str(tmp_path / "a")).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_a_key_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert (fetch(NOWHERE, "b").exit_code, fetch(NOWHERE, "b").stderr) == (2, "carpool: OPENAI_API_KEY is not set.\n")


def test_a_key_that_may_not_read_files_is_told(tmp_path: Path) -> None:
    refused = {"error": {"message": "Missing scopes: api.files.read"}}
    batch = {"id": "b", "status": "completed", "output_file_id": "f1"}

    def refuse(connection: BaseHTTPRequestHandler) -> None:
        body = json.dumps(refused).encode()
        connection.send_response(403)
        connection.send_header("Content-Length", str(len(body)))
        connection.end_headers()
        connection.wfile.write(body)

    with scripted({"/batches/b": batch, "/content": refuse, "/files/f1": refuse}) as url:
        result = fetch(url, "b", "-o", str(tmp_path / "a"))
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert result.stderr.endswith("does not let this key do that: Missing scopes: api.files.read\n")


@pytest.fixture
def stalled() -> Iterator[tuple[str, threading.Event]]:
    """Serve a file whose second half never comes; the event is set when the first half is under way."""
    sent, over = threading.Event(), threading.Event()

    def stall(connection: BaseHTTPRequestHandler) -> None:
        connection.send_response(200)
        connection.send_header("Content-Length", "2000000")
        connection.end_headers()
        connection.wfile.write(b"x" * 1_500_000)
        connection.wfile.flush()
        sent.set()
        over.wait()

    batch = {"id": "b", "status": "completed", "output_file_id": "f1"}
    with scripted({"/batches/b": batch, "/content": stall}) as url:
        yield url, sent
        over.set()


def test_a_download_that_stalls_is_not_waited_for_for_ever(
    stalled: tuple[str, threading.Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_SILENCE", 0.1)
    result = fetch(stalled[0], "b", "-o", str(tmp_path / "a"))
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "cannot be fetched whole" in result.stderr
    assert "ReadTimeout" in result.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_stopped_leaves_no_file(
    stalled: tuple[str, threading.Event], ending: signal.Signals, tmp_path: Path
) -> None:
    url, sent = stalled
    command = [sys.executable, "-c", "from carpool.cli import main; main()", "results", "b", "--base-url", url]
    with subprocess.Popen([*command, "-o", str(tmp_path / "a")], stderr=subprocess.PIPE, text=True) as process:
        assert sent.wait(20)
        process.send_signal(ending)
        _, said = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert not (tmp_path / "a").exists()
    assert ending is signal.SIGTERM or not list(tmp_path.iterdir())


def test_whoever_reads_may_stop(account: Account) -> None:
    batch_id = account.run(None, 2_000)
    command = [sys.executable, "-c", "from carpool.cli import main; main()", "results", batch_id]
    url = ["--base-url", account.emulator.url]
    with subprocess.Popen([*command, *url], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"id":')
        process.stdout.close()
        said = process.stderr.read()
    assert b"Traceback" not in said
    assert b"Error" not in said


def test_progress_is_shown_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_on(begin: Callable[[str, int | None], Callable[[int], None]]) -> None:
        tick = begin("output file", 2_000_000)
        tick(1_000_000)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes no terminal of a file
    with downloads() as begin:
        go_on(begin)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("carpool.cli.downloads.is_terminal", lambda stream: True)
    with downloads() as begin:
        go_on(begin)
    assert "1.0/2.0 MB" in capsys.readouterr().err


def test_help_documents_options_and_exit_codes_and_takes_no_key() -> None:
    result = CliRunner().invoke(app, ["results", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("-o", "--output", "--errors", "--force", "--base-url"):
        assert option in result.output
    assert "Exit codes: 0; 1 where nothing was written" in result.output
    assert "--api-key" not in result.output

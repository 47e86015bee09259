"""`carpool status`: over folders that pools left, over one in use, on a terminal that is drawn again, and remotely."""

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx2
import pytest
from typer.testing import CliRunner, Result
from virtual import CHAT, EMBEDDINGS, Interrupted, Site, body, site

import carpool
from carpool.cli.app import app
from carpool.testing import Emulator, Pace

KEY = "sk-secret-0123456789"
SLOW = Pace(validating=5, running=60, finalizing=5)
PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)
RUN = [sys.executable, "-c", "from carpool.cli import main; main()", "status"]
OURS = f"process {os.getpid()} on {socket.gethostname()}"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture(autouse=True)
def _environment(no_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["status", *arguments])
    assert "Traceback" not in result.output
    assert KEY not in result.output
    return result


def told(*arguments: str) -> list[dict[str, Any]]:
    """Give what is told of each journal."""
    result = run("--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    assert content.keys() == {"at", "journals"}
    return list(content["journals"])


def fields(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def lines_of(*arguments: str) -> list[str]:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.rstrip() for line in result.stdout.splitlines()]


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


async def leave(at: Site, count: int, seconds: float, **settings: Any) -> None:
    """Ask for something, and leave by an exception after some seconds."""
    async with anyio.create_task_group() as tasks, at.interrupted(**settings) as w:
        tasks.start_soon(w.ask_all, texts(count))
        await anyio.sleep(seconds)


# --- what a folder tells


@pytest.mark.anyio
async def test_what_is_over_is_told_and_nothing_is_to_be_done(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.open() as w:
        await w.ask_all(texts(7))
        await w.pool.gather([{"model": "text-embedding-3-small", "input": "x"}], endpoint=EMBEDDINGS)
    head, *rest = lines_of()
    assert head == "journal"
    facts = dict(fields(line) for line in rest)
    assert facts.pop("on disk").endswith("kB")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts.pop("last answer"))
    assert facts == {
        "account": "http://emulator/v1",
        "open in": "no process",
        "requests": "8 known: 0 in flight, 0 waiting",
        "answered": "8, 8 of them delivered",
        "batches": "0 open, 2 done",
    }


@pytest.mark.anyio
async def test_what_runs_on_at_the_provider_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        await leave(at, 20, 30)
        (batch,) = at.emulator.books().batches
    lines = lines_of("journal")
    assert "20 known: 20 in flight, 0 waiting" in lines[3]
    start = next(number for number, line in enumerate(lines) if line.startswith("batch "))
    assert fields(lines[start]) == ["batch", "endpoint", "model", "rows", "stage", "since (UTC)", "for"]
    assert fields(lines[start + 1])[:5] == [batch.id, "chat/completions", "gpt-5-mini", "20", "created"]
    assert lines[start + 2 :] == [
        "",
        "Still at the provider: 20 requests in 1 batch, which run on, or are over. Start the same program again with "
        "this folder to be given their answers.",
    ]


@pytest.mark.anyio
async def test_what_waits_and_what_nobody_received_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        await leave(at, 2, 30)
        async with at.open() as w:  # it takes the batch over, and nobody awaits it
            await anyio.sleep(200)
            assert w.pool.stats().accepted == 0
        await leave(at, 5, 10, timing=PATIENT, reuse="never")
    (journal,) = told()
    assert journal["requests"] == {
        "known": 7, "answered": 2, "delivered": 0, "in_flight": 0, "live": 0, "waiting": 5
    }  # fmt: skip
    assert journal["advice"] == [
        "In no batch: 5 requests. They are sent when they are asked for again.",
        "Given to no caller: 2 answers. The same requests get them, for nothing.",
    ]


@pytest.mark.anyio
async def test_what_was_packed_and_may_not_be_created_is_told(tmp_path: Path) -> None:
    def refuse(request: httpx2.Request) -> None:
        if request.url.path == "/v1/batches":
            raise httpx2.ReadError("no reply")

    async with site(tmp_path, before=refuse) as at:
        await leave(at, 3, 5)
    (journal,) = told()
    (batch,) = journal["batches"]
    assert (batch["id"], batch["stage"], batch["rows"], batch["unanswered"]) == (None, "uploaded", 3, 3)
    assert re.fullmatch(r"[0-9a-f]{12}-b\d+", batch["client_key"])
    assert journal["advice"] == [
        "Packed, and not known to be created: 3 requests in 1 batch. The same program, started again, goes on with "
        "them."
    ]
    assert batch["client_key"] in run().stdout


@pytest.mark.anyio
async def test_what_was_sent_live_without_an_answer_is_told(tmp_path: Path) -> None:
    async def never(endpoint: str, given: dict[str, Any]) -> Any:
        await anyio.sleep(1_000)

    async with site(tmp_path, answer=never) as at:
        await leave(at, 2, 90, timing=PATIENT, timeout=100, escalate="live")
    (journal,) = told()
    assert (journal["requests"]["live"], journal["requests"]["waiting"]) == (2, 0)
    (advice,) = journal["advice"]
    assert advice.startswith("Sent live, and no answer is recorded: 2 requests.")
    assert "2 known: 0 in flight, 0 waiting, 2 sent live" in run().stdout


@pytest.mark.anyio
async def test_while_a_process_is_at_it_that_is_told_and_nothing_is_to_be_done(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        async with anyio.create_task_group() as tasks, at.open() as w:
            tasks.start_soon(w.ask_all, texts(20))
            await anyio.sleep(30)
            (journal,) = told()
            assert journal["processes"] == [{"name": OURS, "alive": True}]
            assert (journal["requests"]["in_flight"], journal["advice"]) == (20, [])
            assert fields(lines_of()[2]) == ["open in", OURS]
        assert len(w.answers()) == 20
    (journal,) = told()
    assert (journal["processes"], journal["requests"]["delivered"]) == ([], 20)


@pytest.mark.anyio
async def test_a_process_of_another_machine_may_be_alive(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at:
        await leave(at, 1, 30)
        (lock,) = at.folder.glob("shard-*.lock")
        lock.write_text("process 7 on else\x1bwhere")
    (journal,) = told()
    assert journal["processes"] == [{"name": "process 7 on else\x1bwhere", "alive": None}]
    assert journal["advice"][0] == (
        "Whether process 7 on else?where is alive cannot be seen from here; what follows holds where it is not."
    )
    assert "open in      process 7 on else?where, if it is alive" in lines_of()[2]


@pytest.mark.anyio
async def test_of_many_open_batches_the_oldest_are_shown_and_all_are_written_as_json(tmp_path: Path) -> None:
    async with site(tmp_path, pace=SLOW) as at, anyio.create_task_group() as tasks, at.interrupted() as w:
        for number in range(23):
            tasks.start_soon(_ask_of, w, f"model-{number:02}")
            await anyio.sleep(0.1)
        await anyio.sleep(3)
    lines = lines_of()
    assert [fields(line)[2] for line in lines if line.startswith("batch_")] == [f"model-{n:02}" for n in range(20)]
    assert "3 more: --json has them all." in lines
    assert len(told()[0]["batches"]) == 23


async def _ask_of(w: Any, model: str) -> None:
    with suppress(carpool.PoolClosed):
        await w.pool.request(CHAT, body(model=model))


# --- which folders


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Make a journal in which nothing ever was."""

    async def make() -> None:
        async with carpool.Pool(KEY, "http://127.0.0.1:9/v1", journal=tmp_path / "made"):
            pass

    anyio.run(make)
    return tmp_path / "made"


def folders(*arguments: str) -> list[str]:
    return [str(each["folder"]) for each in told(*arguments)]


def test_journals_are_found_in_the_folder_and_two_below(journal: Path, tmp_path: Path) -> None:
    for place in ("a/b", "c", "a/b/inner", "d/e/f"):
        shutil.copytree(journal, tmp_path / place)
    (tmp_path / "link").symlink_to(tmp_path / "d" / "e")
    assert folders() == ["a/b", "c", "made"]
    assert folders("d") == ["d/e/f"]
    assert folders("made", "a", "made") == ["made", "a/b"]
    os.chdir(journal)
    assert folders() == [str(journal)]
    assert [line for line in lines_of("..") if line.startswith("..")] == ["../a/b", "../c", "../made"]


def test_where_there_is_no_journal_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    assert lines_of() == ["There is no journal here, nor in the folders below."]
    assert told() == []
    for name, sentence in [
        ("thesis", "there is no journal in thesis, nor in the folders below it"),
        ("none", "none cannot be looked into: No such file or directory"),
    ]:
        result = run(name)
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"carpool: {sentence}\n")


def test_a_journal_that_cannot_be_read_is_told_among_the_others(journal: Path, tmp_path: Path) -> None:
    shutil.copytree(journal, tmp_path / "newer")
    with sqlite3.connect(tmp_path / "newer" / "journal.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.sqlite").write_text("no database" * 100)
    result = run()
    assert (result.exit_code, result.stderr) == (1, "carpool: 2 journals cannot be read\n")
    assert "account      http://127.0.0.1:9/v1" in result.stdout
    assert "newer/journal.sqlite was made by a newer carpool (version 9). Use that one." in result.stdout
    assert "torn/journal.sqlite cannot be read: it is no database" in result.stdout
    result = run("--json", "newer", "made")
    assert result.exit_code == 1
    newer, made = json.loads(result.stdout)["journals"]
    assert (newer["requests"], newer["batches"]) == (None, [])
    assert newer["problem"].endswith("Use that one.")
    assert (made["problem"], made["requests"]["known"]) == (None, 0)


def test_a_journal_of_another_user_is_told(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, whom rights do not keep out, becomes somebody else."""
    user = os.geteuid()
    with TemporaryDirectory(prefix="journal-", dir="/tmp") as open_to_all:
        os.chmod(open_to_all, 0o755)
        folder = Path(shutil.copytree(journal, Path(open_to_all, "theirs")))
        monkeypatch.chdir(open_to_all)
        (folder / "journal.sqlite").chmod(0)
        folder.chmod(0o711 if user == 0 else 0o311)
        if user == 0:
            os.seteuid(65_534)
        try:
            found, named = run(), run("theirs")
        finally:
            os.seteuid(user)
            folder.chmod(0o700)
    assert (found.exit_code, found.stderr) == (1, "carpool: 1 journal cannot be read\n")
    assert "theirs/journal.sqlite cannot be read: it cannot be opened. Is it yours to read?" in found.stdout
    assert (named.exit_code, named.stdout) == (2, "")
    assert named.stderr == "carpool: theirs cannot be looked into: Permission denied\n"


def test_a_journal_that_is_being_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "journal.sqlite").touch()
    lines = lines_of()
    assert lines[0] == "new"
    assert lines[-1] == "  It is empty, or is being made."
    assert told()[0]["requests"] is None


def test_a_narrow_terminal_shows_what_is_wide_below_each_other(journal: Path) -> None:
    with sqlite3.connect(journal / "journal.sqlite") as connection:
        lane = b"\x93\xa9/v1/a/b/c\xaagpt-5-mini\xc2"
        connection.execute(
            "INSERT INTO batch (number, lane, runs, packed_at) VALUES (7, ?, x'90', 1790000000)", (lane,)
        )
    connection.close()
    result = CliRunner().invoke(app, ["status"], env={"COLUMNS": "60", "FORCE_COLOR": "1"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert "model, endpoint" in plain
    assert max(map(len, plain.splitlines())) <= 60
    assert "a/b/c" in plain


# --- again and again


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run on a terminal; what it shows can be read from the descriptor."""
    ours, theirs = pty.openpty()
    given = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    try:
        with subprocess.Popen([*RUN, *arguments], env=given, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            try:
                yield process, ours
            finally:
                process.kill()
    finally:
        os.close(ours)


def read_until(terminal: int, wanted: str, seconds: float = 30) -> str:
    """Read what a terminal shows until something is there; "" waits for its end."""
    shown, until = b"", time.monotonic() + seconds
    while not wanted or wanted.encode() not in shown:
        assert time.monotonic() < until, shown.decode()
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                chunk = os.read(terminal, 65_536)
            except OSError:  # how Linux tells the end of a terminal
                chunk = b""
            if not chunk:
                break
            shown += chunk
    return shown.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_draws_what_changes_until_it_is_told_to_end(journal: Path, number: int) -> None:
    with on_a_terminal("--watch", "--every", "0.1") as (process, terminal):
        shown = read_until(terminal, "0 known: 0 in flight")
        with sqlite3.connect(journal / "journal.sqlite") as connection:
            connection.execute("INSERT INTO request (row, head, tail) VALUES (1, 2, 3)")
        connection.close()
        shown += read_until(terminal, "1 known: 0 in flight, 1 waiting")
        process.send_signal(number)
        shown += read_until(terminal, "")
        assert process.wait(20) == 0
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back
    assert "Traceback" not in shown
    assert {path.name for path in journal.iterdir()} == {"journal.sqlite"}


def test_watching_needs_a_terminal_and_goes_with_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes no terminal of a pipe
    for arguments, sentence in [
        (("--watch",), "--watch needs a terminal; without it, the command tells once"),
        (("--watch", "--json"), "--watch goes with neither --json nor --remote"),
        (("--watch", "--remote"), "--watch goes with neither --json nor --remote"),
        (("--watch", "--every", "inf"), "--every is a number of seconds from 0.1 to 86,400, not inf"),
        (("--watch", "--every", "nan"), "--every is a number of seconds from 0.1 to 86,400, not nan"),
        (("--watch", "--every", "0"), "--every is a number of seconds from 0.1 to 86,400, not 0"),
    ]:
        result = run(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"carpool: {sentence}\n")


# --- at the provider


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(api_key=KEY, pace=Pace(running=3_600)) as served:
        yield served


def submit(emulator: Emulator, folder: Path) -> str:
    """Let a pool create a batch, and leave it by an exception; gives its id."""

    async def make() -> None:
        timing = carpool.Timing(linger=0.01, poll_min=0.05)
        async with (
            carpool.Pool(KEY, emulator.url, journal=folder, timing=timing) as pool,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pool.request, CHAT, body())
            while not [batch for batch in pool.stats().open if batch.id]:  # noqa: ASYNC110 - nobody tells of it
                await anyio.sleep(0.01)
            raise Interrupted

    with suppress(BaseExceptionGroup, Interrupted):
        anyio.run(make)
    (batch,) = emulator.books().batches
    return batch.id


def test_the_provider_is_asked_how_open_batches_stand(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = submit(emulator, tmp_path / "journal")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lines = lines_of("--remote", "--base-url", emulator.url)
    (line,) = (line for line in lines if line.startswith(batch_id))
    assert fields(line)[-1] in ("validating", "in_progress, 0 done")
    (journal,) = told("--remote", "--base-url", emulator.url)
    assert journal["batches"][0]["provider"]["status"] in ("validating", "in_progress")
    assert "provider" not in told()[0]["batches"][0]


def test_a_batch_that_the_provider_does_not_know_is_told(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(emulator, tmp_path / "journal")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with sqlite3.connect(tmp_path / "journal" / "journal.sqlite") as connection:
        connection.execute("UPDATE batch SET batch_id = 'batch_gone'")
    connection.close()
    (line,) = (line for line in lines_of("--remote", "--base-url", emulator.url) if line.startswith("batch_gone"))
    assert fields(line)[-1] == "not known"
    assert told("--remote", "--base-url", emulator.url)[0]["batches"][0]["provider"] is None


def test_the_key_goes_to_the_server_that_was_named_and_to_no_other(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder from anywhere must not be able to say where the key is sent."""
    submit(emulator, tmp_path / "journal")
    routes = emulator.books().routes
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    result = run("--remote")
    assert result.exit_code == 0
    assert result.stderr == (f"carpool: not asked, since the key is for https://api.openai.com/v1: {emulator.url}.\n")
    assert "not asked" in result.stdout
    assert "provider" not in json.loads(run("--remote", "--json").stdout)["journals"][0]["batches"][0]
    assert emulator.books().routes == routes


def test_asking_needs_a_key_and_a_server(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(emulator, tmp_path / "journal")
    assert run("--remote").stderr == "carpool: OPENAI_API_KEY is not set.\n"
    assert run("--remote").exit_code == 2
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    result = run("--remote", "--base-url", "ftp://x")
    assert (result.exit_code, result.stdout) == (2, "")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    result = run("--remote", "--base-url", emulator.url)
    assert result.exit_code == 1
    assert "refuses the key" in result.stderr


def test_nobody_is_asked_where_nothing_is_open(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert told("--remote", "--base-url", "http://127.0.0.1:9/v1")[0]["batches"] == []

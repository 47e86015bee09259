"""A run that is stopped in any way goes on with the same command: nothing is paid twice, no row doubled or missing."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from run_kit import (
    KEY,
    LANES,
    Child,
    Command,
    Row,
    answer,
    check,
    check_paid_once,
    prepare_forks,
    read,
    row_of,
    rows_of,
    write,
)

from carpool.testing import Emulator, Pace

ROWS = 160
SMALL = {"*": 1_500}  # tokens: some thirty rows, so that a run has many batches one after another


@pytest.fixture(scope="module", autouse=True)
def _forks() -> None:
    prepare_forks()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(answer=answer, enqueued_tokens=SMALL, pace=Pace(running=0.02)) as served:
        yield served


def whole(out: Path) -> list[Row]:
    """Read what OUTPUT holds while it is written: the last line may be torn."""
    content = out.read_bytes() if out.exists() else b""
    out_whole = out.with_name("whole")
    out_whole.write_bytes(content[: content.rfind(b"\n") + 1])
    return read(out_whole)


def finish(emulator: Emulator, asked: list[Row], *arguments: str | Path) -> None:
    """Give the same command until it is done, and judge what it did."""
    out, *more = arguments[2:]
    code, said = Child(emulator, *arguments).end()
    assert code == 0, said
    rows = read(Path(out))
    if "--as-completed" in more:
        rows.sort(key=lambda row: int(row["id"].split("_")[1]))
    check(rows, asked)
    check_paid_once(emulator, asked)


@pytest.mark.parametrize(
    ("number", "code", "more"),
    [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, ["--as-completed"])],
    ids=["interrupted", "terminated"],
)
def test_a_run_that_is_asked_to_stop_writes_what_it_has_and_says_how_to_go_on(
    emulator: Emulator, tmp_path: Path, number: int, code: int, more: list[str]
) -> None:
    asked = rows_of(ROWS)
    command: Command = [write(tmp_path / "in.jsonl", asked), "-o", tmp_path / "out.jsonl", *more]
    child = Child(emulator, *command)
    child.when(lambda: emulator.books().bodies.total() >= 40, lambda: child.send(number))
    ended, said = child.end()
    assert ended == code, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert "runs on" in said
    rows = read(tmp_path / "out.jsonl")  # whole rows alone
    assert len(rows) < ROWS
    finish(emulator, asked, *command)


@pytest.mark.parametrize("more", [[], ["--as-completed"], ["--text"]])
def test_an_input_that_was_changed_while_its_rows_are_under_way_is_refused(tmp_path: Path, more: list[str]) -> None:
    asked: list[Row | bytes] = [*rows_of(20, LANES[0]), b"bad"]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    with Emulator(answer=answer, pace=Pace(running=60)) as slow:
        child = Child(slow, source, "-o", out, *more)
        child.when(lambda: bool(slow.books().batches), lambda: child.send(signal.SIGKILL))
        child.end()
        for changed in ([row_of(99), *asked], asked[1:], asked[:10]):
            code, said = Child(slow, write(source, changed), "-o", out, *more).end()
            assert code == 2, said
            assert "INPUT has changed" in said
        assert len(slow.books().batches) == 1


def test_a_key_that_is_refused_when_a_run_goes_on_stops_it(tmp_path: Path) -> None:
    command: Command = [write(tmp_path / "in.jsonl", rows_of(20, LANES[0])), "-o", tmp_path / "out.jsonl"]
    with Emulator(answer=answer, api_key=KEY, pace=Pace(running=60)) as slow:
        child = Child(slow, *command)
        child.when(lambda: "GET /v1/batches/{id}" in slow.books().routes, lambda: child.send(signal.SIGKILL))
        child.end()
        code, said = Child(slow, *command, key="sk-another-key").end()
    assert code == 3, said
    assert "OPENAI_API_KEY" in said
    assert "another" not in said


def test_a_run_that_is_stopped_before_it_sends_anything_says_so(emulator: Emulator, tmp_path: Path) -> None:
    out, pipe = tmp_path / "out.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(emulator, "-", "-o", out, pipe=pipe)
    with pipe.open("wb", buffering=0):  # which stays empty
        child.when(out.exists, lambda: child.send(signal.SIGINT))
        code, said = child.end()
    assert code == 130, said
    assert "Nothing more was sent; the same command goes on" in said
    assert not out.exists()


def test_rows_that_are_not_in_output_are_not_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [row_of(0), b"bad", row_of(1), b"bad"])
    with Emulator(answer=answer, pace=Pace(running=60)) as slow:
        child = Child(slow, source, "-o", tmp_path / "out.jsonl")
        child.when(lambda: bool(slow.books().batches), lambda: child.send(signal.SIGINT))
        code, said = child.end()
    assert code == 130, said
    assert "0 rows: 0 answered, 0 failed" in said
    assert "bad: 2 lines" in said


def test_a_second_signal_ends_it_at_once(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(ROWS)
    command: Command = [write(tmp_path / "in.jsonl", asked), "-o", tmp_path / "out.jsonl"]
    child = Child(emulator, *command)
    child.when(lambda: emulator.books().bodies.total() >= 40, lambda: child.send(signal.SIGINT, signal.SIGINT))
    code, said = child.end()
    assert code == 130, said
    finish(emulator, asked, *command)


def _has_come(emulator: Emulator, before: int, look: Callable[[], int], share: float) -> bool:
    return emulator.books().routes.total() > before and look() >= share


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_killed_again_and_again_pays_once_and_doubles_nothing(
    emulator: Emulator, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    asked = rows_of(ROWS)
    out = tmp_path / "out.jsonl"
    command: Command = [write(tmp_path / "in.jsonl", asked), "-o", out]
    command += ["--as-completed"] if seed % 2 else []
    seen: list[Callable[[], int]] = [  # by what was run, or written, or sent: at any instant of a batch's life
        lambda: emulator.books().bodies.total(),
        lambda: len(whole(out)),
        lambda: emulator.books().routes.total() * 2,
    ]
    for number, kill in enumerate([signal.SIGKILL, signal.SIGKILL, chance.choice([signal.SIGINT, signal.SIGTERM])]):
        before = emulator.books().routes.total()  # what it sends shows that it runs, and listens to signals
        share, look = ROWS * (number + chance.random()) / 4, chance.choice(seen)
        child = Child(emulator, *command)
        child.when(partial(_has_come, emulator, before, look, share), partial(child.send, kill))
        code, said = child.end()
        assert code in (0, -kill, 128 + kill), said
        ids = [row["id"] for row in whole(out)]
        assert len(ids) == len(set(ids))
    finish(emulator, asked, *command)


@pytest.mark.parametrize("seed", range(2))
def test_texts_go_on_too(emulator: Emulator, tmp_path: Path, seed: int) -> None:
    asked = [row_of(number, lane=LANES[number % 2]) for number in range(ROWS)]
    out = tmp_path / "texts"
    command: Command = [write(tmp_path / "in.jsonl", asked), "-o", out, "--text"]
    share = ROWS * random.Random(seed).random() * 0.8
    child = Child(emulator, *command)
    child.when(lambda: emulator.books().bodies.total() >= share, lambda: child.send(signal.SIGKILL))
    child.end()
    code, said = Child(emulator, *command).end()
    assert code == 0, said
    assert read(out) == [row["body"]["messages"][0]["content"] for row in asked]
    check_paid_once(emulator, asked)


def test_what_comes_through_a_pipe_goes_on_when_it_comes_again(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(60)
    out, pipe = tmp_path / "out.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(emulator, "-", "-o", out, pipe=pipe)
    with pipe.open("wb", buffering=0) as writing:
        writing.write(write(tmp_path / "half", asked[:30]).read_bytes())  # and the pipe stays open
        child.when(lambda: len(whole(out)) >= 30, lambda: child.send(signal.SIGINT))
        code, said = child.end()
    assert code == 130, said
    assert len(read(out)) == 30
    child = Child(emulator, "-", "-o", out, pipe=pipe)
    pipe.write_bytes(write(tmp_path / "all", asked).read_bytes())
    code, said = child.end()
    assert code == 0, said
    check(read(out), asked)
    check_paid_once(emulator, asked)


def test_of_two_at_once_the_second_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(40)
    source, out, pipe = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    first = Child(emulator, "-", "-o", out, pipe=pipe)
    with pipe.open("wb", buffering=0) as writing:
        writing.write(source.read_bytes())  # and the pipe stays open: it runs until it is closed
        first.when(lambda: emulator.books().bodies.total() > 0)
        code, said = Child(emulator, source, "-o", out).end()
    assert code == 2, said
    assert "another process" in said
    code, said = first.end()
    assert code == 0, said
    check(read(out), asked)
    check_paid_once(emulator, asked)


def test_a_full_disk_stops_the_run_with_the_journal_whole(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(ROWS)
    for row in asked:
        row["custom_id"] += "x" * 20_000  # the journal has names of its own: OUTPUT is far larger
    out = tmp_path / "out.jsonl"
    command: Command = [write(tmp_path / "in.jsonl", asked), "-o", out]
    room = 2_500_000
    code, said = Child(emulator, *command, room=room).end()
    assert code == 3, said
    assert "OUTPUT" in said
    assert os.strerror(27) in said  # File too large: what stands for a full disk here
    assert "the same command goes on" in said
    assert 0 < len(read(out)) < ROWS
    finish(emulator, asked, *command)


def test_a_journal_that_cannot_be_kept_stops_the_run_and_pays_once(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(ROWS)
    out = tmp_path / "out.jsonl"
    command: Command = [write(tmp_path / "in.jsonl", asked), "-o", out]
    code, said = Child(emulator, *command, room=30_000).end()
    assert code == 3, said
    assert "Traceback" not in said
    finish(emulator, asked, *command)

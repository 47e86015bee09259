"""Screens as people see them: real runs against the emulator, in terminals of several sizes and kinds."""

import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from progress_kit import NOW, batch, busy, lane, stats
from rich.console import Console
from rich.errors import LiveError
from rich.live import Live
from rich.logging import RichHandler
from screens import Terminal

from carpool.progress.guard import Guarded
from carpool.progress.lines import Lines
from carpool.progress.terminal import Terminal as View
from carpool.testing import Emulator, Pace

PROGRAM = [sys.executable, "-W", "error", str(Path(__file__).parent / "shown_program.py")]
SUMMARY = re.compile(r"answered 81 of 81 accepted in \d+ batches, (?:\d+ min )?\d+ s; paid \$\S+, saved \$\S+")


class Run(NamedTuple):
    """Say in what terminal the program runs."""

    width: int
    height: int
    environment: Mapping[str, str] = MappingProxyType({})
    pools: int = 1


RUNS = {
    "narrow": Run(60, 24),
    "usual": Run(80, 24, {"TERM": "vt100"}),
    "wide": Run(140, 40),
    "without colours": Run(140, 40, {"NO_COLOR": "1"}),
    "low": Run(80, 7),
    "dumb": Run(80, 24, {"TERM": "dumb"}),
    "resized": Run(140, 40),
    "two pools": Run(100, 40, pools=2),
}
DRAWN = [name for name in RUNS if name not in ("dumb", "two pools")]


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Terminal]]:
    """Run the program in all terminals at once: most of the time they wait."""
    with Emulator(pace=Pace(validating=0.2, running=1.0, finalizing=0.1)) as emulator:
        terminals = {
            name: Terminal([*PROGRAM, emulator.url, str(run.pools)], run.width, run.height, run.environment)
            for name, run in RUNS.items()
        }
        readers = [threading.Thread(target=read, args=(name, terminal)) for name, terminal in terminals.items()]
        try:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            for terminal in terminals.values():
                assert terminal.process.wait(20) == 0, terminal.lines
            yield terminals
        finally:
            for terminal in terminals.values():
                terminal.kill()


def read(name: str, terminal: Terminal) -> None:
    """Read what a program shows; the window of one is made smaller meanwhile."""
    wide = name == "resized"
    while terminal.read():
        if wide and any("in flight" in line for line in terminal.lines):
            wide = not terminal.resize(70, 40)


def view_of(screen: list[str]) -> list[str]:
    """Give the part of a screen that is the view."""
    heads = [number for number, line in enumerate(screen) if re.match(r"model +(endpoint +)?(waiting|answered) ", line)]
    assert len(heads) <= 1, screen
    return screen[heads[0] :] if heads else []


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_left_standing(name: str, runs: dict[str, Terminal]) -> None:
    """What the program and its log wrote, and the summary, each once, and nothing of the view that was."""
    lines = runs[name].transcript
    joined = " ".join(lines)
    assert lines[-1] == "over"
    for sentence in ("WARNING: a record of the log", "a line of the program", "a line by rich"):
        assert lines.count(sentence) == 1
    assert joined.count("Submitted ") == 1
    if name != "resized":  # a terminal that is made narrower cuts what stands there
        assert joined.count("A batch takes from minutes to 24 hours.") == 1
    assert "waiting" not in joined.replace("more wait", "")
    summary = view_of(lines)
    assert [line.split()[0] for line in summary[1:3]] == ["gpt-5-mini", "text-embedding-3-small"]
    assert SUMMARY.fullmatch(" ".join(summary[3:-1]))
    assert not runs[name].screen.cursor.hidden


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_seen_on_the_way(name: str, runs: dict[str, Terminal]) -> None:
    """One view, which is whole, whose figures agree and grow, and which does not fill the screen."""
    answered = [0]
    for screen, hidden in runs[name].screens:
        totals = [line for line in screen if re.match(r"answered \d+ of \d+ accepted +[━─]", line)]
        assert len(totals) <= 1
        if not totals:
            continue
        assert not hidden  # a process that is killed could not show it again
        assert len(view_of(screen) or totals) < RUNS[name].height
        answered.append(int(totals[0].split()[1]))
        lanes = [line.split() for line in view_of(screen) if line.startswith(("gpt-5-mini ", "text-embedding-3"))]
        if len(lanes) == 2:
            assert sum(figure_of(cells) for cells in lanes) == answered[-1], screen
    assert len(answered) >= 4
    assert answered == sorted(answered)


def figure_of(cells: list[str]) -> int:
    """Give how many are answered in a lane: the third number of its line."""
    return int([cell for cell in cells if cell.isdecimal()][2])


def test_a_wide_screen_shows_batches_and_bars(runs: dict[str, Terminal]) -> None:
    seen = [line for screen, _ in runs["wide"].screens for line in view_of(screen)]
    assert any(re.match(r"batch +model +status +requests +done +age$", line) for line in seen)
    assert any(re.match(r"batch_\S+ +gpt-5-mini +in progress +\d+ +━*─* +\d+%  \d s$", line) for line in seen)
    assert any(re.match(r"gpt-5-mini +chat/completions +.* [━─]{20} +\d+% +400$", line) for line in seen)
    assert any(re.match(r"(paid .*; )?(up to|\d+ to|about) .* left$", line) for line in seen)


def test_a_narrow_screen_shows_lanes_in_short(runs: dict[str, Terminal]) -> None:
    heads = {view_of(screen)[0] for screen, _ in runs["narrow"].screens if view_of(screen)}
    assert all(re.match(r"model +(endpoint +)?(waiting +flight|waiting +in flight|answered)", head) for head in heads)
    assert all(len(line) <= 60 for screen, _ in runs["narrow"].screens for line in screen)


def test_a_low_screen_keeps_the_totals(runs: dict[str, Terminal]) -> None:
    with_totals = [screen for screen, _ in runs["low"].screens if any("accepted  " in line for line in screen)]
    assert with_totals
    assert not any(line.startswith("batch ") for screen in with_totals for line in screen)


def test_colours_are_used_where_they_are_wanted(runs: dict[str, Terminal]) -> None:
    coloured = re.compile(rb"\x1b\[[0-9;]*3[0-7]m")
    assert coloured.search(runs["wide"].raw)
    for name in ("without colours", "dumb"):
        assert not coloured.search(runs[name].raw)
    assert "━" in runs["without colours"].raw.decode()


def test_after_a_change_of_size_the_view_fits(runs: dict[str, Terminal]) -> None:
    screens = [screen for screen, _ in runs["resized"].screens if view_of(screen)]
    assert any("limit" in line for line in screens[0])
    assert any(re.match(r"model +waiting +flight +answered +failed +queue$", view_of(screen)[0]) for screen in screens)


def test_a_dumb_terminal_is_written_to_line_by_line(runs: dict[str, Terminal]) -> None:
    assert b"\x1b" not in runs["dumb"].raw
    lines = runs["dumb"].raw.decode().splitlines()  # on the screen a long one is wrapped
    (summary,) = (line for line in lines if line.startswith("carpool: answered "))
    assert SUMMARY.fullmatch(summary.removeprefix("carpool: "))


def test_of_two_pools_one_is_drawn(runs: dict[str, Terminal]) -> None:
    for screen, _ in runs["two pools"].screens:
        view_of(screen)
    lines = runs["two pools"].transcript
    assert sum(SUMMARY.fullmatch(line) is not None for line in lines) == 1
    assert lines.count("a line of the program") == 2
    assert lines[-1] == "over"


def test_results_that_go_elsewhere_are_left_alone() -> None:
    with Emulator(pace=Pace(running=0.3)) as emulator:
        reading, writing = os.pipe()
        terminal = Terminal([*PROGRAM, emulator.url], 100, 30, {}, output=writing)
        os.close(writing)
        terminal.read_all()
        assert terminal.process.wait(20) == 0
        with open(reading, "rb") as output:
            assert output.read() == b"a line of the program\na line by rich\nover\n"
        lines = terminal.transcript
        terminal.kill()
    assert SUMMARY.fullmatch(lines[-1])
    assert lines.count("WARNING: a record of the log") == 1
    assert "a line of the program" not in lines


def test_ctrl_c_leaves_the_terminal_in_order(tmp_path: Path) -> None:
    with Emulator(pace=Pace(running=600)) as emulator:
        terminal = Terminal([*PROGRAM, emulator.url, "1", str(tmp_path / "journal")], 100, 30, {})
        while not any("up to 24 h a batch left" in line for line in terminal.lines):
            assert terminal.read()
        terminal.interrupt()
        terminal.read_all()
        assert terminal.process.wait(20) != 0
        terminal.kill()
    joined = " ".join(terminal.transcript)
    assert joined.count("This may be stopped at any time: started again with the same journal, it goes on.") == 1
    assert re.search(
        r"answered 0 of 81 accepted in \d+ batches, \d+ s; \d+ not over, which the next start takes over", joined
    )
    assert joined.count("answered 0") == 1
    assert "stopped" in joined
    assert not terminal.screen.cursor.hidden


def test_without_rich_a_run_is_told_in_lines() -> None:
    program = f"import sys; sys.modules['rich'] = None; sys.argv = sys.argv[1:]; exec(open({PROGRAM[-1]!r}).read())"
    with Emulator() as emulator:
        command = [sys.executable, "-c", program, PROGRAM[-1], emulator.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "a line of the program\nover\n"
    assert "answered" not in done.stderr  # they are of the level INFO, and nobody asked for it


# --- what it does to the program it is in


def terminal_console(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Let standard error be a terminal that keeps what is written, and standard output not."""
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", file)
    return Console(stderr=True, force_terminal=True, width=100, height=30, legacy_windows=False)


def written(console: Console) -> str:
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_handlers_write_above_the_view_and_have_their_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_console(monkeypatch)
    stream = sys.stderr
    before, meanwhile = logging.StreamHandler(stream), logging.StreamHandler(io.StringIO())
    other = Console(file=stream, force_terminal=True, width=80)
    rich_handler = RichHandler(console=other)
    logger = logging.getLogger("progress.test")
    handlers = (before, meanwhile, rich_handler)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        view = View(console)
        view.update(busy(), NOW)
        assert before.stream is sys.stderr is not stream
        assert rich_handler.console is console
        late = logging.StreamHandler()
        logger.addHandler(late)
        view.close(busy(), NOW)
        assert before.stream is late.stream is sys.stderr is stream
        assert rich_handler.console is other
        assert isinstance(meanwhile.stream, io.StringIO)
        assert meanwhile.stream is not stream
    finally:
        logger.handlers.clear()


def test_what_has_not_changed_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_console(monkeypatch)
    view = View(console)
    view.update(busy(), NOW)
    size = len(written(console))
    view.update(busy(), NOW)
    assert len(written(console)) == size
    view.update(busy(), NOW + 60)
    assert len(written(console)) > size
    view.close(busy(), NOW + 61)


def test_a_pool_that_was_never_asked_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_console(monkeypatch)
    view = View(console)
    view.update(stats(), NOW)
    view.close(stats(), NOW + 1)
    assert written(console) == ""


def test_a_display_of_the_users_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_console(monkeypatch)
    said: list[str] = []
    guarded = Guarded(View(console), Lines(said.append))
    with Live("theirs", console=console, auto_refresh=False) as theirs:
        drawn = written(console)
        guarded.update(busy(), NOW)
        assert written(console) == drawn
        theirs.update("theirs still", refresh=True)
    guarded.update(busy(), NOW + 61)
    guarded.close(busy(), NOW + 62)
    assert said
    assert written(console).endswith("theirs still\n\x1b[?25h")
    view = View(console)  # the place is free again
    view.update(busy(), NOW)
    view.close(busy(), NOW)
    assert "answered" in written(console)


def test_a_display_that_comes_later_stands_below_on_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_console(monkeypatch)
    view = View(console)
    view.update(busy(), NOW)
    with Live("theirs", console=console, auto_refresh=False) as theirs:
        view.update(busy(), NOW + 60)
        theirs.refresh()
        assert "theirs" in re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(console)))
    view.close(busy(), NOW + 61)
    console.print("end")
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(console)).splitlines()[-1] == "end"


def test_the_cursor_is_never_hidden_for_a_process_may_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal_console(monkeypatch)
    view = View(console)
    view.update(busy(), NOW)
    shown = written(console)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    view.close(busy(), NOW)


def test_a_terminal_without_a_width_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = terminal_console(monkeypatch).file
    console = Console(file=file, force_terminal=True, width=0, height=0, legacy_windows=False)
    guarded = Guarded(View(console))
    guarded.update(busy(), NOW)
    guarded.close(busy(), NOW + 1)
    assert not caplog.records


def test_a_display_of_the_users_own_is_left_alone_by_rich_before_14_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """It draws one display at a time."""
    console = terminal_console(monkeypatch)

    def refuse(*_: object, **__: object) -> None:
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(Live, "start", refuse)
    said: list[str] = []
    guarded = Guarded(View(console), Lines(said.append))
    for minute in range(3):
        guarded.update(stats(lane(5 + minute), open_=(batch(),)), NOW + 61 * minute)
    assert [line.partition(" ")[0] for line in said] == ["Submitted", "answered"]
    monkeypatch.undo()
    console = terminal_console(monkeypatch)
    view = View(console)  # the place is free again
    view.update(busy(), NOW)
    view.close(busy(), NOW)


def test_a_terminal_that_is_gone_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    console = terminal_console(monkeypatch)
    said: list[str] = []
    guarded = Guarded(View(console), Lines(said.append))
    guarded.update(busy(), NOW)

    def gone(_text: str) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(console.file, "write", gone)
        guarded.update(busy(), NOW + 60)
        guarded.close(busy(), NOW + 120)
    assert [record.message for record in caplog.records] == ["progress cannot be shown"]
    assert said[-1].startswith("answered 135,801 of ")
    assert guarded.pause == 60.0

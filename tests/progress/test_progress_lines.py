"""Lines, JSON events and calls; what is chosen where; and that nothing of it does harm."""

import builtins
import json
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from progress_kit import NOW, batch, lane, stats

from carpool import progress
from carpool.progress.lines import Lines
from carpool.progress.watch import Watch
from carpool.spending import Cost
from carpool.stats import Stats

MINUTE = 60.0


class Said(list[str]):
    """Keep what was said."""

    def new(self) -> list[str]:
        new, self[:] = self[:], []
        return new


def answering(number: int) -> Stats:
    chat = lane(0, 1_000 - number, answered=number)
    return stats(chat, open_=(batch(1, chat, done=number),) if number < 1_000 else ())


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that nobody watches the tests."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)


# --- lines


def test_a_line_is_said_once_a_minute_and_at_last() -> None:
    said = Said()
    lines = Lines(said.append, 1_000)
    for second in range(600):
        lines.update(answering(second), NOW + second)
    lines.close(answering(1_000), NOW + 600)
    assert said[0].startswith("Submitted 1,000 requests in 1 batch.")
    assert [line.split(";")[0] for line in said[1:4]] == [
        f"answered {number} of 1,000, {1_000 - number} in 1 batch" for number in (59, 118, 177)
    ]
    assert len(said) == 12
    assert said[-1] == "answered 1,000 of 1,000 in 0 batches, 10 min"


def test_a_line_is_said_only_when_something_has_changed() -> None:
    said = Said()
    lines = Lines(said.append)
    lines.update(answering(5), NOW)
    lines.update(answering(5), NOW + 61)
    assert len(said.new()) == 2
    for minute in range(2, 100):
        lines.update(answering(5), NOW + 61 * minute)
    assert said.new() == []
    lines.update(answering(6), NOW + 61 * 100)
    assert len(said.new()) == 1


def test_of_a_pool_that_was_never_asked_nothing_is_said() -> None:
    said = Said()
    lines = Lines(said.append, 1_000)
    for minute in range(5):
        lines.update(stats(), NOW + 61 * minute)
    lines.close(stats(), NOW + 400)
    assert said == []


def test_a_pool_that_closes_at_once_is_told_of() -> None:
    said = Said()
    Lines(said.append, journal=True).close(stats(lane(5)), NOW)
    assert said == ["answered 0 of 5 accepted in 0 batches, 0 s; 5 not over, which the next start takes over"]


def test_the_total_is_asked_anew_each_time() -> None:
    said = Said()
    totals = iter((None, 3_000))
    lines = Lines(said.append, lambda: next(totals))
    lines.update(answering(1), NOW)
    lines.update(answering(2), NOW + 61)
    lines.update(answering(3), NOW + 122)
    assert [line.split(",")[0] for line in said[1:]] == ["answered 2 of 1", "answered 3 of 3"]


# --- the first submission


def test_it_is_told_when_all_is_submitted_that_came_together() -> None:
    watch = Watch(None, journal=False)
    created = batch(1)
    uploading = batch(2, id=None, stage="uploading", status="")
    assert watch.look(stats(lane(0, 2_000), open_=(uploading,)), NOW) == ""
    assert watch.look(stats(lane(0, 2_000), open_=(created, uploading)), NOW + 1) == ""
    told = watch.look(stats(lane(0, 2_000), open_=(created, batch(2))), NOW + 2)
    assert told.startswith("Submitted 2,000 requests in 2 batches. ")
    assert watch.look(stats(lane(0, 3_000), open_=(created, batch(2), batch(3))), NOW + 3) == ""


def test_it_is_told_at_once_where_the_queue_is_full() -> None:
    queued = batch(2, id=None, stage="queued", status="")
    told = Watch(None, journal=False).look(stats(lane(5_000, 2_000), open_=(batch(1), queued)), NOW)
    assert told.startswith("Submitted 1,000 requests in 1 batch, 6,000 more wait for room. ")


def test_it_is_told_in_time_where_more_and_more_comes() -> None:
    watch = Watch(None, journal=False)
    told = [watch.look(stats(lane(5_000, 1_000), open_=(batch(1),)), NOW + second) for second in range(10)]
    assert [bool(sentence) for sentence in told] == [False] * 5 + [True] + [False] * 4


# --- JSON


def events(*looks: Stats, **settings: Any) -> list[dict[str, Any]]:
    lines: list[str] = []
    writer = progress.JsonEvents(lines.append, **settings)
    for number, look in enumerate(looks[:-1]):
        writer.update(look, NOW + number)
    writer.close(looks[-1], NOW + len(looks))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    return list(map(json.loads, lines))


def test_an_event_holds_all_figures() -> None:
    chat = lane(7, 1_000, answered=5, limit=90_000, limit_source="user", enqueued=50)
    cost = Cost(5, 0, 100, 0, 50, 1.25, 2.5)
    first, last = events(
        stats(chat, open_=(batch(1, chat, done=900),), cost=cost, costs={chat.lane: cost}),
        stats(chat),
        total=5_000,
    )
    assert (first["event"], first["at"], first["total"]) == ("progress", "2027-01-15T08:00:00+00:00", 5_000)
    assert (first["accepted"], first["answered"], first["failed"]) == (1_012, 5, 0)
    assert first["cost"] == {
        "requests": 5,
        "unpriced": 0,
        "input_tokens": 100,
        "cached_tokens": 0,
        "output_tokens": 50,
        "paid": 1.25,
        "live": 2.5,
    }
    (told,) = first["lanes"]
    assert (told["endpoint"], told["model"], told["waiting"], told["limit"]) == (
        "/v1/chat/completions",
        "gpt-5-mini",
        7,
        90_000,
    )
    assert told["cost"] == first["cost"]
    (open_,) = first["open"]
    assert (open_["id"], open_["model"], open_["done"]) == ("batch_00000000000000000000000000000001", "gpt-5-mini", 900)
    least, most = first["left"]
    assert 0 < least < most
    assert (last["event"], last["left"], last["open"]) == ("end", None, [])
    assert last["lanes"][0]["cost"] is None


def test_events_are_rare_and_tell_of_changes() -> None:
    same = [answering(1)] * 20
    assert [event["at"][-8:-6] for event in events(*same)] == ["00", "20"]
    grown = [answering(number) for number in range(20)]
    assert [event["answered"] for event in events(*grown)] == [0, 5, 10, 15, 19]
    assert [event["answered"] for event in events(*grown, every=10)] == [0, 10, 19]


# --- a callable, and what goes wrong


def test_a_callable_is_given_the_figures() -> None:
    given: list[Stats] = []
    reporter = progress.start(given.append)
    reporter.update(answering(1), NOW)
    reporter.close(answering(2), NOW + 1)
    assert given == [answering(1), answering(2)]
    assert reporter.pause == 0.5


def test_a_callable_that_raises_is_logged_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def count(figures: Stats) -> None:
        calls.append(figures.answered)
        raise ZeroDivisionError

    reporter = progress.start(count)
    for number in range(5):
        reporter.update(answering(number), NOW + number)
    reporter.close(answering(5), NOW + 5)
    assert calls == [0, 1, 2, 3, 4, 5]
    assert [record.message for record in caplog.records] == ["progress cannot be shown"]
    assert "ZeroDivisionError" in caplog.text


def test_false_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    reporter = progress.start(False)
    reporter.update(answering(1), NOW)
    reporter.update(answering(2), NOW + 100)
    reporter.close(answering(5), NOW + 5)
    assert caplog.records == []


def test_a_reporter_that_cannot_write_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_line: str) -> None:
        raise BrokenPipeError

    reporter = progress.start(progress.JsonEvents(broken))
    reporter.update(answering(1), NOW)
    reporter.update(answering(2), NOW + 6)
    reporter.close(answering(1_000), NOW + 9)
    assert [record.message for record in caplog.records] == ["progress cannot be shown"]
    assert reporter.pause == 1.0


# --- what is chosen


@pytest.mark.usefixtures("no_terminal")
def test_where_nobody_watches_lines_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")
    reporter = progress.start(None, total=1_000)
    reporter.update(answering(1), NOW)
    reporter.close(answering(1_000), NOW + 9)
    assert [(record.levelname, record.message[:13]) for record in caplog.records] == [
        ("INFO", "Submitted 1,0"),
        ("INFO", "answered 1,00"),
    ]
    assert reporter.pause == MINUTE


@pytest.mark.usefixtures("no_terminal")
def test_lines_may_go_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carpool")
    said = Said()
    progress.start(None, say=said.append).close(answering(1_000), NOW)
    assert (len(said), caplog.records) == (1, [])


def test_without_rich_a_terminal_is_written_to_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "carpool.progress.terminal", raising=False)
    progress.start(None).close(answering(1_000), NOW)
    assert capsys.readouterr().err == "carpool: answered 1,000 of 1,000 accepted in 0 batches, 0 s\n"


def test_a_process_without_a_standard_error_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    progress.start(None).close(answering(1_000), NOW)


# --- notebooks


class Notebook:
    """Stand for the shell of a notebook, and for what IPython displays in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shell: str = "ZMQInteractiveShell") -> None:
        self.shown: list[tuple[dict[str, str], dict[str, Any]]] = []
        shell_type = type(shell, (), {})
        monkeypatch.setattr(builtins, "get_ipython", lambda: shell_type(), raising=False)
        monkeypatch.setattr("rich._console", None)  # it was made where there was no notebook
        display = types.ModuleType("IPython.display")
        display.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, content: dict[str, str], **settings: Any) -> None:
        assert settings.pop("raw") is True
        self.shown.append((content, settings))


@pytest.mark.usefixtures("no_terminal")
def test_a_notebook_shows_one_output_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    reporter = progress.start(None, total=1_000, journal=True)
    reporter.update(stats(), NOW)
    assert notebook.shown == []
    for number in (1, 2, 2, 3):
        reporter.update(answering(number), NOW)
    reporter.close(answering(1_000), NOW + 9)
    assert [settings["update"] for _, settings in notebook.shown] == [False, True, True, True]
    assert len({settings["display_id"] for _, settings in notebook.shown}) == 1
    first, last = notebook.shown[0][0], notebook.shown[-1][0]
    assert first["text/plain"].splitlines()[0].startswith("Submitted 1,000 requests in 1 batch.")
    assert first["text/html"].startswith("<p>Submitted 1,000 requests")
    assert "<pre style=" in first["text/html"]
    assert 'style="color: #' in first["text/html"]
    assert last["text/plain"] == "answered 1,000 of 1,000 in 0 batches, 9 s"


@pytest.mark.usefixtures("no_terminal")
def test_what_others_wrote_does_no_harm_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    reporter = progress.start(None)
    reporter.update(stats(lane(1, model="<script>alert(1)</script>")), NOW)
    assert "<script>" not in notebook.shown[0][0]["text/html"]


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize("without", ["IPython.display", "rich"])
def test_a_notebook_that_cannot_show_it_has_log_lines(
    without: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carpool")
    notebook = Notebook(monkeypatch)
    monkeypatch.setitem(sys.modules, without, None)
    progress.start(None).close(answering(1_000), NOW)
    assert len(caplog.records) == 1
    assert notebook.shown == []


@pytest.mark.usefixtures("no_terminal")
def test_ipython_in_a_terminal_is_no_notebook(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carpool")
    notebook = Notebook(monkeypatch, "TerminalInteractiveShell")
    progress.start(None).close(answering(1_000), NOW)
    assert (len(caplog.records), notebook.shown) == (1, [])


def test_a_view_that_fails_is_followed_by_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carpool")
    notebook = Notebook(monkeypatch)
    broken: Callable[..., None] = lambda *_, **__: (_ for _ in ()).throw(OSError("the kernel is gone"))  # noqa: E731
    monkeypatch.setattr(notebook, "display", broken)
    sys.modules["IPython.display"].display = broken  # type: ignore[attr-defined]
    reporter = progress.start(None, total=1_000)
    reporter.update(answering(1), NOW)
    reporter.update(answering(2), NOW + 1)
    reporter.close(answering(1_000), NOW + 9)
    assert [record.message[:24] for record in caplog.records] == [
        "progress cannot be shown",
        "Submitted 1,000 requests",
        "answered 1,000 of 1,000 ",
    ]

"""The guard passes as things are, notices a slowdown, and does not take noise for one."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import guard
from benchmarks.guard import LEAST, SHORT, Ratios

# Ratios differ between versions of Python. Those of others are learned by `python -m benchmarks.guard --learn`.
learned = pytest.mark.skipif(not guard.load_ours(), reason=f"of Python {guard.PYTHON} no ratios are kept")
KEPT = {"pooled": [1.40, 1.44, 1.42], "streamed": [1.0, 1.0, 1.0]}


class Measured:
    """Give prepared ratios, one time after the other."""

    def __init__(self, *ratios: Mapping[str, float]) -> None:
        self.times = 0
        self._ratios = ratios

    def __call__(self) -> Ratios:
        self.times += 1
        return self._ratios[self.times - 1]


def passed(measured: Measured, tries: int = 2) -> bool:
    return all(bar.kept for bar in guard.guard(SHORT._replace(bands=1.0, tries=tries), KEPT, measured))


@learned
def test_calls_cost_no_more_than_what_is_kept_allows() -> None:
    bars = guard.guard(SHORT, guard.load_ours(), lambda: guard.measure(SHORT))
    assert [bar.name for bar in bars if not bar.kept] == [], [*map(str, bars)]


@learned
def test_a_planted_slowdown_is_caught() -> None:
    """It burns as much in each call as the floor takes for all, on whatever machine."""
    ratios = guard.measure(SHORT._replace(turns=2), ["pooled"], burn=1.0)
    (bar,) = guard.judge(ratios, guard.load_ours(), SHORT.bands)
    assert not bar.kept, str(bar)


def test_what_is_worse_twice_fails() -> None:
    measured = Measured({"pooled": 1.7, "streamed": 1.0}, {"pooled": 1.6, "streamed": 1.0})
    assert not passed(measured)
    assert measured.times == 2


def test_what_is_worse_once_is_measured_again_and_passes() -> None:
    measured = Measured({"pooled": 1.6, "streamed": 1.0}, {"pooled": 1.42, "streamed": 1.3})
    assert passed(measured)


def test_what_is_worse_each_time_fails_after_as_many_times_as_the_form_says() -> None:
    measured = Measured(*[{"pooled": 1.7, "streamed": 1.0}] * 4)
    assert not passed(measured, tries=4)
    assert measured.times == 4


def test_what_is_good_is_measured_once() -> None:
    measured = Measured({"pooled": 1.49, "streamed": 0.5})
    assert passed(measured)
    assert measured.times == 1


def test_the_band_is_twice_the_largest_distance_seen_or_a_tenth() -> None:
    assert guard.bound([1.0, 1.5, 1.4]) == pytest.approx(1.4 + 2 * 0.4)
    assert guard.bound([1.4, 1.4]) == pytest.approx(1.4 * (1 + LEAST))
    assert guard.bound([1.4, 1.4], bands=2) == pytest.approx(1.4 * (1 + 2 * LEAST))


def test_a_program_of_which_nothing_is_kept_is_an_error() -> None:
    with pytest.raises(KeyError):
        guard.judge({"unknown": 1.0}, KEPT)


def test_learning_begins_anew_unless_told_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else, after a change for the better, the old ratios would widen the band."""
    monkeypatch.setattr(guard, "KEPT", tmp_path / "guard.json")
    ratios = iter([1.4, 1.2, 1.21, 1.3])
    monkeypatch.setattr(guard, "measure", lambda form: {"pooled": next(ratios)})
    for words, kept in ((["1"], [1.4]), (["2"], [1.2, 1.21]), (["1", "--add"], [1.2, 1.21, 1.3])):
        monkeypatch.setattr(sys, "argv", ["guard", "--learn", *words])
        guard.main()
        assert guard.load() == {guard.PYTHON: {"pooled": kept}}


def test_what_is_learned_leaves_other_versions_of_python_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "KEPT", tmp_path / "guard.json")
    guard.KEPT.write_text('{"2.7": {"pooled": [9.9]}}')
    monkeypatch.setattr(guard, "measure", lambda form: {"pooled": 1.4})
    monkeypatch.setattr(sys, "argv", ["guard", "--learn", "1"])
    guard.main()
    assert guard.load() == {"2.7": {"pooled": [9.9]}, guard.PYTHON: {"pooled": [1.4]}}


def test_a_version_of_python_of_which_nothing_is_kept_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "PYTHON", "4.0")
    monkeypatch.setattr(guard, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["guard"])
    guard.main()
    assert capsys.readouterr().out == "nothing is judged: of Python 4.0 no ratios are kept, but of 3.11\n"


def test_every_program_is_guarded() -> None:
    assert "3.11" in guard.load()
    assert all(set(ratios) == set(guard.PROGRAMS) for ratios in guard.load().values())

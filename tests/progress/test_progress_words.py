"""Figures and sentences."""

import pytest
from progress_kit import batch, lane, stats

from carpool.progress import words
from carpool.progress.forecast import Left
from carpool.spending import Cost

MINUTE, HOUR, DAY = 60, 3_600, 86_400


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0, "0"),
        (999, "999"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (35_652, "35.7k"),
        (99_960, "100k"),
        (123_456, "123k"),
        (999_499, "999k"),
        (999_999, "1.00M"),
        (1_502_000, "1.50M"),
        (20_000_000, "20.0M"),
        (10_000_000_000, "10.0B"),
        (15_000_000_000_000_000, "15000T"),
    ],
)
def test_numbers_are_written_short(number: int, written: str) -> None:
    assert words.short(number) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "1 s"),
        (7, "7 s"),
        (43, "45 s"),
        (99, "100 s"),
        (101, "2 min"),
        (10 * MINUTE, "10 min"),
        (43 * MINUTE, "45 min"),
        (99 * MINUTE, "100 min"),
        (2 * HOUR, "2 h"),
        (2.6 * HOUR, "2.5 h"),
        (9.9 * HOUR, "10 h"),
        (23 * HOUR, "23 h"),
        (2 * DAY, "2 days"),
        (8.4 * DAY, "8 days"),
    ],
)
def test_durations_are_about_right(seconds: float, written: str) -> None:
    assert words.span(seconds) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-3, "0 s"),
        (59, "59 s"),
        (100, "1 min"),
        (3_599, "59 min"),
        (3 * HOUR + 5 * MINUTE, "3 h 5 min"),
        (DAY, "24 h 0 min"),
    ],
)
def test_what_lasted_is_told_as_it_was(seconds: float, written: str) -> None:
    assert words.lasted(seconds) == written


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (600, 3_600, "10 to 60 min left"),
        (600, 4_500, "10 to 75 min left"),
        (600, 7_200, "up to 2 h left"),
        (2_400, 7_200, "40 min to 2 h left"),
        (7_200, 18_000, "2 to 5 h left"),
        (1_000, 1_100, "about 20 min left"),
        (0, 1, "up to 1 s left"),
        (1.9, 9, "up to 9 s left"),
        (3, 3.9, "3 to 4 s left"),
        (10.6 * HOUR, 14 * HOUR, "11 to 14 h left"),
        (10 * HOUR, 5 * DAY, "up to 5 days left"),
    ],
)
def test_the_time_left_is_told_with_its_uncertainty(low: float, high: float, sentence: str) -> None:
    assert words.left(Left(low, high), stats()) == sentence


def test_before_anything_is_known_of_the_time_left() -> None:
    assert words.left(None, stats(lane(0, 1_000), open_=(batch(),))) == "up to 24 h a batch left"
    assert words.left(None, stats(lane(1_000))) == ""
    assert words.left(None, stats(lane(answered=1_000))) == ""


def test_money_is_told_and_what_it_leaves_out() -> None:
    assert words.money(Cost()) == ""
    assert words.money(Cost(3, 0, paid=1.23, live=2.46)) == "paid $1.23, saved $1.23"
    assert words.money(Cost(3, 1, paid=1_234.0, live=2_468.0)) == "paid $1,234, saved $1,234, 1 unpriced"
    assert words.money(Cost(3, 3)) == "no price is known"
    assert words.money(Cost(3, 0, paid=0.0, live=0.0)) == "paid $0.00, saved $0.00"
    assert words.money(Cost(3, 0, paid=3.0, live=2.0)) == "paid $3.00, saved $0.00"  # some were billed twice


def test_the_line_says_how_things_stand() -> None:
    chat = lane(2_000, 35_652, answered=12_345, failed=3)
    cost = Cost(12_345, 0, paid=1.23, live=2.46)
    seen = stats(chat, open_=(batch(1), batch(2), batch(3)), cost=cost)
    assert words.line(seen, 50_000, Left(600, 3_000)) == (
        "answered 12,345 of 50,000 (3 failed), 2,000 waiting, 35,652 in 3 batches; paid $1.23, saved $1.23; "
        "10 to 50 min left"
    )


def test_the_line_says_less_where_there_is_less() -> None:
    assert words.line(stats(lane(7)), None, None) == "answered 0 of 7 accepted, 7 waiting"
    assert words.line(stats(lane(0, 7, answered=1)), None, None) == "answered 1 of 8 accepted, 7 under way"
    assert words.line(stats(lane(0, 1), open_=(batch(),)), 1, None) == (
        "answered 0 of 1, 1 in 1 batch; up to 24 h a batch left"
    )


def test_a_total_that_is_too_small_is_not_believed() -> None:
    assert words.answered(stats(lane(7)), 5) == "answered 0 of 7 accepted"


def test_the_outcome_says_what_is_not_over() -> None:
    done = stats(lane(answered=12_345, failed=3), batches=3)
    assert words.outcome(done, 12_348, 4_000, journal=True) == (
        "answered 12,345 of 12,348 (3 failed) in 3 batches, 1 h 6 min"
    )
    left = stats(lane(5, 3_000, answered=12), batches=1)
    assert words.outcome(left, None, 40, journal=True) == (
        "answered 12 of 3,017 accepted in 1 batch, 40 s; 3,005 not over, which the next start takes over"
    )
    assert words.outcome(left, None, 40, journal=False).endswith("; 3,005 not over")


def test_the_first_submission_says_what_to_expect() -> None:
    queued = batch(3, stage="queued", id=None, status="")
    seen = stats(lane(500, 3_000), open_=(batch(1), batch(2), queued))
    assert words.expectation(seen, journal=False) == (
        "Submitted 2,000 requests in 2 batches, 1,500 more wait for room. A batch takes from minutes to 24 hours."
    )
    assert words.expectation(stats(lane(0, 1), open_=(batch(1, rows=1),)), journal=True) == (
        "Submitted 1 request in 1 batch. A batch takes from minutes to 24 hours. This may be stopped at any time: "
        "started again with the same journal, it goes on."
    )


def test_percentages_are_not_rounded_up() -> None:
    assert [words.percent(part, 1_000) for part in (0, 9, 999, 1_000)] == ["0%", "0%", "99%", "100%"]
    assert words.percent(0, 0) == "0%"


def test_texts_of_others_are_one_line_and_no_command() -> None:
    assert words.plain("a\x1b[31m\r\nb\u202ec") == "a?[31m b?c"

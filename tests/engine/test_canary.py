"""The first requests of a lane go alone; the others follow unless too many of these were refused."""

import math
from collections import Counter

import pytest
from engine_kit import (
    LANE,
    OTHER,
    Shell,
    answer,
    failed_row,
    failures,
    of,
    only,
    problem,
    refused,
    rows_of,
    settled,
    status,
)

from carpool.config import Canary, Retry
from carpool.engine.commands import Command, Fail, Upload
from carpool.engine.events import Created, Failed, Flush, Uploaded
from carpool.models import Row

ANEW = Retry()


def started(requests: int = 2, share: float = 0.5, retry: Retry = ANEW) -> Shell:
    return Shell(retry=retry, canary=Canary(requests, share))


def canary_of(shell: Shell, *rows: int) -> str:
    """Let rows come, of which the canary is sent; gives its key."""
    commands = shell.accept(*rows)
    return shell.reopened(commands or shell.tell(Flush()))


def uploads(commands: list[Command]) -> list[list[int]]:
    return [rows_of(upload.batch.runs) for upload in of(commands, Upload)]


# --- alone


def test_the_first_requests_of_a_lane_go_alone_and_at_once() -> None:
    shell = started()
    assert shell.accept(1) == []
    assert uploads(shell.accept(2, 3, 4)) == [[1, 2]]
    assert shell.tell(Flush()) == []
    assert shell.engine.deadline() == math.inf
    shell.tell(Uploaded("p-b1", "f"))
    shell.tell(Created("p-b1", status("p-b1", "in_progress")))
    assert shell.accept(5) + shell.tell(Flush()) == []
    assert shell.stats().waiting == 3


def test_fewer_than_that_linger_as_usual_and_go_alone_too() -> None:
    shell = started(requests=5)
    assert shell.accept(1, 2) == []
    assert shell.pause == pytest.approx(1.0)
    assert uploads(shell.wait()) == [[1, 2]]
    assert shell.accept(3, 4, 5, 6, 7, 8) == []


def test_each_lane_has_a_canary_of_its_own() -> None:
    shell = started(requests=1)
    assert uploads(shell.accept(1, 2)) == [[1]]
    assert uploads(shell.accept(3, 4, lane=OTHER, segment=2)) == [[3]]


def test_without_one_nothing_is_held_back() -> None:
    shell = Shell(retry=ANEW)
    shell.accept(1, 2, 3)
    assert uploads(shell.tell(Flush())) == [[1, 2, 3]]


# --- it ran well


def test_the_others_follow_in_files_of_the_usual_size_when_it_has_run_well() -> None:
    shell = started()
    key = canary_of(shell, 1, 2, 3, 4, 5, 6)
    shell.tell(Flush())
    commands = shell.finish(key, answer(1), answer(2))
    assert settled(commands) == [1, 2]
    assert uploads(commands or shell.wait()) == [[3, 4, 5, 6]]
    assert shell.notices == []


def test_it_is_tried_once() -> None:
    shell = started()
    shell.finish(canary_of(shell, 1, 2), answer(1), answer(2))
    shell.accept(3, 4, 5, 6)
    assert uploads(shell.tell(Flush())) == [[3, 4, 5, 6]]
    shell.tell(Uploaded("p-b2", "f"))
    shell.tell(Created("p-b2", status("p-b2", "validating")))
    shell.finish("p-b2", *(failed_row(row, 400) for row in (3, 4, 5, 6)))
    shell.accept(7)
    assert uploads(shell.tell(Flush())) == [[7]]
    assert shell.notices == []


@pytest.mark.parametrize(
    ("share", "refusals", "barred"),
    [
        (0.5, 2, False),
        (0.5, 3, True),
        (0.0, 0, False),
        (0.0, 1, True),
        (1.0, 4, False),
        (0.25, 1, False),
        (0.25, 2, True),
    ],
)
def test_a_lane_is_barred_for_good_when_more_than_the_share_was_refused(
    share: float, refusals: int, barred: bool
) -> None:
    shell = started(4, share)
    key = canary_of(shell, 1, 2, 3, 4, 5, 6)
    rows = [failed_row(row, 400) if row <= refusals else answer(row) for row in (1, 2, 3, 4)]
    commands = shell.finish(key, *rows)
    assert (failures(commands) == {5: "rejected", 6: "rejected"}) == barred
    assert [notice.kind for notice in shell.notices] == ["held"] * barred
    later = shell.accept(7, after=1e7) + shell.tell(Flush())
    assert (7 in failures(later)) == barred
    assert shell.ends[7] == barred


def test_the_others_are_told_why_in_the_words_of_the_provider() -> None:
    shell = started(2, 0.0)
    key = canary_of(shell, 1, 2, 3)
    rows = [Row(f"p-{row}", 400, "", b"", "bad", f"reason {row}") for row in (1, 2)]
    fail = only(shell.finish(key, *rows), Fail)
    assert (fail.failure.kind, fail.failure.code) == ("rejected", "canary_refused")
    assert "2 of the first 2 requests to gpt-5-mini were refused" in fail.failure.message
    assert "reason 1; reason 2" in fail.failure.message
    (notice,) = shell.notices
    assert (notice.kind, notice.lane) == ("held", LANE)


def test_no_more_than_three_reasons_are_quoted_and_equal_ones_once() -> None:
    shell = started(5, 0.0)
    key = canary_of(shell, 1, 2, 3, 4, 5, 6)
    rows = [Row(f"p-{row}", 400, "", b"", "bad", f"reason {min(row, 4) // 2}") for row in range(1, 6)]
    message = only(shell.finish(key, *rows), Fail).failure.message
    assert message.count("reason") == 2


def test_other_lanes_go_on_when_one_is_barred() -> None:
    shell = started(1, 0.0)
    shell.finish(canary_of(shell, 1, 2), failed_row(1, 400))
    assert uploads(shell.accept(3, lane=OTHER, segment=2)) == [[3]]


def test_segments_of_a_lane_whose_canary_was_refused_go_once() -> None:
    shell = started(1, 0.0)
    key = canary_of(shell, 1, 2, 3)
    shell.accept(4, segment=2)
    shell.finish(key, failed_row(1, 400))
    assert shell.discarded == [1]
    assert shell.ends == Counter((1, 2, 3, 4))


# --- it ran neither well nor was it refused


@pytest.mark.parametrize("end", ["expired", "cancelled", "failed"])
def test_one_that_did_not_run_goes_again(end: str) -> None:
    shell = started()
    key = canary_of(shell, 1, 2, 3, 4)
    again = shell.reopened(shell.check(key, end))
    assert shell.notices == []
    assert shell.stats().waiting == 2
    commands = shell.finish(again, answer(1), answer(2))
    assert uploads(shell.until(Upload, commands)) == [[3, 4]]


def test_one_whose_rows_failed_by_the_servers_fault_goes_again() -> None:
    shell = started()
    commands = shell.finish(canary_of(shell, 1, 2, 3, 4), failed_row(1), failed_row(2))
    assert uploads(shell.until(Upload, commands)) == [[1, 2]]
    assert shell.tell(Flush()) == []


def test_one_whose_rows_failed_by_the_servers_fault_for_the_last_time_is_no_success() -> None:
    shell = started(retry=Retry(max_attempts=1))
    commands = shell.finish(canary_of(shell, 1, 2, 3, 4, 5, 6), failed_row(1), failed_row(2))
    assert uploads(shell.until(Upload, commands)) == [[3, 4]]


def test_what_of_it_did_not_run_goes_again_before_the_others() -> None:
    shell = started()
    commands = shell.finish(canary_of(shell, 1, 2, 3, 4), answer(1), failed_row(2))
    commands = shell.until(Upload, commands)
    assert uploads(commands) == [[2]]
    commands = shell.finish(shell.reopened(commands), answer(2))
    assert uploads(shell.until(Upload, commands)) == [[3, 4]]


def test_one_that_found_no_room_goes_again() -> None:
    shell = started()
    commands = shell.count(shell.refuse(canary_of(shell, 1, 2, 3, 4)))
    assert [len(rows) for rows in uploads(shell.until(Upload, commands))] == [2]
    assert shell.stats().waiting == 2


@pytest.mark.parametrize("kind", ["rejected", "disk"])
def test_one_that_could_not_be_uploaded_is_followed_by_the_next(kind: str) -> None:
    shell = started()
    upload = only(shell.accept(1, 2, 3, 4, 5), Upload)
    commands = shell.tell(Failed(upload.keys, refused(kind)))
    assert set(failures(commands)) >= {1, 2}
    assert uploads(commands) in ([[3, 4]], [])


# --- its validation


def test_the_lines_that_a_validation_names_count_as_refused() -> None:
    shell = started(4, 0.5)
    key = canary_of(shell, 1, 2, 3, 4, 5)
    problems = tuple(problem("invalid_url", line, "bad url") for line in (1, 2, 3))
    commands = shell.check(key, "failed", problems=problems)
    assert failures(commands) == dict.fromkeys((1, 2, 3, 4, 5), "rejected")
    assert not of(commands, Upload)
    assert {fail.failure.code for fail in of(commands, Fail)} == {"invalid_url", "canary_refused"}
    assert [notice.kind for notice in shell.notices] == ["held"]
    assert shell.ends == Counter((1, 2, 3, 4, 5))


def test_one_of_which_few_lines_were_condemned_goes_again_without_them() -> None:
    shell = started(4, 0.5)
    key = canary_of(shell, 1, 2, 3, 4, 5, 6)
    commands = shell.check(key, "failed", problems=(problem("invalid_url", 1),))
    assert failures(commands) == {1: "rejected"}
    assert uploads(shell.until(Upload, commands)) == [[2, 3, 4]]


def test_one_that_was_refused_as_a_whole_bars_the_lane() -> None:
    shell = started(2, 0.5)
    key = canary_of(shell, 1, 2, 3, 4)
    commands = shell.check(key, "failed", problems=(problem("empty_file", None, "empty"),))
    assert set(failures(commands)) == {1, 2, 3, 4}
    assert [notice.kind for notice in shell.notices] == ["held"]


def test_answers_that_came_live_count_as_well() -> None:
    shell = started()
    key = canary_of(shell, 1, 2, 3, 4, 5)
    shell.escalate(1, 2)
    shell.live_ended(1)
    shell.live_ended(2)
    commands = shell.finish(key, end="expired")
    assert uploads(shell.until(Upload, commands)) == [[3, 4, 5]]

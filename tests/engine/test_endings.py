"""What has no hope is not tried again and again: a lane without its model, an account without money."""

from collections import Counter
from collections.abc import Callable

import pytest
from engine_kit import (
    LANE,
    OTHER,
    POOL,
    Shell,
    answer,
    failed_row,
    failures,
    of,
    only,
    problem,
    refused,
    remote,
    rows_of,
    settled,
    status,
)

from carpool.config import Canary, Retry
from carpool.engine.commands import Check, Command, Delete, Fail, Upload
from carpool.engine.events import (
    Abandoned,
    Answered,
    Barred,
    Checked,
    Collected,
    Created,
    Done,
    Failed,
    Flush,
    Uploaded,
)
from carpool.models import BatchProblem, Failure, Lane, Row

ANEW = Retry()
BAR = 600.0
BESIDE = Lane("/v1/responses", LANE.model)  # of the same queue
NO_MODEL = problem("model_not_found", None, "The model x does not exist.")
MONEY = ["billing_hard_limit_reached", "insufficient_quota"]


def in_line(shell: Shell, *rows: int) -> str:
    """Let rows stand in line behind a batch that validates, as no limit is known; gives the key of that one."""
    ahead = shell.opened(900)
    upload = shell.packed(*rows)
    shell.tell(Uploaded(upload.batch.key, f"file-{upload.batch.key}"))
    return ahead


def kinds(shell: Shell) -> list[str]:
    return [notice.kind for notice in shell.notices]


def test_a_batch_is_held_until_it_is_over_and_then_says_how_many_of_its_rows_wait_again() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2, 3)
    assert shell.engine.holds(key)
    shell.finish(key, answer(1), end="expired")
    assert not shell.engine.holds(key)
    assert [(fact.key, fact.again) for fact, _ in shell.facts if isinstance(fact, Done)] == [(key, 2)]


# --- a model that is not to be had


@pytest.mark.parametrize("line", [None, 1, 2, 99])
def test_a_lane_without_its_model_ends_all_that_is_like_its_batch_with_one_error(line: int | None) -> None:
    shell = Shell(tokens=None, retry=ANEW)
    ahead = in_line(shell, 1, 2)
    shell.accept(3)
    commands = shell.check(ahead, "failed", problems=(problem("model_not_found", line, "no such model"),))
    assert failures(commands) == dict.fromkeys((900, 1, 2, 3), "rejected")
    assert {(fail.failure.message, fail.failure.code) for fail in of(commands, Fail)} == {
        ("no such model", "model_not_found")
    }
    assert not of(commands, Upload)
    assert sorted(delete.file_ids for delete in of(commands, Delete)) == [("file-p-b1",), ("file-p-b2",)]
    (notice,) = shell.notices
    assert (notice.kind, notice.lane, notice.batch_id) == ("held", LANE, None)
    assert "no such model" in notice.message
    assert LANE.model in notice.message
    assert (shell.stats().waiting, shell.stats().batches, shell.stats().enqueued) == (0, 0, 0)
    assert shell.ends == Counter((900, 1, 2, 3))


def test_a_lane_that_is_barred_ends_what_comes_and_is_tried_again_after_a_while() -> None:
    shell = Shell(retry=ANEW)
    shell.check(shell.opened(1), "failed", problems=(NO_MODEL,))
    assert failures(shell.accept(2, after=BAR - 1)) == {2: "rejected"}
    assert shell.accept(3, after=1) == []
    assert shell.pause == pytest.approx(1.0)
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [3]
    assert kinds(shell) == ["held"]


def test_other_lanes_go_on_while_one_is_barred() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    shell.accept(5, lane=OTHER, segment=2)
    shell.accept(6, lane=BESIDE, segment=3)
    commands = shell.tell(Checked((remote(key),), [status(key, "failed", problems=(NO_MODEL,))]))
    assert failures(commands) == {1: "rejected"}
    assert [rows_of(upload.batch.runs) for upload in of(shell.tell(Flush()), Upload)] == [[5], [6]]


def test_batches_that_run_in_a_lane_that_is_barred_are_awaited() -> None:
    shell = Shell(retry=ANEW)
    one, other = shell.opened(1), shell.opened(2)
    shell.check(one, "failed", problems=(NO_MODEL,))
    assert settled(shell.finish(other, answer(2))) == [2]


def test_rows_of_a_barred_lane_that_would_be_sent_again_end_and_tell_of_what_went_before() -> None:
    shell = Shell(retry=ANEW)
    one, other = shell.opened(1), shell.opened(2)
    shell.check(one, "failed", problems=(NO_MODEL,))
    commands = shell.finish(other, failed_row(2, 503))
    assert failures(commands) == {2: "rejected"}
    assert [attempt.status_code for attempt in only(commands, Fail).attempts[2]] == [503]


def test_it_is_told_once_though_several_batches_of_a_lane_have_no_model() -> None:
    shell = Shell(retry=ANEW)
    keys = [shell.opened(row) for row in (1, 2, 3)]
    for key in keys:
        shell.tell(Checked((remote(key),), [status(key, "failed", problems=(NO_MODEL,))]))
    assert kinds(shell) == ["held"]
    assert shell.ends == Counter((1, 2, 3))


def test_after_a_bar_has_ended_the_next_call_lingers_as_usual() -> None:
    shell = Shell(tokens=None, retry=ANEW)
    shell.check(in_line(shell, 1), "failed", problems=(NO_MODEL,))
    assert shell.accept(2, after=BAR) == []
    assert shell.pause == pytest.approx(1.0)


def test_segments_of_a_lane_that_was_barred_go_once() -> None:
    shell = Shell(tokens=None, retry=ANEW)
    ahead = in_line(shell, 1, 2)
    shell.accept(3)
    shell.accept(4, segment=2)
    shell.check(ahead, "failed", problems=(NO_MODEL,))
    assert shell.discarded == [1]
    shell.accept(5, segment=3)
    assert shell.discarded == [1, 2]


# --- an account without money


def no_money_at_upload(shell: Shell) -> Callable[[str], list[Command]]:
    key = shell.packed(1).batch.key
    return lambda code: shell.tell(Failed((key,), refused("budget", "no money", code=code)))


def no_money_at_creation(shell: Shell) -> Callable[[str], list[Command]]:
    key = shell.uploaded(1).batch.key
    return lambda code: shell.tell(Failed((key,), refused("budget", "no money", code=code)))


def no_money_at_validation(shell: Shell) -> Callable[[str], list[Command]]:
    key = shell.opened(1)
    return lambda code: shell.tell(
        Checked((remote(key),), [status(key, "failed", problems=(problem(code, None, "no money"),))])
    )


@pytest.mark.parametrize("code", MONEY)
@pytest.mark.parametrize("bring", [no_money_at_upload, no_money_at_creation, no_money_at_validation])
def test_an_account_without_money_ends_all_that_waits_anywhere(
    bring: Callable[[Shell], Callable[[str], list[Command]]], code: str
) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(7)
    spend = bring(shell)
    shell.accept(6, lane=OTHER, segment=2)
    commands = spend(code)
    assert failures(commands) == {1: "budget", 6: "budget"}
    assert {fail.failure.code for fail in of(commands, Fail)} == {code}
    (notice,) = shell.notices
    assert (notice.kind, notice.lane) == ("held", None)
    assert "no money" in notice.message
    assert failures(shell.accept(8)) == {8: "budget"}
    assert failures(shell.accept(9, lane=OTHER, segment=2)) == {9: "budget"}
    assert failures(shell.accept(10, lane=BESIDE, segment=3)) == {10: "budget"}
    assert settled(shell.finish(key, answer(7))) == [7]
    assert shell.accept(11, lane=OTHER, segment=2, after=BAR) == []
    assert of(shell.until(Upload), Upload)


@pytest.mark.parametrize("code", MONEY)
def test_a_bar_for_good_stays_though_the_account_runs_out_of_money_too(code: str) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    failure = Failure("budget", "The budget is spent.")
    shell.accept(2)
    assert only(shell.tell(Barred(failure)), Fail).failure == failure
    shell.check(key, "failed", problems=(problem(code, None, "no money"),))
    assert failures(shell.accept(3, after=10 * BAR)) == {3: "budget"}


@pytest.mark.parametrize("after", [0.0, 1e6])
def test_what_is_barred_for_good_takes_nothing_any_more(after: float) -> None:
    shell = Shell(tokens=None, retry=ANEW)
    in_line(shell, 1, 2)
    shell.accept(3)
    shell.accept(4, lane=OTHER, segment=2)
    commands = shell.tell(Barred(Failure("budget", "spent")))
    assert failures(commands) == dict.fromkeys((1, 2, 3, 4), "budget")
    assert not of(commands, Upload)
    assert kinds(shell) == ["held"]
    assert failures(shell.accept(5, after=after)) == {5: "budget"}
    assert shell.finish("p-b1", failed_row(900, 503))
    assert shell.ends == Counter((1, 2, 3, 4, 5, 900))
    assert not of(shell.tell(Flush()), Upload)


def test_a_lane_that_was_barred_for_good_stays_so() -> None:
    shell = Shell(retry=ANEW, canary=Canary(1, 0.5))
    key = shell.opened(1)
    shell.tell(Checked((remote(key),), [status(key, "completed", errors="e")]))
    shell.tell(Answered(key, [failed_row(1, 400)]))
    shell.tell(Collected(key))
    assert failures(shell.accept(2, after=10 * BAR)) == {2: "rejected"}


# --- lines that are to blame


def test_the_rows_that_a_validation_does_not_name_are_sent_again_and_that_counts_as_nothing() -> None:
    shell = Shell(retry=Retry(max_attempts=1))
    key = shell.opened(1, 2, 3)
    for row in (1, 2):
        commands = shell.check(key, "failed", problems=(problem("invalid_url", 1),))
        assert failures(commands) == {row: "rejected"}
        key = shell.reopened(commands)
    assert settled(shell.finish(key, answer(3))) == [3]
    assert shell.ends == Counter((1, 2, 3))


def test_a_segment_goes_once_though_its_rows_end_in_different_ways() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2, 3, 4)
    shell.accept(9, segment=2)
    shell.tell(Abandoned(frozenset((2, 9))))
    key = shell.reopened(shell.check(key, "failed", problems=(problem("invalid_url", 1),)))
    shell.finish(key, answer(3), failed_row(4, 400))
    assert shell.discarded == [1]
    assert shell.ends == Counter((1, 3, 4))
    assert (shell.stats().batches, shell.stats().enqueued) == (0, 0)


@pytest.mark.parametrize(
    "problems",
    [
        (),
        (problem("server_error"),),
        (problem("empty_file"),),
        (problem("invalid_url", 1),),
        (NO_MODEL,),
        (problem("insufficient_quota"),),
    ],
)
def test_room_is_given_back_however_a_batch_fails(problems: tuple[BatchProblem, ...]) -> None:
    shell = Shell(retry=Retry(max_attempts=1))
    shell.check(shell.opened(1), "failed", problems=problems)
    assert (shell.stats().batches, shell.stats().enqueued, shell.stats().waiting) == (0, 0, 0)
    assert shell.ends == Counter((1,))


# --- batches that take too long


def look_for(shell: Shell, key: str, seconds: float) -> None:
    """Let a batch be in progress for so many seconds."""
    end = shell.now + seconds
    while shell.now < end:
        for check in of(shell.wait(), Check):
            shell.tell(Checked(check.remote_ids, [status(key, "in_progress")]))


def test_a_batch_that_takes_very_long_is_told_of_once() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    look_for(shell, key, 21_500)
    assert shell.notices == []
    look_for(shell, key, 40_000)
    (notice,) = shell.notices
    assert (notice.kind, notice.lane, notice.batch_id) == ("late", LANE, remote(key))
    assert "in_progress for 36" in notice.message


@pytest.mark.parametrize(("usual", "late"), [(1_000.0, 4_000.0), (60.0, 1_800.0)])
def test_a_batch_is_late_when_it_takes_far_longer_than_others_of_its_queue(usual: float, late: float) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    look_for(shell, key, usual - 30)
    shell.finish(key, answer(1))
    took = shell.now
    key = shell.opened(2)
    look_for(shell, key, late - 200)
    assert shell.notices == []
    look_for(shell, key, 400)
    assert kinds(shell) == ["late"]
    assert "where others took" in shell.notices[0].message
    assert shell.now - took >= late


def test_each_batch_that_is_late_is_told_of() -> None:
    shell = Shell(retry=ANEW)
    for row in (1, 2):
        key = shell.uploaded(row).batch.key
        shell.tell(Created(key, status(key, "in_progress")))
    shell.now += 30_000
    news = [status(key, "in_progress") for key in ("p-b1", "p-b2")]
    shell.tell(Checked(tuple(one.id for one in news), news))
    shell.tell(Checked(tuple(one.id for one in news), news), after=1_000)
    assert [notice.batch_id for notice in shell.notices] == ["batch_p-b1", "batch_p-b2"]


def test_a_row_that_was_refused_for_want_of_money_bars_all_lanes_and_is_not_sent_again() -> None:
    shell = Shell(retry=Retry())
    key = shell.opened(1, 2)
    shell.check(key, "completed", output="out", errors="err", answered=2)
    broke = Row(f"{POOL}-1", 429, "", b"{}", "insufficient_quota", "You exceeded your current quota.")
    commands = shell.tell(Answered(key, [broke, answer(2)]))
    assert sorted(settled(commands)) == [1, 2]
    assert [notice.kind for notice in shell.notices] == ["held"]
    assert failures(shell.accept(3)) == {3: "budget"}
    assert not of(shell.tell(Collected(key)), Upload)

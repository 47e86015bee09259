"""Batches are cancelled when nobody will await them, or on purpose; what ran is paid for, and settled."""

from collections import Counter
from collections.abc import Callable

import pytest
from engine_kit import (
    AMPLE,
    LANE,
    NOW,
    ONCE,
    OTHER,
    POOL,
    Shell,
    answer,
    failed_row,
    failures,
    make_run,
    of,
    only,
    problem,
    refused,
    remote,
    rows_of,
    settled,
    status,
)

from carpool.config import Retry, Timing
from carpool.engine.commands import Cancel, Check, Command, Create, Delete, Fail, Find, Upload
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Asked,
    Checked,
    Closing,
    Created,
    Failed,
    Flush,
    NotFound,
    Packed,
    Recovered,
    Revoked,
    Settled,
    Uploaded,
    Woken,
)
from carpool.engine.stages import CANCEL_AGAIN, OVERDUE
from carpool.models import BatchStatus, Lane, NoRoom
from carpool.naming import span_of

ANEW = Retry()
BESIDE = Lane("/v1/responses", LANE.model)  # of the same queue
ALL = Revoked()


def leave(shell: Shell, *rows: int) -> list[Command]:
    return shell.tell(Abandoned(frozenset(rows)))


def look(shell: Shell, key: str, seconds: float, name: str = "in_progress") -> list[Command]:
    """Let a batch be looked at as often as the engine wants, for so many seconds, and stay as it is."""
    said: list[Command] = []
    end = shell.now + seconds
    while shell.engine.deadline() <= end:
        commands = shell.wait()
        for check in of(commands, Check):
            commands += shell.tell(Checked(check.remote_ids, [status(key, name)]))
        said += commands
    shell.now = end
    return said


def cancelled(commands: list[Command]) -> list[str]:
    return [command.remote_id for command in of(commands, Cancel)]


# --- for want of callers


def test_a_batch_that_nobody_has_awaited_for_a_while_is_cancelled_once() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    look(shell, key, 3)
    assert leave(shell, 1) + leave(shell, 2) == []
    assert cancelled(look(shell, key, 9)) == []
    assert cancelled(look(shell, key, 2)) == [remote(key)]
    assert cancelled(look(shell, key, 3_600, "cancelling")) == []


def test_an_old_batch_that_is_looked_at_once_a_minute_is_cancelled_in_time_too() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    look(shell, key, 7_200)
    begin = shell.now
    leave(shell, 1)
    assert cancelled(look(shell, key, 11)) == [remote(key)]
    assert shell.now - begin == pytest.approx(11)


@pytest.mark.parametrize("abandon", [0.0, 60.0])
def test_how_long_that_takes_can_be_set(abandon: float) -> None:
    shell = Shell(Timing(abandon=abandon), retry=ANEW)
    key = shell.opened(1)
    look(shell, key, 60)
    leave(shell, 1)
    assert cancelled(look(shell, key, abandon - 1)) == []
    assert cancelled(look(shell, key, 5)) == [remote(key)]


def test_a_batch_that_somebody_awaits_is_not_cancelled() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    leave(shell, 1)
    assert cancelled(look(shell, key, 3_600)) == []


def test_what_was_answered_needs_nobody() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    shell.check(key, "in_progress")
    shell.escalate(1)
    shell.live_ended(1)
    leave(shell, 2)
    assert cancelled(look(shell, key, 30)) == [remote(key)]


def test_a_batch_whose_last_caller_was_answered_live_has_none_left() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    shell.check(key, "in_progress")
    shell.escalate(1)
    leave(shell, 2)
    shell.live_ended(1)
    assert cancelled(look(shell, key, 30)) == [remote(key)]


def test_with_a_journal_nothing_is_cancelled_for_want_of_callers() -> None:
    shell = Shell(retry=ANEW, keeps=True)
    key = shell.opened(1)
    leave(shell, 1)
    assert cancelled(look(shell, key, 86_400)) == []


@pytest.mark.parametrize("before", [True, False])
def test_while_the_pool_closes_nothing_is_cancelled_for_want_of_callers(before: bool) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    if before:
        shell.tell(Closing())
    leave(shell, 1)
    if not before:
        shell.tell(Closing())
    assert cancelled(look(shell, key, 3_600)) == []


def test_a_batch_that_is_asked_for_again_in_time_is_not_cancelled() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    leave(shell, 1, 2)
    look(shell, key, 5)
    assert shell.tell(Asked((1,))) == []
    assert cancelled(look(shell, key, 3_600)) == []
    leave(shell, 1)
    assert set(cancelled(look(shell, key, 120))) == {remote(key)}


def test_a_cancellation_that_did_not_get_through_is_repeated_until_it_is_heard_of() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    assert cancelled(shell.tell(ALL)) == [remote(key)]
    assert cancelled(look(shell, key, CANCEL_AGAIN - 1)) == []
    assert cancelled(look(shell, key, CANCEL_AGAIN)) == [remote(key)]
    assert cancelled(look(shell, key, 3_600, "cancelling")) == []


def test_one_that_would_not_end_is_cancelled_until_it_is_heard_of() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    look(shell, key, OVERDUE)
    assert len(cancelled(look(shell, key, 1_800))) > 10


def test_one_of_which_word_will_come_is_cancelled_again_within_a_minute_too() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    shell.tell(Woken((remote(key),)))
    look(shell, key, 60)
    shell.tell(ALL)
    assert len(cancelled(look(shell, key, 300))) >= 3


@pytest.mark.parametrize("why", ["busy", "full", "not found"])
def test_what_is_asked_for_after_its_batch_was_cancelled_before_it_was_created_is_sent_again(why: str) -> None:
    shell = Shell(retry=ANEW, keeps=True)
    key = shell.uploaded(1, 2).batch.key
    shell.tell(ALL)
    leave(shell, 1, 2)
    shell.tell(Asked((1,)))
    if why == "not found":
        ended = shell.tell(Failed((key,), refused("lost")))
        while not failures(ended):
            ended = shell.tell(NotFound((key,), shell.now)) if of(ended, Find) else shell.wait()
    else:
        ended = shell.tell(Failed((key,), refused(why)))
    assert failures(ended) == {2: "cancelled"}
    assert rows_of(only(shell.until(Upload, ended), Upload).batch.runs) == [1]


def test_what_is_asked_for_after_its_batch_was_cancelled_is_sent_again() -> None:
    shell = Shell(retry=ANEW, keeps=True)
    key = shell.opened(1, 2)
    shell.tell(ALL)
    leave(shell, 1, 2)
    shell.tell(Asked((1,)))
    ended = look(shell, key, 60, "cancelling") + shell.finish(key, end="cancelled")
    assert failures(ended) == {2: "cancelled"}
    assert rows_of(only(shell.count(ended), Upload).batch.runs) == [1]
    shell.tell(ALL)
    assert shell.stats().waiting + shell.stats().submitted == 0


def test_a_batch_that_was_left_while_it_was_being_created_is_cancelled_afterwards() -> None:
    shell = Shell(retry=ANEW)
    key = shell.uploaded(1).batch.key
    assert leave(shell, 1) == []
    assert cancelled(shell.tell(Created(key, status(key, "validating")), after=3)) == []
    assert cancelled(look(shell, key, 30)) == [remote(key)]


def test_a_batch_that_nobody_awaits_is_taken_out_of_the_line_at_once() -> None:
    shell = Shell(tokens=None, retry=ANEW, keeps=True)
    shell.opened(9)
    upload = shell.packed(1, 2)
    assert not of(leave(shell, 1), Delete)
    commands = leave(shell, 2)
    assert not of(commands, Upload)
    assert [sorted(fact.rows) for fact, _ in shell.facts if isinstance(fact, Settled)] == [[1, 2]]
    assert (shell.stats().waiting, shell.stats().batches) == (0, 1)
    assert only(shell.tell(Uploaded(upload.batch.key, "late")), Delete).file_ids == ("late",)


def test_what_ran_in_a_batch_that_was_left_is_settled_and_the_rest_is_not_sent_again() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2, 3)
    shell.accept(9, lane=LANE, segment=2)
    leave(shell, 1, 2, 3, 9)
    look(shell, key, 30)
    commands = shell.finish(key, answer(1), failed_row(2, 0, "batch_cancelled"), end="cancelled")
    assert settled(commands) == [1]
    assert not of(commands, Upload)
    assert (shell.stats().waiting, shell.stats().batches, shell.stats().enqueued) == (0, 0, 0)
    assert shell.discarded == [1]
    assert shell.ends[1] == 1


def test_whoever_came_back_too_late_is_sent_again() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    leave(shell, 1, 2)
    assert cancelled(look(shell, key, 30))
    shell.tell(Asked((2,)))
    commands = shell.finish(key, end="cancelled")
    assert [rows_of(upload.batch.runs) for upload in of(shell.until(Upload, commands), Upload)] == [[2]]


# --- a batch in line that many have left


def stand_in_line(shell: Shell, count: int) -> str:
    """Let `count` rows stand in line behind a batch that validates; gives the key of that one."""
    ahead = only(shell.accept(900, lane=BESIDE, segment=50) + shell.tell(Flush()), Upload).batch.key
    shell.tell(Uploaded(ahead, "f"))
    shell.tell(Created(ahead, status(ahead, "validating")))
    upload = shell.packed(*range(1, count + 1))
    shell.tell(Uploaded(upload.batch.key, "file"))
    return ahead


@pytest.mark.parametrize(("gone", "anew"), [(2, False), (3, True)])
def test_a_batch_in_line_is_chosen_anew_when_more_than_a_hundredth_has_left_it(gone: int, anew: bool) -> None:
    shell = Shell(tokens=None, retry=ANEW)
    ahead = stand_in_line(shell, 200)
    leave(shell, *range(1, gone + 1))
    commands = shell.check(ahead, "in_progress")
    if anew:
        assert not of(commands, Create)
        assert rows_of(only(commands, Upload).batch.runs) == list(range(4, 201))
    else:
        assert len(rows_of(only(commands, Create).batch.runs)) == 200


# --- on purpose


@pytest.mark.parametrize("event", [ALL, Revoked(frozenset(("batch_p-b1",)))])
def test_a_batch_that_is_cancelled_on_purpose_settles_what_ran_and_cancels_the_rest(event: Revoked) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2, 3, 4)
    shell.accept(9, segment=2)
    assert cancelled(shell.tell(event)) == [remote(key)]
    commands = shell.finish(key, answer(1), failed_row(2, 0, "batch_cancelled"), failed_row(3, 500), end="cancelled")
    assert settled(commands) == [1]
    assert failures(commands) == {2: "cancelled", 3: "cancelled", 4: "cancelled"}
    assert shell.ends == Counter((1, 2, 3, 4) if event is not ALL else (1, 2, 3, 4, 9))
    assert shell.discarded == [1]
    assert shell.stats().batches == 0


@pytest.mark.parametrize("end", ["completed", "expired", "cancelled"])
def test_what_no_file_of_a_batch_that_was_cancelled_mentions_is_told(end: str) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    shell.tell(ALL)
    assert failures(shell.check(key, end)) == {1: "cancelled"}
    assert not of([*shell.tell(Flush())], Upload)


def test_one_batch_is_cancelled_and_others_go_on() -> None:
    shell = Shell(retry=ANEW)
    one, other = shell.opened(1), shell.opened(2)
    shell.accept(3)
    assert cancelled(shell.tell(Revoked(frozenset((remote(one),))))) == [remote(one)]
    commands = shell.tell(Flush())
    assert rows_of(only(commands, Upload).batch.runs) == [3]
    assert failures(shell.finish(one, end="cancelled")) == {1: "cancelled"}
    assert settled(shell.finish(other, answer(2))) == [2]


def test_all_there_is_is_cancelled_also_what_waits_in_any_lane_and_what_stands_in_line() -> None:
    shell = Shell(tokens=None, retry=ANEW)
    stand_in_line(shell, 2)
    shell.accept(10)
    shell.accept(20, lane=OTHER, segment=7)
    commands = shell.tell(ALL)
    assert failures(commands) == {1: "cancelled", 2: "cancelled", 10: "cancelled", 20: "cancelled"}
    assert {command.failure.message for command in of(commands, Fail)} == {"The request was cancelled by Pool.cancel."}
    assert cancelled(commands) == ["batch_p-b1"]
    assert only(commands, Delete).file_ids == ("file",)
    assert shell.stats().waiting == shell.stats(OTHER).waiting == 0
    assert not of(shell.tell(Flush()), Upload)


def test_an_upload_under_way_that_was_cancelled_is_deleted_when_it_has_arrived() -> None:
    shell = Shell(tokens=None, retry=ANEW)
    shell.opened(9)
    upload = shell.packed(1)
    assert failures(shell.tell(ALL)) == {1: "cancelled"}
    assert only(shell.tell(Uploaded(upload.batch.key, "late")), Delete).file_ids == ("late",)


def test_what_comes_after_all_was_cancelled_is_sent() -> None:
    shell = Shell(retry=ANEW)
    shell.accept(1)
    shell.tell(ALL)
    shell.accept(2)
    assert shell.pause == pytest.approx(1.0)
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [2]


@pytest.mark.parametrize("found", [True, False])
def test_a_batch_that_is_being_created_is_cancelled_as_soon_as_it_is_known(found: bool) -> None:
    shell = Shell(retry=ANEW)
    key = shell.uploaded(1).batch.key
    assert shell.tell(ALL) == []
    if found:
        assert of(shell.tell(Failed((key,), refused("lost"))), Find)
    assert cancelled(shell.tell(Created(key, status(key, "validating")))) == [remote(key)]
    assert failures(shell.finish(key, end="cancelled")) == {1: "cancelled"}


def test_cancelling_twice_does_no_harm() -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1)
    shell.tell(ALL)
    shell.tell(Revoked(frozenset((remote(key),))))
    assert failures(shell.finish(key, end="cancelled")) == {1: "cancelled"}


@pytest.mark.parametrize(
    "end",
    [
        status("p-b1", "failed", no_room=NoRoom(None)),
        status("p-b1", "failed", no_room=NoRoom(100)),
        status("p-b1", "failed", problems=(problem("invalid_url", 1),)),
        status("p-b1", "failed", problems=(problem("", None, "Cannot find file x"),)),
        status("p-b1", "failed", problems=(problem("server_error"),)),
        status("p-b1", "failed"),
    ],
)
def test_a_batch_that_was_cancelled_is_not_sent_again_though_its_validation_failed(end: BatchStatus) -> None:
    shell = Shell(retry=ANEW)
    key = shell.opened(1, 2)
    shell.tell(ALL)
    commands = shell.check(key, end.status, problems=end.problems, no_room=end.no_room)
    assert set(failures(commands)) == {1, 2}
    assert failures(commands)[2] == "cancelled"
    assert not of([*commands, *shell.tell(Flush())], Upload)
    assert shell.stats().waiting == 0
    assert shell.ends == Counter((1, 2))


def test_a_creation_without_room_is_not_repeated_for_what_was_cancelled() -> None:
    shell = Shell(retry=ANEW)
    create = shell.uploaded(1, 2)
    shell.tell(ALL)
    commands = shell.tell(Failed(create.keys, refused("full")))
    assert failures(commands) == {1: "cancelled", 2: "cancelled"}
    assert not of([*commands, *shell.tell(Flush())], Upload)


@pytest.mark.parametrize("retry", [ONCE, ANEW])
def test_what_had_failed_before_it_was_cancelled_is_not_sent_again(retry: Retry) -> None:
    shell = Shell(retry=retry)
    key = shell.reopened(shell.finish(shell.opened(1, 2), answer(2), failed_row(1))) if retry is ANEW else ""
    key = key or shell.opened(1)
    shell.tell(ALL)
    commands = shell.finish(key, failed_row(1), end="cancelled")
    assert failures(commands) == {1: "cancelled"}
    assert not of(commands, Upload)
    (fail,) = of(commands, Fail)
    assert [attempt.status_code for attempt in fail.attempts[1]] == [500] * (2 if retry is ANEW else 1)


def test_rows_that_wait_to_be_sent_again_are_cancelled_and_tell_of_what_went_before() -> None:
    shell = Shell(retry=ANEW)
    shell.finish(shell.opened(1), failed_row(1))
    fail = only(shell.tell(ALL), Fail)
    assert fail.failure.kind == "cancelled"
    assert [attempt.status_code for attempt in fail.attempts[1]] == [500]


def test_a_batch_of_an_earlier_process_is_cancelled_though_nobody_asked_for_it() -> None:
    shell = Shell(numbered=span_of(1)[0], retry=ANEW, keeps=True)
    run = make_run((1, 2))
    key = f"{POOL}-b1"
    for fact in (
        Accepted(LANE, run),
        Packed(1, LANE, (run,)),
        Uploaded(key, "f"),
        Created(key, status(key, "validating")),
    ):
        shell.engine.replay(fact, NOW - 100)
    shell.tell(Recovered())
    assert shell.engine.remote_ids() == {remote(key)}
    assert cancelled(shell.tell(Revoked(shell.engine.remote_ids()))) == [remote(key)]
    assert failures(shell.finish(key, answer(1), end="cancelled")) == {2: "cancelled"}
    assert shell.discarded == [1]


@pytest.mark.parametrize("found", [True, False])
def test_a_batch_of_an_earlier_process_that_may_have_been_created_is_cancelled_when_it_is_known(found: bool) -> None:
    shell = Shell(tokens=AMPLE, numbered=span_of(1)[0], retry=ANEW, keeps=True)
    run = make_run((1,))
    key = f"{POOL}-b1"
    for fact in (Accepted(LANE, run), Packed(1, LANE, (run,)), Uploaded(key, "f")):
        shell.engine.replay(fact, NOW - 100)
    commands = shell.tell(Recovered())
    shell.tell(ALL)
    finds = of(shell.until(Find, commands), Find)
    if found:
        assert cancelled(shell.tell(Created(key, status(key, "validating")))) == [remote(key)]
        assert failures(shell.finish(key, end="cancelled")) == {1: "cancelled"}
        return
    while not of(commands := shell.tell(NotFound((key,), finds[0].at)), Delete):
        finds = of(shell.until(Find), Find)
    assert not of(commands, Create)
    assert shell.stats().batches == 0


def end_of(shell: Shell, key: str, rows: int) -> None:
    shell.finish(key, *map(answer, range(1, rows + 1)), end="cancelled")


@pytest.mark.parametrize("bring", [Shell.packed, Shell.uploaded, Shell.opened])
def test_all_room_is_given_back_and_all_segments_go_after_all_was_cancelled(
    bring: Callable[..., object],
) -> None:
    shell = Shell(retry=ANEW)
    bring(shell, 1, 2)
    shell.accept(3)
    shell.accept(4, segment=2)
    shell.tell(ALL)
    key = "p-b1"
    if bring is Shell.packed:
        assert of(shell.tell(Uploaded(key, "f")), Delete)
    else:
        if bring is Shell.uploaded:
            shell.tell(Created(key, status(key, "validating")))
        end_of(shell, key, 1)
    assert shell.ends == Counter((1, 2, 3, 4))
    assert shell.discarded == [1]
    assert (shell.stats().batches, shell.stats().enqueued, shell.stats().waiting) == (0, 0, 0)

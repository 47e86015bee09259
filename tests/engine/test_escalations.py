"""Rows are sent live once, and settled once: by the live answer, or by that of the batch in which they travel too."""

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from engine_kit import (
    LANE,
    NOW,
    OTHER,
    POOL,
    TIMING,
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

from carpool.config import Retry
from carpool.engine.commands import (
    Bill,
    Check,
    Collect,
    Command,
    Create,
    Delete,
    Fail,
    Find,
    LetGo,
    Record,
    SendLive,
    Settle,
    Upload,
)
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Asked,
    Barred,
    Checked,
    Collected,
    Created,
    Escalate,
    Escalated,
    Event,
    Failed,
    Flush,
    GivenUp,
    LiveEnded,
    NotFound,
    Packed,
    Recovered,
    Revoked,
    Uploaded,
)
from carpool.engine.stages import CANCELLING, OVERDUE, VANISHED
from carpool.models import Failure, FileLimits, Lane, NoRoom, Row
from carpool.naming import span_of

ANEW = Retry()
OLD = f"{POOL}-b1"
BESIDE = Lane("/v1/responses", LANE.model)  # of the same queue


def started(tokens: int | None = 10**12) -> Shell:
    return Shell(tokens=tokens, retry=ANEW)


def move_on(shell: Shell) -> None:
    """Let the lane leave its first segment, which goes as soon as nobody needs it."""
    shell.accept(1_000, lane=LANE, segment=99)
    shell.tell(Abandoned(frozenset((1_000,))))


def in_line(shell: Shell, *rows: int) -> tuple[str, str]:
    """Let rows stand in line behind a batch that validates, as no limit is known; gives the keys of both."""
    ahead = only(shell.accept(900, lane=BESIDE, segment=50) + shell.tell(Flush()), Upload).batch.key
    shell.tell(Uploaded(ahead, "f"))
    shell.tell(Created(ahead, status(ahead, "validating")))
    upload = shell.packed(*rows)
    assert shell.tell(Uploaded(upload.batch.key, f"file-{upload.batch.key}")) == []
    return ahead, upload.batch.key


def admit(shell: Shell, key: str) -> list[Command]:
    """Let a batch be taken into the provider's queue: the next may be let in."""
    return shell.check(key, "in_progress")


# --- where they are sent from


def test_rows_that_wait_leave_the_queue_and_are_sent_once_it_is_recorded() -> None:
    shell = started()
    shell.accept(1, 2, 3, 4)
    send = only(shell.escalate(2, 4), SendLive)
    assert (send.lane, rows_of(send.runs)) == (LANE, [2, 4])
    assert [fact for fact, _ in shell.facts][-1] == Escalated(LANE, send.runs)
    assert [(run.segment, run.offset) for run in send.runs] == [(1, 10), (1, 30)]
    assert shell.stats().waiting == 2
    assert rows_of(only(shell.tell(Flush()), Upload).batch.runs) == [1, 3]


def test_rows_of_several_lanes_are_sent_lane_by_lane() -> None:
    shell = started()
    shell.accept(1)
    shell.accept(2, lane=OTHER, segment=2)
    assert [(send.lane, rows_of(send.runs)) for send in of(shell.escalate(1, 2), SendLive)] == [
        (LANE, [1]),
        (OTHER, [2]),
    ]


def bring_waiting(shell: Shell) -> None:
    shell.accept(1, 2)


def bring_uploading(shell: Shell) -> None:
    shell.packed(1, 2)


def bring_creating(shell: Shell) -> None:
    shell.uploaded(1, 2)


def bring_open(shell: Shell) -> None:
    shell.opened(1, 2)


def bring_lost(shell: Shell) -> None:
    shell.tell(Failed((shell.uploaded(1, 2).batch.key,), refused("lost")))


def bring_in_line(shell: Shell) -> None:
    in_line(shell, 1, 2)


@pytest.mark.parametrize(
    "bring", [bring_waiting, bring_in_line, bring_uploading, bring_creating, bring_open, bring_lost]
)
def test_each_row_is_sent_live_once_wherever_it_is(bring: Callable[[Shell], None]) -> None:
    shell = started(tokens=None)
    bring(shell)
    assert rows_of(only(shell.escalate(1), SendLive).runs) == [1]
    assert rows_of(only(shell.escalate(1, 2), SendLive).runs) == [2]
    assert shell.escalate(1, 2) == []
    shell.live_ended(1, None)
    assert shell.escalate(1) == []
    assert shell.live == Counter((1, 2))


@pytest.mark.parametrize("row", [1, 7])
def test_a_row_that_has_come_to_its_end_or_that_nobody_sent_is_not_sent_live(row: int) -> None:
    shell = started()
    key = shell.ended(1, 2)
    shell.answered(key, 1)
    assert shell.escalate(row) == []


def test_a_row_that_is_being_packed_is_sent_when_that_is_recorded_and_leaves_its_batch() -> None:
    engine = Engine(POOL, TIMING, FileLimits(2, 1_000, 1_000, 1_000_000), retry=ANEW)
    packed = only(engine.handle(Accepted(LANE, make_run((1, 2))), NOW), Record).fact
    assert engine.handle(Escalate(frozenset((1,))), NOW) == []
    commands = engine.handle(packed, NOW)
    assert Record(Escalated(LANE, (make_run((1,)),))) in commands
    (send,) = of(engine.handle(Escalated(LANE, (make_run((1,)),)), NOW), SendLive)
    assert rows_of(send.runs) == [1]


def test_a_row_that_was_being_packed_is_settled_once() -> None:
    shell = Shell(limits=FileLimits(2, 1_000, 1_000, 1_000_000), retry=ANEW)
    record = only(shell.engine.handle(Accepted(LANE, make_run((1, 2))), shell.now), Record)
    shell.tell(Escalate(frozenset((1,))))
    commands = shell.tell(record.fact)
    assert rows_of(only(commands, SendLive).runs) == [1]
    assert settled(shell.live_ended(1)) == [1]
    key = shell.reopened(commands)
    shell.finish(key, answer(1), answer(2))
    assert shell.ends == Counter((1, 2))
    assert shell.stats().enqueued == 0


def test_a_lane_of_which_all_was_sent_live_lingers_for_the_next_call() -> None:
    shell = Shell(limits=FileLimits(1_000, 10**6, 1_000, 1), retry=ANEW)  # one creation an hour
    shell.opened(1)
    shell.accept(2)
    shell.tell(Flush())
    shell.escalate(2)
    assert of(shell.accept(3, after=7_200), Upload) == []


# --- rows that are in no batch


@pytest.mark.parametrize("status_code", [200, 400, 404, 429])
def test_what_the_live_call_came_to_settles_a_row_that_is_in_no_batch(status_code: int) -> None:
    shell = started()
    shell.accept(1)
    shell.escalate(1)
    settle = only(shell.live_ended(1, status_code), Settle)
    assert (settle.batch_id, settle.lane, settle.numbers, settle.file) == ("", LANE, [1], "live.jsonl")
    assert settle.rows[0].status_code == status_code


def test_a_live_call_that_came_to_nothing_ends_its_row_as_expired() -> None:
    shell = started()
    shell.accept(1)
    shell.escalate(1)
    fail = only(shell.live_ended(1, None), Fail)
    assert (fail.batch_id, fail.failure.kind) == (None, "expired")


def test_a_live_call_that_failed_ends_its_row_by_that_failure() -> None:
    shell = started()
    shell.accept(1)
    shell.escalate(1)
    failure = Failure("auth", "no key")
    assert only(shell.tell(LiveEnded(1, failure=failure)), Fail).failure == failure


@pytest.mark.parametrize("status_code", [200, 400, None])
def test_a_segment_goes_when_the_last_of_its_rows_was_settled_live(status_code: int | None) -> None:
    shell = started()
    shell.accept(1, 2)
    move_on(shell)
    shell.escalate(1, 2)
    shell.live_ended(2, status_code)
    assert shell.discarded == []
    shell.live_ended(1, status_code)
    assert shell.discarded == [1]
    assert shell.ends == Counter((1, 2))


@pytest.mark.parametrize("live_first", [True, False])
def test_a_segment_of_rows_that_parted_goes_when_both_are_settled(live_first: bool) -> None:
    shell = started()
    shell.accept(1, 2)
    move_on(shell)
    shell.escalate(1)
    key = shell.reopened(shell.tell(Flush()))
    if live_first:
        shell.live_ended(1)
    assert shell.discarded == []
    shell.finish(key, answer(2))
    if not live_first:
        assert shell.discarded == []
        shell.live_ended(1)
    assert shell.discarded == [1]
    assert shell.ends == Counter((1, 2))


@pytest.mark.parametrize(
    "event",
    [Abandoned(frozenset((1,))), Revoked(), Barred(Failure("budget", "spent")), Flush(), Escalate(frozenset((1,)))],
)
def test_nothing_else_settles_a_row_whose_live_call_is_under_way(event: Event) -> None:
    shell = started()
    shell.accept(1)
    shell.escalate(1)
    move_on(shell)
    shell.tell(event)
    assert shell.ends == Counter()
    assert shell.discarded == []
    shell.live_ended(1)
    assert shell.ends == Counter((1,))
    assert shell.discarded == [1]


# --- rows in a batch that stands in line


def test_a_row_of_a_batch_in_line_leaves_it_when_there_is_room() -> None:
    shell = started(tokens=None)
    ahead, waits = in_line(shell, 1, 2, 3)
    assert rows_of(only(shell.escalate(2), SendLive).runs) == [2]
    commands = admit(shell, ahead)
    assert not of(commands, Create)
    upload = only(commands, Upload)
    assert rows_of(upload.batch.runs) == [1, 3]
    assert only(commands, Delete).key == waits
    assert only(shell.tell(Uploaded(upload.batch.key, "f")), Create).batch.key == upload.batch.key


@pytest.mark.parametrize("status_code", [200, 400, None])
@pytest.mark.parametrize("live_first", [True, False])
def test_a_row_that_left_its_batch_is_settled_by_what_its_live_call_came_to(
    status_code: int | None, live_first: bool
) -> None:
    shell = started(tokens=None)
    ahead, _ = in_line(shell, 1, 2)
    move_on(shell)
    shell.escalate(2)
    if live_first:
        commands = shell.live_ended(2, status_code)
        assert shell.ends == Counter((2,))
    commands = admit(shell, ahead)
    if not live_first:
        shell.live_ended(2, status_code)
    key = shell.reopened(commands)
    shell.finish(key, answer(1))
    shell.finish(ahead, answer(900))
    assert shell.ends == Counter((1, 2, 900))
    assert shell.discarded == [1]
    assert (shell.stats().batches, shell.stats().enqueued) == (0, 0)


def test_a_batch_that_all_rows_have_left_is_never_created() -> None:
    shell = started(tokens=None)
    ahead, waits = in_line(shell, 1, 2)
    move_on(shell)
    shell.escalate(1, 2)
    shell.live_ended(1)
    commands = admit(shell, ahead)
    assert not of(commands, Create | Upload)  # type: ignore[arg-type]
    assert only(commands, Delete).key == waits
    shell.live_ended(2)
    shell.finish(ahead, answer(900))
    assert shell.ends == Counter((1, 2, 900))
    assert shell.discarded == [1]


def renewed_once(shell: Shell) -> tuple[str, str]:
    """Let a batch in line be chosen anew, and another one stand in line right after it; gives it and the one ahead."""
    ahead, _ = in_line(shell, 1, 2)
    shell.escalate(1)
    key = shell.reopened(admit(shell, ahead))  # of 2 alone; it validates
    upload = shell.packed(3, 4)
    shell.tell(Uploaded(upload.batch.key, f"file-{upload.batch.key}"))
    return key, upload.batch.key


def let_in_all_the_same(shell: Shell) -> Create:
    """Let a batch be let in with a row that has left it, as the lane chose anew just now."""
    validates, waits = renewed_once(shell)
    shell.escalate(3)
    create = only(admit(shell, validates), Create)
    assert shell.now - NOW < 60
    assert create.batch.key == waits
    assert rows_of(create.batch.runs) == [3, 4]
    return create


def test_a_batch_that_was_chosen_anew_a_moment_ago_is_let_in_with_what_left_it() -> None:
    let_in_all_the_same(started(tokens=None))


@pytest.mark.parametrize("status_code", [400, None])
def test_a_row_whose_caller_was_told_that_it_failed_leaves_a_batch_that_was_chosen_anew_a_moment_ago(
    status_code: int | None,
) -> None:
    shell = started(tokens=None)
    validates, _ = renewed_once(shell)
    shell.escalate(3)
    shell.live_ended(3, status_code)
    assert shell.ends == Counter((3,))
    commands = admit(shell, validates)
    assert not of(commands, Create)
    assert rows_of(only(commands, Upload).batch.runs) == [4]


def test_a_minute_later_a_batch_may_be_chosen_anew_again() -> None:
    shell = started(tokens=None)
    validates, _ = renewed_once(shell)
    shell.escalate(3)
    shell.now += 60
    assert rows_of(only(admit(shell, validates), Upload).batch.runs) == [4]


@pytest.mark.parametrize("live_first", [True, False])
@pytest.mark.parametrize("status_code", [200, 400, None])
def test_a_row_that_could_not_leave_its_batch_in_time_is_settled_once_and_by_the_better_answer(
    status_code: int | None, live_first: bool
) -> None:
    shell = started(tokens=None)
    create = let_in_all_the_same(shell)
    ends = shell.ends[3]
    shell.tell(Created(create.batch.key, status(create.batch.key, "validating")))
    if live_first:
        assert settled(shell.live_ended(3, status_code)) == ([3] if status_code == 200 else [])
    shell.finish(create.batch.key, answer(3), answer(4))
    if not live_first:
        assert not of(shell.live_ended(3, status_code), Settle | Fail)  # type: ignore[arg-type]
    assert (ends, shell.ends[3], shell.ends[4]) == (0, 1, 1)


@pytest.mark.parametrize("status_code", [400, None])
def test_a_live_call_that_fails_while_its_batch_is_being_created_leaves_the_row_to_the_batch(
    status_code: int | None,
) -> None:
    shell = started(tokens=None)
    create = let_in_all_the_same(shell)
    assert shell.live_ended(3, status_code) == []
    shell.tell(Created(create.batch.key, status(create.batch.key, "validating")))
    assert settled(shell.finish(create.batch.key, answer(3), answer(4))) == [3, 4]


# --- rows in a batch that was created


@pytest.mark.parametrize("bring", [bring_open, bring_creating])
def test_a_row_whose_batch_is_faster_is_settled_by_it(bring: Callable[[Shell], None]) -> None:
    shell = started()
    bring(shell)
    key = OLD
    if bring is bring_creating:
        shell.tell(Created(key, status(key, "validating")))
    move_on(shell)
    shell.escalate(1)
    assert settled(shell.finish(key, answer(1), answer(2))) == [1, 2]
    (bill,) = shell.live_ended(1)
    assert isinstance(bill, Bill)
    assert (bill.batch_id, bill.lane, len(bill.rows)) == ("", LANE, 1)
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]


@pytest.mark.parametrize("again", [answer(1), failed_row(1), failed_row(1, 400), None])
def test_a_row_that_was_answered_live_is_not_settled_by_its_batch_as_well(again: Row | None) -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1)
    assert settled(shell.live_ended(1)) == [1]
    assert shell.stats().submitted == 1
    commands = shell.finish(key, *filter(None, (again, again, answer(2))))
    assert [(bill.batch_id, list(bill.rows)) for bill in of(commands, Bill)] == (
        [(remote(key), [again])] if again is not None and again.ok else []
    )
    assert shell.notices == []
    assert not of(commands, Upload)
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]
    assert (shell.stats().batches, shell.stats().enqueued) == (0, 0)


@pytest.mark.parametrize("end", ["expired", "cancelled", "completed"])
def test_a_batch_of_which_all_rows_were_answered_live_is_over_when_it_ends(end: str) -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1, 2)
    shell.live_ended(1)
    shell.live_ended(2)
    assert shell.discarded == []
    shell.finish(key, end=end)
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]
    assert (shell.stats().batches, shell.stats().enqueued) == (0, 0)


@pytest.mark.parametrize("status_code", [None, 400, 429])
def test_a_row_whose_live_call_failed_has_its_batch_still(status_code: int | None) -> None:
    shell = started()
    key = shell.opened(1)
    shell.escalate(1)
    assert shell.live_ended(1, status_code) == []
    assert settled(shell.finish(key, answer(1))) == [1]


@pytest.mark.parametrize("status_code", [None, 400])
@pytest.mark.parametrize("end", ["expired", "cancelled", "completed"])
def test_a_row_that_failed_live_and_in_its_batch_is_expired_and_not_sent_again(
    end: str, status_code: int | None
) -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1)
    shell.live_ended(1, status_code)
    shell.check(key, end, output="out")
    commands = shell.read_out(key, answer(2))
    assert failures(commands) == {1: "expired"}
    assert not of(commands, Upload)
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]
    assert shell.stats().waiting == 0


def test_a_row_that_failed_live_and_by_the_servers_fault_in_its_batch_is_not_sent_again() -> None:
    shell = started()
    key = shell.opened(1, 2)
    shell.escalate(1)
    shell.live_ended(1, None)
    commands = shell.finish(key, failed_row(1), failed_row(2))
    assert failures(commands) == {1: "expired"}
    assert rows_of(of(shell.until(Upload, commands), Upload)[0].batch.runs) == [2]


def lose_by_room(shell: Shell, key: str) -> list[Command]:
    return shell.refuse(key)


def lose_by_unseen_input(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(problem("", None, "Cannot find file x"),))


def lose_by_a_line(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(problem("invalid_url", 2),))


def lose_by_expiry(shell: Shell, key: str) -> list[Command]:
    return shell.finish(key, end="expired")


def lose_by_failure(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(problem("server_error"),))


def lose_by_refusal(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(problem("empty_file"),))


def lose_by_absence(shell: Shell, key: str) -> list[Command]:
    shell.until(Check)
    shell.tell(Checked((remote(key),), []))
    shell.until(Check)
    return shell.tell(Checked((remote(key),), []), after=VANISHED)


def lose_by_age(shell: Shell, key: str) -> list[Command]:
    shell.now += OVERDUE
    shell.check(key, "in_progress")
    shell.now += CANCELLING
    return shell.check(key, "in_progress")


def lose_by_no_model(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(problem("model_not_found", 1),))


LOSSES = [
    lose_by_room,
    lose_by_unseen_input,
    lose_by_a_line,
    lose_by_expiry,
    lose_by_failure,
    lose_by_refusal,
    lose_by_age,
    lose_by_no_model,
]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("status_code", [200, 400, None])
def test_a_row_whose_batch_comes_to_nothing_goes_on_alone(
    lose: Callable[[Shell, str], list[Command]], status_code: int | None
) -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1)
    commands = lose(shell, key)
    assert shell.ends[1] == 0
    assert 1 not in [row for upload in of(commands, Upload) for row in rows_of(upload.batch.runs)]
    shell.live_ended(1, status_code)
    assert shell.ends[1] == 1
    assert shell.escalate(1) == []


@pytest.mark.parametrize("lose", LOSSES)
def test_a_row_whose_live_call_was_lost_before_its_batch_came_to_nothing_is_expired(
    lose: Callable[[Shell, str], list[Command]],
) -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1)
    shell.live_ended(1, None)
    commands = shell.count(lose(shell, key))
    assert shell.ends[1] == 1
    while not of(commands, Upload) and shell.stats().waiting:
        commands += shell.wait()
    assert 1 not in [row for upload in of(commands, Upload) for row in rows_of(upload.batch.runs)]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_segment_of_rows_that_parted_from_a_batch_that_came_to_nothing_goes_once(
    lose: Callable[[Shell, str], list[Command]], when: str
) -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1, 2)
    if when == "before":
        shell.live_ended(1)
    lose(shell, key)
    if when == "after":
        shell.live_ended(1)
    assert shell.discarded == []
    shell.live_ended(2)
    assert shell.discarded == [1]
    assert shell.ends == Counter((1, 2))
    assert (shell.stats().batches, shell.stats().enqueued, shell.stats().waiting) == (0, 0, 0)


def test_a_row_whose_batch_is_out_of_reach_waits_for_its_live_answer_alone() -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1)
    assert sorted(only(lose_by_absence(shell, key), LetGo).numbers) == [2]
    shell.live_ended(1)
    assert shell.ends == Counter((1,))
    assert shell.discarded == []
    shell.until(Check)
    shell.finish(key, answer(1), answer(2))
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]


@pytest.mark.parametrize("kind", ["rejected", "auth", "budget"])
@pytest.mark.parametrize("bring", [bring_uploading, bring_creating])
def test_a_row_whose_batch_was_never_created_goes_on_alone(bring: Callable[[Shell], None], kind: str) -> None:
    shell = started()
    bring(shell)
    move_on(shell)
    shell.escalate(1)
    assert set(failures(shell.tell(Failed((OLD,), refused(kind))))) == {2}
    assert shell.discarded == []
    shell.live_ended(1)
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]


def test_a_revoked_batch_leaves_the_live_call_to_its_row() -> None:
    shell = started(tokens=None)
    in_line(shell, 1, 2)
    move_on(shell)
    shell.escalate(1)
    assert failures(shell.tell(Revoked())) == {2: "cancelled"}
    assert settled(shell.live_ended(1)) == [1]
    assert shell.ends[1] == shell.ends[2] == 1
    assert shell.discarded == [1]


def test_a_row_that_nobody_awaits_any_more_is_settled_by_its_live_call() -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.escalate(1)
    shell.tell(Abandoned(frozenset((1, 2))))
    lose_by_room(shell, key)
    assert shell.discarded == []
    assert settled(shell.live_ended(1)) == [1]
    assert shell.discarded == [1]


def test_rows_that_failed_before_may_be_sent_live() -> None:
    shell = started()
    key = shell.opened(1, 2)
    move_on(shell)
    shell.finish(key, failed_row(1), failed_row(2))
    assert shell.stats().waiting == 2  # until the lane has rested
    shell.escalate(1)
    assert settled(shell.live_ended(1)) == [1]
    shell.finish(shell.reopened(), answer(2))
    assert shell.ends == Counter((1, 2))
    assert shell.discarded == [1]


@pytest.mark.parametrize("status_code", [None, 400])
def test_whoever_fails_live_in_the_end_is_told_of_what_went_before(status_code: int | None) -> None:
    shell = started()
    key = shell.opened(1)
    shell.finish(key, failed_row(1, 503))
    shell.escalate(1)
    (command,) = of(shell.live_ended(1, status_code), Settle | Fail)  # type: ignore[arg-type]
    assert command.attempts[1][0].status_code == 503


# --- sent live in vain, and nobody is there to hear of it


def unheard(shell: Shell, row: int, ending: Row | Failure | None) -> list[Command]:
    """Let a call come that is sent live, whose caller goes before it ends."""
    shell.accept(row, segment=row)
    shell.escalate(row)
    refusal, failure = (ending, None) if isinstance(ending, Row) else (None, ending)
    return shell.tell(LiveEnded(row, refusal, failure=failure, awaited=False))


def keeping() -> Shell:
    """Make a shell with a journal that has a batch under way."""
    shell = Shell(retry=ANEW, keeps=True)
    shell.accept(99, segment=99)
    shell.tell(Flush())
    return shell


@pytest.mark.parametrize(
    "ending",
    [
        Row(f"{POOL}-1", 400, "live", b"{}"),
        Failure("expired", "It was too late to send it."),
        Failure("budget", "There is no money left."),
    ],
)
def test_what_was_not_billed_ends_though_nobody_hears(ending: Row | Failure) -> None:
    shell = keeping()
    unheard(shell, 1, ending)
    assert shell.ends == Counter((1,))
    shell.accept(2, segment=2)
    assert shell.discarded == [1]


@pytest.mark.parametrize("ending", [None, Failure("disk", "Its answer could not be written.")])
def test_what_may_have_been_billed_ends_when_somebody_asks_for_it(ending: Failure | None) -> None:
    shell = keeping()
    unheard(shell, 1, ending)
    assert shell.ends == Counter()
    assert (GivenUp((1,)), shell.now) in shell.facts
    assert failures(shell.tell(Asked((1,)))) == {1: "expired" if ending is None else "disk"}
    assert shell.ends == Counter((1,))


def test_what_may_have_been_billed_is_kept_for_a_day() -> None:
    shell = keeping()
    unheard(shell, 1, None)
    shell.now += 50_000
    unheard(shell, 2, None)
    assert shell.ends == Counter()
    shell.now += 50_000
    unheard(shell, 3, None)
    assert shell.ends == Counter((1,))
    assert shell.discarded == [1]
    assert failures(shell.tell(Asked((2, 3)))) == {2: "expired", 3: "expired"}


# --- the next process


def recovered(*facts: Event) -> tuple[Shell, list[Command]]:
    """Tell facts of an earlier process again."""
    shell = Shell(numbered=span_of(1)[0], retry=ANEW)
    for fact in facts:
        shell.engine.replay(fact, shell.now - 100)
    return shell, shell.tell(Recovered())


def accepted(*rows: int) -> Accepted:
    return Accepted(LANE, make_run(rows, offset=10 * (rows[0] - 1)))


def packed(*rows: int) -> Packed:
    return Packed(1, LANE, (make_run(rows),))


def escalated(*rows: int) -> Escalated:
    return Escalated(LANE, (make_run(rows, offset=10 * (rows[0] - 1)),))


UPLOADED = Uploaded(OLD, f"file-{OLD}")
CREATED = Created(OLD, status(OLD, "validating"))


def test_a_row_that_an_earlier_process_sent_live_is_expired_when_it_is_asked_for() -> None:
    shell, _ = recovered(accepted(1, 2), escalated(1))
    assert shell.stats().dormant == 1
    commands = shell.tell(Asked((1, 2)))
    assert failures(commands) == {1: "expired"}
    assert rows_of(only(shell.tell(Flush()), Upload).batch.runs) == [2]
    assert shell.live == Counter()


def test_a_row_that_an_earlier_process_sent_live_is_never_sent_live_again() -> None:
    shell, _ = recovered(accepted(1, 2), packed(1, 2), UPLOADED, CREATED, escalated(1))
    shell.tell(Asked((1, 2)))
    assert rows_of(only(shell.escalate(1, 2), SendLive).runs) == [2]


def test_the_segment_of_a_row_that_an_earlier_process_sent_live_goes_when_it_was_asked_for() -> None:
    shell, _ = recovered(accepted(1, 2), escalated(1, 2))
    shell.tell(Asked((2,)))
    assert shell.discarded == []
    shell.tell(Asked((1,)))
    assert shell.discarded == [1]


def test_a_row_that_an_earlier_process_sent_live_is_answered_by_its_batch() -> None:
    shell, _ = recovered(accepted(1, 2), packed(1, 2), UPLOADED, CREATED, escalated(1))
    assert shell.tell(Asked((1, 2))) == []
    shell.tell(Checked((remote(OLD),), [status(OLD, "completed", output="out")]))
    assert settled(shell.answered(OLD, 1, 2)) == [1, 2]


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize(
    "news",
    [
        status(OLD, "expired"),
        status(OLD, "failed", no_room=NoRoom(None)),
        status(OLD, "failed", problems=(problem("", None, "Cannot find file x"),)),
        status(OLD, "failed", problems=(problem("invalid_url", 2),)),
        status(OLD, "failed", problems=(problem("server_error"),)),
    ],
)
def test_a_row_that_an_earlier_process_sent_live_is_not_sent_again_when_its_batch_came_to_nothing(
    news: object, asks: bool
) -> None:
    shell, _ = recovered(accepted(1, 2, 3), packed(1, 2, 3), UPLOADED, CREATED, escalated(1))
    if asks:
        shell.tell(Asked((1, 2, 3)))
    commands = shell.tell(Checked((remote(OLD),), [news]))  # type: ignore[list-item]
    if not asks:
        commands += shell.tell(Asked((1, 2, 3)))
    commands += shell.tell(Flush())
    assert failures(commands).get(1, "expired") == "expired"
    uploads = of(shell.until(Upload, shell.count(commands)), Upload)
    assert 1 not in [row for upload in uploads for row in rows_of(upload.batch.runs)]
    assert shell.ends[1] <= 1


@pytest.mark.parametrize("facts", [(), (UPLOADED,)])
def test_a_batch_that_was_not_created_goes_without_the_rows_that_were_sent_live(facts: tuple[Event, ...]) -> None:
    shell, commands = recovered(accepted(1, 2), packed(1, 2), *facts, escalated(1))
    commands += shell.tell(Asked((1, 2)))
    created: list[int] = []
    while not created:
        commands = commands or shell.wait()
        said, commands = commands, []
        for command in said:
            match command:
                case Upload(batch=batch):
                    commands += shell.tell(Uploaded(batch.key, f"file-{batch.key}"))
                case Create(batch=batch):
                    created = rows_of(batch.runs)
                case Fail(numbers=numbers):
                    assert list(numbers) == [1]
                case Find(keys=keys, at=at):
                    commands += shell.tell(NotFound(keys, at))
    assert created == [2]
    assert shell.ends == Counter((1,))


def test_a_row_that_was_answered_live_before_its_batch_was_over_is_not_settled_again() -> None:
    """The journal tells of the batch and of the rows that are not settled: its other rows are over."""
    shell, _ = recovered(accepted(2), packed(1, 2), UPLOADED, CREATED, escalated(1))
    assert shell.stats().submitted == 1
    shell.tell(Checked((remote(OLD),), [status(OLD, "completed", output="out")]))
    assert settled(shell.tell(Answered(OLD, [answer(1), answer(2)]))) == [2]
    shell.tell(Collected(OLD))
    assert shell.discarded == [1]
    assert shell.notices == []


@pytest.mark.parametrize("news", [status(OLD, "completed", output="out"), status(OLD, "expired")])
def test_a_batch_of_which_all_rows_were_answered_live_by_an_earlier_process_is_over_when_it_ends(news: object) -> None:
    shell, _ = recovered(packed(1), UPLOADED, CREATED, escalated(1))
    commands = shell.tell(Checked((remote(OLD),), [news]))  # type: ignore[list-item]
    if of(commands, Collect):
        commands = shell.tell(Answered(OLD, [answer(1)])) + shell.tell(Collected(OLD))
    assert only(commands, Delete).key == OLD
    assert shell.ends == Counter()
    assert shell.stats().batches == 0


def test_a_row_that_becomes_urgent_while_its_batch_is_uploaded_leaves_it() -> None:
    shell = started()
    upload = shell.packed(1, 2)
    shell.escalate(1)
    commands = shell.tell(Uploaded(upload.batch.key, "file"))
    assert not of(commands, Create)
    assert rows_of(only(commands, Upload).batch.runs) == [2]
    shell.tell(LiveEnded(1, answer(1)))
    shell.finish(shell.reopened(commands), answer(2))
    assert shell.ends == Counter((1, 2))
    assert shell.stats().batches == 0


def test_a_batch_that_was_not_uploaded_is_packed_anew_without_the_rows_that_ended_live() -> None:
    shell = Shell(retry=ANEW, keeps=True)
    first, second = make_run((1,), segment=1), make_run((2,), segment=2)
    # Row 1 was answered live, so that nobody tells of it any more.
    for fact in (Accepted(LANE, second), Packed(1, LANE, (first, second)), Escalated(LANE, (first,))):
        shell.engine.replay(fact, NOW - 100)
    commands = shell.tell(Recovered())
    assert not of(commands, Upload)
    uploads = of(shell.until(Upload, shell.tell(Asked((2,)))), Upload)
    assert [rows_of(upload.batch.runs) for upload in uploads] == [[2]]
    assert shell.discarded == []


def test_rows_that_were_sent_live_are_forgotten_when_they_have_ended() -> None:
    engine = Engine(POOL, TIMING, FileLimits(50_000, 10**9, 10**9, 2_000))

    def send(rows: Iterable[int]) -> None:
        for row in rows:
            run = make_run((row,))
            engine.handle(Accepted(LANE, run), NOW)
            engine.handle(Escalate(frozenset((row,))), NOW)
            assert engine.handle(Escalated(LANE, (run,)), NOW) == [SendLive(LANE, (run,))]
            assert settled(engine.handle(LiveEnded(row, answer(row)), NOW)) == [row]

    send(range(1, 1_000))
    tracemalloc.start()
    try:
        send(range(1_000, 6_000))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 300_000  # bytes: of deadlines, at most a thousand; the numbers of the rows would take twice as many


def test_rows_that_are_being_sent_live_are_paid_for_in_any_case() -> None:
    shell = Shell(TIMING)
    shell.accept(1, 2)
    shell.escalate(2)
    assert shell.engine.far((1, 2)) == {2: 3}


# --- what it costs


def test_a_row_rides_from_when_its_batch_may_have_been_created_until_it_has_left_it() -> None:
    shell = Shell()
    upload = shell.packed(1, 2)
    assert not shell.engine.rides(1)
    shell.tell(Uploaded(upload.batch.key, "file"))
    assert shell.engine.rides(1)
    shell.tell(Created(upload.batch.key, status(upload.batch.key, "in_progress")))
    shell.escalate(1)
    assert shell.engine.rides(1)
    shell.live_ended(1)
    assert not shell.engine.rides(1)
    assert shell.engine.billing((1, 2)) == {1}  # answered, and yet to be billed by its batch
    shell.finish(upload.batch.key, answer(1), answer(2))
    assert shell.engine.billing((1, 2)) == set()


def test_a_row_that_was_not_sent_live_for_want_of_money_is_not_lost_when_its_batch_breaks_off() -> None:
    shell = Shell(retry=Retry())
    key = shell.opened(1)
    shell.escalate(1)
    assert shell.tell(LiveEnded(1, failure=refused("budget"))) == []
    ended = shell.finish(key, end="expired")
    assert failures(ended) == {}
    assert rows_of(only(shell.until(Upload, ended), Upload).batch.runs) == [1]

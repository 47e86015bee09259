"""What the provider failed to do is sent again, so often and no oftener; what it refused is not."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection

import pytest
from engine_kit import (
    LANE,
    NOW,
    OTHER,
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

from carpool.config import Retry, Timing
from carpool.engine.commands import Collect, Command, Create, Delete, Fail, Settle, Upload
from carpool.engine.events import Abandoned, Answered, Checked, Collected, Created, Failed, Flush, Settled, Uploaded
from carpool.engine.retries import Retries
from carpool.models import Attempt, BatchProblem, BatchStatus, NoRoom, Row

ANEW = Retry()
PASSING = [
    (0, ""),
    (0, "batch_expired"),
    (0, "batch_cancelled"),
    (0, "request_timeout"),
    (0, "server_error"),
    (408, ""),
    (429, ""),
    (500, ""),
    (503, "overloaded"),
    (529, ""),
    (200, "request_timeout"),
]
FINAL = [(400, ""), (401, ""), (404, "model_not_found"), (409, ""), (413, ""), (422, ""), (200, "odd"), (302, "")]
INTERNAL = [
    (),
    (problem("server_error"),),
    (problem("internal_error"), problem("error")),
    (problem("service_unavailable"),),
    (problem("timeout"),),
]
UNSEEN = problem("invalid_request", None, "Cannot find file file-1, or organization x does not have access to it.")


def started(retry: Retry = ANEW, timing: Timing | None = None) -> Shell:
    return Shell(timing or Timing(), retry=retry)


def uploads(commands: list[Command]) -> list[list[int]]:
    return [rows_of(upload.batch.runs) for upload in of(commands, Upload)]


# --- which


@pytest.mark.parametrize(("status_code", "code"), PASSING)
def test_a_row_that_failed_by_the_providers_fault_is_sent_again_and_nobody_is_told(status_code: int, code: str) -> None:
    shell = started()
    commands = shell.finish(shell.opened(1, 2), failed_row(1, status_code, code), answer(2))
    assert settled(commands) == [2]
    assert failures(commands) == {}
    assert uploads(shell.until(Upload, commands)) == [[1]]
    assert shell.ends == Counter((2,))


@pytest.mark.parametrize(("status_code", "code"), FINAL)
def test_a_row_that_was_refused_is_settled_at_once_and_tells_of_its_one_attempt(status_code: int, code: str) -> None:
    shell = started()
    key = shell.opened(1)
    settle = only(shell.finish(key, failed_row(1, status_code, code)), Settle)
    assert settle.numbers == [1]
    assert settle.attempts == {1: (Attempt(remote(key), status_code, code or None, "it failed"),)}
    assert (shell.stats().waiting, shell.stats().batches) == (0, 0)


@pytest.mark.parametrize("end", ["expired", "cancelled"])
@pytest.mark.parametrize("files", [True, False])
def test_what_no_file_of_an_ended_batch_mentions_is_sent_again(end: str, files: bool) -> None:
    shell = started()
    key = shell.opened(1, 2, 3)
    commands = shell.finish(key, *([answer(2)] if files else []), end=end)
    assert settled(commands) == ([2] if files else [])
    assert failures(commands) == {}
    assert uploads(shell.until(Upload, commands)) == [[1, 3] if files else [1, 2, 3]]


def test_what_a_completed_batch_never_tells_of_is_sent_again_and_its_files_stay() -> None:
    shell = started()
    key = shell.ended(1, 2)
    commands = shell.read_out(key, answer(1))
    assert uploads(commands) == [[2]]
    assert not [delete for delete in of(commands, Delete) if delete.key == key]
    assert shell.ends == Counter((1,))


@pytest.mark.parametrize("problems", INTERNAL)
def test_a_whole_batch_that_failed_by_an_internal_error_is_sent_again(problems: tuple[BatchProblem, ...]) -> None:
    shell = started()
    commands = shell.check(shell.opened(1, 2), "failed", problems=problems)
    assert failures(commands) == {}
    assert uploads(shell.until(Upload, commands)) == [[1, 2]]


@pytest.mark.parametrize(
    "problems", [(problem("empty_file"),), (problem("invalid_request"), problem("server_error")), (problem("odd", 9),)]
)
def test_a_whole_batch_that_was_refused_is_not_sent_again(problems: tuple[BatchProblem, ...]) -> None:
    shell = started()
    commands = shell.check(shell.opened(1), "failed", problems=problems)
    assert failures(commands) == {1: "rejected"}
    assert not of(commands, Upload)


def judge_all(shell: Shell, rows: int, guilty: Collection[int]) -> tuple[dict[int, str], list[int], int]:
    """Refuse each batch that holds a guilty row, and name none; gives who failed, who was answered, and the batches."""
    failed: dict[int, str] = {}
    answered: list[int] = []
    uploads = of(shell.accept(*range(1, rows + 1)) + shell.tell(Flush()), Upload)
    for count in itertools.count(1):  # noqa: B007 - it is given
        commands: list[Command] = []
        batch = (uploads or of(shell.until(Upload), Upload))[0].batch
        uploads = uploads[1:]
        commands += shell.until(Create, shell.tell(Uploaded(batch.key, "file")))
        commands += shell.tell(Created(batch.key, status(batch.key, "validating")))
        numbers = rows_of(batch.runs)
        if set(guilty).intersection(numbers):
            refused = shell.tell(
                Checked((remote(batch.key),), [status(batch.key, "failed", problems=(problem("odd"),))])
            )
            failed |= failures(refused)
            commands += refused
        else:
            done = status(batch.key, "completed", output="out", answered=len(numbers))
            commands += shell.tell(Checked((remote(batch.key),), [done]))
            answered += settled(shell.answered(batch.key, *numbers))
            commands += shell.tell(Collected(batch.key))
        uploads += of(commands, Upload)
        if len(failed) + len(answered) == rows:
            break
    return failed, answered, count


@pytest.mark.parametrize("guilty", [{1}, {8}, {3, 4}, {2, 7}])
def test_the_rows_that_whole_batches_are_refused_for_are_found_by_halves(guilty: set[int]) -> None:
    failed, answered, _ = judge_all(started(), 8, guilty)
    assert failed == dict.fromkeys(guilty, "rejected")
    assert sorted(answered) == sorted(set(range(1, 9)) - guilty)


def test_where_whatever_is_sent_is_refused_nobody_looks_for_the_one_to_blame_for_long() -> None:
    failed, _, batches = judge_all(started(), 1_000, range(1, 1_001))
    assert len(failed) == 1_000
    assert batches <= 20


@pytest.mark.parametrize("end", ["failed", "expired", "cancelled"])
def test_a_batch_that_is_sent_again_leaves_no_files_behind(end: str) -> None:
    shell = started()
    key = shell.opened(1)
    assert only(shell.finish(key, failed_row(1), end=end), Delete).file_ids == (f"file-{key}", "out")


# --- how often


def fail_by_row(shell: Shell, key: str) -> list[Command]:
    return shell.finish(key, failed_row(1))


def fail_by_missing(shell: Shell, key: str) -> list[Command]:
    shell.check(key, "completed", output="out")
    return shell.read_out(key)


def fail_as_a_whole(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(problem("server_error"),))


def be_cancelled(shell: Shell, key: str) -> list[Command]:
    return shell.finish(key, end="cancelled")


def time_out(shell: Shell, key: str) -> list[Command]:
    return shell.finish(key, failed_row(1, 0, "request_timeout"))


def expire(shell: Shell, key: str) -> list[Command]:
    return shell.finish(key, end="expired")


def expire_by_row(shell: Shell, key: str) -> list[Command]:
    return shell.finish(key, failed_row(1, 0, "batch_expired"), end="expired")


FAILINGS = [fail_by_row, fail_by_missing, fail_as_a_whole, be_cancelled, time_out]
EXPIRIES = [expire, expire_by_row]


def times_sent(shell: Shell, fail: Callable[[Shell, str], list[Command]]) -> tuple[int, Settle | Fail]:
    """Let a request fail until its caller is told; gives how often it was sent, and what the caller is told."""
    key, sent = shell.opened(1), 1
    while True:
        commands = fail(shell, key)
        ends: list[Settle | Fail] = [*of(commands, Settle), *of(commands, Fail)]
        if found := [end for end in ends if end.numbers]:
            return sent, found[0]
        key, sent = shell.reopened(commands), sent + 1


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("fail", FAILINGS)
def test_a_request_is_sent_so_often_and_then_fails_as_it_did_last(
    fail: Callable[[Shell, str], list[Command]], most: int
) -> None:
    shell = started(Retry(max_attempts=most, max_expiries=1))
    sent, end = times_sent(shell, fail)
    assert sent == most
    assert [attempt.batch_id for attempt in end.attempts[1]] == [remote(f"p-b{n}") for n in range(1, most + 1)]
    assert shell.ends == Counter((1,))
    assert (shell.stats().waiting, shell.stats().batches, shell.stats().enqueued) == (0, 0, 0)


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("fail", EXPIRIES)
def test_a_request_whose_window_ends_again_and_again_is_sent_so_often(
    fail: Callable[[Shell, str], list[Command]], most: int
) -> None:
    shell = started(Retry(max_attempts=1, max_expiries=most))
    sent, end = times_sent(shell, fail)
    assert sent == most
    assert [attempt.code for attempt in end.attempts[1]] == ["batch_expired"] * sent


def test_expiries_and_failures_are_counted_apart() -> None:
    shell = started(Retry(max_attempts=2, max_expiries=3))
    turns = iter([expire, fail_by_row, expire, expire_by_row])
    sent, end = times_sent(shell, lambda shell, key: next(turns)(shell, key))
    assert sent == 4
    assert [(attempt.status_code, attempt.code) for attempt in end.attempts[1]] == [
        (None, "batch_expired"),
        (500, None),
        (None, "batch_expired"),
        (None, "batch_expired"),
    ]


def no_room(shell: Shell, key: str) -> list[Command]:
    return shell.count(shell.refuse(key))


def unseen(shell: Shell, key: str) -> list[Command]:
    return shell.check(key, "failed", problems=(UNSEEN,))


@pytest.mark.parametrize("for_nothing", [no_room, unseen])
def test_refusals_for_room_and_input_files_that_were_not_seen_count_as_nothing(
    for_nothing: Callable[[Shell, str], list[Command]],
) -> None:
    shell = started(Retry(max_attempts=2, max_expiries=1))
    turns = iter([for_nothing, for_nothing, fail_by_row, for_nothing, for_nothing, fail_by_row])
    sent, end = times_sent(shell, lambda shell, key: next(turns)(shell, key))
    assert sent == 6
    assert [attempt.status_code for attempt in end.attempts[1]] == [500, 500]


def test_a_creation_without_room_counts_as_nothing() -> None:
    shell = started(Retry(max_attempts=1))
    create = shell.uploaded(1)
    commands = shell.count(shell.tell(Failed(create.keys, refused("full"))))
    assert uploads(commands) == [[1]]


@pytest.mark.parametrize("name", ["attempts", "expiries"])
def test_each_request_has_its_own_count(name: str) -> None:
    shell = started(Retry(max_attempts=2, max_expiries=2))
    fail = fail_by_row if name == "attempts" else expire_by_row
    key = shell.reopened(fail(shell, shell.opened(1)))
    shell.accept(2)
    key2 = shell.reopened(shell.tell(Flush()))
    row = (500, "") if name == "attempts" else (0, "batch_expired")
    assert settled(shell.finish(key, failed_row(1, *row))) == [1]
    assert settled(shell.finish(key2, failed_row(2, *row))) == []


def test_a_request_that_was_answered_in_the_end_has_no_past() -> None:
    shell = started()
    key = shell.reopened(shell.finish(shell.opened(1), failed_row(1)))
    settle = only(shell.finish(key, answer(1)), Settle)
    assert (settle.batch_id, settle.numbers, settle.attempts) == (remote(key), [1], {})


@pytest.mark.parametrize(
    "end",
    [
        status("p-b2", "failed", problems=(problem("empty_file"),)),
        status("p-b2", "failed", problems=(problem("invalid_url", 1),)),
        status("p-b2", "failed", problems=(problem("model_not_found", 1),)),
        status("p-b2", "failed", problems=(problem("insufficient_quota"),)),
        status("p-b2", "expired"),
    ],
)
def test_whoever_fails_in_any_way_is_told_of_what_went_before(end: BatchStatus) -> None:
    shell = started(Retry(max_expiries=1))
    key = shell.reopened(shell.finish(shell.opened(1), failed_row(1, 503)))
    assert key == "p-b2"
    fail = only(shell.check(key, end.status, problems=end.problems), Fail)
    assert fail.attempts[1][0] == Attempt(remote("p-b1"), 503, None, "it failed")


# --- when, and with whom


def test_what_is_sent_again_goes_before_what_came_later() -> None:
    shell = started(timing=Timing(linger=30))
    key = shell.opened(1, 2, 3)
    shell.accept(4, 5)
    assert uploads(
        shell.finish(key, answer(2), failed_row(1, 0, "batch_expired"), failed_row(3, 0, "batch_expired"))
    ) == [[1, 3, 4, 5]]


def test_a_row_nobody_awaits_any_more_is_not_sent_again() -> None:
    shell = started()
    key = shell.opened(1, 2)
    shell.accept(3, segment=2)
    shell.tell(Abandoned(frozenset((1,))))
    commands = shell.finish(key, failed_row(1), failed_row(2))
    assert [list(fact.rows) for fact, _ in shell.facts if isinstance(fact, Settled)] == [[1]]
    assert uploads(shell.until(Upload, commands)) == [[2, 3]]
    assert shell.ends == Counter()


def test_segments_stay_while_a_row_may_be_sent_again_and_go_once() -> None:
    shell = started(Retry(max_attempts=2, max_expiries=1))
    key = shell.opened(1, 2)
    shell.accept(3, lane=LANE, segment=2)
    shell.tell(Abandoned(frozenset((3,))))
    key = shell.reopened(shell.finish(key, failed_row(1), answer(2)))
    assert shell.discarded == []
    shell.finish(key, failed_row(1))
    assert shell.discarded == [1]
    assert shell.ends == Counter((1, 2))


# --- rows that come twice, and rows that nobody sent


def test_a_good_answer_counts_though_a_failure_came_before_it() -> None:
    shell = started()
    key = shell.opened(1, 2)
    commands = shell.finish(key, failed_row(1), failed_row(2), answer(1))
    assert settled(commands) == [1]
    assert uploads(shell.until(Upload, commands)) == [[2]]


def test_a_good_answer_counts_though_the_failure_lay_in_another_file() -> None:
    shell = started()
    key = shell.ended(1)
    shell.tell(Answered(key, [failed_row(1)]))
    assert settled(shell.answered(key, 1)) == [1]
    assert uploads(shell.tell(Collected(key))) == []
    assert shell.stats().waiting == 0


def test_a_refusal_counts_though_a_passing_failure_came_before_it() -> None:
    shell = started()
    assert settled(shell.finish(shell.opened(1), failed_row(1), failed_row(1, 400))) == [1]


@pytest.mark.parametrize("later", [failed_row(1), failed_row(1, 400), answer(1)])
def test_what_comes_after_an_answer_changes_nothing(later: Row) -> None:
    shell = started()
    commands = shell.finish(shell.opened(1), answer(1), later)
    assert settled(commands) == [1]
    assert uploads(commands) == []
    assert shell.ends == Counter((1,))


def test_a_failure_that_comes_twice_is_one_attempt() -> None:
    shell = started(Retry(max_attempts=2))
    key = shell.reopened(shell.finish(shell.opened(1), failed_row(1), failed_row(1)))
    settle = of(shell.finish(key, failed_row(1)), Settle)[-1]
    assert len(settle.attempts[1]) == 2


def test_a_failure_that_is_read_again_is_one_attempt() -> None:
    shell = started(Retry(max_attempts=2))
    key = shell.opened(1, 2)
    shell.check(key, "completed", errors="err", answered=2)
    for _ in range(2):
        shell.tell(Answered(key, [failed_row(1)]))
        assert of(shell.tell(Collected(key)), Upload) == []
        shell.until(Collect)
    shell.tell(Answered(key, [failed_row(1), answer(2)]))
    key = shell.reopened(shell.tell(Collected(key)))
    assert len(of(shell.finish(key, failed_row(1)), Settle)[-1].attempts[1]) == 2


def strangers(shell: Shell) -> list[str]:
    assert all((notice.lane, notice.batch_id) == (LANE, "batch_p-b1") for notice in shell.notices)
    return [notice.message.split()[0] for notice in shell.notices if notice.kind == "strangers"]


@pytest.mark.parametrize("custom_id", ["", "p", "p-x", "p-99", "q-1", "p-01", "p-" + "9" * 30, "p-2"])
def test_a_row_that_nobody_sent_with_a_batch_is_told_of(custom_id: str) -> None:
    shell = started()
    key = shell.opened(1)
    shell.opened(2)
    shell.finish(key, Row(custom_id, 200, "", b""), answer(1))
    assert strangers(shell) == ["1"]


def test_rows_that_come_twice_are_no_strangers() -> None:
    shell = started()
    shell.finish(shell.opened(1, 2), answer(1), answer(1), failed_row(2, 400), answer(2))
    assert strangers(shell) == []


def test_strangers_are_told_of_once_for_a_batch() -> None:
    shell = started()
    shell.finish(shell.opened(1), answer(7), answer(1), answer(8), answer(9))
    assert strangers(shell) == ["3"]


def test_a_thousand_strangers_are_enough() -> None:
    shell = started()
    shell.finish(shell.opened(1), answer(1), *(answer(row) for row in range(2, 1_200)))
    assert strangers(shell) == ["1000"]


def test_strangers_are_counted_once_though_files_are_read_again() -> None:
    shell = started()
    key = shell.opened(1, 2)
    shell.finish(key, answer(7), answer(1))
    shell.until(Collect)
    shell.tell(Answered(key, [answer(7), answer(1), answer(2)]))
    shell.tell(Collected(key))
    assert strangers(shell) == ["1"]


def test_strangers_are_counted_once_though_a_download_broke_off() -> None:
    shell = started()
    key = shell.ended(1, 2)
    shell.tell(Answered(key, [answer(7), answer(1)]))
    shell.tell(Failed((key,), refused("lost")))
    shell.until(Collect)
    shell.tell(Answered(key, [answer(7), answer(1), answer(2)]))
    shell.tell(Collected(key))
    assert strangers(shell) == ["1"]


def test_strangers_are_counted_though_the_files_were_named_late() -> None:
    shell = started()
    key = shell.opened(1)
    assert shell.check(key, "completed", answered=1) == []
    shell.finish(key, answer(7), answer(1))
    assert strangers(shell) == ["1"]


# --- lanes that rest


def next_upload_after(shell: Shell, commands: list[Command]) -> float:
    begin = shell.now
    shell.until(Upload, commands)
    return shell.now - begin


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_a_lane_rests_longer_and_longer_after_batches_that_mostly_failed_by_the_servers_fault(scale: float) -> None:
    timing = Timing(poll_min=2.0 * scale, poll_max=60.0 * scale)
    shell = started(Retry(max_attempts=20), timing)
    key, pauses = shell.opened(1), list[float]()
    for _ in range(8):
        commands = shell.finish(key, failed_row(1))
        begin = shell.now
        key = shell.reopened(commands)
        pauses.append((shell.now - begin) / scale)
    assert 15 <= pauses[0] <= 60
    assert pauses[0] < pauses[2] < pauses[4]
    assert all(300 <= pause <= 600 for pause in pauses[5:])


def test_what_came_later_rests_too_and_other_lanes_do_not() -> None:
    shell = started()
    shell.finish(shell.opened(1), failed_row(1, 500))
    shell.accept(2)
    assert of(shell.tell(Flush()), Upload) == []
    shell.accept(3, lane=OTHER, segment=2)
    assert uploads(shell.tell(Flush())) == [[3]]
    assert uploads(shell.until(Upload)) == [[1, 2]]
    assert shell.now - NOW >= 15


def test_a_lane_rests_after_a_batch_that_failed_as_a_whole() -> None:
    shell = started()
    assert next_upload_after(shell, fail_as_a_whole(shell, shell.opened(1, 2))) >= 15


@pytest.mark.parametrize("others", [answer, lambda row: failed_row(row, 400)])
def test_a_lane_goes_on_after_a_batch_of_which_no_more_than_half_failed(others: Callable[[int], Row]) -> None:
    shell = started()
    commands = shell.finish(shell.opened(1, 2, 3, 4), failed_row(1), failed_row(2), others(3), others(4))
    assert uploads(commands) == [[1, 2]]


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled"])
def test_a_lane_goes_on_after_a_batch_whose_rows_did_not_run(code: str) -> None:
    shell = started()
    assert uploads(shell.finish(shell.opened(1), failed_row(1, 0, code))) == [[1]]


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_a_lane_rests_as_well_after_a_batch_whose_rows_failed_for_the_last_time(max_attempts: int) -> None:
    shell = started(Retry(max_attempts=max_attempts))
    _, end = times_sent(shell, fail_by_row)
    assert end.numbers
    shell.accept(2)
    assert next_upload_after(shell, shell.tell(Flush())) >= 15


def test_a_batch_that_went_well_ends_the_rest_of_its_lane() -> None:
    shell = started(Retry(max_attempts=20))
    slow = shell.opened(1)
    key = shell.opened(2)
    for _ in range(4):
        key = shell.reopened(shell.finish(key, failed_row(2)))
    commands = shell.finish(key, failed_row(2))
    assert of(commands, Upload) == []
    assert uploads(shell.finish(slow, answer(1))) == [[2]]


def test_a_batch_that_is_sent_again_after_a_rest_is_created_though_no_call_comes() -> None:
    shell = started()
    key = shell.reopened(shell.finish(shell.opened(1), failed_row(1)))
    assert settled(shell.finish(key, answer(1))) == [1]
    assert shell.stats().enqueued == 0
    assert not of([*shell.tell(Flush())], Create)


def test_refusals_for_room_keep_no_count_of_attempts_over() -> None:
    shell = started(Retry(max_attempts=1))
    commands = shell.count(shell.check(shell.opened(1, 2), "failed", no_room=NoRoom(None)))
    key = shell.reopened(commands)
    assert of(shell.finish(key, answer(1), answer(2)), Fail) == []


def test_of_what_fails_together_only_that_is_given_up_which_failed_so_often() -> None:
    retries = Retries(Retry(max_attempts=2))
    broken, expired = Attempt("batch_1", 500, None, "down"), Attempt("batch_2", None, "batch_expired", "late")
    retries.note(retries.histories({1, 2}, {}, broken))
    histories = retries.histories({1, 2, 3}, {2: expired}, broken)
    assert histories == {1: (broken, broken), 2: (broken, expired), 3: (broken,)}
    assert retries.over(histories) == {1}

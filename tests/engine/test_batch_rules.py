"""The tables of one batch: which status may follow which, what a failed step leads to, and who is to blame."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from engine_kit import (
    AMPLE,
    LANE,
    NOW,
    Shell,
    World,
    answer,
    failures,
    lost_for_long,
    of,
    only,
    problem,
    refused,
    remote,
    rows_of,
    settled,
    status,
)

from carpool.config import Timing
from carpool.engine.commands import (
    Cancel,
    Check,
    Collect,
    Command,
    Create,
    Delete,
    Discard,
    Fail,
    Find,
    LetGo,
    Settle,
    Upload,
)
from carpool.engine.events import (
    Answered,
    Checked,
    Collected,
    Created,
    Failed,
    Flush,
    NotFound,
    Uploaded,
)
from carpool.engine.lane import LaneStats
from carpool.engine.stages import NEXT, is_end, is_news
from carpool.models import NO_REPLY, BatchStatus, Failure, Lane, NoRoom, Row

ENDS = ("failed", "completed", "expired", "cancelled")
COURSE = ("validating", "in_progress", "finalizing", "cancelling")  # each may be skipped (contracts A5)
FORWARD = [(known, seen) for at, known in enumerate(COURSE) for seen in (*COURSE[at + 1 :], *ENDS)]
BACKWARD = [(known, seen) for at, known in enumerate(COURSE) for seen in COURSE[:at]]


# --- statuses


@pytest.mark.parametrize(("known", "seen"), FORWARD)
def test_any_forward_jump_is_news(known: str, seen: str) -> None:
    assert is_news(known, seen)


@pytest.mark.parametrize(("known", "seen"), [*BACKWARD, *((end, seen) for end in ENDS for seen in NEXT)])
def test_a_status_that_is_older_or_follows_an_end_is_no_news(known: str, seen: str) -> None:
    assert not is_news(known, seen)


@pytest.mark.parametrize("known", NEXT)
def test_a_status_is_no_news_after_itself(known: str) -> None:
    assert not is_news(known, known)


def test_an_unknown_status_may_follow_any_but_an_end_and_anything_may_follow_it() -> None:
    assert all(is_news(known, "scheduling") for known in COURSE)
    assert not any(is_news(known, "scheduling") for known in ENDS)
    assert all(is_news("scheduling", seen) for seen in NEXT)
    assert not is_news("scheduling", "scheduling")


def test_exactly_four_statuses_are_ends() -> None:
    assert {name for name in [*NEXT, "scheduling", "unknown"] if is_end(name)} == set(ENDS)


@pytest.mark.parametrize(("known", "seen"), FORWARD)
def test_a_batch_that_jumps_forward_to_an_end_is_finished_and_to_another_status_asked_for_again(
    known: str, seen: str
) -> None:
    shell = Shell()
    key = shell.uploaded(1, 2).batch.key
    shell.tell(Created(key, status(key, known)))

    commands = shell.check(key, seen)

    if seen in ENDS:
        assert set(failures(commands)) == {1, 2}
        assert not shell.engine.lanes()[0].batches
    else:
        assert commands == []
        assert only(shell.wait(), Check).keys == (key,)


@pytest.mark.parametrize("end", ENDS)
def test_a_batch_may_be_at_its_end_when_it_is_created(end: str) -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    assert set(failures(shell.tell(Created(key, status(key, end))))) == {1}


@pytest.mark.parametrize(
    ("end", "kind", "code"),
    [
        ("completed", "missing", None),
        ("expired", "expired", "batch_expired"),
        ("cancelled", "cancelled", "batch_cancelled"),
        ("failed", "failed", None),
    ],
)
def test_rows_that_no_file_mentions_end_as_their_batch_did(end: str, kind: str, code: str | None) -> None:
    shell = Shell()
    key = shell.opened(1, 2, 3)
    shell.check(key, end, output="out")
    shell.answered(key, 2)

    commands = shell.read_out(key)

    assert failures(commands) == {1: kind, 3: kind}
    assert {command.code for command in _reasons(commands)} == {code}


def test_an_unknown_status_is_no_end() -> None:
    shell = Shell()
    key = shell.opened(1)
    assert shell.check(key, "scheduling") == []
    assert shell.check(key, "validating") == []
    assert failures(shell.check(key, "completed")) == {1: "missing"}


def test_a_listing_that_lags_is_ignored() -> None:
    shell = Shell()
    key = shell.opened(1)
    shell.check(key, "finalizing")
    assert shell.check(key, "validating", output="stale") == []
    assert shell.check(key, "in_progress") == []

    collect = only(shell.check(key, "completed", output="out", errors="err"), Collect)

    assert (collect.status.output_file_id, collect.status.error_file_id) == ("out", "err")
    assert collect.keys == (key,)


def test_the_files_of_a_batch_are_deleted_when_its_rows_are_settled() -> None:
    shell = Shell()
    key = shell.opened(1)
    shell.check(key, "completed", output="out", errors="err")
    shell.answered(key, 1)
    assert only(shell.tell(Collected(key)), Delete).file_ids == (f"file-{key}", "out", "err")


# --- batches that the provider denies


def test_a_batch_that_is_denied_right_after_its_creation_is_asked_for_again() -> None:
    shell = Shell()
    key = shell.opened(1)
    for _ in range(5):
        shell.wait()
        assert shell.tell(Checked((remote(key),), [])) == []
    assert settled(shell.check(key, "completed", output="out") + shell.answered(key, 1)) == [1]


def test_a_batch_that_is_denied_for_ten_minutes_has_vanished_and_its_files_stay() -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    shell.wait()
    while not (commands := shell.tell(Checked((remote(key),), []))):
        shell.wait()
    assert 600 <= shell.now - NOW < 700
    assert failures(commands) == {1: "missing", 2: "missing"}
    assert not of(commands, Delete)


def test_one_denial_after_a_long_silence_is_not_yet_a_vanished_batch() -> None:
    # The provider was out of reach for a quarter of an hour; the first listing it gives afterwards lags.
    shell = Shell()
    key = shell.opened(1)
    while shell.now < NOW + 900:
        assert of(shell.wait(), Check)
        shell.tell(Failed((key,), refused("lost")))
    shell.wait()
    assert failures(shell.tell(Checked((remote(key),), []))) == {}


# --- failed validation


def test_a_failed_validation_condemns_the_rows_it_names_and_the_rest_travels_again() -> None:
    shell = Shell()
    key = shell.opened(11, 12, 13, 14)
    problems = (problem("invalid_request", 2, "no messages"), problem("invalid_url", 4), problem("other"))

    commands = shell.check(key, "failed", problems=problems)

    assert failures(commands) == {12: "rejected", 14: "rejected"}
    assert [(reason.message, reason.code) for reason in _reasons(commands)] == [
        ("no messages", "invalid_request"),
        ("bad", "invalid_url"),
    ]
    assert only(commands, Delete).file_ids == (f"file-{key}",)
    assert rows_of(only(commands, Upload).batch.runs) == [11, 13]


def test_a_row_that_was_answered_is_not_condemned_as_well() -> None:
    shell = Shell()
    key = shell.opened(1, 2, 3)
    shell.check(key, "failed", output="out", problems=(problem("invalid_url", 1), problem("invalid_url", 2)))
    shell.answered(key, 1)
    commands = shell.tell(Collected(key))
    assert failures(commands) == {2: "rejected"}
    assert rows_of(only(commands, Upload).batch.runs) == [3]


def test_rows_that_travel_again_go_before_those_that_came_later() -> None:
    shell = Shell(Timing(linger=30))
    key = shell.opened(1, 2, 3)
    shell.accept(4, 5)
    upload = only(shell.check(key, "failed", problems=(problem("invalid_url", 1),)), Upload)
    assert rows_of(upload.batch.runs) == [2, 3, 4, 5]


@pytest.mark.parametrize("lines", [(None,), (0,), (9,), (None, 9)])
def test_a_failed_validation_that_names_none_of_the_lines_condemns_all(lines: tuple[int | None, ...]) -> None:
    shell = Shell()
    key = shell.opened(1)
    commands = shell.check(key, "failed", problems=tuple(problem("empty_file", line, "is empty") for line in lines))
    assert failures(commands) == {1: "rejected"}
    (reason,) = _reasons(commands)
    assert reason.code == "empty_file"
    assert "is empty" in reason.message
    assert ("1 more" in reason.message) == (len(lines) == 2)


def test_after_a_validation_that_condemned_every_row_the_next_call_lingers_as_usual() -> None:
    shell = Shell()
    key = shell.opened(1)
    assert failures(shell.check(key, "failed", problems=(problem("invalid_url", 1),))) == {1: "rejected"}
    assert shell.accept(2) == []
    assert shell.pause == pytest.approx(1.0)


# --- steps that fail


@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_an_upload_that_was_refused_for_now_is_repeated_after_a_pause(kind: str) -> None:
    shell = Shell()
    upload = shell.packed(1)
    assert shell.tell(Failed(upload.keys, refused(kind))) == []
    assert 1 <= shell.pause <= 2
    again = only(shell.wait(), Upload)
    assert again.batch.runs == upload.batch.runs
    assert again.batch.again == (kind == "lost")


@pytest.mark.parametrize("kind", ["busy", "gone"])
def test_a_creation_that_was_refused_for_now_is_repeated_after_a_pause(kind: str) -> None:
    shell = Shell()
    create = shell.uploaded(1)
    assert shell.tell(Failed(create.keys, refused(kind))) == []
    assert 1 <= shell.pause <= 2
    assert only(shell.wait(), Create) == create


@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_a_check_that_failed_is_repeated_after_a_pause(kind: str) -> None:
    shell = Shell()
    key = shell.opened(1)
    check = only(shell.wait(), Check)
    assert shell.tell(Failed(check.keys, refused(kind))) == []
    assert only(shell.wait(), Check) == check
    assert settled(shell.tell(Checked(check.remote_ids, [status(key, "completed", output="o")]))) == []


@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_a_download_that_failed_is_repeated_after_a_pause_and_what_came_counts(kind: str) -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    assert settled(shell.answered(key, 1)) == [1]
    assert shell.tell(Failed((key,), refused(kind))) == []
    assert only(shell.wait(), Collect).key == key
    assert settled(shell.answered(key, 1, 2)) == [2]
    assert failures(shell.tell(Collected(key))) == {}


@pytest.mark.parametrize(
    ("kind", "told"),
    [("rejected", "rejected"), ("gone", "rejected"), ("full", "full"), ("auth", "auth"), ("disk", "disk")],
)
def test_an_upload_that_was_refused_for_good_fails_its_rows(kind: str, told: str) -> None:
    shell = Shell()
    upload = shell.packed(1, 2)
    commands = shell.tell(Failed(upload.keys, refused(kind, "the cause", code="x", status_code=400)))
    assert failures(commands) == {1: told, 2: told}
    assert [(reason.message, reason.code, reason.status_code) for reason in _reasons(commands)] == [
        ("the cause", "x", 400)
    ]


@pytest.mark.parametrize(
    ("kind", "told"), [("rejected", "rejected"), ("auth", "auth"), ("failed", "failed"), ("disk", "disk")]
)
def test_a_creation_that_was_refused_for_good_fails_its_rows_and_its_input_is_deleted(kind: str, told: str) -> None:
    shell = Shell()
    create = shell.uploaded(1, 2)
    commands = shell.tell(Failed(create.keys, refused(kind)))
    assert failures(commands) == {1: told, 2: told}
    assert only(commands, Delete).file_ids == (create.file_id,)


def failing(shell: Shell, key: str, failure: Failure) -> list[Command]:
    """Let a step fail as often as it is tried."""
    while not (commands := shell.tell(Failed((key,), failure))):
        (step,) = shell.wait()
        assert isinstance(step, Collect | Check)
        assert step.keys == (key,)
    return commands


@pytest.mark.parametrize(
    ("kind", "told", "patience"),
    [("rejected", "missing", 7_200), ("disk", "disk", 7_200), ("gone", "missing", 900), ("auth", "auth", 900)],
)
def test_answers_that_stay_out_of_reach_are_missing_in_the_end_and_their_files_stay(
    kind: str, told: str, patience: float
) -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    shell.answered(key, 1)
    begin = shell.now
    commands = failing(shell, key, refused(kind, "the cause"))
    assert patience <= shell.now - begin < patience + 120
    assert failures(commands) == {2: told}
    assert "the cause" in _reasons(commands)[0].message
    assert not of(commands, Delete)


@pytest.mark.parametrize(("kind", "patience"), [("auth", 900), ("rejected", 90_000), ("failed", 90_000)])
def test_a_check_that_fails_in_any_way_is_repeated_with_patience_for_the_batch_is_paid_for(
    kind: str, patience: float
) -> None:
    shell = Shell()
    key = shell.opened(1)
    shell.wait()
    begin = shell.now
    commands = failing(shell, key, refused(kind))
    assert patience <= shell.now - begin < patience + 120
    assert set(failures(commands)) == {1}
    assert not of(commands, Delete)


def look_until(shell: Shell, key: str, name: str, kind: type[Command], **more: object) -> list[Command]:
    """Let a batch be as it is until there is a command of this kind."""
    while not of(commands := shell.check(key, name, **more), kind):
        pass
    return commands


@pytest.mark.parametrize("name", ["in_progress", "validating", "no_such_status"])
def test_a_batch_that_is_not_over_after_two_days_is_cancelled_once_and_waited_for(name: str) -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    commands = look_until(shell, key, name, Cancel)
    assert 172_800 <= shell.now - NOW < 172_800 + 120
    assert only(commands, Cancel).remote_id == remote(key)
    begin = shell.now
    while shell.now < begin + 3_000:
        assert not of(shell.check(key, "cancelling"), Cancel)
    assert only(shell.check(key, "cancelled", output="out", errors="err"), Collect).key == key
    shell.answered(key, 2)
    assert failures(shell.tell(Collected(key))) == {1: "cancelled"}


@pytest.mark.parametrize("name", ["in_progress", "no_such_status", "cancelling"])
def test_a_batch_that_is_not_over_an_hour_after_it_was_cancelled_ends_for_us(name: str) -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    look_until(shell, key, "in_progress", Cancel)
    begin = shell.now
    commands = look_until(shell, key, name, Collect, output="partial")
    assert 3_600 - 120 <= shell.now - begin < 3_600 + 120
    assert only(commands, Collect).key == key
    shell.answered(key, 2)
    assert failures(shell.tell(Collected(key))) == {1: "expired"}


def test_files_that_are_not_named_yet_are_waited_for() -> None:
    shell = Shell()
    key = shell.opened(1)
    assert shell.check(key, "completed", answered=1) == []
    assert only(shell.check(key, "completed", output="out", answered=1), Collect).key == key


def test_files_that_are_never_named_are_not_waited_for_for_ever() -> None:
    shell = Shell()
    key = shell.opened(1)
    while not (commands := shell.check(key, "completed", answered=1)):
        pass
    assert shell.now - NOW < 300
    assert failures(commands) == {1: "missing"}


def test_one_id_for_two_batches_is_no_creation() -> None:
    shell = Shell()
    first, second = shell.opened(1), shell.uploaded(2).batch.key
    commands = shell.tell(Created(second, status(first, "validating")))
    assert only(commands, Find).keys == (second,)
    assert shell.engine.created == 1


def test_an_input_file_that_the_validation_does_not_see_yet_is_sent_again() -> None:
    unseen = problem(
        "invalid_request", message="Cannot find file file-1, or organization x does not have access to it."
    )
    shell = Shell()
    key = shell.opened(1, 2)
    for _ in range(6):
        commands = shell.check(key, "failed", problems=(unseen,))
        assert failures(commands) == {}
        upload = only(shell.wait(), Upload)
        assert rows_of(upload.batch.runs) == [1, 2]
        key = upload.batch.key
        shell.tell(Uploaded(key, "file"))
        shell.tell(Created(key, status(key, "validating")))
    assert failures(shell.check(key, "failed", problems=(unseen,))) == {1: "rejected", 2: "rejected"}


@pytest.mark.parametrize(("stage", "hours"), [("packed", 0.25), ("uploaded", 0.25), ("open", 25.0), ("ended", 2.0)])
def test_a_step_that_fails_for_too_long_fails_its_rows(stage: str, hours: float) -> None:
    shell = Shell()
    bring: dict[str, Callable[[], str]] = {
        "packed": lambda: shell.packed(1).batch.key,
        "uploaded": lambda: shell.uploaded(1).batch.key,
        "open": lambda: shell.opened(1),
        "ended": lambda: shell.ended(1),
    }
    key = bring[stage]()
    if stage == "open":
        shell.wait()
    begin = shell.now
    while not (commands := shell.tell(Failed((key,), refused("busy")))):
        shell.wait()
    assert hours * 3600 <= shell.now - begin <= hours * 3600 + 60
    assert failures(commands) == {1: "missing" if stage in ("open", "ended") else "failed"}


def test_creations_that_get_no_reply_for_too_long_fail_their_rows_though_listings_work() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    said = lost_for_long(shell, key, shell.now + 3_600)
    assert failures(command for _, command in said) == {1: "failed"}


# --- lost creations


def test_a_lost_creation_is_looked_for_at_once_and_taken_up_when_found() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    assert only(shell.tell(Failed((key,), refused("lost"))), Find).keys == (key,)
    assert shell.tell(Created(key, status(key, "in_progress"))) == []
    assert only(shell.wait(), Check).remote_ids == (remote(key),)
    assert shell.engine.created == 1


def test_a_lost_creation_is_repeated_once_and_only_after_a_look_at_the_end_of_the_lookup() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    commands = shell.tell(Failed((key,), refused("lost")))
    looks: list[float] = []
    while not of(commands, Create):
        assert only(commands, Find).keys == (key,)
        looks.append(shell.now - NOW)
        commands = shell.tell(NotFound((key,), shell.now)) or shell.wait()
    assert looks[-1] == pytest.approx(10.0)
    assert all(look < 10.0 for look in looks[:-1])
    assert len(looks) > 3
    assert only(commands, Create).batch.key == key
    assert shell.tell(Created(key, status(key, "validating"))) == []
    assert only(shell.wait(), Check).keys == (key,)


def test_a_reply_to_an_early_look_that_comes_late_does_not_repeat_the_creation() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    shell.tell(Failed((key,), refused("lost")))
    assert shell.tell(NotFound((key,), shell.now), after=60) == []
    assert only(shell.wait(), Find).keys == (key,)
    assert only(shell.tell(NotFound((key,), shell.now)), Create).batch.key == key


@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_a_look_that_failed_is_repeated_after_a_pause(kind: str) -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    shell.tell(Failed((key,), refused("lost")))
    assert shell.tell(Failed((key,), refused(kind))) == []
    assert only(shell.wait(), Find).keys == (key,)


def test_a_look_that_fails_for_too_long_fails_the_rows() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    shell.tell(Failed((key,), refused("lost")))
    while not (commands := shell.tell(Failed((key,), refused("busy")))):
        shell.wait()
    assert 90_000 <= shell.now - NOW <= 90_060  # it may run meanwhile, for 24 hours
    assert failures(commands) == {1: "failed"}


def test_lost_creations_are_looked_for_together() -> None:
    shell = Shell()
    keys = {shell.uploaded(1).batch.key, shell.uploaded(2).batch.key}
    for key in keys:
        shell.tell(Failed((key,), refused("lost")))
        shell.tell(Failed((key,), refused("busy")))
    shell.now += 5
    assert set(only(shell.wait(), Find).keys) == keys


# --- no room in the queue


def full_of_others(shell: Shell, *, takes: float = 600.0) -> World:
    """Make a provider whose queue is full, and that does not say how much it takes."""
    world = World(AMPLE, lambda row: 10, shell, states=False, takes=takes)
    world.others = AMPLE
    return world


def test_a_batch_without_room_goes_back_and_nobody_is_told() -> None:
    shell = Shell(Timing(linger=30))
    key = shell.opened(1, 2, 3, 4, 5)
    shell.accept(6)
    commands = shell.refuse(key)
    assert failures(commands) == {}
    assert only(commands, Delete).file_ids == (f"file-{key}",)
    assert rows_of(only(shell.count(commands), Upload).batch.runs)[0] == 1
    assert shell.stats().waiting + shell.stats().submitted == 6


def test_what_came_back_travels_again_in_order_before_what_came_later() -> None:
    world = full_of_others(Shell(Timing(linger=30)))
    world.later(60, partial(setattr, world, "others", 0))
    world.accept(range(1, 21))
    world.perform(world.shell.tell(Flush()))
    world.run(10)
    world.accept(range(21, 41))
    world.run()
    again = [row for at, batch in world.creations if at > max(world.refusals) for row in rows_of(batch.runs)]
    assert again == list(range(1, 41))


def test_a_batch_that_was_refused_alone_is_uploaded_at_once_and_created_after_a_pause() -> None:
    shell = Shell()
    commands = shell.count(shell.refuse(shell.opened(1, 2, 3, 4)))
    upload = only(commands, Upload)
    assert shell.tell(Uploaded(upload.batch.key, "file")) == []
    assert 15 <= shell.pause <= 60
    assert only(shell.wait(), Create).batch.key == upload.batch.key


@pytest.mark.parametrize("stated", [None, 30])
def test_a_creation_that_says_there_is_no_room_is_the_same_as_a_batch_that_failed_so(stated: int | None) -> None:
    told: list[list[list[int]]] = []
    stats: list[LaneStats] = []
    for asynchronous in (False, True):
        shell = Shell()
        create = shell.uploaded(1, 2, 3, 4)
        if asynchronous:
            no_room = NoRoom(stated)
            commands = shell.tell(Created("p-b1", status("p-b1", "failed", no_room=no_room)))
        else:
            commands = shell.tell(Failed(create.keys, Failure("full", "no", 429, limit=stated)))
        assert failures(commands) == {}
        assert only(commands, Delete).file_ids == (create.file_id,)
        told.append([rows_of(upload.batch.runs) for upload in of(shell.count(commands), Upload)])
        stats.append(shell.stats())
    assert told[0] == told[1] != []
    assert stats[0] == stats[1]
    assert (stats[0].refusals, stats[0].limit) == (1, stated or AMPLE)


def test_a_batch_that_was_refused_beside_another_waits_until_that_one_ends() -> None:
    shell = Shell()
    running, refused_ = shell.opened(1, 2, 3), shell.opened(4, 5)
    shell.wait()
    shell.tell(Checked((remote(running),), [status(running, "in_progress")]))
    commands = shell.tell(Checked((remote(refused_),), [status(refused_, "failed", no_room=NoRoom(None))]))
    upload = only(shell.count(commands), Upload)
    assert rows_of(upload.batch.runs)[0] == 4
    assert shell.tell(Uploaded(upload.batch.key, "file")) == []

    assert only(shell.check(running, "completed", output="out"), Create).batch.key == upload.batch.key


def test_a_queue_that_takes_nothing_is_tried_less_and_less_often_but_every_ten_minutes() -> None:
    world = full_of_others(Shell())
    world.accept([1, 2])
    world.run(3 * 3_600)
    pauses = [later - earlier for earlier, later in pairwise(world.refusals)]
    assert len(pauses) > 12
    assert pauses[0] <= 60 + 10
    assert max(pauses) <= 600 + 10
    assert all(pause >= 300 for pause in pauses[6:])
    assert world.failed == {}


@pytest.mark.parametrize("tokens", [AMPLE, None])
def test_a_single_row_that_never_fits_is_told_so_after_a_day(tokens: int | None) -> None:
    world = full_of_others(Shell(tokens=tokens))
    world.accept([1])
    world.run()
    assert world.failed[1].kind == "full"
    assert 86_400 <= world.shell.now - NOW <= 86_400 + 700
    assert world.shell.stats().batches == 0


def test_rows_are_not_told_that_they_never_fit_while_the_model_is_queued_by_another_endpoint() -> None:
    world = full_of_others(Shell(), takes=1e6)
    world.others = 0
    world.accept([1, 2], lane=Lane("/v1/responses", LANE.model), segment=9)
    world.run(60)
    world.others = AMPLE
    world.accept([3])
    world.run(160_000)
    assert world.failed == {}
    assert len(world.refusals) > 3


def test_a_row_that_finds_no_room_for_a_while_is_answered_in_the_end() -> None:
    world = full_of_others(Shell())
    world.later(7_200, partial(setattr, world, "others", 0))
    world.accept([1])
    world.run()
    assert world.settled == [1]
    assert world.ends[0] - NOW <= 7_200 + 600 + world.takes + 10


def test_rows_that_were_answered_before_their_batch_found_no_room_are_not_sent_again() -> None:
    shell = Shell()
    key = shell.opened(1, 2, 3)
    shell.check(key, "failed", output="out", no_room=NoRoom(25))
    shell.answered(key, 2)
    commands = shell.count(shell.tell(Collected(key)))
    uploads = of(commands, Upload)
    for upload in uploads:
        shell.tell(Uploaded(upload.batch.key, "file"))
        created = shell.tell(Created(upload.batch.key, status(upload.batch.key, "completed")))
        uploads += of(created, Upload)
    assert [row for upload in uploads for row in rows_of(upload.batch.runs)] == [1, 3]


# --- answers


def test_rows_are_settled_once_though_they_come_twice() -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    assert settled(shell.tell(Answered(key, [answer(2), answer(1), answer(2)]))) == [2, 1]
    assert settled(shell.answered(key, 1, 2)) == []
    assert failures(shell.tell(Collected(key))) == {}


def test_the_first_of_two_answers_counts() -> None:
    shell = Shell()
    key = shell.ended(1)
    first, second = Row("p-1", 200, "first", b"1"), Row("p-1", 200, "second", b"2")
    settle = only(shell.tell(Answered(key, [first, second])), Settle)
    assert settle.rows == [first]
    assert settle.batch_id == remote(key)


@pytest.mark.parametrize(
    "custom_id",
    ["", "p", "p-", "p-x", "p-99", "q-1", "pp-1", "-1", "p--1", "p-1 ", "p- 1", "p-1.0", "p-²", "p-b1", "P-1", "1"],
)
def test_an_id_that_nobody_sent_settles_nothing(custom_id: str) -> None:
    shell = Shell()
    key = shell.ended(1)
    assert settled(shell.tell(Answered(key, [Row(custom_id, 200, "", b"{}")]))) == []
    assert failures(shell.read_out(key)) == {1: "missing"}


@pytest.mark.parametrize("custom_id", ["p-01", "p-\u0661", "p-" + "9" * 5_000], ids=["zero", "arabic", "endless"])
def test_an_id_that_only_looks_like_one_of_ours_settles_nothing(custom_id: str) -> None:
    shell = Shell()
    key = shell.ended(1)
    assert settled(shell.tell(Answered(key, [Row(custom_id, 200, "", b"{}")]))) == []


def test_rows_of_another_batch_settle_nothing() -> None:
    shell = Shell()
    first = shell.ended(1)
    shell.opened(2)
    assert settled(shell.answered(first, 2, 1)) == [1]


@pytest.mark.parametrize("answered", [3, 1, None])
def test_a_completed_batch_that_leaves_rows_out_is_read_four_times_and_its_files_are_kept(answered: int | None) -> None:
    shell = Shell()
    key = shell.ended(1, 2, 3, answered=answered)
    begin = len(shell.facts)
    commands = shell.read_out(key, answer(1))
    assert sum(isinstance(fact, Collected) for fact, _ in shell.facts[begin:]) == 4
    assert shell.now - NOW > 20
    assert failures(commands) == {2: "missing", 3: "missing"}
    assert of(commands, Delete) == []


def test_a_second_read_gives_what_the_first_one_lost() -> None:
    shell = Shell()
    key = shell.ended(1, 2, answered=2)
    shell.answered(key, 1)
    assert shell.tell(Collected(key)) == []
    shell.wait()
    assert settled(shell.answered(key, 1, 2)) == [2]
    assert failures(shell.tell(Collected(key))) == {}


def test_downloads_that_failed_do_not_count_as_short_reads() -> None:
    shell = Shell()
    key = shell.ended(1, 2, answered=2)
    for _ in range(2):
        shell.tell(Failed((key,), refused("lost", status_code=502)))
        shell.wait()
    reads = len(shell.facts)
    shell.read_out(key, answer(1))
    assert sum(isinstance(fact, Collected) for fact, _ in shell.facts[reads:]) == 4


def test_an_expired_batch_that_holds_as_many_rows_as_were_counted_is_read_once() -> None:
    shell = Shell()
    key = shell.opened(1, 2, 3)
    shell.check(key, "expired", output="out", answered=1)
    shell.answered(key, 3)
    commands = shell.tell(Collected(key))
    assert failures(commands) == {1: "expired", 2: "expired"}
    assert only(commands, Delete).file_ids == (f"file-{key}", "out")


# --- the spool


def test_a_segment_is_discarded_when_all_its_rows_are_settled_and_the_lane_has_moved_on() -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    shell.accept(3, segment=2)
    shell.answered(key, 1, 2)
    assert only(shell.tell(Collected(key)), Discard).segment == 1


def test_a_segment_that_may_still_grow_stays_until_the_lane_moves_on() -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    shell.answered(key, 1, 2)
    assert of(shell.tell(Collected(key)), Discard) == []
    assert of(shell.accept(3, segment=2), Discard) == [Discard(1)]


def test_a_segment_with_rows_in_another_batch_stays() -> None:
    shell = Shell()
    first, second = shell.ended(1), shell.opened(2)
    shell.accept(3, segment=2)
    shell.answered(first, 1)
    assert of(shell.tell(Collected(first)), Discard) == []
    assert of(shell.check(second, "expired"), Discard) == [Discard(1)]


def test_rows_that_travel_again_keep_their_segment() -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    shell.accept(3, segment=2)
    commands = shell.check(key, "failed", problems=(problem("invalid_url", 1),))
    assert of(commands, Discard) == []
    again = only(commands, Upload).batch.key
    shell.tell(Uploaded(again, "file"))
    assert of(shell.tell(Created(again, status(again, "cancelled"))), Discard) == [Discard(1)]


def test_what_was_condemned_and_what_is_settled_later_free_the_segment_once() -> None:
    shell = Shell()
    key = shell.opened(1)
    shell.accept(2, segment=2)
    commands = shell.check(key, "failed", problems=(problem("invalid_url", 1),))
    assert of(commands, Discard) == [Discard(1)]


def test_the_lanes_tell_what_waits_and_what_is_under_way() -> None:
    shell = Shell()
    key = shell.ended(1, 2, 3)
    shell.answered(key, 1)
    shell.accept(4, 5)
    stats = shell.stats()
    assert (stats.lane, stats.waiting, stats.submitted, stats.batches) == (LANE, 2, 2, 1)


def _reasons(commands: list[Command]) -> list[Failure]:
    reasons: list[Failure] = []
    for command in commands:
        if isinstance(command, Fail | LetGo) and command.failure not in reasons:
            reasons.append(command.failure)
    return reasons


def test_a_batch_without_a_reply_is_asked_for_again_while_the_others_go_on() -> None:
    shell = Shell()
    silent, done = shell.opened(1), shell.opened(2)
    shell.wait()
    news = [BatchStatus(remote(silent), None, NO_REPLY), status(done, "completed", output="out")]
    commands = shell.tell(Checked((remote(silent), remote(done)), news))
    assert only(commands, Collect).key == done
    assert failures(commands) == {}
    assert only(shell.wait(), Check).keys == (silent,)


def test_a_step_that_fails_after_its_batch_is_done_changes_nothing() -> None:
    shell = Shell()
    key = shell.ended(1)
    shell.answered(key, 1)
    shell.tell(Collected(key))
    assert shell.tell(Failed((key,), refused("failed"))) == []


def test_a_refused_key_after_a_long_outage_is_given_its_own_patience() -> None:
    shell = Shell()
    key = shell.opened(1)
    shell.wait()
    begin = shell.now
    while shell.now - begin < 3_600:
        assert shell.tell(Failed((key,), refused("lost"))) == []
        shell.wait()
    assert shell.tell(Failed((key,), refused("auth"))) == []


def test_a_file_that_cannot_be_read_when_all_rows_are_settled_is_left_alone() -> None:
    shell = Shell()
    key = shell.ended(1)
    shell.answered(key, 1)
    assert only(shell.tell(Failed((key,), refused("gone"))), Delete).file_ids == (f"file-{key}", "out")


def test_batches_that_are_refused_together_count_once() -> None:
    unseen = problem("invalid_request", message="Cannot find file f, or organization o does not have access to it.")
    shell = Shell()
    keys = [shell.opened(row) for row in range(1, 11)]
    shell.wait()
    for key in keys:
        assert failures(shell.tell(Checked((remote(key),), [status(key, "failed", problems=(unseen,))]))) == {}

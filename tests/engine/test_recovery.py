"""What an earlier process left is told again, and goes on from where it was recorded to stand."""

import math

import pytest
from engine_kit import (
    LANE,
    NOW,
    OTHER,
    POOL,
    TIMING,
    Shell,
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
    with_tokens,
)

from carpool.engine.commands import (
    Anew,
    Check,
    Collect,
    Command,
    Count,
    Create,
    Delete,
    Discard,
    Fail,
    Find,
    LetGo,
    Upload,
)
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Asked,
    Checked,
    Cleared,
    Collected,
    Created,
    Delivered,
    Discarded,
    Done,
    Event,
    Failed,
    Flush,
    Learned,
    Leave,
    Limited,
    Missing,
    NotFound,
    Packed,
    Recovered,
    Spent,
    Tick,
    Uploaded,
)
from carpool.engine.stages import OVERDUE, VANISHED
from carpool.models import BatchStatus, FileLimits, Lane, Leftovers, NoRoom, Sought
from carpool.naming import span_of

AGO = 1_000.0  # seconds: when the earlier process recorded what it left
NUMBERED = span_of(1)[0]  # behind which this process numbers what it makes
OLD = f"{POOL}-b1"  # the first batch of the earlier process
SECOND = f"{POOL}-b2"
LOOKUP = TIMING.lookup


def accepted(*rows: int, lane: Lane = LANE, segment: int = 1, size: int = 10) -> Accepted:
    return Accepted(lane, make_run(rows, segment=segment, offset=10 * (rows[0] - 1), size=size))


def packed(number: int, *rows: int, lane: Lane = LANE, segment: int = 1, size: int = 10) -> Packed:
    return Packed(number, lane, (accepted(*rows, segment=segment, size=size).run,))


def uploaded(key: str = OLD) -> Uploaded:
    return Uploaded(key, f"file-{key}")


def created(key: str = OLD, name: str = "validating") -> Created:
    return Created(key, status(key, name))


def fresh(tokens: int | None = 10**12) -> Shell:
    """Start a process that numbers its batches behind those of the earlier one."""
    return Shell(tokens=tokens, numbered=NUMBERED)


def tell_again(shell: Shell, *facts: Event, ago: float = AGO) -> None:
    for fact in facts:
        shell.engine.replay(fact, shell.now - ago)


def recovered(*facts: Event, shell: Shell | None = None, ago: float = AGO) -> tuple[Shell, list[Command]]:
    """Tell facts again; gives the process that goes on, and its first commands."""
    shell = shell or fresh()
    tell_again(shell, *facts, ago=ago)
    return shell, shell.tell(Recovered())


def ask(shell: Shell, *rows: int) -> list[Command]:
    return shell.tell(Asked(rows))


def look_in_vain(shell: Shell, key: str = OLD) -> list[Command]:
    """Look for a batch until the lookup is over; gives what follows."""
    commands = shell.tell(NotFound((key,), shell.now))
    while shell.now < NOW + LOOKUP:
        for find in of(shell.wait(), Find):
            commands = shell.tell(NotFound((key,), find.at))
    return commands


# --- rows in no batch


def test_rows_of_an_earlier_time_are_kept_and_not_sent() -> None:
    shell, commands = recovered(accepted(1, 2, 3))
    assert commands == []
    assert shell.tell(Flush()) == []
    assert shell.tell(Tick(), after=10_000.0) == []
    assert shell.engine.deadline() == math.inf
    assert (shell.stats().dormant, shell.stats().waiting, shell.stats().submitted) == (3, 0, 0)


def test_rows_that_are_asked_for_wait_as_if_they_had_just_come() -> None:
    shell, _ = recovered(accepted(1, 2, 3, 4, 5))
    assert ask(shell, 4, 2, 3) == []
    assert (shell.stats().dormant, shell.stats().waiting) == (2, 3)
    assert shell.pause == TIMING.linger
    (run,) = only(shell.wait(), Upload).batch.runs
    assert run == make_run((2, 3, 4), offset=10)
    assert shell.stats().dormant == 2


def test_rows_that_are_asked_for_go_before_those_that_came_later_and_wait_no_longer_for_them() -> None:
    shell, _ = recovered(accepted(1, 2))
    shell.accept(1_001, segment=2)
    assert ask(shell, 1) == []
    assert shell.pause == TIMING.linger
    ask(shell, 2)
    assert rows_of(only(shell.tell(Flush()), Upload).batch.runs) == [1, 2, 1_001]


def test_rows_of_several_lanes_are_asked_for_at_once() -> None:
    shell, _ = recovered(accepted(1, 3), accepted(2, 4, lane=OTHER, segment=2), accepted(5, lane=OTHER, segment=2))
    ask(shell, 1, 2, 3, 5)
    assert [rows_of(upload.batch.runs) for upload in of(shell.tell(Flush()), Upload)] == [[1, 3], [2, 5]]
    assert shell.stats(OTHER).dormant == 1


def test_rows_that_are_nowhere_are_to_be_paid_anew() -> None:
    shell, _ = recovered(accepted(1, 2, 4), packed(1, 2, 4), uploaded(), created())
    assert only(ask(shell, 9, 4, 3, 1, 7), Anew).numbers == [3, 7, 9]


def test_rows_of_a_process_that_came_later_wait_no_longer_than_others_though_calls_go_on_coming() -> None:
    later = span_of(2)[0] + 1
    shell, _ = recovered(Accepted(LANE, make_run((later,), segment=2)))
    ask(shell, later)
    for row in range(1, 100):
        if of(shell.accept(NUMBERED + row, after=TIMING.linger / 2), Upload):
            break
    assert shell.now <= NOW + TIMING.max_linger + TIMING.linger


def test_rows_are_counted_when_they_are_asked_for_and_too_much_waits() -> None:
    shell = fresh(tokens=None)
    recovered(accepted(*range(1, 21)), Limited(LANE.queue, 20, "user"), shell=shell)
    count = only(ask(shell, *range(1, 21)), Count)
    assert rows_of(count.runs) == list(range(1, 21))


def test_rich_rows_of_an_earlier_time_are_counted() -> None:
    shell = fresh(tokens=None)
    recovered(Accepted(LANE, make_run((1,)), rich=True), Limited(LANE.queue, 1_000, "user"), shell=shell)
    assert of(ask(shell, 1), Count)


# --- batches


def test_a_batch_that_was_packed_is_uploaded_unless_it_was_already() -> None:
    shell, commands = recovered(accepted(1, 2, 3), packed(1, 1, 2))
    (upload,) = commands
    assert isinstance(upload, Upload)
    batch = upload.batch
    assert (batch.key, batch.again, batch.packed_at, batch.size) == (OLD, True, NOW - AGO, 20)
    assert (shell.stats().dormant, shell.stats().submitted, shell.stats().batches) == (1, 2, 1)
    (create,) = shell.tell(uploaded())
    assert isinstance(create, Create)
    assert create.file_id == f"file-{OLD}"


def test_uploads_that_may_have_arrived_are_sought_when_the_batch_is_given_up() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1))
    commands = shell.tell(Failed((OLD,), refused("rejected")))
    delete = only(commands, Delete)
    assert delete.sought is not None
    assert (delete.file_ids, delete.sought.key) == ((), OLD)
    assert failures(commands) == {1: "rejected"}


def test_a_batch_that_was_uploaded_may_have_been_created_and_is_looked_for() -> None:
    shell, commands = recovered(accepted(1), packed(1, 1), uploaded())
    assert commands == [Find({OLD: f"file-{OLD}"}, NOW - AGO, NOW)]
    assert shell.stats().enqueued > 0
    shell.tell(created())
    assert shell.stats().batches == 1
    assert only(shell.wait(), Check).keys == (OLD,)


def test_batches_that_may_have_been_created_are_looked_for_together_since_the_first_was_packed() -> None:
    shell = fresh()
    tell_again(shell, accepted(1, 2))
    tell_again(shell, packed(1, 1), ago=70)
    tell_again(shell, uploaded(), ago=60)
    tell_again(shell, packed(2, 2), ago=90)
    tell_again(shell, uploaded(SECOND), ago=80)
    assert shell.tell(Recovered()) == [Find({OLD: f"file-{OLD}", SECOND: f"file-{SECOND}"}, NOW - 90, NOW)]


def test_a_batch_that_no_listing_shows_is_looked_for_until_the_lookup_is_over_and_created_then() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1), uploaded())
    commands = look_in_vain(shell)
    assert shell.now == NOW + LOOKUP
    (create,) = commands
    assert isinstance(create, Create)
    assert (create.batch.key, create.file_id) == (OLD, f"file-{OLD}")


def test_a_batch_that_shows_up_at_the_last_look_is_not_created_twice() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1), uploaded())
    assert shell.tell(NotFound((OLD,), NOW)) == []
    while shell.now < NOW + LOOKUP:
        find = only(shell.wait(), Find)
        if shell.now < NOW + LOOKUP:
            assert shell.tell(NotFound((OLD,), find.at)) == []
    assert shell.tell(created()) == []
    assert only(shell.wait(), Check).keys == (OLD,)


def test_a_batch_that_was_not_created_stands_in_line_for_the_room_that_it_may_never_have_had() -> None:
    shell = fresh(tokens=None)
    told = packed(1, 1), uploaded(), packed(2, 2), uploaded(SECOND)
    recovered(accepted(1, 2), *told, Limited(LANE.queue, 15, "user"), shell=shell)
    shell.tell(created(SECOND))
    assert look_in_vain(shell) == []
    assert (shell.stats().batches, shell.stats().submitted) == (2, 2)
    commands = shell.tell(Checked((remote(SECOND),), [status(SECOND, "completed")]))
    assert only(commands, Create).batch.key == OLD


def test_a_batch_that_was_created_is_asked_for() -> None:
    shell, commands = recovered(accepted(1, 2, 3), packed(1, 1, 2), uploaded(), created())
    assert commands == [Check((OLD,), (remote(OLD),))]
    ask(shell, 2)
    commands = shell.tell(Checked((remote(OLD),), [status(OLD, "completed", output="out")]))
    assert of(commands, Collect)
    assert settled(shell.answered(OLD, 1, 2, 3)) == [1, 2]
    assert only(shell.tell(Collected(OLD)), Delete).file_ids == (f"file-{OLD}", "out")
    assert done(shell) == {OLD: remote(OLD)}


def test_the_age_of_a_batch_counts_from_when_it_was_created() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1), uploaded(), created(), ago=1_200)
    shell.tell(Checked((remote(OLD),), [status(OLD, "in_progress")]))
    assert shell.pause == pytest.approx(0.05 * 1_200, rel=0.06)


def test_a_batch_that_had_ended_when_it_was_found_is_not_read_by_a_listing_that_lags() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1), uploaded(), created(name="expired"))
    commands = shell.tell(Checked((remote(OLD),), [status(OLD, "validating")]))
    assert failures(commands) == {1: "expired"}


def test_several_batches_go_on_each_from_where_it_stands() -> None:
    _, commands = recovered(
        accepted(*range(1, 8)),
        packed(1, 1),
        packed(2, 2),
        uploaded(SECOND),
        packed(3, 3, 4),
        uploaded("p-b3"),
        created("p-b3"),
        packed(4, 5),
        uploaded("p-b4"),
        created("p-b4"),
    )
    assert only(commands, Upload).batch.key == OLD
    assert only(commands, Find).keys == (SECOND,)
    assert only(commands, Check).keys == ("p-b3", "p-b4")


def test_rows_that_are_asked_for_again_are_abandoned_no_more() -> None:
    shell, _ = recovered(accepted(1, 2, 3), packed(1, 1, 2, 3), uploaded(), created())
    ask(shell, 1, 2, 3)
    shell.tell(Abandoned(frozenset((1, 2, 3))))
    assert ask(shell, 2) == []
    (upload,) = of(shell.tell(Checked((remote(OLD),), [status(OLD, "failed", no_room=NoRoom(None))])), Upload)
    assert rows_of(upload.batch.runs) == [2]


def test_rows_that_were_answered_are_not_in_their_batch_any_more() -> None:
    shell, _ = recovered(accepted(1, 2), packed(1, 1, 2), uploaded(), created())
    shell.tell(Checked((remote(OLD),), [status(OLD, "completed", output="out")]))
    shell.answered(OLD, 1)
    assert only(ask(shell, 1, 2), Anew).numbers == [1]


def test_told_twice_it_comes_to_the_same() -> None:
    facts = (
        Spent((NOW - 3_000.0, NOW - 2_000.0)),
        Learned(LANE.queue, 400),
        accepted(*range(1, 9)),
        packed(1, 1, 2),
        packed(2, 3),
        uploaded(SECOND),
        packed(3, 4, 5),
        uploaded("p-b3"),
        created("p-b3"),
    )
    one, other = fresh(), fresh()
    assert recovered(*facts, shell=one)[1] == recovered(*facts, shell=other)[1]
    assert ask(one, 1, 7, 8) == ask(other, 1, 7, 8)
    assert one.engine.lanes() == other.engine.lanes()
    assert one.engine.deadline() == other.engine.deadline() < math.inf
    assert one.wait() == other.wait()


def test_what_is_recovered_is_recovered_once() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1))
    assert shell.tell(Recovered()) == []


def test_facts_that_only_a_journal_needs_change_nothing() -> None:
    shell = fresh()
    shell.accept(1)
    deadline = shell.engine.deadline()
    facts: tuple[Event, ...] = (
        Done(OLD, None),
        Cleared(OLD),
        Learned(LANE.queue, 7),
        Discarded(1),
        Delivered((1,)),
        Spent((NOW,)),
    )
    assert [shell.tell(fact) for fact in facts] == [[]] * len(facts)
    assert shell.engine.deadline() == deadline
    assert shell.stats().limit != 7


# --- limits, pace and numbers


def test_limits_that_are_told_again_are_in_force() -> None:
    shell, _ = recovered(
        accepted(1),
        Limited(LANE.queue, 900, "table"),
        Learned(LANE.queue, 500),
        Limited(LANE.queue, 800, "table"),
        shell=fresh(tokens=None),
    )
    assert (shell.stats().limit, shell.stats().limit_source) == (500, "learned")


def test_creations_of_the_last_hour_are_counted() -> None:
    limits = FileLimits(1, 1_000, 7, creations_per_hour=10)  # one at once, and one in 400 s
    shell = Shell(limits=limits, numbered=NUMBERED)
    recovered(accepted(1), Spent((NOW - 900.0, NOW - 100.0)), shell=shell)
    assert ask(shell, 1) == []
    assert shell.pause == pytest.approx(300.0)
    shell, _ = recovered(accepted(1), shell=Shell(limits=limits, numbered=NUMBERED))
    assert of(ask(shell, 1), Upload)


def test_batches_that_have_run_for_long_do_not_count_towards_the_hour() -> None:
    limits = FileLimits(1, 1_000, 7, creations_per_hour=10)
    shell = Shell(limits=limits, numbered=NUMBERED)
    tell_again(shell, Spent((NOW - 100.0,)))
    told = packed(1, 1), uploaded(), created(), packed(2, 2), uploaded(SECOND), created(SECOND)
    recovered(accepted(1, 2, 3), *told, shell=shell, ago=80_000.0)
    ask(shell, 3)
    assert shell.pause == pytest.approx(300.0)


def test_batches_are_numbered_behind_what_others_may_number() -> None:
    shell = fresh()
    assert [shell.packed(1_001).batch.key, shell.packed(1_002).batch.key] == [
        f"{POOL}-b{NUMBERED + 1}",
        f"{POOL}-b{NUMBERED + 2}",
    ]


# --- what is recorded


def done(shell: Shell) -> dict[str, str | None]:
    """Give the batches that are over, and their remote ids."""
    return {fact.key: fact.batch_id for fact, _ in shell.facts if isinstance(fact, Done)}


def test_a_batch_is_done_when_its_answers_are_read() -> None:
    shell = Shell()
    key = shell.ended(1)
    shell.answered(key, 1)
    assert done(shell) == {}
    shell.tell(Collected(key))
    assert done(shell) == {key: remote(key)}


@pytest.mark.parametrize("stated", [None, 400])
def test_a_batch_is_done_when_its_rows_wait_again_and_a_limit_that_is_stated_is_learned(stated: int | None) -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    shell.refuse(key, stated)
    assert done(shell) == {key: remote(key)}
    learned = [fact for fact, _ in shell.facts if isinstance(fact, Learned)]
    assert learned == ([] if stated is None else [Learned(LANE.queue, stated)])


def test_a_batch_is_done_when_it_was_never_created() -> None:
    shell = Shell()
    key = shell.packed(1).batch.key
    shell.tell(Failed((key,), refused("rejected")))
    assert done(shell) == {key: None}


def test_a_batch_is_done_when_those_before_it_found_no_room() -> None:
    shell = Shell(tokens=None)
    key = shell.opened(1, 2)
    ahead = shell.packed(3).batch.key
    shell.refuse(key, 100)
    assert done(shell) == {key: remote(key), ahead: None}


# --- what is left at the provider


def test_what_a_batch_leaves_at_the_provider_is_deleted_by_the_next_process_too() -> None:
    shell = Shell()
    key = shell.ended(1)
    shell.answered(key, 1)
    delete = only(shell.tell(Collected(key)), Delete)
    (fact,) = (fact for fact, _ in shell.facts if isinstance(fact, Done))
    assert fact.leaves == Leftovers((f"file-{key}", "out"))
    assert recovered(fact)[1] == [delete]
    other, _ = recovered(fact)
    assert other.tell(Recovered()) == []  # once


def test_files_that_may_hold_answers_yet_are_left_to_nobody() -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    shell.answered(key, 1)
    commands = shell.tell(Collected(key))
    while not done(shell):
        commands = shell.wait()
        commands = shell.tell(Collected(key))
    assert not of(commands, Delete)
    (fact,) = (fact for fact, _ in shell.facts if isinstance(fact, Done))
    assert fact.leaves is None
    assert recovered(fact)[1] == []


def upload_in_line(shell: Shell) -> str:
    """Let a batch be uploaded while it waits for room, and the one before it find none; gives the key of the first."""
    key = shell.opened(1, 2)
    ahead = shell.packed(3).batch.key
    assert not [delete for delete in of(shell.refuse(key, 100), Delete) if delete.key == ahead]
    return ahead


def test_an_upload_whose_batch_was_dropped_meanwhile_is_deleted_when_it_has_arrived() -> None:
    shell = Shell(tokens=None)
    key = upload_in_line(shell)
    (fact,) = (fact for fact, _ in shell.facts if isinstance(fact, Done) and fact.key == key)
    sought = Sought(key, 10, NOW)
    assert fact.leaves == Leftovers((), sought)
    assert shell.tell(Uploaded(key, "late")) == [Delete(("late",), sought, key, TIMING.lookup)]
    assert shell.tell(Failed((key,), refused("lost"))) == []


def test_an_upload_whose_batch_was_dropped_meanwhile_is_sought_when_no_reply_came() -> None:
    shell = Shell(tokens=None)
    key = upload_in_line(shell)
    assert shell.tell(Failed((key,), refused("lost"))) == [Delete((), Sought(key, 10, NOW), key, TIMING.lookup)]


def test_uploads_that_no_reply_told_of_are_sought_at_once_when_none_is_under_way() -> None:
    shell = Shell(tokens=None)
    key = shell.opened(1, 2)
    ahead = shell.packed(3).batch.key
    assert shell.tell(Failed((ahead,), refused("lost"))) == []  # it is tried again in a moment
    commands = shell.tell(Checked((remote(key),), [status(key, "failed", no_room=NoRoom(100))]))
    assert ahead in done(shell)
    assert ahead in [delete.key for delete in of(commands, Delete)]


# --- segments


def test_a_segment_of_an_earlier_time_goes_when_its_last_row_is_settled() -> None:
    shell, _ = recovered(accepted(1, 2), packed(1, 1), uploaded(), created())
    commands = shell.tell(Checked((remote(OLD),), [status(OLD, "expired")]))
    assert not of(commands, Discard)
    ask(shell, 2)
    key = only(shell.tell(Flush()), Upload).batch.key
    assert only(shell.tell(Failed((key,), refused("rejected"))), Discard).segment == 1


def test_with_the_last_call_segments_are_given_up_that_might_have_grown() -> None:
    shell, _ = recovered(accepted(1))
    shell.accept(1_001, segment=2)
    shell.accept(1_002, segment=3, lane=OTHER)
    first, second = (upload.batch.key for upload in of(shell.tell(Flush()), Upload))
    assert not of(shell.tell(Failed((first,), refused("rejected"))), Discard)
    assert shell.tell(Leave(keep=True)) == [Discard(2)]
    assert only(shell.tell(Failed((second,), refused("rejected"))), Discard).segment == 3
    assert shell.tell(Leave(keep=True)) == []
    assert shell.stats().dormant == 1


# --- in an engine that is under way


def test_work_under_way_is_not_disturbed_by_what_another_process_left() -> None:
    shell = fresh()
    own = shell.opened(1_001)
    shell.accept(1_002)
    deadline = shell.engine.deadline()
    tell_again(shell, accepted(1, 2, 3, segment=2), packed(1, 1, segment=2), packed(2, 2, segment=2), uploaded(SECOND))
    assert shell.engine.deadline() == deadline
    assert (shell.stats().waiting, shell.stats().dormant, shell.stats().submitted) == (1, 1, 3)
    commands = shell.tell(Recovered())
    assert only(commands, Upload).batch.key == OLD
    assert only(commands, Find).keys == (SECOND,)
    assert rows_of(only(shell.tell(Flush()), Upload).batch.runs) == [1_002]
    shell.tell(Checked((remote(own),), [status(own, "completed", output="out")]))
    assert settled(shell.answered(own, 1_001)) == [1_001]


def test_batches_of_another_process_do_not_move_the_numbers_of_ones_own() -> None:
    """Its numbers may have been given to batches that are over: they would be given twice."""
    number = span_of(2)[0] + 7
    shell, _ = recovered(accepted(1), packed(number, 1), uploaded(f"{POOL}-b{number}"))
    assert shell.packed(1_001).batch.key == f"{POOL}-b{NUMBERED + 1}"


def test_the_batch_that_is_next_in_line_stays_next() -> None:
    shell = fresh(tokens=None)  # one batch validates at a time
    own = shell.opened(1_001)
    ahead = shell.packed(1_002).batch.key
    tell_again(shell, accepted(1, segment=2), packed(1, 1, segment=2), uploaded(), created())
    shell.tell(Recovered())
    assert shell.accept(1_003) + shell.tell(Flush()) == []  # at most one batch of a lane waits for room
    shell.tell(Uploaded(ahead, "file"))
    shell.tell(Checked((remote(OLD),), [status(OLD, "in_progress")]))
    commands = shell.tell(Checked((remote(own),), [status(own, "in_progress")]))
    assert only(commands, Create).batch.key == ahead


@pytest.mark.parametrize("event", [Flush(), Tick(), Limited(LANE.queue, 10**9, "user")])
def test_nothing_lets_a_batch_in_before_all_is_told(event: Event) -> None:
    shell = fresh()
    tell_again(shell, accepted(1, 2), packed(1, 1), packed(2, 2), uploaded(SECOND))
    assert shell.tell(event) == []
    commands = shell.tell(Recovered())
    assert only(commands, Upload).batch.key == OLD
    assert only(commands, Find).keys == (SECOND,)


def test_a_refusal_before_all_is_told_leaves_what_is_told_alone() -> None:
    shell = fresh(tokens=None)
    own = shell.opened(1_001, 1_002)
    tell_again(shell, accepted(1, segment=2), packed(1, 1, segment=2))
    shell.refuse(own, 100)
    assert only(shell.tell(Recovered()), Upload).batch.key == OLD


def test_the_past_of_another_process_is_no_use_of_the_queue() -> None:
    shell = fresh(tokens=None)
    shell.limit(1_000)
    shell.opened(1_001)
    shell.tell(Tick(), after=10.0)
    recovered(accepted(1, size=900), packed(1, 1, size=900), uploaded(), created(), shell=shell)
    shell.tell(Checked((remote(OLD),), [status(OLD, "expired")]), after=1.0)
    assert 0 <= (shell.stats().utilisation or 0.0) <= 1


def test_how_long_a_batch_of_an_earlier_time_took_is_not_known() -> None:
    """It may have ended at any time: it must not keep a queue from trying for more for a day."""
    waits: list[float] = []
    for ago in (10.0, 80_000.0):
        shell = fresh(tokens=None)
        shell.limit(1_000, "table")
        recovered(accepted(1), packed(1, 1), uploaded(), created(), shell=shell, ago=ago)
        shell.tell(Checked((remote(OLD),), [status(OLD, "expired")]))
        own, other = shell.opened(1_001), shell.opened(1_002)
        refusal = status(other, "failed", no_room=NoRoom(None))
        again = only(shell.count(shell.tell(Checked((refusal.id,), [refusal]))), Upload)
        shell.tell(Uploaded(again.batch.key, "file"))
        shell.tell(Checked((remote(own),), [status(own, "in_progress")]))
        while not of(shell.wait(), Create):
            pass
        waits.append(shell.now - NOW)
    assert waits[0] == waits[1]


def test_what_another_process_had_in_the_queue_does_not_prove_that_there_is_more_room() -> None:
    shell = fresh(tokens=None)
    shell.limit(1_000, "table")
    shell.opened(1_001)
    recovered(accepted(1, size=990), packed(1, 1, size=990), uploaded(), created(), shell=shell, ago=80_000.0)
    shell.now += 80_000.0  # the table is old
    shell.tell(Checked((remote(OLD),), [status(OLD, "in_progress")]))
    assert shell.stats().limit == 1_000


# --- rows that come back from a batch of an earlier process


def refuse(shell: Shell, key: str = OLD) -> list[Command]:
    return shell.tell(Checked((remote(key),), [status(key, "failed", no_room=NoRoom(None))]))


UNSEEN = problem("", message="Cannot find file.")
BAD_LINE = problem("invalid", 3)


@pytest.mark.parametrize(
    ("news", "others"),
    [
        (status(OLD, "failed", no_room=NoRoom(None)), [1, 3]),
        (status(OLD, "failed", problems=(UNSEEN,)), [1, 3]),
        (status(OLD, "failed", problems=(BAD_LINE,)), [1]),
    ],
)
def test_rows_that_nobody_asked_for_are_not_sent_again(news: BatchStatus, others: list[int]) -> None:
    shell, _ = recovered(accepted(1, 2, 3), packed(1, 1, 2, 3), uploaded(), created())
    ask(shell, 2)
    commands = shell.tell(Checked((remote(OLD),), [news]))
    (upload,) = of(commands, Upload) or of(shell.wait(), Upload)
    assert rows_of(upload.batch.runs) == [2]
    assert (shell.stats().dormant, shell.stats().waiting) == (len(others), 0)
    assert not of(ask(shell, *others), Anew)
    assert (shell.stats().dormant, shell.stats().waiting) == (0, len(others))


def test_rows_that_nobody_asked_for_are_not_sent_again_where_their_batch_is_above_a_new_limit() -> None:
    shell = fresh(tokens=None)
    shell.opened(1_001)
    recovered(accepted(1, 2, 3), packed(1, 1, 2, 3), shell=shell)
    ask(shell, 2)
    (upload,) = of(shell.count(shell.limit(5), 1), Upload)
    assert rows_of(upload.batch.runs) == [2]
    assert shell.stats().dormant == 2


def test_rows_whose_batch_was_refused_before_they_are_asked_for_are_not_paid_anew() -> None:
    shell, _ = recovered(accepted(1, 2), packed(1, 1, 2), uploaded(), created(), shell=fresh(tokens=None))
    refuse(shell)
    commands = shell.count(ask(shell, 1, 2))
    assert not of(commands, Anew)
    assert (shell.stats().dormant, shell.stats().waiting + shell.stats().submitted) == (0, 2)


def test_rows_whose_caller_left_do_not_wait_again_when_their_batch_did_not_run() -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    shell.check(key, "in_progress")
    shell.tell(Abandoned(frozenset((1,))))
    while not of(shell.wait(), Check):
        pass
    shell.tell(Checked((remote(key),), [status(key, "failed", problems=(UNSEEN,))]))
    assert shell.stats().waiting == 1  # until the lane goes on
    assert only(ask(shell, 1), Anew).numbers == [1]
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [2]


def test_rows_come_back_to_a_lane_that_nobody_has_called_yet() -> None:
    shell, _ = recovered(accepted(1), packed(1, 1), uploaded(), created())
    ask(shell, 1)
    assert not of(shell.tell(Checked((remote(OLD),), [status(OLD, "failed", problems=(UNSEEN,))])), Upload)
    assert shell.stats().waiting == 1
    shell.accept(1_001, segment=2)
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [1, 1_001]


def test_rows_that_an_earlier_process_counted_are_not_counted_again() -> None:
    counted = with_tokens(make_run((1, 2), size=400), (100, 100))
    told = accepted(1, 2, size=400), Packed(1, LANE, (counted,)), uploaded(), created()
    shell, _ = recovered(*told, shell=fresh(tokens=210))
    ask(shell, 1, 2)
    commands = refuse(shell)
    assert not of(commands, Count)
    assert shell.stats().waiting + shell.stats().submitted == 2


def test_a_batch_that_waited_for_room_for_hours_is_created_with_the_patience_of_any_other() -> None:
    shell = fresh(tokens=None)
    told = packed(1, 1), uploaded(), packed(2, 2), uploaded(SECOND)
    recovered(accepted(1, 2), *told, Limited(LANE.queue, 15, "user"), shell=shell)
    shell.tell(created(SECOND))
    shell.tell(Failed((OLD,), refused("lost")))  # a look that failed
    shell.wait()
    assert look_in_vain(shell) == []
    commands = shell.tell(Checked((remote(SECOND),), [status(SECOND, "completed")]), after=7_200.0)
    assert only(commands, Create).batch.key == OLD
    assert failures(shell.tell(Failed((OLD,), refused("busy")))) == {}
    while not of(commands := shell.wait(), Create):
        pass
    assert only(commands, Create).batch.key == OLD


# --- what may be paid for is never given up for good


def test_a_batch_out_of_reach_is_told_of_and_left_to_the_next_process() -> None:
    shell = fresh()
    key = shell.opened(1)
    shell.tell(Checked((remote(key),), []))
    commands = shell.tell(Checked((remote(key),), []), after=VANISHED)
    assert set(only(commands, LetGo).numbers) == {1}
    assert not of(commands, Fail)
    assert key not in done(shell)
    assert not of(commands, Delete)


def test_a_batch_out_of_reach_for_twice_the_window_is_over() -> None:
    shell = fresh()
    key = shell.opened(1)
    shell.tell(Checked((remote(key),), []), after=60 * 3_600)  # its process was not there for so long
    assert not of(shell.tell(Checked((remote(key),), []), after=VANISHED), Fail)
    shell.tell(Checked((remote(key),), []), after=OVERDUE)
    commands = shell.tell(Checked((remote(key),), []), after=VANISHED)
    assert set(only(commands, Fail).numbers) == {1}
    assert key in done(shell)


def test_a_batch_that_was_out_of_reach_and_is_heard_of_is_so_no_more() -> None:
    told = accepted(1), packed(1, 1), uploaded(), created(), Missing(OLD, "batch")
    shell, commands = recovered(*told, ago=OVERDUE)
    assert only(commands, Check).keys == (OLD,)
    shell.tell(Checked((remote(OLD),), [status(OLD, "in_progress")]))
    shell.tell(Checked((remote(OLD),), []))
    commands = shell.tell(Checked((remote(OLD),), []), after=VANISHED)
    assert of(commands, LetGo)
    assert not of(commands, Fail)


def test_of_two_batches_with_one_remote_id_the_second_is_looked_for() -> None:
    twice = Created(SECOND, status(OLD, "validating"))
    _, commands = recovered(accepted(1, 2), packed(1, 1), uploaded(), created(), packed(2, 2), uploaded(SECOND), twice)
    assert only(commands, Find).keys == (SECOND,)
    assert only(commands, Check).keys == (OLD,)


def test_rows_that_are_sent_in_any_case_are_told_from_those_that_wait() -> None:
    accepted_ = accepted(*range(1, 7))
    shell, _ = recovered(accepted_, packed(1, 1), uploaded(), created(), packed(2, 2), uploaded(SECOND), packed(3, 3))
    assert shell.engine.far(range(1, 7)) == {1: 3, 2: 2, 3: 1}
    assert shell.engine.running(range(1, 7)) == {1}
    shell.tell(Asked((4,)))
    shell.tell(Flush())
    assert shell.engine.far((3, 4, 5)) == {3: 1, 4: 1}

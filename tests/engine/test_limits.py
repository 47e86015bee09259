"""Enqueued-token limits: how they are learned and kept, what is counted, and how full a queue is."""

import math
from functools import partial
from itertools import pairwise

import pytest
from engine_kit import (
    AMPLE,
    LANE,
    LIMITS,
    NOW,
    OTHER,
    TIMING,
    Shell,
    World,
    answer,
    failed_row,
    failures,
    make_run,
    of,
    only,
    refused,
    remote,
    rows_of,
    run_together,
    settled,
    status,
    with_tokens,
)
from msgspec import structs

from carpool.config import Timing
from carpool.engine.commands import Check, Collect, Command, Count, Create, Delete, Fail, Record, Upload
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Checked,
    Collected,
    Counted,
    Created,
    Failed,
    Flush,
    Leave,
    Spent,
    Tick,
    Uncountable,
    Uploaded,
)
from carpool.engine.lane import LaneStats
from carpool.models import FileLimits, Lane, NoRoom, Run

HOUR = 3_600.0
TWIN = Lane("/v1/responses", LANE.model)  # another endpoint, the same queue
LONG = LANE._replace(long=True)


def counted(count: Count, tokens: int) -> Counted:
    """Say that each row of what was to be counted has so many tokens."""
    return Counted(count.lane, tuple(with_tokens(run, [tokens] * len(run)) for run in count.runs))


def limited(tokens: int | None) -> Shell:
    """Make a shell whose user named a limit."""
    shell = Shell(tokens=None)
    shell.limit(tokens)
    return shell


def accept_counted(shell: Shell, *rows: int, tokens: int, lane: Lane = LANE, size: int = 100) -> list[Command]:
    """Let rows join that are too many to go uncounted, and count them."""
    return shell.count(shell.accept(*rows, lane=lane, size=size) + shell.tell(Flush()), tokens)


def upload(shell: Shell, commands: list[Command]) -> list[Create]:
    """Let uploads succeed, and what follows from them, and give the creations."""
    creations: list[Create] = []
    while commands:
        command = commands.pop(0)
        if isinstance(command, Upload):
            commands += shell.tell(Uploaded(command.batch.key, f"file-{command.batch.key}"))
        if isinstance(command, Create):
            creations.append(command)
    return creations


def create(shell: Shell, creations: list[Create]) -> list[str]:
    """Let batches be created and taken in."""
    for one in creations:
        shell.tell(Created(one.batch.key, status(one.batch.key, "in_progress")))
    return [one.batch.key for one in creations]


# --- learning


def test_work_of_ten_times_an_unknown_limit_is_answered_at_the_cost_of_one_refusal() -> None:
    world = World(1_000, lambda row: 10)
    world.accept(range(1, 1_001), size=40)
    world.run()
    assert sorted(world.settled) == list(range(1, 1_001))
    assert len(world.refusals) == 1
    assert 900 <= world.peak <= 1_000
    oracle = 10 * (world.takes + world.validates)
    assert world.shell.now - NOW <= 1.15 * oracle
    stats = world.shell.stats()
    assert (stats.limit, stats.limit_source, stats.refusals) == (1_000, "learned", 1)
    assert stats.utilisation is not None
    assert stats.utilisation >= 0.85


def test_a_known_limit_costs_no_refusal() -> None:
    world = World(1_000, lambda row: 10, limited(1_000))
    world.accept(range(1, 1_001), size=40)
    world.run()
    assert len(world.settled) == 1_000
    assert world.refusals == []


def test_after_a_refusal_the_rows_go_out_again_in_order_and_in_several_batches_within_the_limit() -> None:
    shell = Shell(tokens=None)
    key = shell.opened(*range(1, 21))
    commands = shell.refuse(key, 100)
    assert only(commands, Delete).file_ids == (f"file-{key}",)
    assert failures(commands) == {}
    (first,) = upload(
        shell, shell.tell(counted(only(commands, Count), 10))
    )  # whether the number is true is tried first
    assert rows_of(first.batch.runs) == [1]
    rest = upload(shell, shell.tell(Created(first.batch.key, status(first.batch.key, "in_progress"))))
    assert [rows_of(one.batch.runs) for one in rest] == [[2], [3]]
    assert shell.stats().waiting == 16


@pytest.mark.parametrize("counts", [1.4, 0.7])
@pytest.mark.parametrize("reports", [True, False])
def test_a_provider_that_counts_otherwise_is_learned_to_know(counts: float, reports: bool) -> None:
    world = World(100_000, lambda row: 100 + row % 900, counts=counts, reports=reports)
    world.accept(range(1, 1_001), size=4_000)
    world.accept(range(1_001, 2_001), size=4_000, segment=2)
    world.run()
    assert len(world.settled) == 2_000
    assert len(world.refusals) <= 8
    assert not [at for at in world.refusals if at > NOW + (world.shell.now - NOW) / 2]


def test_others_in_the_queue_cost_refusals_but_nobody_an_answer() -> None:
    world = World(1_000, lambda row: 10)
    world.later(1_000, partial(setattr, world, "others", 600))
    world.later(3_000, partial(setattr, world, "others", 0))
    world.accept(range(1, 1_001), size=40)
    world.run()
    assert len(world.settled) == 1_000
    assert len(world.refusals) <= 25
    oracle = 2_000 + 9 * (world.takes + world.validates)
    assert world.shell.now - NOW <= 1.5 * oracle


@pytest.mark.parametrize("takes", [600.0, 630.0, 690.0])
def test_two_pools_on_one_account_are_answered_and_find_their_peace(takes: float) -> None:
    pools = [World(1_000, lambda row: 10, takes=takes), World(1_000, lambda row: 10, takes=660.0)]
    for pool in pools:
        pool.accept(range(1, 501), size=40)
    run_together(*pools)
    assert [len(pool.settled) for pool in pools] == [500, 500]
    end = max(at for pool in pools for at in pool.ends)
    refusals = [at for pool in pools for at in pool.refusals]
    late = [at for at in refusals if at > NOW + (end - NOW) / 2]
    assert len(refusals) <= 20
    assert len(late) < len(refusals) / 2


def test_late_releases_cost_few_refusals() -> None:
    world = World(1_000, lambda row: 10, late=30.0)
    world.accept(range(1, 1_001), size=40)
    world.run()
    assert len(world.settled) == 1_000
    assert len(world.refusals) <= 8
    assert world.shell.now - NOW <= 1.25 * 10 * (world.takes + world.late)


def test_refusals_that_state_no_number_are_survived() -> None:
    world = World(1_000, lambda row: 10, states=False)
    world.accept(range(1, 1_001), size=40)
    world.run()
    assert len(world.settled) == 1_000
    assert world.peak >= 800
    assert world.shell.stats().limit is None


def test_a_batch_that_is_refused_without_a_number_goes_out_again_in_halves() -> None:
    shell = Shell(tokens=None)
    key = shell.opened(1, 2, 3, 4)
    commands = shell.refuse(key)
    (look_ahead,) = of(shell.tell(counted(only(commands, Count), 20)), Upload)
    assert rows_of(look_ahead.batch.runs) == [1]
    assert 15 <= shell.pause <= 60
    assert shell.tell(Uploaded(look_ahead.batch.key, "file")) == []
    while not (creations := of(commands := shell.wait(), Create)):
        assert commands == []
    assert [one.batch.key for one in creations] == [look_ahead.batch.key]


def test_a_raised_limit_is_found_within_a_day_at_the_cost_of_one_refused_batch() -> None:
    world = World(1_000, lambda row: 10, takes=3_000)
    world.accept(range(1, 4_001), size=40)
    world.accept(range(4_001, 8_001), size=40, segment=2)
    world.later(HOUR, partial(setattr, world, "limit", 2_000))
    world.run(24 * HOUR)
    assert world.shell.stats().limit == 2_000
    assert world.peak > 1_500
    assert len(world.refusals) == 2, "the first limit, and the next"
    world.run()
    assert len(world.settled) == 8_000


def test_a_lowered_limit_is_heard_of_and_kept() -> None:
    world = World(1_000, lambda row: 10)
    world.later(2_000, partial(setattr, world, "limit", 500))
    world.accept(range(1, 1_001), size=40)
    world.run()
    assert len(world.settled) == 1_000
    assert world.shell.stats().limit == 500


def test_the_users_number_is_kept_though_the_provider_takes_more() -> None:
    world = World(10_000, lambda row: 10, limited(500))
    world.accept(range(1, 501), size=40)
    world.run()
    assert len(world.settled) == 500
    assert world.peak <= 500
    assert world.shell.stats().limit_source == "user"


def test_one_batch_at_a_time_validates_while_no_limit_is_known() -> None:
    shell = Shell(tokens=None)
    key = shell.opened(1)
    look_ahead = shell.packed(2)
    assert shell.tell(Uploaded(look_ahead.batch.key, "file")) == []
    commands = shell.check(key, "in_progress")
    assert only(commands, Create).batch.key == look_ahead.batch.key
    assert shell.stats().limit_source == "unknown"


def test_of_a_batch_whose_upload_takes_long_and_the_next_one_only_one_validates() -> None:
    shell = Shell(tokens=None)
    slow = shell.packed(1)
    shell.packed(2)
    creations = of(shell.tell(Uploaded("p-b2", "file")), Create)
    creations += of(shell.tell(Tick(), after=650), Create)
    for one in creations:
        shell.tell(Created(one.batch.key, status(one.batch.key, "validating")))
    creations += of(shell.tell(Uploaded(slow.batch.key, "file")), Create)
    assert len(creations) == 1


# --- keeping the queue full


def test_several_batches_are_in_flight_and_the_next_one_is_uploaded_but_not_created() -> None:
    shell = limited(1_000)
    creations = upload(shell, accept_counted(shell, *range(1, 101), tokens=20))
    assert len(creations) >= 7
    assert sum(one.batch.tokens for one in creations) <= 950
    stats = shell.stats()
    assert stats.enqueued == sum(one.batch.tokens for one in creations)
    assert stats.enqueued > 800
    assert stats.batches == len(creations) + 1, "and one stands in line"
    assert [row for one in creations for row in rows_of(one.batch.runs)] == list(
        range(1, 1 + sum(len(rows_of(one.batch.runs)) for one in creations))
    )


def test_the_batch_in_line_is_created_at_once_when_another_ends_and_the_next_is_uploaded() -> None:
    shell = limited(1_000)
    keys = create(shell, upload(shell, accept_counted(shell, *range(1, 101), tokens=20)))
    ahead = f"p-b{len(keys) + 1}"
    commands = shell.check(keys[0], "completed", output="out")
    assert only(commands, Create).batch.key == ahead
    assert only(commands, Create).file_id == f"file-{ahead}"
    following = only(commands, Upload).batch
    assert following.key == f"p-b{len(keys) + 2}"
    assert rows_of(following.runs)[0] == 1 + rows_of(only(commands, Create).batch.runs)[-1]


def test_a_batch_in_line_that_is_still_being_uploaded_is_created_when_that_is_done() -> None:
    shell = limited(100)
    (first,) = upload(shell, accept_counted(shell, 1, tokens=90))
    create(shell, [first])
    (second,) = of(accept_counted(shell, 2, tokens=90), Upload)
    assert of(shell.check(first.batch.key, "completed", output="out"), Create) == []
    assert shell.stats().enqueued == 90
    assert only(shell.tell(Uploaded(second.batch.key, "file")), Create).batch.key == second.batch.key


@pytest.mark.parametrize("limit", [100, 1_000, 5_000])
def test_no_batch_is_above_the_limit_and_none_is_larger_than_need_be(limit: int) -> None:
    world = World(limit, lambda row: 1 + row * 37 % 60, limited(limit))
    world.accept(range(1, 501), size=250)
    world.run()
    assert len(world.settled) == 500
    assert world.refusals == []
    assert all(world.weigh(batch) <= max(limit / 8, 60) for _, batch in world.creations)
    assert world.peak > 0.5 * min(limit, 15_000)


@pytest.mark.parametrize("tokens", [None, AMPLE])
def test_no_more_batches_than_needed_are_made_where_the_limit_is_far_away(tokens: int | None) -> None:
    world = World(math.inf, lambda row: 10, Shell(tokens=tokens))
    world.accept(range(1, 3_001), size=40)
    world.run()
    assert len(world.settled) == 3_000
    assert len(world.creations) == 3
    assert world.counted_at == []


def test_rows_leave_in_order_of_arrival_whatever_is_refused() -> None:
    world = World(300, lambda row: 1 + row * 31 % 50)
    world.others = 200
    world.later(700, partial(setattr, world, "others", 0))
    world.accept(range(1, 201), size=250)
    world.run(300_000)
    assert sorted(world.settled) == list(range(1, 201))
    first_rows = [rows_of(batch.runs)[0] for at, batch in world.creations if at > max(world.refusals)]
    assert first_rows == sorted(first_rows)


def test_what_stands_in_line_when_a_batch_is_refused_is_chosen_anew_in_order() -> None:
    shell = limited(1_000)
    keys = create(shell, upload(shell, accept_counted(shell, *range(1, 101), tokens=20)))
    commands = shell.refuse(keys[-1], 1_000)
    deleted = {file_id for command in of(commands, Delete) for file_id in command.file_ids}
    assert deleted == {f"file-{keys[-1]}", f"file-p-b{len(keys) + 1}"}
    assert rows_of(of(commands, Upload)[0].batch.runs)[0] == 1 + 5 * (len(keys) - 1)
    assert shell.stats().waiting + shell.stats().submitted == 100


def test_the_upload_of_a_batch_that_was_chosen_anew_is_deleted_when_it_is_done() -> None:
    shell = limited(100)
    (first,) = upload(shell, accept_counted(shell, 1, tokens=60))
    shell.tell(Created(first.batch.key, status(first.batch.key, "validating")))
    (ahead,) = of(accept_counted(shell, 2, tokens=60), Upload)
    commands = shell.refuse(first.batch.key, 100)
    assert [rows_of(one.batch.runs) for one in of(commands, Upload)] == [[1]]
    assert shell.tell(Uploaded(ahead.batch.key, "late")) == [
        Delete(("late",), ahead.batch.sought, ahead.batch.key, TIMING.lookup)
    ]
    assert shell.stats().submitted + shell.stats().waiting == 2


def test_the_upload_of_a_batch_that_was_chosen_anew_may_fail() -> None:
    shell = limited(100)
    (first,) = upload(shell, accept_counted(shell, 1, tokens=60))
    shell.tell(Created(first.batch.key, status(first.batch.key, "validating")))
    (ahead,) = of(accept_counted(shell, 2, tokens=60), Upload)
    shell.refuse(first.batch.key, 100)
    assert shell.tell(Failed(ahead.keys, refused("rejected"))) == [
        Delete((), ahead.batch.sought, ahead.batch.key, TIMING.lookup)
    ]
    assert shell.stats().submitted + shell.stats().waiting == 2


def test_batches_that_are_refused_together_go_out_again_in_order_of_arrival() -> None:
    shell = Shell(tokens=None)
    shell.limit(AMPLE, "table")
    keys = [shell.opened(1, 2), shell.opened(3, 4), shell.opened(5, 6)]
    assert of(shell.wait(), Check)
    news = [status(key, "failed", no_room=NoRoom(10**6)) for key in reversed(keys)]
    commands = shell.tell(Checked(tuple(remote(key) for key in reversed(keys)), news))
    uploads = of(commands, Upload)
    while not uploads:
        uploads = of(shell.wait(), Upload)
    assert rows_of(uploads[0].batch.runs)[0] == 1


def test_two_endpoints_of_one_model_share_a_queue_and_take_turns() -> None:
    world = World(1_000, lambda row: 10, limited(1_000))
    world.accept(range(1, 501), size=40)
    world.accept(range(501, 1_001), lane=TWIN, size=40, segment=2)
    world.run()
    assert len(world.settled) == 1_000
    assert world.refusals == []
    assert world.peak <= 1_000
    lanes = [batch.lane for _, batch in world.creations]
    half = lanes[: len(lanes) // 2]
    assert 0.3 <= half.count(TWIN) / len(half) <= 0.7
    assert [stats.enqueued for stats in world.shell.engine.lanes()] == [0, 0]


def test_a_lane_that_comes_late_does_not_wait_for_the_others_work_to_end() -> None:
    world = World(1_000, lambda row: 10, limited(1_000))
    world.accept(range(1, 2_001), size=40)
    world.later(1_500, partial(world.accept, range(2_001, 2_051), lane=TWIN, size=40, segment=2))
    world.run(1_500 + 4 * world.takes)
    assert set(world.settled) >= set(range(2_001, 2_051))


def test_other_models_and_long_prompts_have_queues_of_their_own() -> None:
    shell = Shell(tokens=None)
    for lane, tokens in ((LANE, 100), (OTHER, 200), (LONG, 300)):
        shell.limit(tokens, lane=lane)
    creations: list[Create] = []
    for number, lane in enumerate((LANE, OTHER, LONG)):
        creations += upload(shell, accept_counted(shell, number, tokens=90, lane=lane))
    assert [one.batch.lane for one in creations] == [LANE, OTHER, LONG]
    assert [shell.stats(lane).limit for lane in (LANE, OTHER, LONG)] == [100, 200, 300]
    assert [shell.stats(lane).enqueued for lane in (LANE, OTHER, LONG)] == [90, 90, 90]


def test_a_limit_that_is_raised_makes_room_at_once() -> None:
    shell = limited(100)
    create(shell, upload(shell, accept_counted(shell, 1, tokens=90)))
    assert upload(shell, accept_counted(shell, 2, tokens=90)) == []
    assert [one.batch.key for one in of(shell.limit(1_000), Create)] == ["p-b2"]


def test_a_request_that_weighs_more_than_the_headroom_leaves_goes_alone() -> None:
    world = World(100, lambda row: 100 if row == 3 else 20, limited(100))
    world.accept(range(1, 7), size=500)
    world.run()
    assert sorted(world.settled) == [1, 2, 3, 4, 5, 6]
    assert world.refusals == []


def test_requests_near_the_whole_limit_among_small_ones_are_answered() -> None:
    world = World(1_000, lambda row: 980 if row % 6 == 0 else 5)
    world.accept(range(1, 61), size=4_000)
    world.run(100 * HOUR)
    assert sorted(world.settled) == list(range(1, 61))
    assert len(world.refusals) <= 3
    assert max(world.weigh(batch) for _, batch in world.creations[1:]) <= 1_000


# --- counting


def test_nothing_is_counted_while_the_bytes_fit_or_no_limit_is_known() -> None:
    for shell in (Shell(tokens=None), limited(10_000)):
        upload_ = shell.packed(*range(1, 101))
        assert rows_of(upload_.batch.runs) == list(range(1, 101))
        assert of(shell.tell(Uploaded(upload_.batch.key, "file")), Create)[0].batch.tokens == 250


@pytest.mark.parametrize(("tokens", "is_counted"), [(10_000, True), (None, False)])
def test_images_and_files_weigh_more_than_their_bytes_and_are_counted_where_a_limit_is_known(
    tokens: int | None, is_counted: bool
) -> None:
    shell = limited(tokens)
    commands = shell.tell(Accepted(LANE, make_run([1, 2]), rich=True))
    assert [rows_of(count.runs) for count in of(commands, Count)] == ([[1, 2]] if is_counted else [])


def test_what_might_be_above_its_share_is_counted_at_once() -> None:
    shell = limited(8_000)
    assert shell.accept(*range(1, 95)) == []
    count = only(shell.accept(95), Count)
    assert (count.lane, rows_of(count.runs)) == (LANE, list(range(1, 96)))
    assert shell.accept(96) == []


def test_after_a_sample_the_rest_is_estimated_as_long_as_it_is_far_below_the_limit() -> None:
    shell = limited(8_000)
    count = only(shell.accept(*range(1, 101)), Count)
    shell.tell(counted(count, 2))
    (batch,) = (one.batch for one in upload(shell, shell.tell(Flush())))
    assert batch.tokens == 200
    commands = shell.accept(*range(101, 201)) + shell.tell(Flush())
    assert of(commands, Count) == []
    (batch,) = (one.batch for one in upload(shell, commands))
    assert batch.tokens == 200


def test_near_the_limit_the_rest_is_counted_too() -> None:
    shell = limited(800)
    count = only(shell.accept(*range(1, 101)), Count)
    shell.tell(counted(count, 2))
    create(shell, upload(shell, shell.tell(Flush())))
    commands = shell.accept(*range(101, 401))
    assert rows_of(only(commands, Count).runs) == list(range(101, 401))


def test_so_much_is_counted_at_once_as_takes_a_moment() -> None:
    shell = limited(1_000_000)
    count = only(shell.accept(*range(1, 101), size=100_000), Count)
    assert sum(run.size for run in count.runs) <= 2 * 2**20
    assert len(rows_of(count.runs)) == 20


def test_rows_that_come_while_others_are_counted_wait_for_the_outcome() -> None:
    shell = limited(80)
    count = only(shell.accept(1, 2, 3), Count)
    assert shell.accept(4) == []
    assert shell.tell(Flush()) == []
    commands = shell.tell(counted(count, 3))
    assert rows_of(only(commands, Upload).batch.runs)[0] == 1
    assert shell.stats().waiting + shell.stats().submitted == 4


def test_where_nothing_can_be_counted_bytes_are_estimated_and_counting_is_tried_again_after_a_minute() -> None:
    shell = limited(1_000)
    count = only(shell.accept(*range(1, 101), size=30), Count)
    creations = upload(shell, shell.tell(Uncountable(count.lane)))
    assert [len(rows_of(one.batch.runs)) for one in creations] == [*[11] * 8, 7]
    assert [one.batch.tokens for one in creations] == [*[82] * 8, 52]
    create(shell, creations)
    commands = shell.accept(*range(201, 301), size=30, after=59)
    assert of(commands, Count) == []
    assert upload(shell, commands) == []
    shell.now = NOW + 60
    commands = shell.check(creations[0].batch.key, "completed", output="out")
    assert of(commands, Create)
    assert rows_of(only(commands, Count).runs)[0] > 95


def test_work_that_cannot_be_counted_is_answered() -> None:
    world = World(1_000, lambda row: 10, countable=False)
    world.accept(range(1, 501), size=40)
    world.run()
    assert len(world.settled) == 500
    assert len(world.refusals) == 1
    assert all(later - earlier >= 60 for earlier, later in pairwise(world.counted_at))


def test_a_count_that_comes_when_its_rows_have_left_is_a_sample_all_the_same() -> None:
    shell = limited(8_000)
    count = only(shell.accept(*range(1, 101)), Count)
    assert shell.tell(Abandoned(frozenset(range(1, 101)))) == []
    assert shell.tell(counted(count, 5)) == []
    assert shell.engine.deadline() == math.inf
    assert of(shell.accept(*range(101, 201)) + shell.tell(Flush()), Count) == []


def test_nobody_counts_for_ever_what_is_counted_already() -> None:
    world = World(500, lambda row: 1 + row % 40)
    world.accept(range(1, 301), size=600)
    world.run()
    assert len(world.settled) == 300
    assert len(world.counted_at) <= 4


# --- requests above the whole limit


def above(commands: list[Command], row: int) -> str:
    """Give the reason for which a row was refused."""
    (reason,) = (command.failure for command in of(commands, Fail) if row in command.numbers)
    assert (reason.kind, reason.status_code) == ("full", None)
    return reason.message


def test_a_request_above_the_whole_limit_is_refused_at_once_naming_the_limit_and_its_tokens() -> None:
    shell = limited(1_500)
    commands = shell.accept(1, size=9_000)
    commands = shell.tell(counted(of(commands, Count)[0], 1_501))
    message = above(commands, 1)
    assert "1,501" in message
    assert "1,500" in message
    assert LANE.model in message
    assert shell.stats().waiting == 0


@pytest.mark.parametrize(("tokens", "fails"), [(1_500, False), (1_501, True)])
def test_the_limit_is_kept_to_the_exact_token(tokens: int, fails: bool) -> None:
    shell = limited(1_500)
    counts = of(shell.accept(1, size=9_000) + shell.tell(Flush()), Count)
    commands = shell.tell(counted(counts[0], tokens))
    assert failures(commands) == ({1: "full"} if fails else {})
    assert bool(of(commands, Upload)) != fails


def test_a_request_above_the_whole_limit_is_refused_also_when_it_stands_behind_others() -> None:
    shell = limited(100)
    create(shell, upload(shell, accept_counted(shell, *range(1, 11), tokens=50)))
    counts = of(shell.accept(11, size=900), Count)
    assert [rows_of(count.runs) for count in counts] == [[11]]
    commands = shell.tell(counted(counts[0], 101))
    assert failures(commands) == {11: "full"}
    assert shell.stats().waiting > 0


def test_a_request_above_the_whole_limit_is_refused_when_the_limit_is_learned() -> None:
    shell = Shell(tokens=None)
    key = shell.opened(1, 2, 3)
    commands = shell.refuse(key, 20)
    assert failures(commands) == {}
    counts = of(commands, Count)
    told = [command for count in counts for command in shell.tell(Counted(LANE, tuple(heavy(count, 2))))]
    assert failures(told) == {2: "full"}
    assert "learned" in above(told, 2)
    assert rows_of(of(told, Upload)[0].batch.runs) == [1, 3]


def heavy(count: Count, row: int) -> list[Run]:
    """Count 21 tokens for one row and 5 for the others."""
    return [with_tokens(run, (21 if number == row else 5 for number in run.rows)) for run in count.runs]


def test_requests_that_were_counted_before_are_refused_when_the_limit_is_lowered() -> None:
    shell = limited(1_000)
    running = upload(shell, accept_counted(shell, *range(1, 21), tokens=500))
    assert [rows_of(one.batch.runs) for one in running] == [[1]]
    assert failures(shell.limit(499)) == dict.fromkeys(range(2, 21), "full")


def test_large_requests_are_looked_at_when_a_limit_is_told() -> None:
    shell = Shell(Timing(linger=30), tokens=None)
    assert shell.accept(1, 2) == []
    counts = of(shell.limit(9, "table"), Count)
    assert rows_of(counts[0].runs) == [1, 2]
    assert failures(shell.tell(counted(counts[0], 10))) == {1: "full", 2: "full"}
    assert shell.limit(None, "table") == []


def test_where_nothing_can_be_counted_large_requests_are_tried() -> None:
    shell = Shell(tokens=None)
    shell.limit(100, "table")
    counts = of(shell.accept(1, size=1_000), Count)
    commands = [command for count in counts for command in shell.tell(Uncountable(count.lane))]
    (first,) = upload(shell, commands)
    assert rows_of(first.batch.runs) == [1]
    assert of(shell.accept(2, size=1_000), Count) == []


def test_where_nothing_can_be_counted_nothing_goes_above_the_users_number() -> None:
    shell = limited(100)
    counts = of(shell.accept(1, size=1_000), Count)
    commands = [command for count in counts for command in shell.tell(Uncountable(count.lane))]
    assert failures(commands) == {1: "full"}
    assert of(commands, Upload) == []


def test_the_reason_never_names_fewer_tokens_than_the_limit() -> None:
    shell = limited(10_000)
    for number in range(12):
        (one,) = upload(shell, accept_counted(shell, number, tokens=6_000, size=20_000))
        shell.tell(Created(one.batch.key, status(one.batch.key, "in_progress")))
        shell.check(one.batch.key, "completed", output="out", answered=1, succeeded=1, input_tokens=9_000)
        shell.answered(one.batch.key, number)
        shell.tell(Collected(one.batch.key))
    commands = shell.accept(99, size=20_000) + shell.tell(Flush())
    told = [command for count in of(commands, Count) for command in shell.tell(counted(count, 7_500))]
    assert failures(told) in ({}, {99: "full"})
    if failures(told):
        assert "7,500 prompt tokens" not in above(told, 99)


def test_rows_whose_packing_is_being_recorded_are_not_refused_as_well() -> None:
    shell = limited(80)
    count = only(shell.accept(1, 2, 3), Count)
    (record,) = shell.engine.handle(counted(count, 5), shell.now)
    assert isinstance(record, Record)
    assert failures(shell.limit(1)) == {}
    assert rows_of(only(shell.tell(record.fact), Upload).batch.runs) == [1, 2, 3]


# --- refused for long


def test_a_request_that_never_finds_room_is_told_so_after_a_day_of_attempts() -> None:
    world = World(1_000, lambda row: 10, limited(1_000))
    world.others = 1_000
    world.accept([1], size=40)
    world.run(23 * HOUR)
    assert world.failed == {}
    world.run(2 * HOUR)
    assert world.failed[1].kind == "full"
    assert len(world.refusals) <= 24 * 12


def refused_long_ago() -> World:
    """Let a request that is above the limit be refused, and a day pass."""
    world = World(1_000, lambda row: 5_000 if row == 1 else 10)
    world.accept([1], size=20_000)
    world.run()
    assert world.failed.pop(1).kind == "full"
    world.shell.now += 25 * HOUR
    return world


def test_a_request_that_is_refused_for_the_first_time_is_not_hopeless_because_another_was_long_ago() -> None:
    world = refused_long_ago()
    world.others = 1_000
    world.accept([2], size=40)
    world.run(HOUR)
    assert len(world.refusals) >= 2
    assert world.failed == {}


def test_a_request_is_not_hopeless_at_its_first_attempt_because_one_of_its_weight_was_given_up() -> None:
    world = World(1_000, lambda row: 10)
    world.others = 1_000
    world.accept([1], size=40)
    world.run()
    assert world.failed.pop(1).kind == "full"
    world.shell.now += 48 * HOUR
    world.accept([2], size=40)
    world.run(HOUR)
    assert world.failed == {}


def test_a_request_that_was_refused_beside_others_is_not_hopeless() -> None:
    world = refused_long_ago()
    world.validates = 2 * HOUR
    world.accept([2], size=40)
    world.run(60)
    world.validates = 5.0
    world.others = 1_000
    world.accept([3], lane=TWIN, size=40, segment=2)
    world.run(600)  # after a refusal one batch validates at a time, for ten minutes at most
    assert len(world.refusals) == 2
    assert world.failed == {}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("full", [60, 600, 3_600])
def test_others_that_fill_the_queue_for_a_while_cost_about_that_while(full: int, known: bool) -> None:
    world = World(1_000, lambda row: 10, limited(1_000) if known else None)
    world.others = 1_000
    world.later(full, partial(setattr, world, "others", 0))
    world.accept(range(1, 201), size=40)
    world.run(100 * HOUR)
    assert len(world.settled) == 200
    assert len(world.refusals) <= 25
    assert world.ends[-1] - NOW <= full + 3_600 + 3 * world.takes


def test_a_queue_is_filled_though_validations_take_longer_than_batches() -> None:
    world = World(1_000, lambda row: 10, validates=900.0, takes=600.0)
    world.others = 1_000
    world.later(3_000, partial(setattr, world, "others", 0))
    world.accept(range(1, 201), size=40)
    world.run(100 * HOUR)
    assert len(world.settled) == 200
    assert world.ends[-1] - NOW <= 3_000 + 12 * (world.validates + world.takes)


def test_a_table_that_is_old_is_not_tried_in_a_loop_though_refusals_state_no_number() -> None:
    shell = Shell(tokens=None)
    shell.limit(1_000, "table")
    world = World(1_000, lambda row: 10, shell, states=False, takes=3_000.0)
    world.accept(range(1, 3_001), size=40)
    world.run()
    assert len(world.settled) == 3_000
    assert len(world.refusals) <= 5


def test_a_request_that_the_provider_counts_above_its_limit_keeps_nobody_else_for_a_day() -> None:
    world = World(1_000, lambda row: 900 if row == 1 else 5, counts=1.4)
    world.accept(range(1, 21), size=4_000)
    world.run(12 * HOUR)
    assert set(world.settled) >= set(range(2, 21))


def test_requests_that_never_fit_are_all_told_so() -> None:
    world = World(1_000, lambda row: 900 + 5 * row, counts=1.4)
    world.accept([1, 2, 3], size=4_000)
    world.run(7 * 24 * HOUR)
    assert {row: failure.kind for row, failure in world.failed.items()} == {1: "full", 2: "full", 3: "full"}


def test_a_request_that_the_provider_counts_far_above_our_count_takes_nobody_with_it() -> None:
    world = World(1_000, lambda row: 5, counts=lambda row: 5_000 if row == 7 else 5)
    world.accept(range(1, 41), size=4_000)
    world.run(7 * 24 * HOUR)
    assert sorted(world.settled) == [row for row in range(1, 41) if row != 7]
    assert set(world.failed) == {7}


def test_a_request_within_the_limit_waits_while_others_leave_room_for_smaller_ones_only() -> None:
    world = World(1_000, lambda row: 500 if row == 1 else 20)
    world.others = 600
    world.later(6 * HOUR, partial(setattr, world, "others", 0))
    world.accept(range(1, 41), size=2_400)
    world.run(24 * HOUR)
    assert world.failed == {}
    assert sorted(world.settled) == list(range(1, 41))


def everybody_is_told(world: World) -> bool:
    """Tell whether nobody waits any more."""
    stats = world.shell.stats()
    return (stats.waiting, stats.submitted, stats.batches) == (0, 0, 0)


def test_a_request_that_cannot_be_counted_and_may_be_above_the_users_number_does_not_wait_for_ever() -> None:
    world = World(1_000, lambda row: 50, limited(100), countable=False)
    world.accept([1], size=1_000)
    world.run(7 * 24 * HOUR)
    assert everybody_is_told(world)


def test_a_request_that_comes_to_weigh_more_than_the_users_number_does_not_wait_for_ever() -> None:
    world = World(100_000, lambda row: 9_000 if row == 30 else 5_000, limited(10_000), counts=1.4)
    world.accept(range(1, 31), size=20_000)
    world.run(7 * 24 * HOUR)
    assert everybody_is_told(world)
    assert set(world.settled) >= set(range(1, 30))


def test_an_image_that_is_billed_many_times_its_count_does_not_stop_the_queue() -> None:
    world = World(math.inf, lambda row: 1_500, limited(10_000), counts=lambda row: 66_000 if row == 1 else 1_500)
    world.accept([1], size=2_000)
    world.run(HOUR)
    world.accept(range(2, 41), size=6_000)
    world.run(7 * 24 * HOUR)
    assert sorted(world.settled) == list(range(1, 41))


# --- reports


def test_rows_are_added_up_only_where_a_limit_is_known_and_the_status_has_no_usage() -> None:
    for shell, usage, add_up in (
        (limited(1_000), None, True),
        (limited(1_000), 50, False),
        (Shell(tokens=None), None, False),
        (Shell(tokens=None), 50, False),
    ):
        key = shell.opened(1, 2)
        collect = only(shell.check(key, "completed", output="out", input_tokens=usage), Collect)
        assert collect.add_up == add_up


@pytest.mark.parametrize(
    ("status_", "collected", "well", "believed"),
    [
        ({"input_tokens": 60}, (0, 0), 4, True),
        ({"input_tokens": 60, "succeeded": 4}, (0, 0), 4, True),
        ({"input_tokens": 30, "succeeded": 2}, (0, 0), 2, True),
        ({"input_tokens": 15, "succeeded": 1}, (0, 0), 1, False),
        ({}, (4, 60), 4, True),
        ({}, (2, 30), 2, True),
        ({}, (1, 15), 1, False),
        ({}, (0, 0), 4, False),
        ({"input_tokens": 0, "succeeded": 4}, (0, 0), 4, False),
        ({"input_tokens": 30, "succeeded": 2}, (0, 0), 4, False),  # nobody knows which
        ({}, (2, 30), 3, False),
        ({"input_tokens": 30}, (0, 0), 2, True),
        ({"input_tokens": 60, "succeeded": 4}, (0, 0), 3, False),
        ({}, (4, 60), 3, False),  # one stands there twice
    ],
)
def test_what_a_batch_was_billed_corrects_the_weights_unless_most_of_it_failed(
    status_: dict[str, int], collected: tuple[int, int], well: int, believed: bool
) -> None:
    shell = limited(10_000)
    key = shell.opened(1, 2, 3, 4)
    shell.check(key, "completed", output="out", **status_)
    rows = [answer(row) if row <= well else failed_row(row, 400) for row in (1, 2, 3, 4)]
    shell.tell(Answered(key, rows))
    shell.tell(Collected(key, *collected))
    (one,) = upload(shell, shell.accept(*range(5, 9), size=10) + shell.tell(Flush()))
    assert one.batch.tokens == (60 if believed else 10)


@pytest.mark.parametrize(("light", "heavy"), [(10, 90), (90, 10)])
def test_what_was_billed_is_compared_with_the_very_rows_that_were(light: int, heavy: int) -> None:
    """Those that failed may weigh more, or less."""
    shell = limited(10_000)
    for row in range(1, 41, 2):
        run = make_run((row, row + 1), segment=row)
        counted = with_tokens(run, [light, heavy])
        other = with_tokens(make_run([row + 100], segment=row + 100), [light])
        accepted = shell.tell(Accepted(LANE, counted)) + shell.tell(Accepted(LANE, other))
        (one,) = upload(shell, accepted + shell.tell(Flush()))
        shell.tell(Created(one.batch.key, status(one.batch.key, "validating")))
        shell.check(one.batch.key, "completed", output="out")
        shell.tell(Answered(one.batch.key, [answer(row), failed_row(row + 1, 400), answer(row + 100)]))
        shell.tell(Collected(one.batch.key, 2, 2 * light))
    last = with_tokens(make_run((99, 100), segment=99), [50, 50])
    (one,) = upload(shell, shell.tell(Accepted(LANE, last)) + shell.tell(Flush()))
    assert one.batch.tokens == 100


def test_batches_of_counted_rows_that_were_billed_more_make_the_next_ones_weigh_more() -> None:
    shell = limited(8_000)
    weights = []
    for number in range(3):
        (one,) = upload(shell, accept_counted(shell, number, tokens=1_000, size=2_000))
        weights.append(one.batch.tokens)
        shell.tell(Created(one.batch.key, status(one.batch.key, "in_progress")))
        shell.check(one.batch.key, "completed", output="out", answered=1, succeeded=1, input_tokens=1_400)
        assert settled(shell.answered(one.batch.key, number)) == [number]
        shell.tell(Collected(one.batch.key))
    assert weights[0] == 1_000
    assert weights == sorted(weights)
    assert weights[2] > 1_080


# --- leaving


def test_leaving_deletes_the_file_of_the_batch_in_line_and_creates_no_more() -> None:
    shell = limited(100)
    (running,) = upload(shell, accept_counted(shell, 1, tokens=90))
    create(shell, [running])
    upload(shell, accept_counted(shell, 2, tokens=90))
    assert ("file-p-b2",) in [command.file_ids for command in of(shell.tell(Leave()), Delete)]
    commands = shell.tell(Checked((remote("p-b1"),), [status("p-b1", "completed", output="out")]))
    assert of(commands, Create) == []
    while shell.engine.deadline() < math.inf:
        assert shell.wait() == []


# --- figures


def test_the_lanes_tell_how_their_queue_stands() -> None:
    shell = limited(1_000)
    accept_counted(shell, *range(1, 6), tokens=400)
    stats = shell.stats()
    assert (stats.limit, stats.limit_source, stats.enqueued, stats.refusals) == (1_000, "user", 800, 0)
    assert (stats.waiting, stats.submitted, stats.batches) == (2, 3, 3)
    assert stats.utilisation is None
    shell.now += 100
    shell.tell(Failed(("p-b1",), refused("rejected")))
    assert shell.stats().utilisation == pytest.approx(0.8)


def test_a_lane_whose_limit_nobody_knows_says_so() -> None:
    shell = Shell(tokens=None)
    shell.opened(1)
    assert shell.stats() == LaneStats(LANE, 0, 1, 1, None, "unknown", 2, None, 0)


def test_creations_stay_scarce_beside_the_tokens() -> None:
    shell = Shell(limits=FileLimits(requests=1, bytes=1_000, inputs=1, creations_per_hour=10))
    upload(shell, shell.accept(1, 2))
    assert shell.pause > 100


@pytest.mark.parametrize(("created", "rows"), [(0, 118), (120, 237), (160, 475)])
def test_batches_are_larger_where_creations_are_scarce(created: int, rows: int) -> None:
    """An eighth of the limit each would need more creations than there are."""
    shell = Shell(tokens=None, limits=structs.replace(LIMITS, creations_per_hour=2_000))
    shell.limit(10_000)
    shell.engine.replay(Spent((NOW,) * created), NOW)
    commands = accept_counted(shell, *range(1, 2_001), tokens=10)
    first = next(command for command in commands if isinstance(command, Upload))
    assert sum(len(run) for run in first.batch.runs) == rows

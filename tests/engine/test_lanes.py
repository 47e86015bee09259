"""When lanes are packed, what is asked for together, who may leave, and how fast batches are created."""

import math
from collections import deque
from heapq import heappop, heappush

import pytest
from engine_kit import (
    LANE,
    NOW,
    OTHER,
    Shell,
    answer,
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

from carpool.config import Timing
from carpool.engine.commands import Cancel, Check, Collect, Command, Create, Delete, Discard, Find, Record, Upload
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Answered,
    Checked,
    Collected,
    Created,
    Event,
    Failed,
    Flush,
    Leave,
    NotFound,
    Packed,
    Tick,
    Uploaded,
)
from carpool.models import FileLimits, Lane

SMALL = FileLimits(requests=5, bytes=200, inputs=7, creations_per_hour=1_000_000)


# --- packing


def test_nothing_is_due_in_a_fresh_engine() -> None:
    shell = Shell()
    assert shell.engine.deadline() == math.inf
    assert shell.engine.lanes() == ()
    assert shell.tell(Tick()) == []
    assert shell.tell(Flush()) == []


def test_a_lane_is_packed_when_no_call_has_come_for_linger() -> None:
    shell = Shell(Timing(linger=1, max_linger=30))
    shell.accept(1)
    assert shell.engine.deadline() == NOW + 1
    shell.accept(2, after=0.75)
    assert shell.engine.deadline() == NOW + 1.75
    assert shell.tell(Tick(), after=0.5) == []
    upload = only(shell.wait(), Upload)
    assert shell.now == NOW + 1.75
    assert rows_of(upload.batch.runs) == [1, 2]
    assert (upload.batch.key, upload.batch.lane, upload.batch.size) == ("p-b1", LANE, 20)
    assert upload.keys == ("p-b1",)


def test_a_lane_is_packed_max_linger_after_its_first_call_though_calls_go_on_coming() -> None:
    shell = Shell(Timing(linger=1, max_linger=3))
    for row in range(6):
        assert shell.accept(row, after=0.5) == []
    assert shell.engine.deadline() == NOW + 0.5 + 3
    assert rows_of(only(shell.wait(), Upload).batch.runs) == [0, 1, 2, 3, 4, 5]
    shell.accept(6, after=0.25)
    assert shell.pause == 1


def test_max_linger_counts_from_the_first_row_that_is_still_here() -> None:
    shell = Shell(Timing(linger=1, max_linger=3), SMALL)
    shell.accept(0, 1, 2)
    shell.accept(3, after=0.875)
    assert rows_of(only(shell.accept(4, 5, after=0.875), Upload).batch.runs) == [0, 1, 2, 3, 4]
    first_of_the_rest = shell.now
    shell.accept(6, after=0.875)
    assert shell.engine.deadline() == min(shell.now + 1, first_of_the_rest + 3)


def test_a_flush_packs_what_waits_in_every_lane_at_once() -> None:
    shell = Shell()
    shell.accept(1)
    shell.accept(2, lane=OTHER, segment=2)
    assert [upload.batch.lane for upload in of(shell.tell(Flush()), Upload)] == [LANE, OTHER]
    assert shell.tell(Flush()) == []
    assert shell.accept(3) == []


@pytest.mark.parametrize(
    ("rows", "size", "inputs", "files"),
    [
        (5, 1, None, [5]),
        (11, 1, None, [5, 5]),
        (4, 50, None, [4]),
        (4, 51, None, [3]),
        (5, 49, None, [4]),
        (7, 1, 1, [5]),
        (3, 1, 3, [2]),
        (1, 1, 7, [1]),
        (1, 200, None, [1]),
    ],
)
def test_a_full_file_is_packed_at_once(rows: int, size: int, inputs: int | None, files: list[int]) -> None:
    shell = Shell(limits=SMALL)
    uploads = of(shell.accept(*range(rows), size=size, inputs=inputs), Upload)
    assert [len(rows_of(upload.batch.runs)) for upload in uploads] == files


def test_lanes_do_not_mix() -> None:
    shell = Shell()
    shell.accept(1)
    shell.accept(2, lane=OTHER, segment=2)
    shell.accept(3)
    assert [rows_of(upload.batch.runs) for upload in of(shell.tell(Flush()), Upload)] == [[1, 3], [2]]


# --- abandoned rows


def test_rows_that_nobody_awaits_are_not_packed() -> None:
    shell = Shell()
    shell.accept(1, 2, 3)
    shell.tell(Abandoned(frozenset({2, 77})))
    assert rows_of(only(shell.tell(Flush()), Upload).batch.runs) == [1, 3]


def test_a_lane_that_everybody_left_sleeps_and_its_segment_goes_when_it_moves_on() -> None:
    shell = Shell()
    shell.accept(1, 2)
    assert shell.tell(Abandoned(frozenset({1, 2}))) == []
    assert shell.engine.deadline() == math.inf
    assert of(shell.accept(3, segment=2), Discard) == [Discard(1)]


def test_after_a_flush_that_everybody_left_the_next_call_lingers_as_usual() -> None:
    shell = Shell(limits=FileLimits(requests=5, bytes=200, inputs=7, creations_per_hour=2))
    shell.packed(1)
    shell.accept(2)
    shell.tell(Flush())  # creations are scarce
    shell.tell(Abandoned(frozenset({2})))
    assert shell.accept(3, after=4_000) == []
    assert shell.pause == pytest.approx(1.0)


def test_a_batch_in_line_that_everybody_left_makes_way_and_its_file_is_deleted() -> None:
    shell = Shell(tokens=None)
    running = shell.opened(1)
    ahead = shell.packed(2, 3)
    shell.tell(Uploaded(ahead.batch.key, "file"))
    assert shell.tell(Abandoned(frozenset({2}))) == []
    assert only(shell.tell(Abandoned(frozenset({3}))), Delete).file_ids == ("file",)
    assert (shell.stats().waiting, shell.stats().submitted) == (0, 1)
    assert of(shell.check(running, "in_progress"), Create) == []
    assert shell.packed(4).batch.key == "p-b3"


def test_what_nobody_awaits_any_more_is_not_sent_again_when_its_batch_finds_no_room() -> None:
    shell = Shell(Timing(linger=30), SMALL)
    key = shell.opened(1, 2, 3)
    shell.accept(9, segment=2)
    assert shell.tell(Abandoned(frozenset({1, 3}))) == []
    commands = shell.refuse(key)
    assert failures(commands) == {}
    assert rows_of(only(commands, Upload).batch.runs) == [2, 9]
    assert shell.stats().submitted == 2


def test_a_refused_batch_that_everybody_left_is_gone_with_its_segment() -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    shell.accept(3, segment=2)
    shell.tell(Abandoned(frozenset({1, 2})))
    assert of(shell.refuse(key), Discard) == [Discard(1)]


def test_rows_that_are_under_way_are_settled_though_nobody_awaits_them() -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    assert shell.tell(Abandoned(frozenset({1}))) == []
    assert settled(shell.answered(key, 1, 2)) == [1, 2]


def test_rows_abandoned_while_their_packing_is_recorded_stay_in_the_batch_and_are_counted_once() -> None:
    shell = Shell()
    shell.accept(1, 2, 3)
    (record,) = shell.engine.handle(Flush(), shell.now)
    assert isinstance(record, Record)
    assert isinstance(record.fact, Packed)
    shell.tell(Abandoned(frozenset({2})))
    shell.accept(4, segment=2)
    key = of(shell.tell(record.fact), Upload)[0].batch.key
    assert rows_of(record.fact.runs) == [1, 2, 3]
    commands = shell.tell(Failed((key,), refused("rejected")))
    assert failures(commands) == {1: "rejected", 2: "rejected", 3: "rejected"}
    assert of(commands, Discard) == [Discard(1)]


def test_rows_that_come_while_a_packing_is_recorded_wait_for_the_next_file() -> None:
    shell = Shell(limits=SMALL)
    shell.accept(1, 2)
    (record,) = shell.engine.handle(Flush(), shell.now)
    assert isinstance(record, Record)
    assert isinstance(record.fact, Packed)
    assert shell.accept(3, 4, 5, 6) == []
    assert shell.engine.lanes()[0].waiting == 6
    uploads = of(shell.tell(record.fact), Upload)
    assert [rows_of(upload.batch.runs) for upload in uploads] == [[1, 2], [3, 4, 5, 6]]


# --- checking


def test_a_batch_is_checked_every_twentieth_of_its_age_between_two_seconds_and_a_minute() -> None:
    shell = Shell()
    key = shell.opened(1)
    while shell.now < NOW + 4_000:
        begin, age = shell.now, shell.now - NOW
        check = only(shell.wait(), Check)
        assert (check.keys, check.remote_ids) == ((key,), (remote(key),))
        pause = min(max(0.05 * age, 2), 60)
        assert 0.9 * pause <= shell.now - begin <= pause + 1e-6
        shell.tell(Checked(check.remote_ids, [status(key, "in_progress")]))


def test_batches_that_are_due_at_about_the_same_time_are_asked_for_together_the_newest_first() -> None:
    shell = Shell(Timing(poll_min=10))
    keys = []
    for row in range(3):
        keys.append(shell.opened(row))
        shell.now += 1
    shell.now = NOW + 6
    late = shell.opened(9)

    check = only(shell.wait(), Check)
    assert check.keys == tuple(reversed(keys))
    assert shell.wait() == []
    shell.tell(Checked(check.remote_ids, [status(key, "in_progress") for key in check.keys]))
    assert only(shell.wait(), Check).keys == (late,)


def test_what_is_not_open_is_not_asked_for_early() -> None:
    shell = Shell(Timing(poll_min=10))
    shell.opened(1)
    failing = shell.uploaded(2)
    shell.now = shell.engine.deadline() - 0.5
    shell.tell(Failed(failing.keys, refused("busy")))
    assert [type(command) for command in shell.wait()] == [Check]
    assert [type(command) for command in shell.wait()] == [Create]


# --- leaving


def test_leaving_cancels_open_batches_and_deletes_their_inputs_alone() -> None:
    shell = Shell()
    running = shell.opened(1)
    ended = shell.ended(2)
    shell.uploaded(3)
    assert shell.tell(Leave()) == [Cancel(remote(running)), Delete((f"file-{running}",))]
    shell.answered(ended, 2)
    assert only(shell.tell(Collected(ended)), Delete).file_ids == (f"file-{ended}", "out")


def test_after_leaving_nothing_is_packed_or_asked_for() -> None:
    shell = Shell()
    shell.opened(1)
    shell.accept(2)
    shell.tell(Leave())
    assert shell.accept(3) == []
    assert shell.tell(Flush()) == []
    while shell.engine.deadline() < math.inf:
        assert shell.wait() == []


def test_what_is_under_way_when_we_leave_is_given_up_when_its_outcome_comes() -> None:
    shell = Shell()
    upload, create = shell.packed(1), shell.uploaded(2)
    lost = shell.uploaded(3).batch.key
    shell.tell(Failed((lost,), refused("lost")))
    shell.tell(Leave())

    assert shell.tell(Uploaded(upload.batch.key, "file-a")) == [Delete(("file-a",))]
    key = create.batch.key
    assert shell.tell(Created(key, status(key, "validating"))) == [Cancel(remote(key)), Delete((f"file-{key}",))]
    assert shell.tell(NotFound((lost,), shell.now), after=60) == []
    assert shell.wait() == []


def test_a_creation_that_is_lost_when_we_leave_is_looked_for_and_cancelled() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    shell.tell(Leave())
    assert only(shell.tell(Failed((key,), refused("lost"))), Find).keys == (key,)
    assert of(shell.tell(Created(key, status(key, "validating"))), Cancel) == [Cancel(remote(key))]


def test_a_lane_without_room_sends_nothing_again_when_we_have_left() -> None:
    shell = Shell()
    create = shell.uploaded(1, 2)
    shell.tell(Leave())
    (delete,) = shell.tell(Failed(create.keys, refused("full")))
    assert isinstance(delete, Delete)
    assert delete.file_ids == (create.file_id,)
    assert shell.engine.deadline() == math.inf


# --- creations an hour


class Simulation:
    """Let an engine run against a provider where uploads take up to so many seconds and nothing else takes time."""

    def __init__(self, lanes: int, limits: FileLimits, upload_takes: int = 0) -> None:
        self.shell = Shell(limits=limits)
        self.lanes = [Lane("/v1/chat/completions", f"model-{lane}") for lane in range(lanes)]
        self.upload_takes = upload_takes
        self.coming: list[tuple[float, int, Event]] = []
        self.creations: list[float] = []
        self.settled = 0
        self.number = 0

    def later(self, seconds: float, event: Event) -> None:
        self.number += 1
        heappush(self.coming, (self.shell.now + seconds, self.number, event))

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Upload(batch=batch):
                    takes = int(batch.key[3:]) * 37 % (self.upload_takes + 1)
                    self.later(takes, Uploaded(batch.key, f"file-{batch.key}"))
                case Create(batch=batch):
                    self.creations.append(self.shell.now)
                    done = status(batch.key, "completed", output="o")
                    self.later(0, Created(batch.key, done))
                    self.later(0, Answered(batch.key, [answer(row) for row in rows_of(batch.runs)]))
                    self.later(0, Collected(batch.key))
                    self.settled += len(rows_of(batch.runs))

    def run(self, hours: float) -> None:
        end = NOW + hours * 3600
        while True:
            at = min(self.shell.engine.deadline(), self.coming[0][0] if self.coming else math.inf)
            if at > end:
                return
            self.shell.now = max(self.shell.now, at)
            if self.coming and self.coming[0][0] <= self.shell.now:
                self.perform(self.shell.tell(heappop(self.coming)[2]))
            else:
                self.perform(self.shell.tell(Tick()))


def busiest_hour(times: list[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for at in times:
        window.append(at)
        while window[0] <= at - 3600:
            window.popleft()
        most = max(most, len(window))
    return most


@pytest.mark.parametrize("upload_takes", [0, 60])
def test_creations_stay_below_the_hourly_limit_and_everything_is_packed(upload_takes: int) -> None:
    limits = FileLimits(requests=1, bytes=1_000, inputs=1, creations_per_hour=800)
    simulation = Simulation(50, limits, upload_takes)
    lanes = simulation.lanes
    for row in range(2_000):
        simulation.later(row * 1.25, Accepted(lanes[row % len(lanes)], make_run([row], segment=row)))

    simulation.run(4)

    assert simulation.settled == 2_000
    assert len(simulation.creations) == 2_000
    assert busiest_hour(simulation.creations) <= 800
    assert simulation.shell.engine.deadline() == math.inf
    assert simulation.creations[-1] - NOW < 2.75 * 3600  # and no slower than need be


def test_a_repeated_creation_counts_too() -> None:
    shell = Shell(limits=FileLimits(requests=1, bytes=1_000, inputs=1, creations_per_hour=20))
    key = shell.uploaded(1).batch.key
    commands = shell.tell(Failed((key,), refused("lost")))
    while not of(commands, Create):
        commands = shell.tell(NotFound((key,), shell.now)) or shell.wait()
    shell.tell(Created(key, status(key, "completed")))
    shell.accept(2)
    assert shell.pause > 100


def test_one_creation_an_hour_is_waited_for() -> None:
    shell = Shell(limits=FileLimits(requests=1, bytes=1_000, inputs=1, creations_per_hour=1))
    shell.packed(1)
    shell.accept(2)
    assert shell.pause >= 3_600


def test_lines_of_a_failed_validation_count_from_one_in_the_order_of_the_file() -> None:
    shell = Shell(limits=SMALL)
    shell.accept(1, 2, 3, 4, 5)
    shell.tell(Uploaded("p-b1", "file"))
    commands = shell.tell(Created("p-b1", status("p-b1", "failed", problems=(problem("invalid_url", 5),))))
    assert failures(commands) == {5: "rejected"}
    assert of(commands, Collect) == []

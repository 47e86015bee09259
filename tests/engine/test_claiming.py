"""Room is asked for in the journal before a batch is created, and given back when it has ended."""

import math

import pytest
from engine_kit import (
    LANE,
    LIMITS,
    POOL,
    TIMING,
    Shell,
    failures,
    granted,
    make_run,
    of,
    only,
    problem,
    refused,
    remote,
    rows_of,
    status,
)

from carpool.engine.claims import Stand, State, decide
from carpool.engine.commands import Cancel, Check, Claim, Command, Create, Find, Upload
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Admitted,
    Asked,
    Checked,
    Claimed,
    Created,
    Escalate,
    Event,
    Failed,
    Flush,
    Learned,
    Limited,
    NotFound,
    Packed,
    Recovered,
    Released,
    Returned,
    Revoked,
    Shared,
    Spent,
    Tick,
    Uploaded,
)
from carpool.engine.stages import VANISHED
from carpool.models import FileLimits
from carpool.naming import span_of

QUEUE = LANE.queue


def asking(*, tokens: int | None = 1_000, **more: object) -> Shell:
    """Make a shell whose test answers for the journal."""
    shell = Shell(tokens=tokens, keeps=True, **more)  # type: ignore[arg-type]
    shell.claim = None
    return shell


def ask(shell: Shell, *rows: int) -> Claim:
    """Bring rows so far that the journal is asked."""
    return only(uploaded(shell, *rows), Claim)


def uploaded(shell: Shell, *rows: int) -> list[Command]:
    key = shell.packed(*rows).batch.key
    return shell.tell(Uploaded(key, f"file-{key}"))


def packed(shell: Shell, *rows: int) -> str:
    """Bring rows of ten tokens as far as the upload, and give the key of their batch."""
    said = shell.count(shell.accept(*rows) + shell.tell(Flush()), 10)
    return only(said, Upload).batch.key


def opened(shell: Shell, *rows: int) -> str:
    """Bring rows of ten tokens as far as an open batch, and give its key."""
    key = packed(shell, *rows)
    only(shell.tell(Uploaded(key, f"file-{key}")), Create)
    shell.tell(Created(key, status(key, "in_progress")))
    return key


def denied(claim: Claim, *, others: int = 990, learned: tuple[int, float] | None = None) -> Claimed:
    return Claimed(claim.key, claim.queue, granted=False, others=others, learned=learned)


def told(shell: Shell, kind: type[Event]) -> list[object]:
    return [fact for fact, _ in shell.facts if isinstance(fact, kind)]


def enqueued(shell: Shell) -> int:
    return shell.stats().enqueued


def stage(shell: Shell, key: str) -> str:
    (stats,) = (batch for batch in shell.engine.batches() if batch.key == key)
    return stats.stage


# --- asking


def test_without_a_journal_nothing_is_asked() -> None:
    shell = Shell(tokens=1_000)
    key = shell.opened(1, 2)
    shell.check(key, "in_progress")
    shell.finish(key)
    assert not told(shell, Admitted) + told(shell, Released)


def test_a_batch_is_created_when_the_journal_has_room() -> None:
    shell = asking()
    claim = ask(shell, 1, 2)
    assert claim == Claim("p-b1", QUEUE, 20, 950, False, 0.0, frozenset((0,)), shell.now)
    assert claim.keys == ("p-b1",)
    assert stage(shell, claim.key) == "creating"
    assert only(shell.tell(granted(claim)), Create).batch.key == claim.key


def test_what_the_journal_is_asked_for_leaves_out_what_is_held_already() -> None:
    shell = asking()
    shell.tell(granted(ask(shell, 1, 2)))
    assert ask(shell, 3, 4).room == 950 - 20


def test_where_no_limit_is_known_the_batch_goes_first() -> None:
    claim = ask(asking(tokens=None), 1)
    assert (claim.room, claim.first) == (math.inf, True)


def test_a_creation_that_is_repeated_has_its_room() -> None:
    shell = asking()
    key = only(shell.tell(granted(ask(shell, 1))), Create).batch.key
    shell.tell(Failed((key,), refused("busy")))
    assert of(shell.until(Create), Claim) == []
    assert only(shell.tell(Failed((key,), refused("lost"))), Find).keys == (key,)
    shell.now += 20
    assert only(shell.tell(NotFound((key,), shell.now)), Create).batch.key == key


def test_where_the_journal_fails_the_rows_do() -> None:
    shell = asking()
    claim = ask(shell, 1, 2)
    assert failures(shell.tell(Failed(claim.keys, refused("disk")))) == {1: "disk", 2: "disk"}
    assert shell.is_over(claim.key)
    assert shell.tell(granted(claim)) == []  # word that comes too late
    assert enqueued(shell) == 0


def test_after_a_batch_for_which_the_journal_failed_it_is_asked_for_the_next() -> None:
    shell = asking()
    shell.tell(Failed(ask(shell, 1).keys, refused("disk")))
    assert rows_of(only(shell.tell(granted(ask(shell, 2))), Create).batch.runs) == [2]


def test_what_is_let_in_while_it_is_uploaded_is_not_taken_off_the_room_of_others() -> None:
    shell = asking()
    shell.packed(1, 2)
    assert ask(shell, 3).room == 950


def test_the_journal_is_asked_for_one_batch_after_the_other() -> None:
    shell = asking()
    first = shell.packed(1).batch.key
    second = shell.packed(2).batch.key
    claim = only(shell.tell(Uploaded(first, "file-1")), Claim)
    assert shell.tell(Uploaded(second, "file-2")) == []
    assert stage(shell, second) == "queued"
    said = shell.tell(granted(claim))
    assert only(said, Create).batch.key == first
    assert only(said, Claim).key == second


# --- in vain


def test_a_batch_that_others_leave_no_room_waits_and_is_asked_for_again() -> None:
    shell = asking()
    claim = ask(shell, 1)
    assert shell.tell(denied(claim)) == []
    assert stage(shell, claim.key) == "queued"
    assert enqueued(shell) == 0
    assert 2 <= shell.pause <= 3
    assert only(shell.wait(), Claim).key == claim.key
    shell.tell(denied(claim))
    assert only(shell.until(Claim), Claim).key == claim.key
    assert only(shell.tell(granted(claim, others=5)), Create).batch.key == claim.key


def test_pauses_differ_and_grow_with_the_time_that_batches_take() -> None:
    shell = Shell(tokens=1_000, keeps=True)
    for row in range(5):  # until it is known that a batch takes an hour
        key = shell.opened(row)
        shell.now += 3_600
        shell.finish(key)
    shell.claim = None
    claim = ask(shell, 9)
    pauses = set()
    for _ in range(5):
        shell.tell(denied(claim))
        pauses.add(shell.pause)
        shell.until(Claim)
    assert len(pauses) == 5
    assert all(36 <= pause <= 54 for pause in pauses)


def test_what_stands_behind_is_not_tried_meanwhile() -> None:
    shell = asking()
    first = shell.packed(1).batch.key
    second = shell.packed(2).batch.key
    claim = only(shell.tell(Uploaded(first, "file-1")), Claim)
    shell.tell(denied(claim))
    other = only(shell.tell(Uploaded(second, "file-2")), Claim)  # it was let in before
    shell.tell(denied(other))
    assert other.key == second
    assert only(shell.until(Claim), Claim).key == first


def test_what_was_refused_alone_waits_for_room_as_any_other() -> None:
    shell = Shell(tokens=None, keeps=True)
    shell.limit(100, "table")
    shell.claim = lambda claim: Claimed(claim.key, claim.queue, *decide(claim, theirs))
    theirs: list[Stand] = []
    said = shell.refuse(shell.opened(1))
    theirs = [Stand(9, 9, State.ADMITTED, 95, shell.now, 0.0)]  # they fill the queue meanwhile
    key = of(shell.until(Upload, said), Upload)[-1].batch.key
    said = shell.tell(Uploaded(key, "again"))
    until = shell.now + 600
    while shell.now < until:
        said += shell.wait()
    assert of(said, Create) == []
    theirs = []
    assert only(shell.until(Create), Create).batch.key == key


def test_when_a_batch_of_ours_ends_it_is_asked_again_at_once() -> None:
    shell = asking()
    first = ask(shell, 1)
    shell.tell(granted(first))
    shell.tell(Created(first.key, status(first.key, "in_progress")))
    second = ask(shell, 2)
    shell.tell(denied(second))
    said = shell.tell(Checked((remote(first.key),), [status(first.key, "completed", output="out")]))
    assert only(said, Claim).key == second.key


# --- what others were told


def test_a_limit_that_another_process_learned_is_learned_first() -> None:
    shell = asking(tokens=None)
    claim = ask(shell, 1)
    (again,) = of(shell.tell(denied(claim, others=0, learned=(800, shell.now - 5))), Claim)
    assert (shell.stats().limit, shell.stats().limit_source) == (800, "learned")
    assert (again.key, again.room, again.first, again.heard_at) == (claim.key, 760, False, shell.now - 5)


def test_a_refusal_counts_as_heard() -> None:
    shell = Shell(tokens=None, keeps=True)
    key = shell.opened(1)
    shell.refuse(key, 500)
    refused_at = shell.now
    assert told(shell, Learned) == [Learned(QUEUE, 500)]
    shell.claim = None
    (again,) = [batch.key for batch in shell.engine.batches()]
    said = shell.tell(Uploaded(again, "again"))
    assert only(shell.until(Claim, said), Claim).heard_at == refused_at


def test_what_is_larger_than_a_share_of_it_is_chosen_anew() -> None:
    shell = asking(tokens=None)
    claim = ask(shell, *range(1, 51))
    said = shell.tell(denied(claim, others=0, learned=(400, shell.now)))
    assert told(shell, Returned) == [Returned(claim.key)]
    rows = rows_of(of(shell.count(said, 10), Upload)[0].batch.runs)
    assert rows == [*range(1, 5)]  # of 380 tokens an eighth


def test_rows_above_it_fail() -> None:
    shell = asking(tokens=None)
    claim = ask(shell, 1)
    said = shell.count(shell.tell(denied(claim, others=0, learned=(8, shell.now))), 10)
    assert failures(said) == {1: "full"}


def test_creations_of_others_count_towards_the_hour() -> None:
    few = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=20)  # two at once
    shell = asking(limits=few)
    claim = ask(shell, 1)
    shell.tell(Claimed(claim.key, QUEUE, granted=True, created=(shell.now, shell.now)))
    assert shell.accept(2) + shell.tell(Flush()) == []
    assert 300 < shell.pause < 500


@pytest.mark.parametrize("asked", [True, False])
def test_creations_of_a_process_that_is_taken_over_count_once(asked: bool) -> None:
    few = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=40)  # four at once
    theirs, ours = span_of(1)[0], span_of(2)[0]
    shell = asking(limits=few, numbered=ours)
    made_at = shell.now
    if asked:
        shell.tell(Recovered())
        claim = ask(shell, ours + 1)
        shell.tell(Claimed(claim.key, QUEUE, granted=True, created=(made_at,)))
    else:  # it was told of when the pool was opened
        shell.engine.replay(Spent((made_at,)), made_at)
        shell.tell(Recovered())
        shell.packed(ours + 1)
    run = make_run((theirs + 1,), segment=theirs)
    shell.engine.replay(Accepted(LANE, run), made_at)
    shell.engine.replay(Packed(theirs + 1, LANE, (run,)), made_at)
    shell.tell(Recovered())
    for row in (2, 3):
        shell.packed(ours + row)
    assert of(shell.accept(ours + 4) + shell.tell(Flush()), Upload) == []


def test_what_a_process_created_of_which_nobody_heard_counts_when_it_is_taken_over() -> None:
    few = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=20)  # two at once
    theirs, ours = span_of(1)[0], span_of(2)[0]
    shell = asking(limits=few, numbered=ours)
    shell.tell(Recovered())
    shell.tell(granted(ask(shell, ours + 1)))
    run = make_run((theirs + 1,), segment=theirs)
    shell.engine.replay(Accepted(LANE, run), shell.now + 1)
    shell.engine.replay(Packed(theirs + 1, LANE, (run,)), shell.now + 1)
    shell.tell(Recovered(), after=2)
    assert of(shell.accept(ours + 4) + shell.tell(Flush()), Upload) == []


def test_tokens_of_batches_that_ended_elsewhere_may_be_released_late() -> None:
    shell = asking()
    claim = ask(shell, 1)
    shell.tell(Claimed(claim.key, QUEUE, granted=True, ended=((QUEUE, shell.now, 930),)))
    shell.tell(Created(claim.key, status(claim.key, "validating")))
    ended_at = shell.now
    shell.refuse(claim.key, 1_000)  # though there was room: it must be these
    (again,) = [batch.key for batch in shell.engine.batches()]
    assert of(shell.tell(Uploaded(again, "again")), Claim) == []
    shell.until(Claim)
    assert shell.now >= ended_at + 4


def test_a_process_whose_clock_is_ahead_keeps_nobody_waiting() -> None:
    few = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=30)  # three at once
    shell = asking(limits=few)
    claim = ask(shell, 1)
    ahead = shell.now + 30_000
    shell.tell(Claimed(claim.key, QUEUE, granted=True, created=(ahead,), ended=((QUEUE, ahead, 930),)))
    shell.tell(Created(claim.key, status(claim.key, "validating")))
    shell.refuse(claim.key, 1_000)
    began = shell.now
    (again,) = [batch.key for batch in shell.engine.batches()]
    shell.until(Claim, shell.tell(Uploaded(again, "again")))
    shell.accept(2)
    shell.until(Upload)
    assert shell.now < began + 600


def test_an_engine_that_is_told_the_facts_alone_comes_to_the_same() -> None:
    shell = asking()
    claim = ask(shell, 1)
    shell.tell(denied(claim))
    shell.tell(granted(only(shell.wait(), Claim), others=7))
    shell.tell(Created(claim.key, status(claim.key, "in_progress")))
    replica = Engine(POOL, TIMING, LIMITS, keeps=True)
    for fact, at in shell.facts:
        replica.handle(fact, at)
    assert replica.lanes() == shell.engine.lanes()
    assert replica.deadline() == shell.engine.deadline()


# --- packed before it was known what others hold


def test_a_batch_that_is_too_large_beside_others_is_packed_anew() -> None:
    shell = asking()
    key = packed(shell, *range(1, 41))
    claim = only(shell.tell(Uploaded(key, "file")), Claim)
    assert claim.tokens == 400
    said = shell.tell(denied(claim, others=900))
    assert told(shell, Returned) == [Returned(key)]
    again = of(said, Upload)[0].batch
    assert len(rows_of(again.runs)) == 11  # of 950 an eighth
    claim = only(shell.until(Claim, shell.tell(Uploaded(again.key, "file"))), Claim)
    assert of(shell.tell(denied(claim, others=900)), Upload) == []
    assert told(shell, Returned) == [Returned(key)]


def test_one_that_would_fit_waits_as_it_is() -> None:
    shell = asking()
    key = packed(shell, *range(1, 41))
    claim = only(shell.tell(Uploaded(key, "file")), Claim)
    shell.tell(denied(claim, others=100))  # others wait who hold less
    assert told(shell, Returned) == []


# --- what was asked for is not wanted any more


def test_a_batch_that_is_cancelled_meanwhile_is_not_created() -> None:
    for there_is_room in (True, False):
        shell = asking()
        claim = ask(shell, 1)
        assert of(shell.tell(Revoked()), Cancel) == []
        said = shell.tell(granted(claim) if there_is_room else denied(claim))
        assert failures(said) == {1: "cancelled"}
        assert of(said, Create) == []
        assert shell.is_over(claim.key)


def test_rows_that_left_a_batch_in_line_are_not_asked_for() -> None:
    shell = asking()
    claim = ask(shell, 1, 2)
    shell.tell(denied(claim))
    shell.tell(Escalate(frozenset((1,))))
    said = shell.until(Upload)
    assert rows_of(of(said, Upload)[-1].batch.runs) == [2]
    assert shell.is_over(claim.key)


def test_a_batch_in_line_that_nobody_awaits_is_given_up() -> None:
    shell = asking()
    claim = ask(shell, 1)
    shell.tell(denied(claim))
    shell.tell(Abandoned(frozenset((1,))))
    assert shell.is_over(claim.key)
    assert shell.tell(Tick(), after=60) == []


# --- what others are told


def test_others_are_told_that_a_batch_is_in_its_queue_and_that_it_has_ended() -> None:
    shell = Shell(tokens=1_000, keeps=True)
    key = shell.opened(1)
    shell.check(key, "in_progress")
    shell.check(key, "in_progress")
    assert told(shell, Admitted) == [Admitted(key)]
    shell.finish(key)
    assert told(shell, Released) == [Released(key, ran=True)]


def test_of_a_batch_that_was_refused_its_end_is_enough() -> None:
    shell = Shell(tokens=1_000, keeps=True)
    key = shell.opened(1, 2)
    shell.check(key, "failed", problems=(problem("bad"),))
    assert shell.is_over(key)
    assert told(shell, Released) == []


def test_a_batch_that_the_provider_denies_for_long_holds_nothing() -> None:
    shell = Shell(tokens=1_000, keeps=True)
    key, until = shell.opened(1), shell.now + 3 * VANISHED
    while shell.now < until:
        if of(shell.wait(), Check):
            shell.tell(Checked((remote(key),), []))
    assert told(shell, Released) == [Released(key)]
    assert shell.engine.holds(key)


def test_a_batch_that_is_out_of_reach_holds_what_it_held() -> None:
    shell = Shell(tokens=1_000, keeps=True)
    key, until = shell.opened(1), shell.now + 7_200
    while shell.now < until:
        if of(shell.wait(), Check):
            shell.tell(Failed((key,), refused("auth")))
    assert told(shell, Released) == []
    assert shell.engine.holds(key)


# --- what an earlier process left


def recovered(*facts: Event) -> Shell:
    shell = asking(numbered=span_of(2)[0])
    for fact in facts:
        shell.engine.replay(fact, shell.now - 100)
    return shell


def left(shell: Shell) -> Packed:
    """Pack a batch as the process of the first shard did."""
    upload = shell.packed(1, 2)
    return Packed(span_of(1)[0] + 1, LANE, upload.batch.runs)


def test_a_batch_that_was_not_created_gives_its_room_back_and_asks_anew() -> None:
    fact = left(Shell(numbered=span_of(1)[0]))
    key = f"{POOL}-b{fact.number}"
    shell = recovered(Accepted(LANE, fact.runs[0]), fact, Uploaded(key, "file"))
    shell.tell(Asked((1, 2)))
    only(shell.tell(Recovered()), Find)
    shell.now += 20
    claim = only(shell.tell(NotFound((key,), shell.now)), Claim)
    assert told(shell, Released) == [Released(key)]
    assert (claim.key, claim.room) == (key, 950)
    assert claim.shards == {1}  # it has made none of its own yet
    only(shell.tell(granted(claim)), Create)


def test_what_an_earlier_process_created_is_taken_off_the_room() -> None:
    fact = left(Shell(numbered=span_of(1)[0]))
    key = f"{POOL}-b{fact.number}"
    shell = recovered(
        Accepted(LANE, fact.runs[0]), fact, Uploaded(key, "file"), Created(key, status(key, "in_progress"))
    )
    shell.tell(Recovered())
    claim = ask(shell, *(span_of(2)[0] + row for row in (1, 2)))
    assert claim.shards == {1, 2}
    assert claim.room == 950 - 20


def test_a_process_that_was_taken_over_is_forgotten_with_its_last_batch_when_its_end_was_heard_of() -> None:
    fact = left(Shell(numbered=span_of(1)[0]))
    key = f"{POOL}-b{fact.number}"
    shell = recovered(
        Accepted(LANE, fact.runs[0]), fact, Uploaded(key, "file"), Created(key, status(key, "in_progress"))
    )
    shell.tell(Recovered())
    shell.finish(key)
    assert shell.is_over(key)
    shards = []
    for row in (1, 2):
        claim = ask(shell, span_of(2)[0] + row)
        shell.tell(granted(claim))
        shards.append(claim.shards)
    assert shards == [{1, 2}, {2}]


# --- more than there is room for


def test_a_stale_limit_is_tried_beside_what_others_hold() -> None:
    shell = asking(tokens=None)
    shell.limit(100, "table")
    claim = ask(shell, 1)
    shell.tell(denied(claim, others=95))
    assert only(shell.until(Claim), Claim).room == 95
    shell.tell(denied(claim, others=95))
    shell.now += 80_000
    claim = only(shell.until(Claim), Claim)
    assert claim.room == 10 + 95
    shell.tell(granted(claim, others=95))
    shell.tell(Created(claim.key, status(claim.key, "in_progress")))
    assert shell.stats().limit is None  # there is more


def test_a_request_is_not_alone_while_others_hold_the_queue() -> None:
    shell = Shell(tokens=None, keeps=True)
    shell.claim = lambda claim: granted(claim, others=60)
    shell.limit(100, "table")
    key = shell.opened(1)
    for _ in range(4):
        said = shell.refuse(key, 100)
        assert failures(said) == {}
        key = shell.reopened(said)


# --- a share of every limit


def test_a_pool_keeps_to_its_share_of_whatever_limit_there_is() -> None:
    shell = Shell(tokens=None)
    shell.tell(Shared(0.25))
    shell.limit(1_000, "table")
    shell.packed(1)
    assert (shell.stats().limit, shell.stats().limit_source) == (250, "table")
    shell.limit(800, "learned")
    assert shell.stats().limit == 200
    shell.limit(400)
    assert (shell.stats().limit, shell.stats().limit_source) == (100, "user")
    shell.tell(Shared(1.0))
    assert shell.stats().limit == 400


def test_a_refusal_states_the_limit_of_the_account() -> None:
    shell = Shell(tokens=None)
    shell.tell(Shared(0.5))
    shell.refuse(shell.opened(1), 1_000)
    assert shell.stats().limit == 500
    assert told(shell, Learned) == [Learned(QUEUE, 1_000)]


def test_the_creations_an_hour_are_shared_too() -> None:
    few = FileLimits(requests=1_000, bytes=1_000_000, inputs=1_000, creations_per_hour=40)
    shell = Shell(limits=few)
    shell.tell(Shared(0.5))
    for row in (1, 2):
        shell.packed(row)
    assert of(shell.accept(3) + shell.tell(Flush()), Upload) == []
    assert 150 < shell.pause < 250


# --- limits set anew


def test_a_lower_limit_lets_smaller_batches_go() -> None:
    shell = Shell(tokens=1_000)
    first = opened(shell, *range(1, 91))  # 900 tokens
    second = packed(shell, *range(101, 112))  # 110, which wait
    said = shell.limit(160)
    assert told(shell, Returned) == [Returned(second)]
    assert rows_of(only(said, Upload).batch.runs) == [101]
    assert of(shell.tell(Uploaded("p-b3", "file")), Create) == []
    assert only(shell.finish(first), Create).batch.key == "p-b3"
    assert shell.stats().limit == 160


def test_a_higher_limit_lets_what_stands_in_line_go() -> None:
    shell = Shell(tokens=100)
    opened(shell, *range(1, 10))
    key = packed(shell, 11)
    shell.tell(Uploaded(key, "file"))
    assert only(shell.limit(200), Create).batch.key == key


def test_a_limit_that_is_taken_away_is_unknown() -> None:
    shell = Shell(tokens=100)
    shell.packed(1)
    shell.limit(None)
    shell.limit(None, "table")
    assert (shell.stats().limit, shell.stats().limit_source) == (None, "unknown")


def test_a_table_that_comes_anew_takes_the_place_of_what_was_learned() -> None:
    shell = Shell(tokens=None)
    shell.packed(1)
    shell.limit(100, "learned")
    shell.limit(500, "table")
    assert shell.stats().limit == 100
    shell.tell(Limited(QUEUE, 500, "table", anew=True))
    assert (shell.stats().limit, shell.stats().limit_source) == (500, "table")


def test_a_smaller_share_makes_smaller_batches() -> None:
    shell = Shell(tokens=1_000)
    opened(shell, *range(1, 91))
    second = packed(shell, *range(101, 112))
    said = shell.tell(Shared(0.16))
    assert told(shell, Returned) == [Returned(second)]
    assert rows_of(of(said, Upload)[-1].batch.runs) == [101]

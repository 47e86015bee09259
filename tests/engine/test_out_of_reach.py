"""A batch that may be paid for and cannot be reached: whoever waits is told, and it is looked for until it is back."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from engine_kit import LANE, NOW, Shell, answer, failures, lost_for_long, of, only, refused, remote, rows_of, status

from carpool.config import Canary
from carpool.engine.commands import Anew, Cancel, Check, Collect, Command, Create, Fail, Find, Upload
from carpool.engine.events import (
    Abandoned,
    Accepted,
    Asked,
    Checked,
    Created,
    Event,
    Fact,
    Failed,
    Flush,
    Missing,
    NotFound,
    Packed,
    Recovered,
    Revoked,
    Uploaded,
)
from carpool.engine.stages import AGAIN, OVERDUE, SELDOM, VANISHED
from carpool.naming import span_of

Fails = Callable[[Shell, str], Event]
TOLD_AGAIN = (Accepted, Packed, Uploaded, Created, Missing)


def denied(shell: Shell, key: str) -> Event:
    return Checked((remote(key),), [])


def locked_out(shell: Shell, key: str) -> Event:
    return Failed((key,), refused("auth"))


def unreachable(shell: Shell, key: str) -> Event:
    return Failed((key,), refused("busy"))


def refuses(shell: Shell, key: str) -> Event:
    return Failed((key,), refused("rejected"))


def fail_until(shell: Shell, key: str, fails: Fails, until: float) -> tuple[list[Command], list[float]]:
    """Let whatever is tried fail; gives what was commanded, and when something was tried."""
    said: list[Command] = []
    tried: list[float] = []
    while shell.now < until and shell.engine.holds(key):
        commands = shell.wait()
        if any(isinstance(command, Check | Collect) for command in commands):
            tried.append(shell.now)
            commands += shell.tell(fails(shell, key))
        said += commands
    return said, tried


@pytest.mark.parametrize(
    ("fails", "after", "holds_room"), [(denied, 600, False), (locked_out, 900, True), (unreachable, 90_000, True)]
)
def test_callers_are_told_and_the_batch_is_looked_for_until_it_is_back(
    fails: Fails, after: float, holds_room: bool
) -> None:
    shell = Shell(tokens=1_000)
    key = shell.opened(1, 2)
    said, tried = fail_until(shell, key, fails, NOW + after + 7_200)
    assert set(failures(said)) == {1, 2}
    assert shell.ends == Counter()
    assert len([notice for notice in shell.notices if "out of reach" in notice.message]) == 1
    assert max(later - earlier for earlier, later in pairwise(tried)) <= SELDOM + 1
    assert (shell.stats().enqueued > 0) == holds_room  # what the provider denies takes none

    shell.until(Check)
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
    assert shell.stats().enqueued > 0
    shell.finish(key, answer(1), answer(2))
    assert shell.ends == Counter((1, 2))
    assert (shell.stats().batches, shell.stats().enqueued) == (0, 0)
    assert (shell.stats().answered, shell.stats().failed) == (2, 0)


def brought(shell: Shell, *rows: int) -> str:
    """Count rows, and bring them as far as their upload."""
    key = only(shell.count(shell.accept(*rows) + shell.tell(Flush())), Upload).batch.key
    shell.tell(Uploaded(key, "file"))
    return key


@pytest.mark.parametrize("fails", [denied, locked_out])
def test_its_room_is_not_given_to_others_unless_it_is_denied(fails: Fails) -> None:
    shell = Shell(tokens=25)
    key = brought(shell, 1, 2)
    shell.tell(Created(key, status(key, "validating")))
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
    brought(shell, 3)
    said, _ = fail_until(shell, key, fails, NOW + 3_600)
    assert bool(of(said, Create)) == (fails is denied)


def test_files_out_of_reach_are_fetched_seldom_and_in_the_end() -> None:
    shell = Shell()
    key = shell.ended(1, 2)
    shell.tell(refuses(shell, key))
    said, tried = fail_until(shell, key, refuses, NOW + 30_000)
    assert failures(said) == {1: "missing", 2: "missing"}
    late = [at for at in tried if at > NOW + 7_500]
    assert len(late) > 5
    assert min(later - earlier for earlier, later in pairwise(late)) >= AGAIN
    shell.until(Collect)
    shell.read_out(key, answer(1), answer(2))
    assert shell.ends == Counter((1, 2))


@pytest.mark.parametrize("fails", [denied, locked_out, unreachable])
def test_after_twice_the_window_it_is_over(fails: Fails) -> None:
    shell = Shell()
    key = shell.opened(1, 2)
    said, _ = fail_until(shell, key, fails, math.inf)
    assert OVERDUE <= shell.now - NOW <= OVERDUE + 90_000 + 2 * SELDOM + 60
    assert sorted(only(said, Fail).numbers) == [1, 2]
    assert not of(said, Cancel)


def left_behind(shell: Shell) -> list[tuple[Fact, float]]:
    return [(fact, at) for fact, at in shell.facts if isinstance(fact, TOLD_AGAIN)]


def heir_of(facts: list[tuple[Fact, float]], days: float) -> Shell:
    """Start a process some days later, in which somebody asks again."""
    heir = Shell(numbered=span_of(1)[0], keeps=True)
    heir.now = NOW + days * 86_400
    for fact, at in facts:
        heir.engine.replay(fact, at)
    assert of(heir.tell(Recovered()) + heir.tell(Asked((1,))), Check)
    return heir


def until_told(shell: Shell, key: str, fails: Fails) -> list[Command]:
    said = shell.tell(fails(shell, key))
    while not failures(said):
        more, _ = fail_until(shell, key, fails, shell.now + 1)
        said += more
    return said


def test_for_what_the_provider_denies_the_two_days_are_those_of_all_processes() -> None:
    shell = Shell(keeps=True)
    key = shell.opened(1)
    until_told(shell, key, denied)
    facts = left_behind(shell)
    assert facts[-1] == (Missing(key, "batch"), shell.now)
    for days, is_over in ((1, False), (3, True)):
        heir = heir_of(facts, days)
        begin = heir.now
        assert failures(until_told(heir, key, denied)) == {1: "missing"}
        assert 600 <= heir.now - begin <= 900  # one that has only begun to look is patient first
        assert heir.engine.holds(key) != is_over


@pytest.mark.parametrize("before", [denied, locked_out])
def test_a_key_that_is_refused_again_days_later_ends_nothing(before: Fails) -> None:
    """The batch may well be there, and is paid for."""
    shell = Shell(keeps=True)
    key = shell.opened(1)
    until_told(shell, key, before)
    heir = heir_of(left_behind(shell), 3)
    assert failures(until_told(heir, key, locked_out)) == {1: "auth"}
    assert heir.engine.holds(key)
    heir.until(Check)
    heir.tell(Checked((remote(key),), [status(key, "in_progress")]))
    heir.finish(key, answer(1))
    assert heir.ends == Counter((1,))


def gone(shell: Shell, key: str) -> Event:
    return Failed((key,), refused("gone"))


def test_of_a_file_that_is_not_there_the_days_count_from_when_it_was_not() -> None:
    shell = Shell(keeps=True)
    key = shell.opened(1)
    until_told(shell, key, denied)
    facts = left_behind(shell)
    for days, is_over in ((3, False), (6, True)):
        heir = heir_of(facts, days)
        assert of(heir.tell(Checked((remote(key),), [status(key, "completed", output="out")])), Collect)
        assert failures(until_told(heir, key, gone)) == {1: "missing"}
        assert heir.engine.holds(key) != is_over
        facts = [*facts, *left_behind(heir)]
    assert [fact.what for fact, _ in facts if isinstance(fact, Missing)] == ["batch", None, "file"]


def test_a_batch_that_was_denied_and_is_there_is_waited_for_as_any_other() -> None:
    shell = Shell(keeps=True)
    key = shell.opened(1)
    until_told(shell, key, denied)
    shell.until(Check)
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
    assert [fact for fact, _ in shell.facts if isinstance(fact, Missing)] == [Missing(key, "batch"), Missing(key, None)]
    said, _ = fail_until(shell, key, unreachable, shell.now + 80_000)
    assert failures(said) == {}


def test_what_is_denied_only_now_and_then_is_there() -> None:
    shell = Shell()
    key = shell.opened(1)
    shell.tell(denied(shell, key))
    said, _ = fail_until(shell, key, unreachable, NOW + VANISHED + 60)
    shell.until(Check)
    said += shell.tell(denied(shell, key))
    assert failures(said) == {}
    assert shell.stats().enqueued > 0


def test_a_canary_out_of_reach_keeps_nothing_back() -> None:
    shell = Shell(canary=Canary(1, 0.5))
    key = shell.reopened(shell.accept(1, 2, 3) + shell.tell(Flush()))
    said, _ = fail_until(shell, key, locked_out, NOW + 1_200)
    other = only(said, Upload).batch
    assert rows_of(other.runs) == [2]  # another canary


def test_who_waits_for_it_again_is_told_after_the_same_while() -> None:
    shell = Shell(keeps=True)
    key = shell.opened(1, 2)
    said, _ = fail_until(shell, key, locked_out, NOW + 1_200)
    shell.tell(Abandoned(frozenset((1, 2))))
    said, _ = fail_until(shell, key, locked_out, NOW + 2_400)
    assert failures(said) == {}
    begin = shell.now
    assert not of(shell.tell(Asked((2,))), Anew)
    while not failures(said):
        said, _ = fail_until(shell, key, locked_out, shell.now + 1)
    assert failures(said) == {2: "auth"}
    assert shell.now - begin <= 900 + SELDOM


def test_one_that_nobody_waits_for_is_cancelled_where_nothing_is_kept() -> None:
    shell = Shell()
    key = shell.opened(1)
    fail_until(shell, key, locked_out, NOW + 1_200)
    shell.tell(Abandoned(frozenset((1,))))
    fail_until(shell, key, locked_out, NOW + 2_400)
    shell.until(Check)
    assert only(shell.tell(Checked((remote(key),), [status(key, "in_progress")])), Cancel).remote_id == remote(key)


def test_one_that_is_cancelled_on_purpose_ends_when_it_is_back() -> None:
    shell = Shell()
    key = shell.opened(1)
    fail_until(shell, key, locked_out, NOW + 1_200)
    assert only(shell.tell(Revoked(None)), Cancel).remote_id == remote(key)
    shell.until(Check)
    assert failures(shell.finish(key, end="cancelled")) == {1: "cancelled"}


def test_a_creation_whose_replies_are_lost_for_long_is_repeated_once_an_hour() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    said = lost_for_long(shell, key, NOW + 6 * AGAIN)
    assert failures(command for _, command in said) == {1: "failed"}
    created = [at for at, command in said if isinstance(command, Create)]
    assert max(at for at in created if at < NOW + AGAIN) <= NOW + 900
    late = [at for at in created if at > NOW + 900]
    assert len(late) == 5
    assert all(AGAIN <= later - earlier <= AGAIN + 2 * SELDOM for earlier, later in pairwise(late))
    commands: list[Command] = []
    while not of(commands, Create):
        commands = shell.tell(NotFound((key,), shell.now)) if of(commands, Find) else shell.wait()
    shell.tell(Created(key, status(key, "validating")))
    shell.finish(key, answer(1))
    assert shell.ends == Counter((1,))
    assert shell.stats(LANE).enqueued == 0


def test_a_creation_is_repeated_at_once_after_listings_could_not_be_read() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    commands = shell.tell(Failed((key,), refused("lost")))
    while shell.now < NOW + 7_200:
        commands = shell.tell(Failed((key,), refused("auth"))) if of(commands, Find) else shell.wait()
    shell.until(Find, commands)
    begin = shell.now
    commands = shell.tell(NotFound((key,), shell.now))
    assert of(commands, Create)
    assert shell.now == begin


def test_what_may_have_been_created_keeps_others_back_no_longer_than_what_validates() -> None:
    shell = Shell(tokens=None, keeps=True)  # no limit is known: one goes at a time
    key = only(shell.count(shell.accept(1) + shell.tell(Flush())), Upload).batch.key
    shell.tell(Uploaded(key, "file"))
    lost_for_long(shell, key, NOW + 1_000)
    other = only(shell.count(shell.accept(2) + shell.tell(Flush())), Upload).batch.key
    commands = shell.tell(Uploaded(other, "file"))
    while not [create for create in of(commands, Create) if create.batch.key == other]:
        commands = shell.tell(NotFound((key,), shell.now)) if of(commands, Find) else shell.wait()
    assert shell.now < NOW + 1_000 + 900


def test_a_creation_that_nobody_awaits_any_more_is_not_repeated_where_nothing_is_kept() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    lost_for_long(shell, key, NOW + 960)
    shell.tell(Abandoned(frozenset((1,))))
    again = lost_for_long(shell, key, NOW + 3 * AGAIN)
    assert not [command for _, command in again if isinstance(command, Create)]
    assert not shell.engine.holds(key)


def test_a_creation_is_repeated_for_who_asks_again() -> None:
    shell = Shell(keeps=True)
    key = shell.uploaded(1).batch.key
    lost_for_long(shell, key, NOW + 960)
    shell.tell(Abandoned(frozenset((1,))))
    begin = shell.now
    shell.tell(Asked((1,)))
    commands = shell.until(Find)
    assert of(shell.tell(NotFound((key,), shell.now)), Create), commands
    assert shell.now - begin <= SELDOM


def test_one_whose_creation_is_not_replied_to_is_cancelled_at_the_next_look() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    lost_for_long(shell, key, NOW + 960)
    shell.tell(Revoked(None))
    begin = shell.now
    shell.until(Find)
    assert failures(shell.tell(NotFound((key,), shell.now))) == {1: "cancelled"}
    assert shell.now - begin <= SELDOM

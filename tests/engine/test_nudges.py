"""Word from outside that a batch has ended: it is asked for at once, and the others rarely as long as word comes."""

import pytest
from engine_kit import LANE, Shell, answer, of, only, refused, remote, status

from carpool.config import Timing
from carpool.engine.commands import Check, Collect, Command, Find, Relay
from carpool.engine.events import Checked, Collected, Created, Failed, Tick, Woken
from carpool.models import NEWEST

NET = 900.0
MOST = 60.0  # seconds between usual checks


def word(shell: Shell, *keys: str) -> list[Command]:
    """Say that batches have ended."""
    return shell.tell(Woken(tuple(map(remote, keys))))


def running(shell: Shell, *rows: int) -> str:
    """Bring rows as far as a batch that was admitted."""
    key = shell.opened(*rows)
    shell.check(key, "in_progress")
    return key


def asked(shell: Shell) -> list[str]:
    """Let what is due now happen, and name the batches that are asked for."""
    return [key for command in of(shell.tell(Tick()), Check) for key in command.keys]


def heard(shell: Shell) -> None:
    """Let word come of a batch that is over then."""
    key = running(shell, 91)
    word(shell, key)
    assert asked(shell) == [key]
    shell.finish(key, answer(91))


def next_pause(shell: Shell, key: str, name: str = "in_progress") -> float:
    """Let a batch be asked for, and give the seconds until it is asked for again."""
    shell.check(key, name)
    return shell.pause


# --- at once


def test_a_batch_is_asked_for_as_soon_as_word_comes_of_it() -> None:
    shell = Shell()
    key = running(shell, 1)
    shell.now += 1_000
    shell.wait()
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
    assert shell.pause > 40
    assert word(shell, key) == []
    assert shell.pause <= 0
    assert asked(shell) == [key]
    assert only(shell.tell(Checked((remote(key),), [status(key, "completed", output="out")])), Collect).key == key


def test_what_is_due_in_a_moment_is_asked_for_in_the_same_call() -> None:
    shell = Shell()
    keys = [shell.opened(row) for row in range(3)]  # of one age: all are due within two seconds
    shell.now += 1.5
    word(shell, keys[0])
    (check,) = of(shell.tell(Tick()), Check)
    assert sorted(check.keys) == sorted(keys)


def test_word_of_one_batch_has_no_page_of_others_read() -> None:
    shell = Shell()
    key, other = running(shell, 1), running(shell, 2)
    shell.now += 1_000
    for _ in range(2):
        shell.check(key, "in_progress")
    shell.tell(Checked((remote(other),), [status(other, "in_progress")]))
    word(shell, key)
    assert of(shell.tell(Tick()), Check) == [Check((key,), (remote(key),))]


def test_word_of_several_batches_has_them_asked_for_together() -> None:
    shell = Shell()
    keys = [shell.opened(1), shell.opened(2)]
    word(shell, *keys)
    (check,) = of(shell.tell(Tick()), Check)
    assert (set(check.keys), check.place) == (set(keys), NEWEST)


def test_word_of_a_batch_that_is_not_here_changes_nothing() -> None:
    shell = Shell()
    key = running(shell, 1)
    before = shell.pause
    assert shell.tell(Woken(("batch_of_others", "batch_elsewhere"))) == []
    assert shell.pause == before
    assert next_pause(shell, key) < 5  # nor later
    shell.finish(key, answer(1))
    assert word(shell, key) == []


def test_word_of_a_batch_that_is_not_here_is_left_for_those_who_share_the_journal() -> None:
    shell = Shell(keeps=True)
    key = running(shell, 1)
    assert shell.tell(Woken((remote(key), "batch_b", "batch_a"))) == [Relay(("batch_b", "batch_a"))]
    assert asked(shell) == [key]


def test_however_often_word_comes_there_is_one_check_at_a_time_and_few_of_them() -> None:
    shell = Shell()
    key = running(shell, 1)
    times: list[float] = []
    under_way = False
    for step in range(600):  # ten a second, for a minute
        shell.now += 0.1
        word(shell, key)
        if under_way and step % 5 == 0:
            shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
            under_way = False
        if asked(shell):
            assert not under_way
            under_way = True
            times.append(shell.now)
    assert len(times) <= 60 / Timing().poll_min + 2


def test_a_check_that_was_under_way_when_word_came_is_made_once_more() -> None:
    shell = Shell()
    key = shell.opened(1)
    assert only(shell.wait(), Check).keys == (key,)
    word(shell, key)
    assert asked(shell) == []
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))  # as it was before
    assert asked(shell) == [key]
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
    assert 1.8 < shell.pause < 2.2


def test_a_batch_that_has_not_ended_for_all_that_is_asked_for_as_if_it_were_new() -> None:
    shell = Shell()
    key = running(shell, 1)
    shell.now += 5_000
    word(shell, key)
    assert asked(shell) == [key]
    shell.tell(Checked((remote(key),), [status(key, "in_progress")]))
    pauses = [shell.pause, *(next_pause(shell, key) for _ in range(100))]
    assert pauses[0] == pytest.approx(2, rel=0.06)
    assert 0.9 * MOST <= pauses[-1] <= MOST


# --- before the creation is known


def test_word_that_comes_before_the_reply_to_the_creation_is_not_lost() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    word(shell, key)
    shell.tell(Created(key, status(key, "validating")))
    assert asked(shell) == [key]


def test_word_of_a_batch_whose_creation_was_lost_is_not_lost_with_it() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    only(shell.tell(Failed((key,), refused("lost"))), Find)
    word(shell, key)
    shell.tell(Created(key, status(key, "validating")))
    assert asked(shell) == [key]


def test_of_word_that_came_early_only_so_much_is_kept() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    word(shell, key)
    shell.tell(Woken(tuple(f"batch_{number}" for number in range(1_000))))
    shell.tell(Created(key, status(key, "validating")))
    assert shell.pause > 1.8


def test_word_that_comes_while_nothing_is_being_created_is_of_others() -> None:
    shell = Shell()
    key = shell.packed(1).batch.key
    word(shell, key)
    other = shell.uploaded(2)
    shell.tell(Created(other.batch.key, status(key, "validating")))
    assert shell.pause > 1.8


# --- the safety net


def test_as_long_as_word_comes_what_runs_is_asked_for_every_quarter_of_an_hour() -> None:
    shell = Shell()
    heard(shell)
    key = shell.opened(1)
    assert next_pause(shell, key, "validating") < 5  # nobody tells of what comes after this
    assert next_pause(shell, key) == pytest.approx(NET, rel=0.06)
    assert next_pause(shell, key, "finalizing") == pytest.approx(NET, rel=0.06)


def test_without_word_nothing_is_asked_for_more_rarely() -> None:
    shell = Shell()
    key = running(shell, 1)
    pauses = [next_pause(shell, key) for _ in range(200)]
    assert max(pauses) < MOST * 1.06


def test_a_batch_that_the_provider_denies_is_asked_for_as_usual() -> None:
    shell = Shell()
    heard(shell)
    key = running(shell, 1)
    shell.wait()
    shell.tell(Checked((remote(key),), []))
    assert shell.pause < MOST * 1.06


def test_who_asks_more_rarely_than_that_goes_on_to() -> None:
    shell = Shell(Timing(poll_min=3_600, poll_max=3_600))
    heard(shell)
    assert next_pause(shell, running(shell, 1)) == pytest.approx(3_600, rel=0.06)


def test_an_end_that_nobody_told_of_brings_the_usual_checks_back() -> None:
    shell = Shell()
    heard(shell)
    missed, other, third = running(shell, 1), running(shell, 2), running(shell, 3)
    assert shell.pause > NET / 2
    word(shell, third)
    assert asked(shell) == [third]
    while missed not in (keys := only(shell.wait(), Check).keys):
        shell.tell(Checked(tuple(map(remote, keys)), [status(key, "in_progress") for key in keys]))
    shell.finish(missed, answer(1))
    rest = [key for key in keys if key != missed]
    shell.tell(Checked(tuple(map(remote, rest)), [status(key, "in_progress") for key in rest]))
    assert shell.pause < MOST * 1.06
    assert max(next_pause(shell, other) for _ in range(5)) < MOST * 1.06
    word(shell, other)  # it comes again
    assert asked(shell) == [other]
    shell.finish(other, answer(2))
    assert next_pause(shell, running(shell, 4)) == pytest.approx(NET, rel=0.06)


def test_an_end_that_was_told_of_leaves_the_net_as_it_is() -> None:
    shell = Shell()
    heard(shell)
    one, other = running(shell, 1), running(shell, 2)
    word(shell, one)
    assert asked(shell) == [one]
    shell.finish(one, answer(1))
    assert shell.pause > NET / 2
    assert asked(shell) == []
    word(shell, other)
    assert asked(shell) == [other]


# --- what is not to be hurried


def test_files_that_are_named_later_are_waited_for_all_the_same() -> None:
    shell = Shell()
    key = running(shell, 1)
    shell.check(key, "completed", answered=1)  # without any file
    before = shell.pause
    word(shell, key)
    assert shell.pause == before > 0


def test_files_that_fell_short_are_not_read_sooner() -> None:
    shell = Shell()
    key = running(shell, 1, 2)
    shell.check(key, "completed", output="out", answered=2)
    word(shell, key)  # while they are read
    assert asked(shell) == []
    shell.tell(Collected(key))
    before = shell.pause
    shell.now += before / 2
    word(shell, key)
    assert shell.pause == before / 2
    assert shell.stats(LANE).submitted == 2

"""The facts alone, told again with their times, bring a fresh engine to the same state."""

from engine_kit import LIMITS, ONCE, POOL, TIMING, Shell, answer, of, only, problem, refused, remote, rows_of, status
from msgspec import structs

from carpool.engine.commands import Check, Command, Create, Record, Upload
from carpool.engine.engine import Engine
from carpool.engine.events import (
    Answered,
    Checked,
    Counted,
    Created,
    Event,
    Failed,
    NotFound,
    Returned,
    Tick,
    Uploaded,
)
from carpool.models import NoRoom


def replayed(shell: Shell) -> Engine:
    engine = Engine(POOL, TIMING, LIMITS, retry=ONCE)
    for fact, at in shell.facts:
        engine.handle(fact, at)
    return engine


def handled(engine: Engine, event: Event, now: float) -> list[Command]:
    commands: list[Command] = []
    for command in engine.handle(event, now):
        commands += handled(engine, command.fact, now) if isinstance(command, Record) else [command]
    return commands


def look_in_vain(shell: Shell, key: str) -> list[Command]:
    """Lose a creation, and look for it until it is to be repeated."""
    commands = shell.tell(Failed((key,), refused("lost")))
    while not of(commands, Create):
        commands = shell.tell(NotFound((key,), shell.now)) or shell.wait()
    return commands


def test_waiting_open_and_ended_batches_are_replayed() -> None:
    shell = Shell()
    key = shell.ended(3, 4)
    shell.opened(1, 2)
    shell.tell(Answered(key, [answer(3)]))
    shell.tell(Failed((key,), refused("lost")))
    shell.accept(5)
    engine = replayed(shell)
    assert engine.lanes() == shell.engine.lanes()
    assert engine.deadline() == shell.engine.deadline()
    assert engine.handle(Tick(), shell.now + 60) == shell.engine.handle(Tick(), shell.now + 60)


def test_a_failed_validation_is_replayed() -> None:
    shell = Shell()
    key = shell.uploaded(1, 2, 3).batch.key
    shell.tell(Created(key, status(key, "failed", problems=(problem("invalid_url", 2),))))
    engine = replayed(shell)
    assert engine.lanes() == shell.engine.lanes()
    assert rows_of(run for fact, _ in shell.facts[-1:] for run in getattr(fact, "runs", ())) == [1, 3]


def test_a_creation_that_was_lost_and_found_is_replayed() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    look_in_vain(shell, key)
    shell.tell(Created(key, status(key, "validating")))
    engine = replayed(shell)
    assert engine.lanes() == shell.engine.lanes()
    assert engine.deadline() == shell.engine.deadline()


def test_a_repeated_creation_that_found_no_room_is_replayed() -> None:
    shell = Shell()
    key = shell.uploaded(1, 2).batch.key
    look_in_vain(shell, key)
    (upload,) = of(shell.count(shell.tell(Failed((key,), refused("full")))), Upload)
    shell.tell(Uploaded(upload.batch.key, "file"))
    engine = replayed(shell)
    assert engine.lanes() == shell.engine.lanes()
    assert engine.deadline() == shell.engine.deadline()
    (create, *_) = of(handled(engine, Tick(), engine.deadline()), Create)
    assert create.batch.runs == upload.batch.runs


def test_a_repeated_creation_that_was_refused_for_now_is_replayed() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    look_in_vain(shell, key)
    shell.tell(Failed((key,), refused("busy")))
    assert of(replayed(shell).handle(Tick(), shell.engine.deadline()), Create)


def send(shell: Shell, commands: list[Command], name: str = "in_progress") -> list[str]:
    """Count, upload and create until nothing is left to be done at once; gives the keys of what was created."""
    keys: list[str] = []
    commands = shell.count(commands, 20)
    while commands:
        match commands.pop(0):
            case Upload(batch=batch):
                commands += shell.count(shell.tell(Uploaded(batch.key, f"file-{batch.key}")), 20)
            case Create(batch=batch):
                keys.append(batch.key)
                commands += shell.count(shell.tell(Created(batch.key, status(batch.key, name))), 20)
    return keys


def test_limits_counts_and_what_was_chosen_anew_are_replayed() -> None:
    shell = Shell(tokens=None)
    shell.limit(1_000)
    keys = send(shell, shell.accept(*range(1, 101), size=100))
    check = only(shell.wait(), Check)
    news = [status(key, "in_progress") for key in keys[:-1]]
    news.append(status(keys[-1], "failed", no_room=NoRoom(900)))
    assert set(check.keys) == set(keys)
    send(shell, shell.tell(Checked(check.remote_ids, news)))
    assert any(isinstance(fact, Returned) for fact, _ in shell.facts)
    assert any(isinstance(fact, Counted) for fact, _ in shell.facts)
    engine = replayed(shell)
    assert engine.lanes() == shell.engine.lanes()
    assert engine.deadline() == shell.engine.deadline()
    assert engine.created == shell.engine.created


def test_a_batch_that_was_let_in_by_the_passing_of_time_is_taken_for_let_in_when_its_creation_is_replayed() -> None:
    shell = Shell(tokens=None)
    shell.packed(1)
    ahead = shell.packed(2)  # in line: one batch validates at a time while no limit is known
    shell.tell(Uploaded(ahead.batch.key, "file"))
    shell.tell(Created(ahead.batch.key, status(ahead.batch.key, "in_progress")))
    assert shell.packed(3).batch.key == "p-b3"


def test_a_deadline_that_came_to_nothing_is_no_fact_and_comes_to_nothing_later_as_well() -> None:
    shell = Shell(tokens=None)
    shell.limit(1_000, "table")
    first = shell.opened(1)
    shell.tell(Checked((remote(first),), [status(first, "completed")]), after=0.1)  # what a batch takes is known
    shell.opened(2)
    refusal = status(shell.opened(3), "failed", no_room=NoRoom(None))
    again = only(shell.count(shell.tell(Checked((refusal.id,), [refusal]))), Upload)
    shell.tell(Uploaded(again.batch.key, "file"))
    assert shell.wait() == []  # more may be tried, but the other batch validates still
    engine = replayed(shell)
    assert engine.deadline() == shell.now
    at = shell.engine.deadline()
    # By then the other batch is to be asked for: by both engines, however late their ticks come.
    assert of(commands := engine.handle(Tick(), at), Check)
    assert commands == shell.engine.handle(Tick(), at)
    assert engine.lanes() == shell.engine.lanes()
    assert engine.deadline() == shell.engine.deadline()


def test_what_was_let_in_by_the_passing_of_time_differs_in_a_replay_by_how_full_the_queue_was_alone() -> None:
    shell = Shell(tokens=None)
    shell.limit(1_000, "table")
    first = shell.opened(1)
    shell.tell(Checked((remote(first),), [status(first, "completed")]), after=0.1)
    other = shell.opened(2)
    refusal = status(shell.opened(3), "failed", no_room=NoRoom(None))
    again = only(shell.count(shell.tell(Checked((refusal.id,), [refusal]))), Upload)
    shell.tell(Checked((remote(other),), [status(other, "in_progress")]))
    shell.tell(Uploaded(again.batch.key, "file"))
    (create,) = shell.wait()  # more is tried, since it is time: no fact says so
    assert isinstance(create, Create)
    shell.limit(500, "table")
    shell.tell(Created(again.batch.key, status(again.batch.key, "validating")), after=1.0)
    (stats,), (told,) = shell.engine.lanes(), replayed(shell).lanes()
    assert stats.utilisation != told.utilisation
    assert structs.replace(stats, utilisation=None) == structs.replace(told, utilisation=None)

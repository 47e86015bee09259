"""The facts alone, told again with their times, bring a fresh engine to the same state."""

from engine_kit import LIMITS, POOL, TIMING, Shell, answer, of, problem, refused, rows_of, status

from carpool.engine.commands import Command, Create, Record, Upload
from carpool.engine.engine import Engine
from carpool.engine.events import Answered, Created, Event, Failed, NotFound, Tick


def replayed(shell: Shell) -> Engine:
    engine = Engine(POOL, TIMING, LIMITS)
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
    shell.tell(Failed((key,), refused("full")))
    engine = replayed(shell)
    assert engine.lanes() == shell.engine.lanes()
    assert engine.deadline() == shell.engine.deadline()
    assert of(handled(engine, Tick(), engine.deadline()), Upload)


def test_a_repeated_creation_that_was_refused_for_now_is_replayed() -> None:
    shell = Shell()
    key = shell.uploaded(1).batch.key
    look_in_vain(shell, key)
    shell.tell(Failed((key,), refused("busy")))
    assert of(replayed(shell).handle(Tick(), shell.engine.deadline()), Create)

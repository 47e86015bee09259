"""What is written down is of the wall's clock, which goes on while the machine sleeps, and may be set."""

from collections.abc import Iterator
from unittest import mock

import pytest

from carpool.clock import Clock

HOUR = 3_600.0


class Machine:
    """Have a clock that nobody sets, and one on the wall."""

    def __init__(self) -> None:
        self.ticks = 12.25
        self.wall = 1_790_000_000.125

    def pass_time(self, seconds: float, *, asleep: bool = False) -> None:
        self.wall += seconds
        self.ticks += 0.0 if asleep else seconds


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    with mock.patch("time.time", side_effect=lambda: machine.wall):
        yield machine


def test_both_agree_while_the_machine_is_awake(machine: Machine) -> None:
    clock = Clock(lambda: machine.ticks)
    machine.pass_time(HOUR)
    assert clock.now() == clock.wall() == machine.wall
    assert clock.written(1.5) == clock.read(1.5) == 1.5


@pytest.mark.parametrize("hours", [1, 50, -3])
def test_what_is_written_is_the_walls_time_and_is_read_as_this_clocks(machine: Machine, hours: float) -> None:
    clock = Clock(lambda: machine.ticks)
    before = clock.now()
    machine.pass_time(hours * HOUR, asleep=True)
    assert clock.now() == before
    assert clock.wall() == pytest.approx(machine.wall)
    assert clock.written(before) == pytest.approx(before + hours * HOUR)
    assert clock.read(machine.wall - 60) == pytest.approx(before - 60)


def test_there_and_back_a_time_is_the_same_to_the_last_bit(machine: Machine) -> None:
    clock = Clock(lambda: machine.ticks)
    machine.pass_time(7.3 * HOUR, asleep=True)
    for step in range(10_000):
        at = 1_789_999_000.0 + step * 0.1234567
        machine.pass_time(1e-6 * (step % 7), asleep=True)  # two clocks are not read at once
        assert clock.written(clock.read(at)) == at


def test_a_clock_that_is_read_a_little_late_changes_nothing(machine: Machine) -> None:
    clock = Clock(lambda: machine.ticks)
    machine.pass_time(0.9, asleep=True)
    assert clock.written(5.0) == 5.0

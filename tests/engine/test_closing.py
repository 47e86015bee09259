"""When a pool takes no more calls, what waits is packed, or left: nothing is packed any more, whatever happens."""

import math

from engine_kit import ONCE, Shell, failed_row, of, rows_of

from carpool.config import Retry
from carpool.engine.commands import Upload
from carpool.engine.events import Closing, Flush

LEFT = Closing(submit=False)
ANEW = Retry()


def waiting(shell: Shell) -> list[int]:
    return rows_of(shell.engine.waiting())


def test_what_waits_is_packed_while_the_pool_closes() -> None:
    shell = Shell(retry=ONCE, keeps=True)
    shell.accept(1, 2)
    assert waiting(shell) == [1, 2]
    assert shell.tell(Closing()) == []
    assert len(of(shell.tell(Flush()), Upload)) == 1
    assert waiting(shell) == []
    assert shell.engine.has_batches


def test_what_is_to_be_left_is_not_packed_and_can_be_named() -> None:
    shell = Shell(retry=ONCE, keeps=True)
    shell.accept(1, 2)
    assert shell.tell(LEFT) == []
    shell.accept(3)
    assert of(shell.tell(Flush()), Upload) == []
    assert waiting(shell) == [1, 2, 3]
    assert not shell.engine.has_batches
    assert shell.engine.deadline() == math.inf


def test_a_batch_under_way_goes_on_and_what_it_leaves_over_waits() -> None:
    shell = Shell(retry=ANEW, keeps=True)
    key = shell.opened(1, 2)
    shell.tell(LEFT)
    shell.finish(key, failed_row(1), failed_row(2))
    assert shell.is_over(key)
    assert waiting(shell) == [1, 2]
    assert not shell.engine.has_batches

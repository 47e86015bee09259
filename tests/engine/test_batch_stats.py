"""What the engine tells of the batches that are not over."""

from engine_kit import LANE, NOW, Shell, answer, of, remote

from carpool.engine.batch import BatchStats
from carpool.engine.commands import Upload
from carpool.engine.events import Flush, Uploaded


def told(shell: Shell) -> list[tuple[str, str, int]]:
    """Give stage, status and rows that are unsettled."""
    return [(batch.stage, batch.status, batch.unsettled) for batch in shell.engine.batches()]


def test_a_batch_is_told_of_from_its_packing_to_its_end() -> None:
    shell = Shell()
    assert shell.engine.batches() == ()
    key = shell.packed(1, 2)
    (stats,) = shell.engine.batches()
    assert stats == BatchStats(key.batch.key, None, LANE, "uploading", "", 2, 2, stats.tokens, NOW, None)
    assert stats.tokens > 0


def test_its_stages_follow_each_other() -> None:
    shell = Shell()
    key = shell.uploaded(1, 2).batch.key
    assert told(shell) == [("creating", "", 2)]
    shell = Shell()
    key = shell.opened(1, 2)
    assert told(shell) == [("running", "validating", 2)]
    assert shell.engine.batches()[0].id == remote(key)
    shell.check(key, "in_progress", answered=1)
    assert told(shell) == [("running", "in_progress", 2)]
    assert shell.engine.batches()[0].done == 1
    shell.check(key, "completed", output="out")
    shell.answered(key, 1)
    assert told(shell) == [("collecting", "completed", 1)]
    shell.read_out(key, answer(1), answer(2))
    assert told(shell) == []


def test_one_that_waits_for_room_is_queued() -> None:
    shell = Shell(tokens=50)
    uploads = of(shell.count(shell.accept(1, 2, 3, 4, 5, 6) + shell.tell(Flush())), Upload)
    for key in (upload.batch.key for upload in uploads):
        shell.tell(Uploaded(key, f"file-{key}"))
    first, *_, last = (stage for stage, _, _ in told(shell))
    assert (first, last) == ("creating", "queued")


def test_the_backlog_is_what_is_not_packed() -> None:
    shell = Shell()
    shell.accept(1, 2, size=10)
    assert shell.engine.backlog == 20
    shell.packed(3)
    assert shell.engine.backlog == 0

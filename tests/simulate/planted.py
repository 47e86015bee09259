"""Bugs that are planted, one at a time, into what a pool is made of: the simulation must find each of them."""

import fcntl
import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from itertools import takewhile
from typing import Any, NamedTuple
from unittest import mock

from msgspec import structs

from carpool.adoption import Adoption
from carpool.answers import Answers
from carpool.callers import Callers
from carpool.collector import Collector
from carpool.durable.heirloom import Heirloom
from carpool.engine import checking, endings
from carpool.engine.batch import Batch
from carpool.engine.checking import Checking
from carpool.engine.claims import Verdict
from carpool.engine.commands import LetGo
from carpool.engine.endings import Endings
from carpool.engine.engine import Engine
from carpool.engine.escalations import Escalations
from carpool.engine.lanes import Lanes
from carpool.engine.ledger import Ledger
from carpool.engine.recovery import Recovery
from carpool.engine.rounds import Rounds
from carpool.engine.stages import Do, Stage
from carpool.journal import Intents as Declared
from carpool.journal.sqlite import claims
from carpool.journal.sqlite.facts import Facts
from carpool.journal.sqlite.intents import Intents
from carpool.journal.sqlite.outcomes import Outcomes
from carpool.journal.sqlite.requests import Requests
from carpool.journal.sqlite.stances import Stances
from carpool.journal.sqlite.store import Store
from carpool.journal.sqlite.submitted import Submissions
from carpool.journal.sqlite.unfinished import Unfinished
from carpool.providers.openai import OpenAI
from carpool.recorder import Recorder
from carpool.resume import Resumption


class Planted(NamedTuple):
    """Name a bug: the function called `what` of a class or module is replaced by what `make` makes of it."""

    name: str
    where: Any
    what: str
    make: Callable[[Any], Any]

    def there(self) -> AbstractContextManager[Any]:
        """Give a context in which the bug is there."""
        return mock.patch.object(self.where, self.what, self.make(vars(self.where)[self.what]))


def _giving(value: Any) -> Callable[[Any], Any]:
    """Make a function that does nothing, and gives a value."""
    return lambda real: lambda *args, **more: value


def _repeating(real: Any) -> Any:
    return lambda stage, kind: Do.AGAIN if (stage, kind) == (Stage.UPLOADED, "lost") else real(stage, kind)


def _finding_nothing(real: Any) -> Any:
    def find(*args: Any) -> Generator[Any, Any, list[Any]]:
        yield from ()
        return []

    return find


def _hasty(real: Any) -> Any:
    return lambda self, event, now: real(self, structs.replace(event, at=math.inf), now)


def _trusting(real: Any) -> Any:
    def finish(self: Any, now: float) -> list[Batch]:
        batches: list[Batch] = real(self, now)
        for batch in batches:
            batch.stage = Stage.UPLOADED if batch.stage is Stage.LOST else batch.stage
        return batches

    return finish


def _eldest(real: Any) -> Any:
    return lambda self, known: real(self, sorted(known, key=lambda one: (one.place is None, one.row)))


def _eager(real: Any) -> Any:
    def submit(self: Any, facts: Any, then: Any) -> None:
        for command in then:
            self._go_on(command)
        real(self, facts, ())

    return submit


def _finishing(self: Any, event: Any, now: float) -> Any:
    return self._endings.finish(self._batches[event.key], now)


def _rotating(real: Any) -> Any:
    return lambda self, numbers, responses, lane=None: real(self, numbers, [*responses[1:], *responses[:1]], lane)


def _halving(real: Any) -> Any:
    return lambda self, settled, order, at: real(self, settled, order[: (len(order) + 1) // 2], at)


def _displacing(real: Any) -> Any:
    def find(self: Any, rows: Any) -> Any:
        found = real(self, rows)
        return dict(zip(found, reversed(found.values()), strict=True))

    return find


def _stopping(real: Any) -> Any:
    """Overlook what follows a row that is no answer."""
    return lambda self, event, now: real(
        self, structs.replace(event, rows=tuple(takewhile(lambda row: row.ok, event.rows))), now
    )


def _first_file(real: Any) -> Any:
    return lambda self, status: real(self, status)[:1]


def _own_alone(real: Any) -> Any:
    return lambda self: [shard for shard in self._held() if shard not in self.told]


def _keeping(real: Any) -> Any:
    def forget(self: Any, key: str, now: float) -> None:
        self.line.pop(key, None)
        self.others.asking.discard(key)

    return forget


def _forgetting(self: Any, batch: Batch, failure: Any, now: float) -> Any:
    told = LetGo(batch.remote_id, batch.open, failure)
    self._batches.forget(batch, now)
    return [told, *self._batches.released(batch), *self._batches.make_room(batch.lane.queue, now)]


async def _taken_over_only(self: Any) -> None:
    async with self._turn:
        await self.take_over()


PLANTED = (
    # What is paid.
    Planted("a creation without a reply is repeated", checking, "on_failure", _repeating),
    Planted("what is looked for is not found", OpenAI, "find", _finding_nothing),
    Planted("listings are taken not to lag", Engine, "_not_found", _hasty),
    Planted("what was not recorded did not happen", Recovery, "finish", _trusting),
    Planted("a call does not wait for what is under way elsewhere", Resumption, "_must_wait", _giving(False)),
    Planted("nothing is under way elsewhere", Stances, "under_way", _giving(set())),
    Planted("nobody else is about to begin", Intents, "declare", _giving(Declared(frozenset(), frozenset()))),
    Planted("of two rows of a key the elder is taken", Resumption, "_choose", _eldest),
    Planted("requests are not known again", Requests, "find", _giving([])),
    Planted("files are taken to be whole", Checking, "collected", lambda real: _finishing),
    Planted("facts are recorded after what depends on them", Recorder, "submit", _eager),
    Planted("the living are taken for dead", fcntl, "flock", _giving(None)),
    # What is answered.
    Planted("answers go to the wrong callers", Callers, "give_all", _rotating),
    Planted("half of the answers are not recorded", Outcomes, "add", _halving),
    Planted("no answers are recorded", Answers, "take", _giving([])),
    Planted("answers are looked for where others lie", Outcomes, "find", _displacing),
    Planted("what follows a refused row is overlooked", Endings, "answered", _stopping),
    Planted("the error file is not read", OpenAI, "collect", _first_file),
    Planted("what may fare better is refused for good", endings, "is_passing", _giving(False)),
    Planted("calls that took a row are not told of it", Resumption, "numbers", lambda real: lambda self, rows: rows),
    Planted("rows that come back are dropped", Lanes, "put_back", _giving(None)),
    # What is left behind.
    Planted("nothing of the dead is taken over", Store, "_adopt", _own_alone),
    Planted("nothing that was taken over goes on", Adoption, "look", lambda real: _taken_over_only),
    Planted("batches of the dead are not told", Unfinished, "_batch", _giving(())),
    Planted("rows of the dead are not told", Unfinished, "_accepted", _giving(())),
    Planted("batches are never over in the journal", Facts, "_done", _giving(None)),
    # What is submitted, or sent live, or cannot be kept.
    Planted("what was submitted to the dead is forgotten", Heirloom, "remember", _giving(None)),
    Planted("what is out of reach is forgotten", Endings, "let_go", lambda real: _forgetting),
    Planted("acks are not recorded", Submissions, "ack", _giving(None)),
    Planted("what went live before goes live again", Escalations, "remember", _giving(None)),
    Planted("what failed live rides in its batch", Batch, "holds_ended", lambda real: False),
    Planted("a disk that is full is overlooked", Recorder, "lose", _giving(None)),
    # What takes its time.
    Planted("a listing is never doubted", Rounds, "_doubt", lambda real: lambda self, due, batches, now: due),
    # What has room.
    Planted("limits stay as they were", Collector, "set_limits", _giving(None)),
    Planted("room is never given back", Ledger, "forget", _keeping),
    Planted("everything fits", Ledger, "fits", _giving(True)),
    Planted("others leave room for everything", claims, "decide", _giving(Verdict(True, 0))),
)

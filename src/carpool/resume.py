"""Same folder and same request, same answer: a call takes a request of an earlier time where there is one.

It takes the oldest equal one that is answered or under way, that nobody awaits and that no caller of this process was
given. So equal prompts of one run stay separate samples, and the same program, run again, finds each of them.
"""

import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from itertools import groupby, islice
from typing import Literal, NamedTuple, TypeAlias

import anyio

from .answers import Answers
from .callers import Callers
from .declaring import Declarations
from .engine.events import Asked, Delivered, Event, Wanted
from .errors import JournalError
from .journal import DIGEST, Journal, Known, Place
from .naming import shard_of
from .numbers import NumberMap, NumberSet
from .outcomes import response_of
from .providers import Provider
from .spool import CHUNK, Spool

_FREE = 5_000  # equal requests of which the best is looked for: more would take the event loop too long
CREATED = 3  # how far a row has come that is paid for in any case
_NUMBER = b"a number"  # stands behind a key that is one
_SUBMITTED = b"a submit"  # and behind the row of a submission, which no call is ever given

Reuse: TypeAlias = Literal["always", "undelivered", "never"]


class Deferred(NamedTuple):
    """Hold a call that was accepted, until it is known whether it is one of an earlier time."""

    number: int
    endpoint: str
    model: str
    body: bytes
    inputs: int
    long: bool
    priority: int
    digest: bytes
    pack_by: float
    keyed: bool = False  # by a text of the caller's own


def digest_of(endpoint: str, body: bytes, key: str | int | None) -> bytes:
    """Give what a request is known again by: its key, or else its endpoint and body.

    Numbers are kept as they are: those that grow with the requests are many times cheaper to index than digests.
    """
    if isinstance(key, int):
        return key.to_bytes(8, sys.byteorder) + _NUMBER
    if key is not None:
        return blake2b(key.encode(errors="surrogatepass"), digest_size=DIGEST, person=b"key").digest()
    digest = _digest_of(endpoint).copy()
    digest.update(body)
    return digest.digest()


def digest_of_submission(row: int) -> bytes:
    """Give what the request of a submission is kept under: nobody asks for it."""
    return row.to_bytes(8, sys.byteorder) + _SUBMITTED


@cache
def _digest_of(endpoint: str) -> blake2b:
    return blake2b(endpoint.encode() + b"\0", digest_size=DIGEST, person=b"body")


class Resumption:
    """Look calls up in the journal; `answers` are those that it does not know yet; `accept` takes what is new.

    `running` says which rows are in batches that were created: they are paid for in any case. `adopt` takes over what
    processes left that have died, and `wait` keeps calls to be looked up again: their rows are under way elsewhere.
    `caught_up` waits until what there is to be recorded is.

    `reuse` "undelivered" gives again only what no caller ever received, "never" nothing. `looks` says whether there may
    be anything to be found.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        provider: Provider,
        answers: Answers,
        callers: Callers,
        accept: Callable[[Deferred], None],
        feed: Callable[[Event], None],
        far: Callable[[Collection[int]], Mapping[int, int]],
        adopt: Callable[[], Awaitable[None]],
        wait: Callable[[Deferred], None],
        caught_up: Callable[[], Awaitable[None]],
        reuse: Reuse,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._provider = provider
        self._answers = answers
        self._callers = callers
        self._accept = accept
        self._feed = feed
        self._far = far
        self._adopt = adopt
        self._wait = wait
        self._caught_up = caught_up
        self._reuse = reuse
        self.looks: bool = False
        self._shard = shard_of(journal.numbered)
        self._taken = NumberSet()  # rows of earlier processes that callers of this one await, or were given
        self._left: set[int] = set()  # rows whose callers went, or never looked
        self._going = False  # callers went since a look-up waited for what they had asked for
        self._doubted: set[int] = set()  # rows that were nowhere when they were looked for
        self._lost: set[int] = set()  # and again
        self._row_of = NumberMap()  # by the number of the call that awaits it
        self._number_of = NumberMap()
        self._missing: Collection[int] = ()
        self._looking = anyio.Lock()  # in their order: who comes first has the money
        self._declarations = Declarations(journal)

    # --- who awaits which row

    def begin(self) -> None:
        """Look calls up from now on: there is something to be found."""
        self.looks = self._reuse != "never"

    def seeks(self, key: str | int | None) -> bool:
        """Tell whether a call is to be looked up: one with a text for a key may just have been made elsewhere."""
        return self.looks or (isinstance(key, str) and self._reuse != "never")

    def numbers(self, rows: Sequence[int]) -> Sequence[int]:
        """Give the calls that await rows that have come to an end."""
        if not self._number_of:
            return rows
        numbers = [self._number_of.pop(row, row) for row in rows]
        for number in numbers:
            self._row_of.pop(number, 0)
        return numbers

    def leave(self, numbers: Iterable[int]) -> list[int]:
        """Note that callers went, and give the rows that they awaited; an equal call may take these."""
        rows = []
        for number in numbers:
            row = self._row_of.pop(number, number)
            self._number_of.pop(row, 0)
            self._put_back(row)
            rows.append(row)
        if rows:
            self._going = True
            self.begin()
        return rows

    def miss(self, rows: Iterable[int]) -> None:
        """Note that answers came just when their callers went: equal calls may take them."""
        for row in rows:
            self._put_back(row)
        self.begin()

    def take_back(self, rows: Iterable[int]) -> None:
        """Note that answers did not reach their callers: equal calls of this process may take them."""
        back = tuple(rows)
        for row in back:
            self._put_back(row)
        self._note(back, back, received=False)
        if back:
            self.begin()

    def forget(self, rows: Iterable[int]) -> None:
        """Note that rows came to an end without an answer: no call may take them any more."""
        if self._left:
            self._left.difference_update(rows)

    def rows(self, numbers: Iterable[int]) -> list[int]:
        """Give the rows that calls await."""
        return [self._row_of.get(number, number) for number in numbers]

    def awaits_earlier(self, number: int) -> bool:
        """Tell whether a call awaits a row of an earlier time."""
        return number in self._row_of

    def number(self, row: int) -> int:
        """Give the call that awaits a row."""
        return self._number_of.get(row, row)

    def attach(self, number: int, row: int) -> None:
        """Let a call await a row of another number."""
        self._callers.rename(row, number)  # what it may cost is reserved for the call from now on
        self._row_of[number] = row
        self._number_of[row] = number

    def _detach(self, number: int, row: int) -> None:
        self._row_of.pop(number, 0)
        self._number_of.pop(row, 0)

    def _put_back(self, row: int) -> None:
        self._taken.discard(row)
        self._left.add(row)

    # --- choosing

    def _choose(self, known: Iterable[Known]) -> Known | None:
        for request in known:
            if self._is_free(request):
                self._left.discard(request.row)
                self._taken.add(request.row)
                return request
        return None

    def _is_free(self, request: Known) -> bool:
        row, place = request
        if row in self._taken or row in self._lost or (shard_of(row) == self._shard and row not in self._left):
            return False
        if place is None:
            return self._journal.holds(row)  # what is under way elsewhere is awaited there
        return self._reuse == "always" or not place.delivered or row in self._left

    def anew(self, rows: Collection[int]) -> None:
        """Hear from the engine that it has no such rows."""
        self._missing = rows

    # --- looking up

    async def look_up(self, calls: Sequence[Deferred]) -> None:
        """Settle calls with answers of an earlier time, let them await what is under way, or accept them anew."""
        async with self._looking:
            try:
                if self._going:  # what they asked for may be on its way to the disk
                    self._going = False
                    await self._caught_up()
                while calls:
                    calls = await self._resume(*await self._declared(calls))
            except JournalError as exc:
                self._refuse(calls, exc)
            await self._declarations.withdraw()

    def _refuse(self, calls: Iterable[Deferred], error: JournalError) -> None:
        for call in calls:
            self._callers.refuse(call.number, JournalError(*error.args))

    async def _declared(
        self, calls: Sequence[Deferred]
    ) -> tuple[Sequence[Deferred], dict[bytes, list[Known]], Collection[int]]:
        """Find requests, once no other process begins with those calls with keys that seem to be new.

        One that another process is beginning with just now waits: it is found soon.
        """
        known, elsewhere = await self._find(calls)
        new = {call.digest for call in calls if call.keyed and call.digest not in self._declarations}
        new = {digest for digest in new if not self._is_there(known.get(digest, ()), elsewhere)}
        if not new:
            return calls, known, elsewhere
        others = await self._declarations.declare(new)
        if others:
            await self._adopt()  # it may have died
        for call in calls:
            if call.digest in others:
                self._wait(call)
        calls = [call for call in calls if call.digest not in others]
        return calls, *await self._find(calls)

    def _is_there(self, requests: Iterable[Known], elsewhere: Collection[int]) -> bool:
        """Tell whether a request of these is to be taken, or waited for."""
        return any(self._is_free(request) or request.row in elsewhere for request in requests)

    async def _find(self, calls: Sequence[Deferred]) -> tuple[dict[bytes, list[Known]], Collection[int]]:
        """Find requests, and say which of them are under way in other living processes; of the dead, take all over."""
        digests = {call.digest for call in calls}
        known = await self._journal.find(digests)
        theirs = self._of_others(known)
        if not theirs:
            return known, ()
        await self._adopt()
        under_way = await self._journal.under_way([row for row in theirs if not self._journal.holds(row)])
        return await self._journal.find(digests), under_way  # in this order: they may be answered meanwhile

    def _of_others(self, known: dict[bytes, list[Known]]) -> list[int]:
        rows = [row for requests in known.values() for row, place in requests if place is None]
        return [row for row in rows if not self._journal.holds(row)]

    async def _resume(
        self, calls: Sequence[Deferred], known: dict[bytes, list[Known]], elsewhere: Collection[int]
    ) -> list[Deferred]:
        """Gives the calls that are to be looked up again; `elsewhere` are the rows that others have under way."""
        answered: list[tuple[int, int, Place]] = []
        asked: dict[int, Deferred] = {}
        free = {digest: [*islice(filter(self._is_free, requests), _FREE)] for digest, requests in known.items()}
        unanswered = [row for requests in free.values() for row, place in requests if place is None]
        in_hand = self._answers.find(unanswered)  # what came, and was not recorded yet when it was looked for
        far = self._far([row for row in unanswered if row not in in_hand])
        running = {row for row, step in far.items() if step == CREATED}
        # What one call cannot have, none can.
        rest = {digest: iter(_best_first(requests, in_hand, far)) for digest, requests in free.items()}
        waiting = [call for call in calls if call.number in self._callers]
        found = [self._choose(rest.get(call.digest, ())) for call in waiting]
        undeclared: list[Deferred] = []
        for call, chosen in zip(waiting, found, strict=True):  # in their order: who comes first has the money
            if self._must_wait(call, chosen, known, elsewhere, running):
                self._wait(call)
            elif chosen is None and call.keyed and call.digest not in self._declarations:
                undeclared.append(call)  # there were requests, and fewer than calls
            elif chosen is None:
                self._begin(call)
            elif chosen.place is not None:
                answered.append((call.number, *chosen))  # type: ignore[arg-type]
            elif chosen.row in running or self._can_afford(call, chosen.row):
                asked[chosen.row] = call
        missing = self._ask(asked)
        again = undeclared + [call for row, call in asked.items() if row in missing]
        for row in missing:
            self._doubt(row)
        await self._give(answered, in_hand.keys())
        return again

    def _begin(self, call: Deferred) -> None:
        """Take a call that is none of an earlier time; what it is known again by is recorded before anything else."""
        self._accept(call)
        if call.number in self._callers:
            self._declarations.begin(call.digest)

    def _must_wait(
        self,
        call: Deferred,
        chosen: Known | None,
        known: dict[bytes, list[Known]],
        elsewhere: Collection[int],
        running: Collection[int],
    ) -> bool:
        """Tell whether a call with a key waits for what is under way elsewhere: what is here is yet to be paid."""
        if not (elsewhere and call.keyed) or (chosen is not None and (chosen.place or chosen.row in running)):
            return False
        waits = any(row in elsewhere for row, place in known.get(call.digest, ()) if place is None)
        if waits and chosen is not None:
            self._put_back(chosen.row)
        return waits

    def _can_afford(self, call: Deferred, row: int) -> bool:
        """Refuse a call for which there is no money, and whose row is yet to be paid."""
        if self._callers.is_paid_for(row):
            return True
        error = self._callers.cannot_afford(call.number, call.model, len(call.body))
        if error is not None:
            self._put_back(row)
            self._callers.refuse(call.number, error)
        return error is None

    def _ask(self, asked: dict[int, Deferred]) -> set[int]:
        """Let calls await rows that are under way; gives those that are not."""
        for row, call in asked.items():
            self.attach(call.number, row)
        self._missing = ()
        if asked:
            self._feed(Asked(tuple(asked), min(call.pack_by for call in asked.values())))
        for row in self._missing:
            self._detach(asked[row].number, row)
        self._want(asked)
        if self._callers.seen is not None:
            for row in asked.keys() - set(self._missing):
                self._callers.seen.resumed(asked[row].number, row, None, answered=False)
        return set(self._missing)

    def _want(self, asked: Mapping[int, Deferred]) -> None:
        """Let others wait for what comes of rows that are asked for by a key, as for rows of this process's own."""
        rows = [row for row, call in asked.items() if call.keyed and row in self._number_of]
        if theirs := tuple(row for row in rows if shard_of(row) != self._shard):
            self._feed(Wanted(theirs))

    def _doubt(self, row: int) -> None:
        """Look for a row once more: it may have been answered, and recorded, since it was looked for."""
        self._put_back(row)
        (self._lost if row in self._doubted else self._doubted).add(row)

    # --- giving

    async def _give(self, answered: list[tuple[int, int, Place]], in_hand: Collection[int]) -> None:
        """Settle calls with answers that lie in files; some are in hand, and not recorded yet."""
        answered.sort(key=lambda entry: (entry[2].file, entry[2].offset))
        for file, group in groupby(answered, key=lambda entry: entry[2].file):
            for entries in _chunks(list(group)):
                spans = [(place.offset, place.size) for _, _, place in entries]
                try:
                    lines = await self._spool.read_lines(file, spans)
                except OSError as exc:
                    for number, row, _ in entries:
                        self._put_back(row)
                        self._callers.refuse(number, _unreadable(file, exc))
                    continue
                given = [self._give_one(*entry, line) for entry, line in zip(entries, lines, strict=True)]
                rows = [row for row in given if row is not None]
                self._note(rows, rows if in_hand else (), received=True)

    def _note(self, rows: Iterable[int], unrecorded: Collection[int], *, received: bool) -> None:
        """Note whether callers received answers, of which some may be unrecorded."""
        told = Delivered(tuple(rows), received)
        if told.rows:
            self._answers.deliver(unrecorded, received=received)
            self._feed(told)

    def _give_one(self, number: int, row: int, place: Place, line: bytes) -> int | None:
        """Settle a call; gives the row where its caller was there to receive it."""
        try:
            answer = self._provider.parse_row(line)
            if answer.custom_id != f"{self._journal.pool}-{row}":
                raise ValueError(f"request {row} is not where it should be")
        except ValueError as exc:
            self._put_back(row)
            self._callers.refuse(number, _unreadable(place.file, exc))
            return None
        if self._callers.seen is not None:
            self._callers.seen.resumed(number, row, place.batch_id, answered=True)
        if self._callers.give(number, response_of(answer, place.batch_id)) is True:
            return row
        self._put_back(row)
        return None


def _best_first(requests: list[Known], in_hand: Mapping[int, Place], far: Mapping[int, int]) -> list[Known]:
    """Order requests, of which answers may be in hand: those that are yet to be paid come last."""
    if len(requests) == 1:
        return [requests[0]._replace(place=requests[0].place or in_hand.get(requests[0].row))]
    now_known = [Known(row, place or in_hand.get(row)) for row, place in requests]
    return sorted(now_known, key=lambda request: (request.place is None, -far.get(request.row, 0)))


def _unreadable(file: str, exc: Exception) -> JournalError:
    return JournalError(
        f"The answers in {file} cannot be read: {exc}. Put the file back, or pay again: in another folder, or with "
        'reuse="never".'
    )


def _chunks(entries: list[tuple[int, int, Place]]) -> Iterable[list[tuple[int, int, Place]]]:
    """Cut entries so that each part's answers make a chunk, or are one."""
    chunk: list[tuple[int, int, Place]] = []
    size = 0
    for entry in entries:
        chunk.append(entry)
        size += entry[2].size
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk

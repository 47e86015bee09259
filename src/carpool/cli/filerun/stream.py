"""Rows on their way to the pool, and their answers on theirs to OUTPUT."""

from collections.abc import AsyncGenerator, AsyncIterator

import anyio

from ...errors import CarpoolError, LimitExceeded, Unbatchable
from ...models import Request
from ...outcomes import Outcome
from .endings import Stopped, why
from .flight import Flight
from .formats import BAD, NO_TEXT, answer_row, bad_row, code_of, concerns_some, error_row, is_of_all, text_line
from .output import Output
from .rows import Bad, Row, Rows
from .tally import Tally

_HELD = 2**24  # bytes of rows that are not sent, and wait for answers before them, in the order of INPUT
_EACH = 80  # bytes that a list and an object take


class Stream:
    """Give rows to the pool, and write what comes of them: `ordered` as they stand in INPUT, and `texts` alone."""

    def __init__(self, output: Output, tally: Tally, *, ordered: bool, texts: bool) -> None:
        self.broke: CarpoolError | None = None  # what is under way is still awaited
        self._output = output
        self._tally = tally
        self._ordered = ordered
        self._texts = texts
        self._flight = Flight()
        self._given = self._settled = 0
        self._waiting: dict[int, list[bytes]] = {}  # rows that stand before the answer to a request
        self._held = 0
        self._less = anyio.Event()

    # --- in

    async def requests(self, parts: AsyncIterator[Rows]) -> AsyncGenerator[Request, None]:
        """Give the requests among rows, and write what is wrong with others."""
        async for rows in parts:
            self._flight.add([row for row in rows if type(row) is Row])
            for row in rows:
                if self.broke is not None:
                    return
                if type(row) is Row:
                    self._given += 1
                    yield Request(row.url, row.body, key=row.key)
                elif type(row) is Bad:
                    self._refuse(row)
                    await self._until_room()
        self._tally.total = self._given

    def _refuse(self, row: Bad) -> None:
        message = self._tally.tell_bad(row.line, row.why)
        text = NO_TEXT if self._texts else bad_row(row.key, row.name, message, BAD, self._output.mark)
        if not self._ordered or self._settled == self._given:
            self._add_bad(text)
        else:
            self._waiting.setdefault(self._given, []).append(text)
            self._held += len(text) + _EACH

    def _add_bad(self, text: bytes) -> None:
        self._tally.codes[BAD] += 1
        self._output.add(text, failed=True)

    async def _until_room(self) -> None:
        """Write what is due, and read no further while too much waits for answers."""
        if self._output.is_full:
            await self._output.flush()
        while self._held > _HELD:
            self._less = anyio.Event()
            await self._less.wait()

    # --- out

    def settle(self, outcome: Outcome) -> None:
        """Take what came of a request to OUTPUT; raises `Stopped` for what others fail by too."""
        index, response = outcome.index, outcome.response
        if response is not None:
            key, name = self._flight.take(index)
            row = text_line(response) if self._texts else answer_row(key, name, response, self._output.mark)
            self._output.add(row)
            self._tally.answered += 1
        else:
            self._fail(index, outcome.error or CarpoolError("There is no answer."))
        self._settled += 1
        if index + 1 in self._waiting:
            self._let_go(index + 1)

    def _fail(self, index: int, error: CarpoolError) -> None:
        line = self._flight.line(index)
        key, name = self._flight.take(index)
        if is_of_all(error):
            if self._ordered or not concerns_some(error):
                raise Stopped(why(error))
            self.broke = self.broke or error
            return
        code = code_of(error)
        self._tally.codes[code] += 1
        if isinstance(error, Unbatchable | LimitExceeded):
            row = bad_row(key, name, self._tally.tell_bad(line, str(error)), code, self._output.mark)
        else:
            row = error_row(key, name, error, self._output.mark)
        self._output.add(NO_TEXT if self._texts else row, failed=True)

    def finish(self) -> None:
        """Write what is left; raises `Stopped` where there was no money for all."""
        self._let_go(self._given)
        if self.broke is not None:
            raise Stopped(why(self.broke))

    def _let_go(self, index: int) -> None:
        for row in self._waiting.pop(index, ()):
            self._held -= len(row) + _EACH
            self._add_bad(row)
        self._less.set()

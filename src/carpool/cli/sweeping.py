"""Files at the provider: listed, judged, and deleted."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import anyio

from ..models import Flow, Reply
from ..providers import overview
from ..providers.openai import OpenAI
from .leftovers import Account, Known, Leftover, Verdict, leftovers, verdicts
from .remote import LIFE, THOROUGH, Server, sentence

_HOUR = 3_600.0
_AT_ONCE = 8  # deletions


class Wish(NamedTuple):
    """Say which files are meant: made more than `age` seconds ago, by pools whose keys begin so, or by `every` program.

    With `force` also what somebody may still need.
    """

    known: Known
    age: float
    pool: str | None
    force: bool
    every: bool


class Fate(NamedTuple):
    """Say what becomes of a file: it stays for a reason, or is to go, or is gone, unless there is a problem."""

    left: Leftover
    reason: str
    problem: str = ""


class Outcome(NamedTuple):
    """Tell what became of each file that was meant, and of which others there are.

    `now` is the server's time; `complete` is false where there may be more files than were read.
    """

    now: float
    fates: list[Fate]
    foreign: list[Leftover]
    deleted: bool
    complete: bool


async def sweep(server: Server, wish: Wish, *, yes: bool) -> Outcome:
    """Look at all files, and delete those that may go where the answer is `yes`."""
    account, complete = await server.ask(_survey())
    now = time.time() + (server.skew or 0.0)
    fates, foreign = _decide(account, wish, now)
    if yes and any(not fate.reason for fate in fates):
        # While that was read somebody may have begun to use an old file.
        newest = await server.ask(OpenAI().recent(now - _HOUR, THOROUGH))
        batches = {batch.status.id: batch for batch in (*account.batches, *newest.batches)}
        account = account._replace(batches=tuple(batches.values()), complete=account.complete and newest.complete)
        fates, foreign = _decide(account, wish, now)
        fates = await _delete(server, fates)
    return Outcome(now, fates, foreign, yes, complete)


def _survey() -> Flow[tuple[Account, bool]]:
    """List the files, then the batches: so that each file that a listed batch uses is known."""
    inputs = yield from overview.files("batch", THOROUGH)
    outputs = yield from overview.files("batch_output", THOROUGH)
    made = [file.created_at or 0.0 for file in (*inputs.files, *outputs.files)]
    if not made:
        return Account((), (), (), True), True
    recent = yield from OpenAI().recent(min(made) - LIFE, THOROUGH)
    account = Account(inputs.files, outputs.files, recent.batches, recent.complete)
    return account, inputs.complete and outputs.complete and recent.complete


def _decide(account: Account, wish: Wish, now: float) -> tuple[list[Fate], list[Leftover]]:
    found = leftovers(account)
    judged = list(zip(found, verdicts(found, account, wish.known, now), strict=True))
    fates = [Fate(left, _reason(left, verdict, wish, now)) for left, verdict in judged if _is_meant(left, wish)]
    return fates, [left for left in found if left.key is None and not wish.every]


def _is_meant(left: Leftover, wish: Wish) -> bool:
    return wish.every if left.key is None else left.key.startswith(wish.pool or "")


def _reason(left: Leftover, verdict: Verdict, wish: Wish, now: float) -> str:
    made = left.file.created_at
    if wish.age and (made is None or made > now - wish.age):
        return verdict.reason or "younger than --older-than"
    return "" if wish.force and verdict.forcible else verdict.reason


async def _delete(server: Server, fates: Sequence[Fate]) -> list[Fate]:
    """Delete what is to go, several at once, and say what came of each."""
    problems: dict[str, str] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def delete(file_id: str) -> None:
        async with limiter:
            reply = await server.send(OpenAI().delete(file_id))
        problems[file_id] = _problem(server.name, reply)

    async with anyio.create_task_group() as group:
        for fate in fates:
            if not fate.reason:
                group.start_soon(delete, fate.left.file.id)
    return [fate._replace(problem=problems.get(fate.left.file.id, "")) for fate in fates]


def _problem(server: str, reply: Reply) -> str:
    """Say why a file is not deleted; "" where it is, or was before."""
    if not 200 <= reply.status < 300:
        failure = OpenAI().refused(reply)
        return "" if failure.kind == "gone" else sentence(server, failure)
    return "" if overview.is_deleted(reply) else f"{server} says that it was not deleted"

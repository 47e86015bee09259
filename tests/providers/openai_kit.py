"""What the tests of OpenAI's flows share: the test plays the server, without an event loop."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from carpool.models import BatchStatus, Call, Flow, Lane, PackedBatch, Reply

T = TypeVar("T")

LANE = Lane("/v1/chat/completions", "gpt-5-mini")
BATCH = PackedBatch("pool-b7", LANE, (), 123)


def ok(content: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(content).encode())


def page(*entries: object, more: bool = False) -> Reply:
    return ok({"object": "list", "data": entries, "has_more": more})


def remote(id_: str, key: str | None = None, status: str = "in_progress", **more: Any) -> dict[str, Any]:
    return {"id": id_, "object": "batch", "status": status, "metadata": key and {"carpool": key}, **more}


def ids(statuses: Sequence[BatchStatus]) -> list[str]:
    return [status.id for status in statuses]


def play(flow: Flow[T], *replies: Reply) -> tuple[list[Call], T]:
    """Answer a flow's calls in turn; every reply must be used."""
    calls = [next(flow)]
    calls += [flow.send(reply) for reply in replies[:-1]]
    with pytest.raises(StopIteration) as stop:
        flow.send(replies[-1])
    result: T = stop.value.value
    return calls, result


def serve(flow: Flow[T], answer: Callable[[Call], Reply], most: int = 1_000) -> tuple[list[Call], T]:
    """Let a server answer a flow's calls, of which there may be so many."""
    calls = [next(flow)]
    while True:
        assert len(calls) <= most, "the flow goes on for ever"
        try:
            calls.append(flow.send(answer(calls[-1])))
        except StopIteration as stop:
            result: T = stop.value
            return calls, result

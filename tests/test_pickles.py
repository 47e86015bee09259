"""Exceptions and answers may cross processes: they survive pickling and copying with all they carry."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from carpool import errors
from carpool.errors import CarpoolError, OutputInvalid, RequestFailed, Unbatchable
from carpool.models import Attempt, Request, Response

ANSWER = Response("p-1", "batch_1", "req_1", 200, b'{"choices":[]}')
WAYS = [copy.copy, copy.deepcopy, *(lambda it, n=n: pickle.loads(pickle.dumps(it, n)) for n in range(2, 6))]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CarpoolError)]


def made(kind: type[CarpoolError]) -> CarpoolError:
    if issubclass(kind, RequestFailed):
        return kind(
            "It failed.",
            status_code=500,
            code="broke",
            custom_id="p-1",
            batch_id="batch_1",
            request_id="req_1",
            body=b"{}",
            attempts=[Attempt("batch_0", None, None, "no reply"), Attempt("batch_1", 500, "broke", "It failed.")],
        )
    if issubclass(kind, OutputInvalid):
        return kind("It was cut off.", ANSWER, "truncated")
    if issubclass(kind, Unbatchable):
        return kind("Batches cannot stream.", "stream")
    return kind("It is so.")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_exceptions_survive(kind: type[CarpoolError], way: Callable[[Any], Any]) -> None:
    error = made(kind)
    error.add_note("seen by a test")
    again = way(error)
    assert type(again) is kind
    assert again is not error
    assert vars(again) == vars(error)
    assert (str(again), again.args) == (str(error), error.args)


@pytest.mark.parametrize("way", WAYS)
def test_answers_and_requests_survive(way: Callable[[Any], Any]) -> None:
    request = Request("/v1/responses", {"model": "m"}, key="k", timeout=3.0, priority=1, tags=("a",), output=Attempt)
    assert way(ANSWER) == ANSWER
    assert way(request) == request

"""What requests will cost: counted before any is sent, in the memory of one."""

import json
import tracemalloc
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.engine.packing import first_fit
from carpool.estimate import _FRAME, Estimate, estimate
from carpool.models import Encoded, FileLimits, Run
from carpool.prices import Prices
from carpool.providers.openai import OpenAI
from carpool.tokens import NoVocabulary

M = 1_000_000
CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
)
LIMITS = OpenAI.limits


def thousand(endpoint: str, model: str, body: bytes) -> int:
    return 1_000


def call(body: Any = None, *, model: str = "gpt-4o", endpoint: str = CHAT, inputs: int = 0) -> Encoded:
    return Encoded(endpoint, model, json.dumps({} if body is None else body).encode(), inputs)


def reckon(*calls: Encoded, own: Any = None, limits: FileLimits = LIMITS) -> Estimate:
    return estimate(calls, thousand, Prices(own), limits)


# --- amounts ---------------------------------------------------------------------------------------------------------


def test_no_requests_cost_nothing() -> None:
    assert reckon() == Estimate(0, 0, 0, 0.0, 0.0, 0.0)


def test_prompts_cost_the_batch_price_and_twice_that_live() -> None:
    found = reckon(call(), call(), call(model="gpt-6-astra"))
    assert (found.requests, found.tokens, found.batches) == (3, 3_000, 2)
    assert found.cost == pytest.approx((2_000 * 1.25 + 1_000 * 5) / M)
    assert found.live == pytest.approx((2_000 * 2.5 + 1_000 * 10) / M)
    assert found.most is None


def test_the_tokens_are_those_of_the_counter_it_was_given() -> None:
    seen = []

    def count(endpoint: str, model: str, body: bytes) -> int:
        seen.append((endpoint, model, body))
        return len(seen)

    calls = [call({"a": 1}), call({"b": 2}, model="x", endpoint=RESPONSES)]
    assert estimate(calls, count, Prices(), LIMITS).tokens == 3
    assert seen == [(each.endpoint, each.model, each.body) for each in calls]


def test_without_a_vocabulary_a_token_is_four_bytes() -> None:
    def fails(endpoint: str, model: str, body: bytes) -> int:
        raise NoVocabulary("no network")

    calls = [call("x" * 398), call("")]  # 400 bytes with the quotation marks, and 2
    assert estimate(calls, fails, Prices(), LIMITS).tokens == 101


def test_a_counter_that_is_broken_is_told_of() -> None:
    def fails(endpoint: str, model: str, body: bytes) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        estimate([call()], fails, Prices(), LIMITS)


def test_a_model_without_a_price_leaves_the_cost_open() -> None:
    found = reckon(call({"max_tokens": 1}), call({"max_tokens": 1}, model="llama"))
    assert found == Estimate(2, 2_000, 2, None, None, None)
    own = {"llama": {"input": 1, "output": 3, "batch": 1}}
    priced = reckon(call({"max_tokens": 1}), call({"max_tokens": 1}, model="llama"), own=own)
    assert priced.cost == pytest.approx((1_000 * 1.25 + 1_000 * 1) / M)
    assert priced.most == pytest.approx((1_000 * 1.25 + 5 + 1_000 * 1 + 3) / M)


# --- the most that it may be -----------------------------------------------------------------------------------------


def most_output(*calls: Encoded) -> float | None:
    """Give the output tokens in `most`."""
    found = reckon(*calls, own={"*": {"input": 0, "output": M, "batch": 1}, "gpt-4o": {"input": 0, "output": M}})
    return None if found.most is None else found.most * 2


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (CHAT, {"max_completion_tokens": 50}, 50),
        (CHAT, {"max_tokens": 50}, 50),
        (CHAT, {"max_tokens": None, "max_completion_tokens": 50}, 50),
        (CHAT, {"max_tokens": 50, "n": 3}, 150),
        (CHAT, {"max_tokens": 50, "n": None}, 50),
        (CHAT, {"max_tokens": 0}, 0),
        (RESPONSES, {"max_output_tokens": 50}, 50),
        (RESPONSES, {"max_output_tokens": 50, "prompt": {"id": "p"}}, 50),
        (COMPLETIONS, {"max_tokens": 50, "prompt": "hi"}, 50),
        (COMPLETIONS, {"max_tokens": 50, "prompt": ["hi", "ho"]}, 100),
        (COMPLETIONS, {"max_tokens": 50, "prompt": [1, 2, 3]}, 50),
        (COMPLETIONS, {"max_tokens": 50, "prompt": [[1, 2, 3], [4]], "n": 2, "best_of": 5}, 500),
        (COMPLETIONS, {"max_tokens": 50, "prompt": []}, 50),
    ],
)
def test_the_most_output_is_what_the_body_allows(endpoint: str, body: Any, tokens: int) -> None:
    assert most_output(call(body, endpoint=endpoint)) == pytest.approx(tokens)


@pytest.mark.parametrize(
    "body", [{}, {"max_tokens": None}, {"max_tokens": "50"}, {"max_tokens": True}, {"max_tokens": -1}, [], "text"]
)
def test_a_body_without_a_bound_leaves_the_most_open(body: Any) -> None:
    found = reckon(call({"max_tokens": 50}), call(body))
    assert found.most is None
    assert found.cost == pytest.approx(2_000 * 1.25 / M)


@pytest.mark.parametrize("body", [b"", b"\xff", b'{"max_tokens": 50, "x": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_cannot_be_read_leaves_the_most_open(body: bytes) -> None:
    assert reckon(Encoded(CHAT, "gpt-4o", body, 0)).most is None


def test_embeddings_and_moderations_have_no_output() -> None:
    found = reckon(call(model="text-embedding-3-small", endpoint=EMBEDDINGS, inputs=1))
    assert found.most == found.cost == pytest.approx(1_000 * 0.01 / M)
    assert most_output(call(endpoint="/v1/moderations")) == 0


def test_most_is_for_all_of_it() -> None:
    found = reckon(call({"max_completion_tokens": 100}), call({"max_completion_tokens": 300}))
    assert found.most == pytest.approx((2_000 * 1.25 + 400 * 5) / M)


# --- batches ---------------------------------------------------------------------------------------------------------


def limits(requests: int = 100, size: int = M, inputs: int = 100) -> FileLimits:
    return FileLimits(requests=requests, bytes=size, inputs=inputs, creations_per_hour=1)


def test_endpoints_and_models_have_files_of_their_own() -> None:
    calls = [call(), call(model="x"), call(endpoint=RESPONSES), call()]
    assert reckon(*calls).batches == 3


@pytest.mark.parametrize(
    ("file", "batches"),
    [
        (limits(requests=2), 3),
        (limits(requests=5), 1),
        (limits(size=3 * (_FRAME + 2)), 2),
        (limits(size=3 * (_FRAME + 2) - 1), 3),
        (limits(size=1), 5),
        (limits(inputs=10), 5),
        (limits(inputs=20), 3),
    ],
)
def test_a_file_ends_where_one_of_its_limits_is_reached(file: FileLimits, batches: int) -> None:
    assert reckon(*[call(inputs=10)] * 5, limits=file).batches == batches


def packed(calls: list[tuple[int, int]], file: FileLimits) -> int:
    """Count the files that the engine makes of calls, given by their bytes and inputs."""
    left, files = calls, 0
    while left:
        sizes = array("I", [size + _FRAME for size, _ in left])
        run = Run(0, 0, array("Q", range(len(left))), sizes, array("I", [inputs for _, inputs in left]))
        left, files = left[sum(map(len, first_fit([run], file))) :], files + 1
    return files


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 10)), max_size=40),
    st.builds(limits, st.integers(1, 10), st.integers(500, 3_000), st.integers(10, 50)),
)
def test_there_are_as_many_batches_as_the_engine_packs(calls: list[tuple[int, int]], file: FileLimits) -> None:
    made = [Encoded(EMBEDDINGS, "m", b"x" * size, inputs) for size, inputs in calls]
    assert reckon(*made, limits=file).batches == packed(calls, file)


def test_an_input_line_is_no_longer_than_reckoned() -> None:
    head, middle, end = OpenAI().frame("0123456789ab", "/v1/images/generations")
    assert len(head + b"1234567" + middle + end) <= _FRAME


def test_calls_are_not_kept() -> None:
    def calls() -> Iterator[Encoded]:
        return (Encoded(CHAT, "gpt-4o", b"x" * 100_000, 0) for _ in range(1_000))

    assert peak(calls()) < 10 * 100_000


def peak(calls: Iterable[Encoded]) -> int:
    tracemalloc.start()
    try:
        estimate(calls, thousand, Prices(), LIMITS)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

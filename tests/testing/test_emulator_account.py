"""The pure state: time is an argument, nothing waits."""

import pytest
from emulating import CHAT, body, jsonl, line, some

from carpool.testing import Refused
from carpool.testing.account import Account
from carpool.testing.ledger import Ledger
from carpool.testing.store import Store
from carpool.testing.validation import Validation


def create(account: Account, **more: object) -> str:
    given = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **more}
    return account.create(given, 100.0).id


def validated(
    content: bytes, endpoint: str = CHAT, models: frozenset[str] | None = None, most: int = 50_000
) -> Validation:
    validation = Validation(endpoint, models=models, most=most)
    for entry in content.split(b"\n")[:-1]:
        validation.read(entry)
    validation.finish()
    return validation


DUPLICATE = (
    "The custom_id 'r-0' for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
MISMATCH = (
    "The model 'other' for this request does not match the rest of the batch. "
    "Each batch must contain requests for a single model."
)
NOT_JSON = "This line is not parseable as valid JSON."
GOOD = jsonl([line("good")])


def without(key: str) -> bytes:
    entry = line("bad")
    del entry[key]
    return jsonl([entry])


@pytest.mark.parametrize(
    ("content", "code", "param", "message"),
    [
        (b"{oops\n", "invalid_json_line", None, NOT_JSON),
        (b'{"custom_id":"\xff"}\n', "invalid_json_line", None, NOT_JSON),
        (b"[" * 100_000 + b"\n", "invalid_json_line", None, NOT_JSON),
        (b"\n", "invalid_json_line", None, NOT_JSON),
        (b"[1]\n", "invalid_json_line", None, NOT_JSON),
        (without("custom_id"), "missing_required_parameter", "custom_id", "Missing required parameter: 'custom_id'."),
        (without("method"), "missing_required_parameter", "method", "Missing required parameter: 'method'."),
        (without("url"), "missing_required_parameter", "url", "Missing required parameter: 'url'."),
        (without("body"), "missing_required_parameter", "body", "Missing required parameter: 'body'."),
        (jsonl([line("bad", method="GET")]), "invalid_method", "method", None),
        (
            jsonl([line("bad", url="/v1/responses")]),
            "invalid_url",
            "url",
            "The URL provided for this request does not match the batch endpoint.",
        ),
        (
            jsonl([line("bad", content={"messages": []})]),
            "invalid_request",
            "body.model",
            "Model parameter is required.",
        ),
        (
            jsonl([line("bad", content={"model": "gpt-4o"})]),
            "invalid_request",
            "body.messages",
            "Messages parameter is required.",
        ),
        (
            jsonl([line("bad", content=body(stream=True))]),
            "streaming_unsupported",
            "body.stream",
            "Chat Completions: Streaming is not supported in the Batch API.",
        ),
        (jsonl([line("bad", content=body() | {"model": "other"})]), "mismatched_model", "body.model", MISMATCH),
        (jsonl([line("bad") | {"custom_id": 7}]), "invalid_type", "custom_id", None),
    ],
)
def test_a_bad_line_is_named_with_its_code(content: bytes, code: str, param: str | None, message: str | None) -> None:
    validation = validated(GOOD + content)
    assert len(validation.errors) == 1
    error = validation.errors[0]
    assert (error["code"], error["param"], error["line"]) == (code, param, 2)
    assert message is None or error["message"] == message


def test_errors_of_the_whole_file() -> None:
    assert validated(jsonl([line("r-0"), line("r-0")])).errors == [
        {"code": "duplicate_custom_id", "message": DUPLICATE, "param": "custom_id", "line": 2}
    ]
    assert validated(b"").errors[0]["code"] == "empty_file"
    assert validated(b"").errors[0]["message"].startswith("The input file is empty. Please ensure")
    unsupported = validated(some(2), models=frozenset({"gpt-5"})).errors
    assert [(error["code"], error["line"]) for error in unsupported] == [("model_not_found", 1), ("model_not_found", 2)]
    assert unsupported[0]["message"] == "The provided model 'gpt-4o' is not supported by the Batch API."
    assert validated(some(3), most=2).errors[0]["code"] == "too_many_tasks"
    many = jsonl([line("e", url="/v1/embeddings", content={"model": "m", "input": ["a", "b", "c"]})])
    assert validated(many, "/v1/embeddings", most=2).errors[0]["code"] == "too_many_tasks"


def test_a_byte_order_mark_fails_the_first_line() -> None:
    assert validated(b"\xef\xbb\xbf" + some(1)).errors[0]["code"] == "invalid_json_line"


def test_a_batch_goes_forward_alone() -> None:
    account = Account(window=60.0)
    batch = account.batch(create(account, metadata={"k": "v"}))
    assert batch.describe() | {"usage": None} == {
        "id": batch.id, "object": "batch", "endpoint": CHAT, "model": None, "errors": None, "input_file_id": "file-x",
        "completion_window": "24h", "status": "validating", "output_file_id": None, "error_file_id": None,
        "created_at": 100, "expires_at": 160, "in_progress_at": None, "finalizing_at": None, "completed_at": None,
        "failed_at": None, "expired_at": None, "cancelling_at": None, "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0}, "usage": None, "metadata": {"k": "v"},
    }  # fmt: skip
    with pytest.raises(KeyError):
        account.advance(batch, "completed", 101.0)
    assert account.admit(batch, validated(some(3)), 101.0)
    assert (batch.status, batch.total, batch.model) == ("in_progress", 3, "gpt-4o")
    account.advance(batch, "finalizing", 102.0)
    account.advance(batch, "completed", 103.9)
    shown = batch.describe()
    assert [shown[f"{name}_at"] for name in ("in_progress", "finalizing", "completed", "failed")] == [
        101,
        102,
        103,
        None,
    ]
    for status in ("validating", "in_progress", "cancelling", "expired"):
        with pytest.raises(KeyError):
            account.advance(batch, status, 104.0)


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
def test_cancelling_what_has_ended_is_a_conflict(status: str) -> None:
    account = Account()
    batch = account.batch(create(account))
    if status == "failed":
        account.fail_without_file(batch, 1.0)
        assert batch.errors[0]["message"].startswith("Cannot find file file-x, or organization org-emulated does not")
        assert (batch.errors[0]["code"], batch.errors[0]["param"]) == ("invalid_request", "file_id")
    else:
        for step in ["in_progress", "finalizing", status]:
            account.advance(batch, step, 1.0)
    with pytest.raises(Refused, match=f"Cannot cancel a batch with status '{status}'.") as caught:
        account.cancel(batch.id, 2.0)
    assert caught.value.status == 409
    assert caught.value.body()["error"]["code"] is None


def test_cancelling_twice_is_no_error() -> None:
    account = Account()
    batch_id = create(account)
    assert account.cancel(batch_id, 2.0).stamps["cancelling"] == 2
    assert account.cancel(batch_id, 3.0).stamps["cancelling"] == 2
    account.advance(account.batch(batch_id), "cancelled", 4.0)
    assert account.cancel(batch_id, 5.0).status == "cancelled"
    with pytest.raises(Refused, match="No batch found with id 'batch_no'") as caught:
        account.cancel("batch_no", 1.0)
    assert caught.value.status == 404


def test_the_ledger_refuses_with_the_text_of_the_provider() -> None:
    ledger = Ledger({"gpt-4o-mini": 2_000_000, "*": 10}, organization="org-abc")
    assert ledger.reserve("one", "gpt-4o-mini", 1_500_000, 0.0) is None
    assert ledger.reserve("two", "gpt-4o-mini", 500_001, 0.0) == (
        "Enqueued token limit reached for gpt-4o-mini in organization org-abc. Limit: 2,000,000 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    assert ledger.reserve("three", "gpt-4o-mini", 500_000, 0.0) is None
    assert ledger.reserve("four", "other", 11, 0.0) is not None
    assert ledger.reserve("five", "other", 10, 0.0) is None
    ledger.release("one", 1.0)
    ledger.release("unknown", 1.0)
    assert ledger.queued("gpt-4o-mini", 1.0) == 500_000
    assert Ledger().reserve("six", "any", 10**12, 0.0) is None


def test_tokens_are_released_late_and_others_queue_too() -> None:
    ledger = Ledger({"m": 100}, release_after=30.0, others=lambda model, now: 50 if model == "m" and now < 10 else 0)
    assert ledger.reserve("a", "m", 51, 0.0) is not None
    assert ledger.reserve("a", "m", 50, 0.0) is None
    assert ledger.queued("m", 0.0) == 100
    ledger.release("a", 20.0)
    assert ledger.queued("m", 49.9) == 50
    assert ledger.queued("m", 50.0) == 0
    assert Ledger(others={"m": 7}).queued("m", 0.0) == 7


def test_a_full_queue_fails_the_batch_and_its_end_makes_room() -> None:
    account = Account(Ledger({"gpt-4o": 100}))
    first, second, third = (account.batch(create(account)) for _ in range(3))
    rows = validated(some(2))
    assert 50 < rows.tokens <= 100
    assert account.admit(first, rows, 1.0)
    assert not account.admit(second, rows, 1.0)
    assert second.status == "failed"
    assert second.errors[0] | {"message": ""} == {
        "code": "token_limit_exceeded",
        "message": "",
        "param": None,
        "line": None,
    }
    assert second.describe()["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    account.cancel(first.id, 2.0)
    account.advance(first, "cancelled", 2.0)
    assert account.admit(third, rows, 3.0)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"endpoint": "/v1/x"}, "endpoint", "invalid_value"),
        ({"endpoint": None}, "endpoint", "missing_required_parameter"),
        ({"input_file_id": 3}, "input_file_id", "invalid_type"),
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "string_above_max_length"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"output_expires_after": 7}, "output_expires_after", "invalid_type"),
        (
            {"output_expires_after": {"anchor": "created_at"}},
            "output_expires_after.seconds",
            "missing_required_parameter",
        ),
        ({"output_expires_after": {"anchor": "x", "seconds": 3600}}, "output_expires_after.anchor", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
            "output_expires_after.seconds",
            "integer_below_min_value",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
            "output_expires_after.seconds",
            "integer_above_max_value",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": "3600"}},
            "output_expires_after.seconds",
            "invalid_type",
        ),
    ],
)
def test_a_bad_creation_is_refused_at_once(change: dict[str, object], param: str, code: str) -> None:
    account = Account()
    with pytest.raises(Refused) as caught:
        create(account, **change)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert not account.batches


def test_files_go_when_they_expire() -> None:
    store, account = Store(in_memory=10), Account()
    content = store.create()
    content.write(b"more than ten bytes")
    content.seal()
    file = account.add_file(content, filename="a.jsonl", purpose="batch", now=0.0, expires_after=100)
    assert account.file(file.id, 99.0).describe()["expires_at"] == 100
    with pytest.raises(Refused, match="No such File object"):
        account.file(file.id, 100.0)
    store.close()

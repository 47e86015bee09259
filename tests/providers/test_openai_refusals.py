"""What a reply other than a plain 200 means."""

import json
from typing import Any

import pytest

from carpool.models import CallFailed, Failure, Flow, Lane, PackedBatch, Reply
from carpool.providers.openai import OpenAI

openai = OpenAI()
BATCH = PackedBatch("pool-b7", Lane("/v1/chat/completions", "gpt-5-mini"), (), 123)

QUEUE_FULL = (
    "Enqueued token limit reached for gpt-4o-mini in organization org-abc. Limit: 2,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)
QUEUE_FULL_AT_AZURE = (
    "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'gpt-4.1-batch'. "
    "Please either increase the limit or try again once the current jobs have finished."
)
NO_FILE = "Cannot find file file-Ab1, or project proj_1 does not have access to it."
NO_FILE_IN_ORGANIZATION = "Cannot find file file-Ab1, or organization org-1 does not have access to it."


def error(message: str, code: str | None = None, type_: str = "invalid_request_error") -> bytes:
    return json.dumps({"error": {"message": message, "type": type_, "param": None, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, error(QUEUE_FULL, "token_limit_exceeded"), "full"),
        (400, error(QUEUE_FULL, "token_limit_exceeded"), "full"),
        (429, error(QUEUE_FULL), "full"),
        (400, error(QUEUE_FULL), "full"),
        (429, error("wait", "token_limit_exceeded"), "full"),
        (400, error(QUEUE_FULL_AT_AZURE, "token_limit_exceeded"), "full"),
        (400, error(QUEUE_FULL_AT_AZURE), "full"),
        (429, error(QUEUE_FULL_AT_AZURE), "full"),
        (400, error(NO_FILE), "gone"),
        (400, error(NO_FILE_IN_ORGANIZATION, "invalid_request"), "gone"),
        (400, error("Input file not found: could not find the file"), "gone"),
        (400, error("No such File object: file-1"), "gone"),
        (404, error("No batch found with id 'batch_1'."), "gone"),
        (404, b"", "gone"),
        (429, error("Rate limit reached", "rate_limit_exceeded"), "busy"),
        (429, b"slow down", "busy"),
        (429, error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), "budget"),
        (429, error("Billing hard limit has been reached", "billing_hard_limit_reached"), "budget"),
        (400, error("Billing hard limit has been reached", "billing_hard_limit_reached"), "budget"),
        (400, error("Invalid value: '/v1/x'. Supported values are: ...", "invalid_value"), "rejected"),
        (400, error("Expected a string, got an array", "invalid_type"), "rejected"),
        (402, error("balance"), "rejected"),
        (413, b"too large", "rejected"),
        (422, error("no"), "rejected"),
        (307, b"", "rejected"),
        (401, error("Incorrect API key provided", "invalid_api_key"), "auth"),
        (403, error("You are not allowed"), "auth"),
        (403, b"<html>", "auth"),
        (408, b"", "lost"),
        (409, error("conflict"), "lost"),
        (500, error("The server had an error", None, "server_error"), "lost"),
        (502, b"<html>Bad gateway</html>", "lost"),
        (503, b"", "lost"),
        (504, b"", "lost"),
        (529, b"", "lost"),
        (0, b"connection reset", "lost"),
    ],
)
def test_a_refusal_is_told_from_a_full_queue_a_lag_and_a_loss(status: int, body: bytes, kind: str) -> None:
    assert openai.refused(Reply(status, body)).kind == kind


@pytest.mark.parametrize("status", [500, 502, 503, 0, 408, 409])
def test_a_loss_is_a_loss_though_it_speaks_of_a_missing_file(status: int) -> None:
    assert openai.refused(Reply(status, error(NO_FILE))).kind == "lost"


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply(400, error("no", "c")), Failure("rejected", "no", 400, "c")),
        (Reply(400, error("no")), Failure("rejected", "no", 400, "invalid_request_error")),
        (Reply(400, b'{"error":"just text"}'), Failure("rejected", "just text", 400, "error")),
        (Reply(400, b'{"message":"no","type":"t"}'), Failure("rejected", "no", 400, "t")),
        (Reply(400, b'{"error":{"message":"no","code":42}}'), Failure("rejected", "no", 400, "42")),
        (Reply(0, b"connection reset"), Failure("lost", "connection reset", None, None)),
        (Reply(502, b" <html>oops</html>\n"), Failure("lost", "<html>oops</html>", 502, None)),
        (Reply(503, b""), Failure("lost", "HTTP 503", 503, None)),
        (Reply(500, b"x" * 400), Failure("lost", "x" * 300 + "...", 500, None)),
        (Reply(500, b"\xff\xfe"), Failure("lost", "\ufffd\ufffd", 500, None)),
        (Reply(500, b"[" * 5_000), Failure("lost", "[" * 300 + "...", 500, None)),
    ],
)
def test_a_failure_says_what_the_provider_said(reply: Reply, failure: Failure) -> None:
    assert openai.refused(reply) == failure


@pytest.mark.parametrize("status", [400, 403, 404, 429])
def test_a_refusal_without_a_code_has_none(status: int) -> None:
    assert openai.refused(Reply(status, b"<html>")).code is None


@pytest.mark.parametrize(
    "body", [b"<html>Welcome</html>", b"", b"[]", b'"text"', b"null", b"17", b'{"id": "file-1"', b"\xff", b"[" * 5_000]
)
def test_a_200_without_a_json_object_may_have_done_its_work(body: bytes) -> None:
    flows: list[Flow[Any]] = [openai.upload(BATCH), openai.create(BATCH, "f"), openai.check(["a"])]
    flows += [openai.find({"k": "file"}, 0.0)] if body != b"[]" else []  # that is an empty listing
    for flow in flows:
        next(flow)
        with pytest.raises(CallFailed) as caught:
            flow.send(Reply(200, body))
        assert caught.value.failure.kind == "lost"
        assert caught.value.failure.status_code == 200


def test_a_failed_call_carries_its_failure_out_of_the_flow() -> None:
    flow = openai.create(BATCH, "file-1")
    next(flow)
    with pytest.raises(CallFailed, match="Enqueued token limit") as caught:
        flow.send(Reply(400, error(QUEUE_FULL)))
    assert caught.value.failure == openai.refused(Reply(400, error(QUEUE_FULL)))

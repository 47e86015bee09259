"""A server that answers anything whatsoever: each call ends with an answer or a named error, and so does the pool."""

import json
import logging
import random
import re
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import anyio
import httpx2
import pytest
from fuzz_kit import RAW, TEXTS, fuzzed, inputs, nested, written
from hypothesis import given
from hypothesis import strategies as st
from virtual import CHAT, VirtualLoop, body, run_here

import carpool
from carpool.settings import Ports

CALLS = 6
DAYS = 40  # within which everything is over: what is retried, looked for and given up takes days of virtual time
MOST = 5_000  # exchanges
TIMING = carpool.Timing(poll_max=1_800.0)  # what is never said to end is asked about for days
_ROW = re.compile(rb'"custom_id":"([^"]+)".*?text (\d+)')
_ANSWER = re.compile(rb"to (\S+), text (\d+)")
_ROUTE = re.compile(r"^/v1/(files|batches|chat)(?:/([^/]+))?(?:/(content|cancel|completions))?$")


class Whatever(httpx2.AsyncBaseTransport):
    """Play a provider that is right so often, and else says what nobody expects; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._sane = self._random.choice([0.0, 0.5, 0.8, 0.95])
        self._files: dict[str, bytes] = {}
        self._batches: list[dict[str, Any]] = []
        self.exchanges = 0
        self.faults = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.exchanges += 1
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        sent = b"".join([part async for part in request.stream])
        await anyio.sleep(self._random.choice([0.0, 0.1, 5.0]))
        if self.exchanges > MOST:
            raise AssertionError("it goes on for ever")
        proper = self._proper(request, sent)
        if self._random.random() < self._sane:
            return httpx2.Response(200, content=proper)
        self.faults += 1
        return self._improper(request, proper)

    # --- as it should be

    def _proper(self, request: httpx2.Request, sent: bytes) -> bytes:
        found = _ROUTE.match(request.url.path)
        kind, id_, tail = found.groups() if found else ("", None, None)
        if kind == "chat":
            return b'{"choices":[{"message":{"content":"live"}}]}'
        if tail == "content":
            return self._files.get(id_ or "", b"")
        if kind == "files" and request.method == "POST":
            name = f"file-{len(self._files)}"
            self._files[name] = sent
            return json.dumps({"id": name}).encode()
        if kind == "batches" and request.method == "POST" and id_ is None:
            return json.dumps(self._create(json.loads(sent))).encode()
        if id_ is None:
            return json.dumps({"data": self._batches[::-1] if kind == "batches" else []}).encode()
        return json.dumps(next((batch for batch in self._batches if batch["id"] == id_), {"id": id_})).encode()

    def _create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        rows = _ROW.findall(self._files.get(wanted["input_file_id"], b""))
        output = f"file-{len(self._files)}"
        self._files[output] = b"".join(self._line(id_.decode(), int(number)) for id_, number in rows)
        status = self._random.choice(["completed"] * 6 + ["expired", "failed", "cancelled", "odd"])
        batch = {
            "id": f"batch-{len(self._batches)}",
            "status": status,
            "metadata": wanted["metadata"],
            "input_file_id": wanted["input_file_id"],
            "output_file_id": output,
            "request_counts": {"total": len(rows), "completed": len(rows), "failed": 0},
        }
        self._batches.append(batch)
        return batch

    def _line(self, custom_id: str, number: int) -> bytes:
        """Answer a row, and say which."""
        message = {"content": f"to {custom_id}, text {number}"}
        response = {"status_code": 200, "request_id": "r", "body": {"choices": [{"message": message}]}}
        row: dict[str, Any] = {"custom_id": custom_id, "response": response, "error": None}
        if self._random.random() > self._sane:
            self._spoil(row)
        return written(row) + b"\n"

    # --- and as it should not

    def _anything(self) -> Any:
        draw = self._random.random
        if draw() < 0.3:
            return self._random.choice(TEXTS)
        if draw() < 0.3:
            return self._random.choice([10**400, 2**63, -1, float("nan"), float("inf"), 1e308, 0, True, None])
        if draw() < 0.5:
            return [self._anything() for _ in range(self._random.randrange(3))]
        return {self._random.choice(["id", "data", "error", "message"]): self._anything() for _ in range(2)}

    def _spoil(self, value: Any) -> None:
        """Put something else in one place within."""
        while isinstance(value, dict | list) and value:
            place = self._random.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
            if not isinstance(value[place], dict | list) or self._random.random() < 0.4:
                value[place] = self._anything()
                return
            value = value[place]

    def _spoiled(self, proper: bytes) -> bytes:
        try:
            value = json.loads(proper)
        except ValueError:
            return proper[: self._random.randrange(len(proper) + 1)]
        self._spoil(value)
        return written(value)

    def _improper(self, request: httpx2.Request, proper: bytes) -> httpx2.Response:
        choose = self._random.choice
        trouble = choose(["spoiled", "spoiled", "raw", "deep", "status", "broken", "headers", "endless listing"])
        if trouble == "broken":
            raise choose([httpx2.ReadError, httpx2.ConnectError, httpx2.ReadTimeout, httpx2.RemoteProtocolError])("no")
        content, status, headers = self._spoiled(proper), 200, {}
        if trouble == "raw":
            content = choose(RAW)
        elif trouble == "deep":
            content = b'{"id":' + nested(choose([100, 500, 990, 5_000]), b"[", b"]") + b"}"
        elif trouble == "status":
            status = choose([100, 204, 302, 307, 400, 401, 403, 404, 408, 409, 413, 429, 500, 501, 503, 599, 999])
            content = choose([content, proper, *RAW, written({"error": self._anything()})])
        elif trouble == "headers":
            status, headers = choose([200, 307, 429, 503]), self._headers()
        elif trouble == "endless listing":
            entry = {"id": f"x{self.exchanges}", "metadata": {"carpool": "x"}, "created_at": self._anything()}
            content = written({"data": [entry], "has_more": True})
        latin = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return httpx2.Response(status, headers=latin, stream=httpx2.ByteStream(content))  # read, and decoded, later

    def _headers(self) -> dict[str, str]:
        odd = [
            "",
            "0",
            "-1",
            "1e999",
            "nan",
            "9" * 400,
            "²",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "Mon, 99 Foo 0 x",
            "6m0s",
        ]
        names = ["retry-after", "retry-after-ms", "content-length", "x-ratelimit-reset-tokens", "content-type"]
        headers = {name: self._random.choice(odd) for name in names}
        encoding = self._random.choice(["identity", "odd", "", "gzip"])
        location = self._random.choice(
            ["//", "http://[", "http://elsewhere/v1", "/v1/batches", "\x7f", "http://a:99999"]
        )
        return headers | {"x-ratelimit-remaining-tokens": "0", "content-encoding": encoding, "location": location}


Outcomes: TypeAlias = dict[int, object]  # by the number of the call


async def play(seed: int, folder: Path | None, **settings: Any) -> tuple[Outcomes, Whatever]:
    """Let a pool make calls of such a server, and leave it; gives what came of them."""
    server = Whatever(seed)
    ports = Ports(run_sync=run_here, transport=server)
    outcomes: Outcomes = {}

    async def ask(number: int) -> None:
        try:
            outcomes[number] = await pool.request(CHAT, body(f"text {number}"))
        except carpool.CarpoolError as exc:
            outcomes[number] = exc

    more = {"timing": TIMING, "progress": False, **settings}
    with anyio.fail_after(DAYS * 86_400):
        pool = carpool.Pool("sk-key", "http://h/v1", journal=folder, _ports=ports, **more)
        async with pool, anyio.create_task_group() as tasks:
            for number in range(CALLS):
                tasks.start_soon(ask, number)
    return outcomes, server


def on_virtual_time(seed: int, folder: Path | None, **settings: Any) -> tuple[Outcomes, Whatever]:
    """Run it."""
    with mock.patch("random.uniform", random.Random(seed).uniform):
        return anyio.run(lambda: play(seed, folder, **settings), backend_options={"loop_factory": VirtualLoop})


def judge(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    """Check that each call ended, by name or with its own answer, and that nothing was a fault of carpool's own."""
    assert len(outcomes) == CALLS
    for number, outcome in outcomes.items():
        assert isinstance(outcome, carpool.Response | carpool.CarpoolError)
        if isinstance(outcome, carpool.Response) and (answer := _ANSWER.search(outcome.content)):
            assert (answer[1].decode(), int(answer[2])) == (outcome.custom_id, number)
            inputs["answers of them, that were their callers' own"] += 1
        assert repr(outcome)
        assert str(outcome)
    faults = [record for record in caplog.records if record.exc_info or "fault of carpool's own" in record.getMessage()]
    assert not faults, faults[0].getMessage()


seeds = st.integers(0, 2**32)


@pytest.mark.usefixtures("no_certificates")
@given(seed=seeds)
@fuzzed(15, share=0.2)
def test_whatever_a_server_answers_each_call_ends_with_an_answer_or_a_named_error(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    caplog.set_level(logging.INFO)
    settings: dict[str, Any] = random.Random(seed).choice(
        [{}, {"escalate": "live", "timeout": 3_600}, {"limits": {"*": 10_000}}]
    )
    outcomes, server = on_virtual_time(seed, None, **settings)
    inputs["exchanges of them, answered by anything"] += server.exchanges
    judge(outcomes, caplog)


@pytest.mark.usefixtures("no_certificates")
@given(seed=seeds)
@fuzzed(6, share=0.1)
def test_a_journal_outlives_whatever_a_server_answers(
    seed: int, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    caplog.clear()
    caplog.set_level(logging.INFO)
    folder = tmp_path_factory.mktemp("journal")
    outcomes, server = on_virtual_time(seed, folder)
    judge(outcomes, caplog)
    again, more = on_virtual_time(seed + 1, folder)
    inputs["exchanges of them, answered by anything"] += server.exchanges + more.exchanges
    judge(again, caplog)

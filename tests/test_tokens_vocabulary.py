"""Vocabularies that are missing, damaged, late, or never come: nobody waits long, and what arrives is used."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import tiktoken
import vocabulary

from carpool.tokens import NoVocabulary, Tiktoken

CHAT = "/v1/chat/completions"


class Words:
    """Stand in for an encoding: a word is a token."""

    name = "o200k_base"

    def encode_ordinary(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]


HELLO = json.dumps({"messages": [{"role": "user", "content": "hello big world"}]}).encode()
WORDS = cast("tiktoken.Encoding", Words())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_vocabulary_is_loaded_once_for_all_threads_and_models() -> None:
    loads: list[str] = []

    def load(name: str) -> tiktoken.Encoding:
        loads.append(name)
        return WORDS

    count = Tiktoken(_load=load)
    models = ["gpt-4o", "gpt-5", "gpt-6-astra", "gpt-4"] * 25
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda model: count(CHAT, model, HELLO), models)) == {3 + 3 + 1 + 3}
    assert sorted(loads) == ["cl100k_base", "o200k_base"]


def test_a_failed_load_is_told_and_tried_again_after_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    loads: list[str] = []
    now = 0.0

    def load(name: str) -> tiktoken.Encoding:
        loads.append(name)
        if len(loads) < 3:
            raise ConnectionError("no way through http://me:secret@proxy.example/")
        return WORDS

    count = Tiktoken(_load=load, _clock=lambda: now)
    for now in (0.0, 1.0, 59.0, 60.0, 119.0):
        with pytest.raises(NoVocabulary, match="o200k_base is missing: ConnectionError: no way through"):
            count(CHAT, "gpt-4o", HELLO)
        assert len(loads) == (1 if now < 60 else 2)
    now = 120.0
    assert count(CHAT, "gpt-4o", HELLO) == 10
    assert len(loads) == 3
    (warning,) = warnings_in(caplog)
    assert "estimated" in warning
    assert "TIKTOKEN_CACHE_DIR" in warning
    assert "secret" not in warning


def test_behind_a_proxy_the_kind_of_a_failure_is_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> tiktoken.Encoding:
        raise ValueError("Failed to parse: 'me:s3c' is not a valid host or port")  # of http://me:s3c/r3t@proxy

    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3c/r3t@proxy")
    with pytest.raises(NoVocabulary, match=r"missing: ValueError$"):
        Tiktoken(_load=load)(CHAT, "gpt-4o", HELLO)


def test_a_load_that_ends_otherwise_is_told_too() -> None:
    def load(name: str) -> tiktoken.Encoding:
        raise SystemExit(name)

    with pytest.raises(NoVocabulary, match="SystemExit"):
        Tiktoken(_load=load)(CHAT, "gpt-4o", HELLO)


@pytest.fixture
def late() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name.startswith("carpool "):
            thread.join()


def test_a_slow_load_is_waited_for_once_and_used_when_it_arrives(
    late: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def load(name: str) -> tiktoken.Encoding:
        late.wait()
        return WORDS

    count = Tiktoken(patience=0.05, _load=load)
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(NoVocabulary, match=r"it has not arrived within 0\.05 s"):
            count(CHAT, "gpt-4o", HELLO)
    assert 0.05 <= time.monotonic() - began < 2  # not a hundred times the patience
    assert len(warnings_in(caplog)) == 1
    late.set()
    for thread in threading.enumerate():
        if thread.name == "carpool o200k_base":
            thread.join()
    assert count(CHAT, "gpt-4o", HELLO) == 10


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_not_swallowed(stop: type[BaseException]) -> None:
    class Interrupted(Words):
        def encode_ordinary(self, text: str) -> list[int]:
            raise stop

    with pytest.raises(stop):
        Tiktoken(_load=lambda name: cast("tiktoken.Encoding", Interrupted()))(CHAT, "gpt-4o", HELLO)


PROGRAM = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(name)s %(message)s", stream=sys.stdout)
import carpool
from carpool.tokens import NoVocabulary, Tiktoken
print("tiktoken" in sys.modules)
count = Tiktoken(patience=float(sys.argv[1]))
for _ in range(2):
    try:
        count("/v1/embeddings", "gpt-6-astra", b'{"input":"hello"}')
    except NoVocabulary as exc:
        print(exc)
"""


def run(folder: Path, port: int, patience: float) -> list[str]:
    environment = {
        "TIKTOKEN_CACHE_DIR": str(folder),
        "HTTPS_PROXY": f"http://me:secret@127.0.0.1:{port}",
        "NO_PROXY": "",
    }
    command = [sys.executable, "-c", PROGRAM, str(patience)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "secret" not in done.stdout + done.stderr
    return done.stdout.splitlines()


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_without_a_network_the_reason_is_told(tmp_path: Path, damaged: bool) -> None:
    if damaged:
        (tmp_path / vocabulary.O200K).write_bytes(b"IQ== 0\nIg== 1\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = port_of(server)  # closed again when it is used
    imported, warning, *problems = run(tmp_path, port, 30)
    assert imported == "False"
    assert warning.startswith("WARNING carpool.tokens tiktoken's vocabulary o200k_base is missing (ProxyError")
    assert len(problems) == 2
    assert all(problem.startswith("The vocabulary o200k_base is missing: ProxyError") for problem in problems)


def test_a_download_that_hangs_holds_up_neither_the_caller_nor_the_exit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection and never answers
        _, _, *problems = run(tmp_path, port_of(server), 0.2)
    assert problems == ["The vocabulary o200k_base is missing: it has not arrived within 0.2 s"] * 2

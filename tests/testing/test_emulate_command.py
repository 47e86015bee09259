"""The command, by typer's runner and as a real process."""

import builtins
import os
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from emulating import CHAT, some
from typer.testing import CliRunner

import carpool.cli
from carpool.cli.app import app
from carpool.testing import Faults, Troubles

RUN = [sys.executable, "-c", "from carpool.cli import main; main()", "emulate"]


def test_help_documents_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["emulate", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    assert "Exit codes: 0 after Ctrl-C" in result.output
    for option in (
        "port",
        "host",
        "upstream",
        "validating",
        "running",
        "finalizing",
        "limit",
        "release-after",
        "refuse-at",
        "lost-create",
        "truncated",
        "trouble",
        "creation-lag",
        "live-per-minute",
        "api-key",
    ):
        assert f"--{option}" in result.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--limit", "gpt-4o"], "carpool: --limit is MODEL=N"),
        (["--limit", "gpt-4o=many"], "carpool: --limit is MODEL=N"),
        (["--upstream", "nonsense"], "carpool: upstream is a URL"),
        (["--reset", "0.7", "--too-many", "0.7"], "carpool: the rates of the faults"),
        (["--reset", "7"], "Invalid value"),
        (["--refuse-at", "noon"], "Invalid value"),
        (["--trouble", "missing"], "carpool: --trouble is NAME=RATE"),
        (["--trouble", "failing=0.1"], "one of timed_out, missing,"),
        (["--trouble", "500=often"], "carpool: --trouble is NAME=RATE"),
        (["--trouble", "stuck=2"], "carpool: Troubles.stuck is a rate from 0 to 1, not 2.0"),
        (["--trouble", "200=0.5"], "carpool: Troubles.failing has a status"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["emulate", "--port", "0", *options])
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["emulate", "--port", str(port)])
    assert result.exit_code == 1
    assert result.output == f"carpool: cannot serve at http://127.0.0.1:{port}/v1: Address already in use\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_with_a_summary(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*RUN, "--port", "0", "--limit", "*=5", "--release-after", "9", "--refuse-at", "creation", "--api-key", "k"],
        stdout=-1,
        stderr=-1,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first, url, key = (process.stdout.readline() for _ in range(3))
        address = re.search(r"http://127\.0\.0\.1:\d+/v1", first)
        assert address is not None
        assert url == f"  export OPENAI_BASE_URL={address[0]}\n"
        assert key == "  export OPENAI_API_KEY=k\n"
        assert httpx2.get(f"{address[0]}/batches").status_code == 401
        assert httpx2.get(f"{address[0]}/batches", headers={"authorization": "Bearer k"}).json()["data"] == []
        with httpx2.Client(base_url=address[0], headers={"authorization": "Bearer k"}) as client:
            file = client.post("/files", files={"file": ("in.jsonl", some(1))}, data={"purpose": "batch"}).json()
            given = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
            assert client.post("/batches", json=given).status_code == 429
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stdout.read() == "0 batches, 0 requests run, 0 live calls, 0 tokens in and 0 out, 1 files left\n"
        assert process.stderr.read() == ""


class Started(Exception):
    """Stand for an emulator that would serve."""


def test_options_become_the_settings_of_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**settings: Any) -> None:
        given.update(settings)
        raise Started

    given: dict[str, Any] = {}
    monkeypatch.setattr("carpool.testing.Emulator", made)
    options = "--trouble 500=0.1 --trouble 429=0.2 --trouble missing=0.3 --trouble expiring=0.4 --cut 0.5 --file-lag 6"
    result = CliRunner().invoke(app, ["emulate", *options.split(), "--creation-lag", "7", "--live-per-minute", "8"])
    assert isinstance(result.exception, Started)
    assert given["troubles"] == Troubles(failing={500: 0.1, 429: 0.2}, missing=0.3, expiring=0.4)
    assert given["faults"] == Faults(cut=0.5)
    assert (given["file_lag"], given["creation_lag"], given["live_per_minute"]) == (6, 7, 8)


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def without_typer(name: str, *rest: Any, **more: Any) -> Any:
        if name == "typer":
            raise ModuleNotFoundError("No module named 'typer'", name="typer")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_typer)
    with pytest.raises(SystemExit) as ended:
        carpool.cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "carpool: the command needs typer: install carpool with its extra cli\n"

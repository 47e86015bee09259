"""`carpool cancel`, by typer's runner against a server over loopback."""

import json
from collections.abc import Iterator

import httpx2
import pytest
from account_kit import scripted
from typer.testing import CliRunner, Result

from carpool.cli import cancel
from carpool.cli.app import app
from carpool.providers import openai
from carpool.testing import Emulator, Faults, Pace
from carpool.wire import wire

KEY = "sk-secret-0123456789"
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _environment(no_environment: None, no_certificates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(wire, "_PAUSE", 0.01)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(api_key=KEY, pace=Pace(running=3_600)) as served:
        yield served


def create(emulator: Emulator, client_key: str | None = None) -> str:
    """Create a batch, as carpool does or as others do."""
    line = {"custom_id": "r", "method": "POST", "url": CHAT, "body": {"model": "gpt-4o", "messages": [{}]}}
    with httpx2.Client(base_url=emulator.url, headers={"authorization": f"Bearer {KEY}"}) as http:
        files = {"file": ("in.jsonl", json.dumps(line).encode() + b"\n")}
        file_id = http.post("/files", files=files, data={"purpose": "batch"}).json()["id"]
        given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        more = {} if client_key is None else {"metadata": {"carpool": client_key}}
        return str(http.post("/batches", json={**given, **more}).json()["id"])


def run(emulator: Emulator | str, *arguments: str) -> Result:
    url = emulator if isinstance(emulator, str) else emulator.url
    return CliRunner().invoke(app, ["cancel", "--base-url", url, *arguments])


def cancelled(emulator: Emulator) -> set[str]:
    return {batch.id for batch in emulator.books().batches if batch.status in ("cancelling", "cancelled")}


def test_named_batches_are_cancelled(emulator: Emulator) -> None:
    one, other, third = create(emulator, "p-b1"), create(emulator), create(emulator)
    result = run(emulator, one, other)
    assert result.exit_code == 0
    assert cancelled(emulator) == {one, other}
    assert one in result.stdout
    assert third not in result.stdout


def test_all_are_those_that_carpool_made(emulator: Emulator) -> None:
    mine, _, also = create(emulator, "p-b1"), create(emulator), create(emulator, "q-b1")
    result = run(emulator, "--all", "--json")
    assert {entry["batch"] for entry in json.loads(result.stdout)} == cancelled(emulator) == {mine, also}


def test_all_of_one_pool(emulator: Emulator) -> None:
    mine, _ = create(emulator, "p-b1"), create(emulator, "q-b1")
    assert run(emulator, "--all", "--pool", "p-").exit_code == 0
    assert cancelled(emulator) == {mine}


def test_where_more_batches_are_there_than_are_read_that_is_a_failure(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "THOROUGH", 1)
    monkeypatch.setattr(openai, "_PAGE", 2)
    mine = [create(emulator, f"p-b{number}") for number in range(3)]
    result = run(emulator, "--all")
    assert (result.exit_code, result.stderr) == (1, "carpool: only the newest batches were read: there may be more\n")
    assert cancelled(emulator) == set(mine[1:])


def test_ids_of_a_server_are_no_commands_for_the_terminal() -> None:
    batch = {"id": "b\x1b]0;x\u202e", "status": "in_progress", "metadata": {"carpool": "p-b1"}}
    with scripted({"/batches": {"data": [batch]}}) as url:
        result = run(url, "--all")
    assert "b?]0;x?" in result.stdout


def test_nothing_to_cancel_is_no_failure(emulator: Emulator) -> None:
    create(emulator)
    result = run(emulator, "--all")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing" in result.stderr


def test_a_batch_that_is_unknown_is_told_and_the_others_are_cancelled(emulator: Emulator) -> None:
    one = create(emulator)
    result = run(emulator, "batch_none", one, "--json")
    assert result.exit_code == 1
    problems = {entry["batch"]: entry["problem"] for entry in json.loads(result.stdout)}
    assert problems[one] is None
    assert "batch_none" in problems["batch_none"]
    assert cancelled(emulator) == {one}


@pytest.mark.parametrize(
    "arguments", [[], ["batch_1", "--all"], ["batch_1", "--pool", "p"], [""], ["batch_1", ".."], ["batch_\udcff"]]
)
def test_arguments_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    assert run("http://127.0.0.1:9/v1", *arguments).exit_code == 2


def test_without_a_key_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    result = run("http://127.0.0.1:9/v1", "--all")
    assert result.exit_code == 2
    assert "OPENAI_API_KEY" in result.stderr


def test_a_wrong_key_is_said_and_not_shown(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    result = run(emulator, "batch_1")
    assert result.exit_code == 1
    assert "sk-another-key" not in result.output


def test_a_server_that_fails_is_asked_again() -> None:
    route = "POST /v1/batches/{id}/cancel"
    with Emulator(api_key=KEY, pace=Pace(running=3_600), faults=Faults(reset=1.0, only={route}, nth={1})) as served:
        one = create(served)
        assert run(served, one).exit_code == 0
        assert cancelled(served) == {one}

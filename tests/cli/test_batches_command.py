"""`carpool batches`, by typer's runner against a server over loopback, and on terminals."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from account_kit import CHAT, KEY, NOWHERE, POOL, Account, fields, on_a_screen, on_a_terminal, run, scripted
from typer.testing import CliRunner, Result

from carpool.cli import remote
from carpool.cli.app import app
from carpool.cli.batch_words import facts, took
from carpool.cli.batches import batches
from carpool.cli.ownership import key_of, pool_of
from carpool.cli.wording import plural, size, span
from carpool.models import BatchStatus, Reply
from carpool.providers.overview import details_of
from carpool.providers.replies import Listed
from carpool.testing import Emulator, Faults, Pace, Troubles
from carpool.wire import Wire, wire

NOW = 1_790_000_000.0


@pytest.fixture(autouse=True)
def _environment(no_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(wire, "_PAUSE", 0.01)


@pytest.fixture
def account(no_certificates: None) -> Iterator[Account]:
    """Serve an account with a batch of a pool's, one of another program's, and one that failed for want of room."""
    limits = {"gpt-5-mini": 5}
    troubles = Troubles(failing={400: 0.3})
    emulator = Emulator(api_key=KEY, enqueued_tokens=limits, troubles=troubles)
    with emulator, Account(emulator) as served:
        served.run(f"{POOL}-b1", 8, "gpt-4o-2024-08-06")
        served.run(None, 3)
        served.run("ffff00001111-b7", 50, "gpt-5-mini")
        yield served


def listed(account: Account | Emulator, *options: str) -> list[Any]:
    emulator = account.emulator if isinstance(account, Account) else account
    result = run(batches, emulator, "--json", *options)
    assert result.exit_code == 0
    found: list[Any] = json.loads(result.stdout)["batches"]
    return found


def pools(found: list[Any]) -> list[str | None]:
    return [batch["pool"] for batch in found]


# --- the list


def test_all_batches_are_listed_the_newest_first_whoever_made_them(account: Account) -> None:
    result = run(batches, account.emulator)
    assert (result.exit_code, result.stderr) == (0, "")
    head, gap, *lines = result.stdout.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:\d+, at \d{4}-\d\d-\d\d \d\d:\d\d UTC", head)
    assert gap == ""
    table = [fields(line) for line in lines[:4]]
    assert table[0] == ["batch", "made by", "endpoint", "model", "status", "done", "failed", "created (UTC)", "took"]
    assert [row[1:6] for row in table[1:]] == [
        ["ffff00001111", "chat/completions", "gpt-5-mini", "failed", "0"],
        ["other", "chat/completions", "gpt-4o", "completed", "3/3"],
        [POOL, "chat/completions", "gpt-4o-2024-08-06", "completed", "8/8"],
    ]
    assert all(row[0].startswith("batch_") for row in table[1:])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", table[1][7])
    assert lines[4:] == ["", "3 in all."]


def test_json_is_for_machines(account: Account) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    result = run(batches, account.emulator, "--json")
    whole = json.loads(result.stdout)
    refused, other, mine = whole.pop("batches")
    assert before <= datetime.fromisoformat(whole.pop("at")) <= datetime.now(UTC)
    assert whole == {"server": account.emulator.url.split("/")[2], "complete": True}
    assert (mine["made_by"], mine["client_key"], mine["expected_tokens"]) == ("carpool", f"{POOL}-b1", 77)
    assert (mine["total"], mine["done"], mine["open"]) == (8, 8, False)
    assert mine["failed"] == account.batch(mine["id"])["request_counts"]["failed"] > 0
    assert (other["made_by"], other["client_key"], other["expected_tokens"]) == ("other", None, None)
    assert (refused["status"], refused["errors"][0]["code"]) == ("failed", "token_limit_exceeded")
    created, ended, expires = (datetime.fromisoformat(mine[f"{what}_at"]) for what in ("created", "ended", "expires"))
    assert created <= ended < expires


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--status", "failed"], ["ffff00001111"]),
        (["--status", "Failed", "--status", "completed"], ["ffff00001111", None, POOL]),
        (["--status", "canceled"], []),
        (["--model", "gpt-4o"], [None, POOL]),
        (["--model", "gpt-4o-2024-08-06"], [None, POOL]),
        (["--model", "gpt-5-mini", "--model", "gpt-4o"], ["ffff00001111", None, POOL]),
        (["--model", "gpt-5"], []),
        (["--pool", "0123"], [POOL]),
        (["--pool", ""], ["ffff00001111", POOL]),
        (["--since", "1"], ["ffff00001111", None, POOL]),
        (["--open"], []),
        (["--limit", "2"], ["ffff00001111", None]),
        (["--limit", "1", "--status", "completed"], [None]),
    ],
)
def test_batches_are_chosen(account: Account, options: list[str], expected: list[str | None]) -> None:
    assert pools(listed(account, *options)) == expected


def test_open_batches_are_those_that_are_not_over() -> None:
    with Emulator(api_key=KEY, pace=Pace(running=3_600)) as emulator, Account(emulator) as account:
        running = account.put(f"{POOL}-b2")
        account.http.post(f"/batches/{account.put()}/cancel")
        (found,) = listed(emulator, "--open", "--status", "in_progress")
        assert (found["id"], found["open"], found["ended_at"]) == (running, True, None)
        row = fields(run(batches, emulator, "--open", "--status", "in_progress").stdout.splitlines()[3])
        assert row[-1].endswith("so far")


def test_what_is_older_than_asked_for_is_left_out(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: datetime.now(UTC).timestamp() + 7_200)
    assert listed(account, "--since", "1") == []


def test_no_batches_are_said_to_be_none() -> None:
    with Emulator() as emulator:
        assert run(batches, emulator).stdout.splitlines()[-1] == "No batches."


def test_more_than_are_shown_are_told_of(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(batches, account.emulator, "--limit", "2").stdout.splitlines()[-1] == "The newest 2: --limit shows more."
    assert run(batches, account.emulator, "--limit", "3").stdout.splitlines()[-1] == "3 in all."


def test_pages_of_a_listing_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(api_key=KEY, pace=Pace(validating=600)) as emulator, Account(emulator) as account:
        first = account.create("file-1", f"{POOL}-b1")
        for _ in range(149):
            account.create("file-1")
        assert len(listed(emulator, "--limit", "200")) == 150
        assert [batch["id"] for batch in listed(emulator, "--pool", POOL)] == [first]
        monkeypatch.setattr(remote, "PAGES", 1)
        result = run(batches, emulator, "--pool", POOL)
        assert result.stdout.splitlines()[-1] == (
            "0 of the newest 100 batches of the account: older ones were not looked at."
        )
        assert json.loads(run(batches, emulator, "--json", "--pool", POOL).stdout)["complete"] is False


@pytest.mark.parametrize(("columns", "first"), [(140, True), (80, False), (60, False), (50, False)])
def test_a_terminal_shows_it_within_its_width(account: Account, columns: int, first: bool) -> None:
    shown = on_a_screen(columns, batches, account.emulator)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    for word in (POOL, "gpt-4o-2024-08-06", "chat/completions", "failed", "8/8", "UTC"):
        assert word in shown
    ids = [batch["id"] for batch in listed(account)]
    assert all(id_ in shown for id_ in ids), "ids can be copied whole"
    assert (fields(lines[3])[:2] == [ids[0], "ffff00001111"]) == first


@pytest.mark.parametrize("columns", [160, 90, 60])
def test_ids_of_the_usual_length_can_be_copied_from_narrow_screens(columns: int) -> None:
    id_ = "batch_6743f3a1b2c0819088d1e5f6a7b8c9d0"
    batch = {
        "id": id_,
        "status": "in_progress",
        "created_at": NOW,
        "model": "gpt-5.4-mini-2026-03-17",
        "endpoint": CHAT,
    }
    with scripted({"/batches": {"data": [batch]}}) as url:
        shown = on_a_screen(columns, batches, url)
    assert max(map(len, shown.splitlines())) <= columns
    assert id_ in shown
    assert "gpt-5.4-mini-2026-03-17" in shown


# --- one


def test_everything_about_one_is_shown(account: Account) -> None:
    mine = listed(account, "--pool", POOL)[0]
    result = run(batches, account.emulator, mine["id"])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{mine['id']} at 127.0.0.1:")
    told = dict(fields(line)[:2] for line in lines[2:] if len(fields(line)) > 1)
    assert told["status"] == f"completed: 8/8 rows done, {mine['failed']} of them failed"
    assert told["made by"] == f"carpool, pool {POOL}, client key {POOL}-b1"
    assert (told["endpoint"], told["model"], told["window"]) == (CHAT, "gpt-4o-2024-08-06", "24h")
    assert re.fullmatch(r"\d+ in, \d+ out, \d+ in all; 77 in were expected", told["tokens"])
    for kind in ("input", "output", "error"):
        assert told[f"{kind} file"] == mine[f"{kind}_file_id"]
    assert told["completed"].startswith(mine["ended_at"][:10])
    assert f"carpool = {POOL}-b1" in result.stdout
    assert "expires" not in told
    assert lines[-1] == f"`carpool results {mine['id']} -o FILE` fetches its rows."


def test_errors_of_a_validation_are_shown_line_by_line() -> None:
    with Emulator(api_key=KEY) as emulator, Account(emulator) as account:
        bad = b'{"custom_id":"a"}\n' * 30
        batch_id = account.wait(account.create(account.upload(content=bad)), "failed")
        lines = run(batches, emulator, batch_id).stdout.splitlines()
        problems = account.batch(batch_id)["errors"]["data"]
        found = json.loads(run(batches, emulator, batch_id, "--json").stdout)
    assert "failed at its validation: nothing ran, nothing is billed" in lines[2]
    start = next(number for number, line in enumerate(lines) if fields(line) == ["line", "code", "error"])
    assert [fields(line) for line in lines[start + 1 : start + 21]] == [
        [str(each["line"]), each["code"], each["message"]] for each in problems[:20]
    ]
    assert lines[start + 21] == f"{len(problems) - 20:,} more: --json has them all."
    assert len(found["errors"]) == len(problems) > 20


def test_a_batch_that_runs_says_when_it_expires_and_how_to_end_it() -> None:
    with Emulator(api_key=KEY, pace=Pace(running=3_600)) as emulator, Account(emulator) as account:
        batch_id = account.put()
        lines = run(batches, emulator, batch_id).stdout.splitlines()
    told = dict(fields(line)[:2] for line in lines[2:] if len(fields(line)) > 1)
    assert told["made by"] == "another program"
    assert re.fullmatch(r".* UTC, in (1 d|23 h 59 min|23 h 60 min)", told["expires"])
    assert lines[-1] == f"`carpool cancel {batch_id}` ends it; what ran by then is billed and kept."


def test_one_as_json(account: Account) -> None:
    mine = listed(account, "--pool", POOL)[0]
    found = json.loads(run(batches, account.emulator, mine["id"], "--json").stdout)
    assert found.items() >= mine.items()
    assert found["window"] == "24h"
    assert list(found["times"]) == ["created", "in_progress", "finalizing", "completed"]
    assert found["metadata"] == {"carpool": f"{POOL}-b1", "carpool_tokens": "77"}
    assert found["usage"]["total_tokens"] == found["usage"]["input_tokens"] + found["usage"]["output_tokens"]


@pytest.mark.parametrize("columns", [120, 40])
def test_a_terminal_shows_one_within_its_width(columns: int) -> None:
    batch = {"id": "batch_1", "status": "failed", "errors": {"data": [{"code": "x", "message": "y" * 200, "line": 7}]}}
    with scripted({"/batches/batch_1": {**batch, "input_file_id": "file-6743f3a1b2c08190"}}) as url:
        shown = on_a_screen(columns, batches, url, "batch_1")
    assert max(map(len, shown.splitlines())) <= columns
    assert "file-6743f3a1b2c08190" in shown


def test_a_real_process_on_a_real_terminal(account: Account) -> None:
    shown = on_a_terminal(100, "batches", "--base-url", account.emulator.url)
    assert all(batch["id"] in shown for batch in listed(account))


# --- what goes wrong


@pytest.mark.parametrize("batch_id", ["batch_none", "../files", "b?x=1"])
def test_an_unknown_batch_is_one_sentence(account: Account, batch_id: str) -> None:
    result = run(batches, account.emulator, batch_id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"carpool: 127\.0\.0\.1:\d+ knows no batch .*\.\n", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["..", "--json"], "carpool: '..' is no id of a batch."),
        ([""], "carpool: '' is no id of a batch."),
        (["batch_1", "--open"], "carpool: a batch is named, so that there is nothing to choose"),
        (["batch_1", "--pool", "p"], "carpool: a batch is named"),
        (["--since", "0"], "carpool: --since is a number of hours above 0"),
        (["--since", "nan"], "carpool: --since is a number of hours above 0"),
        (["--limit", "0"], "Invalid value"),
        (["--base-url", "nonsense"], "carpool: base_url must be an http or https address"),
    ],
)
def test_a_wrong_argument_is_told_and_nobody_is_asked(arguments: list[str], sentence: str) -> None:
    result = run(batches, NOWHERE, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_without_a_key_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    result = run(batches, NOWHERE)
    assert (result.exit_code, result.stderr) == (2, "carpool: OPENAI_API_KEY is not set.\n")


@pytest.mark.parametrize("arguments", [[], ["batch_1"]])
def test_a_refused_key_is_said_and_not_shown(
    account: Account, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    result = run(batches, account.emulator, *arguments, key="sk-another-key")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("refuses the key. Check OPENAI_API_KEY.\n")


def test_no_server_is_one_sentence() -> None:
    result = run(batches, NOWHERE)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"carpool: cannot reach 127\.0\.0\.1:9: ConnectError: .*\n", result.stderr)


def test_a_server_without_a_listing_is_one_sentence(account: Account) -> None:
    result = run(batches, account.emulator.url.replace("/v1", "/v2"))
    assert result.exit_code == 1
    assert "refuses (HTTP 404)" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"), [("HTTPS_PROXY", "gopher://me:hidden@proxy:1"), ("SSL_CERT_FILE", "/nowhere.pem")]
)
def test_an_environment_that_no_connection_can_be_made_with_is_one_sentence(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = run(batches, "https://host.invalid/v1")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert variable in result.stderr
    assert "hidden" not in result.stderr


def test_a_server_that_falters_is_asked_again() -> None:
    with Emulator(api_key=KEY, faults=Faults(reset=1.0, nth={1, 2}, only={"GET /v1/batches"})) as emulator:
        assert run(batches, emulator).exit_code == 0


def answered_with(monkeypatch: pytest.MonkeyPatch, status: int, content: object, *arguments: str) -> Result:
    """Let a server answer anything."""

    async def answer(*_: object) -> Reply:
        return Reply(status, content if isinstance(content, bytes) else json.dumps(content).encode())

    monkeypatch.setattr(Wire, "send", answer)
    return run(batches, NOWHERE, *arguments)


@pytest.mark.parametrize("arguments", [[], ["batch_1"]])
@pytest.mark.parametrize("content", [b"<html>", [1], {"error": {"message": "gone"}}, {"id": 5}])
def test_garbage_is_one_sentence(content: object, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = answered_with(monkeypatch, 200, content, *arguments)
    if content == [1] and not arguments:
        assert result.stdout.endswith("No batches.\n")  # some servers list without an envelope
    else:
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_what_a_server_says_is_no_command_for_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b[31mred\x07[bold]"
    batch = {"id": f"b{evil}", "status": evil, "model": evil, "endpoint": evil, "metadata": {"carpool": evil, evil: 1}}
    problems = {"errors": {"data": [{"code": evil, "message": evil}]}, "completion_window": evil}
    for arguments, content in (([], {"data": [batch]}), (["b"], {**batch, **problems})):
        result = answered_with(monkeypatch, 200, content, *arguments)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert "\x07" not in result.stdout
        assert "[bold]" in result.stdout


# --- in words


def test_a_batch_that_says_nothing_is_shown_all_the_same() -> None:
    batch = details_of({"id": "b"})
    assert dict(facts(batch, NOW)) == {
        "status": "unknown",
        "made by": "another program",
        "endpoint": "-",
        "model": "not told yet",
        "window": "-",
        "tokens": "-",
        "input file": "-",
        "output file": "-",
        "error file": "-",
    }


def test_a_batch_that_is_overdue_says_so() -> None:
    batch = details_of({"id": "b", "status": "in_progress", "expires_at": NOW - 7_200, "created_at": NOW - 93_600})
    assert dict(facts(batch, NOW))["expires"].endswith("UTC, 2 h ago, and it has not ended")


def test_a_batch_that_ended_nobody_knows_when_took_nobody_knows_how_long() -> None:
    assert took(Listed(BatchStatus("b", None, "completed"), created_at=NOW), NOW + 9) == "-"
    assert took(Listed(BatchStatus("b", None, "completed"), created_at=NOW, ended_at=NOW + 5), NOW + 9) == "5 s"
    assert took(Listed(BatchStatus("b", None, "in_progress"), created_at=NOW), NOW + 9) == "9 s so far"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_599, "59 min 59 s"),
        (3_601, "1 h"),
        (11_550, "3 h 12 min"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_a_span_has_two_units_at_most(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_234, "1.23 kB"),
        (999_600, "1 MB"),
        (391_505_535, "392 MB"),
        (5 * 10**15, "5,000 TB"),
    ],
)
def test_a_size_has_three_digits(count: int, words: str) -> None:
    assert size(count) == words


def test_counts_are_of_one_or_many() -> None:
    assert [plural(count, "row") for count in (0, 1, 1_200)] == ["0 rows", "1 row", "1,200 rows"]


@pytest.mark.parametrize(
    ("key", "pool"), [(f"{POOL}-b7", POOL), ("p-b1", "p"), ("mine", "mine"), ("-b7", "-b7"), ("a-bc", "a-bc")]
)
def test_a_pool_is_what_a_client_key_begins_with(key: str, pool: str) -> None:
    assert pool_of(key) == pool


@pytest.mark.parametrize(
    "name", [None, "", "in.jsonl", "my-b2.jsonl", f"{POOL}-b2.json", f"{POOL.upper()}-b2.jsonl", f"x{POOL}-b2.jsonl"]
)
def test_a_file_of_another_name_is_nobodys_of_ours(name: str | None) -> None:
    assert key_of(name) is None
    assert key_of(f"{POOL}-b2.jsonl") == f"{POOL}-b2"


def test_help_documents_options_and_exit_codes_and_takes_no_key() -> None:
    result = CliRunner().invoke(app, ["batches", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("--status", "--model", "--since", "--pool", "--open", "--limit", "--base-url", "--json"):
        assert option in result.output
    assert "Exit codes: 0; 1 where the batch is not known" in result.output
    assert "carpool batches --open --model gpt-5-mini" in result.output
    assert "--api-key" not in result.output

"""`carpool limits`, by typer's runner against a server over loopback, on a terminal and as a real process."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from account_kit import NOWHERE, fields, on_a_screen
from typer.testing import CliRunner, Result

from carpool.cli import remote
from carpool.cli.app import app
from carpool.cli.limits import limits
from carpool.models import Reply
from carpool.testing import Emulator, Faults, Pace
from carpool.wire import Wire, wire

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
KEY = "sk-secret-0123456789"
RUN = [sys.executable, "-c", "from carpool.cli import main; main()", "limits"]
WAITING = "waiting: only the pool that holds the requests knows, see pool.stats()."


def count(body: Any) -> int:
    """Take the tokens of a body from its own words."""
    return int(body.get("input") or body["messages"][0]["content"])


class Account:
    """Put batches on an emulator's account."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"})

    def put(self, tokens: int, model: str = "gpt-4o", endpoint: str = CHAT, *, noted: bool = True) -> str:
        """Create a batch of one request, as carpool does or as others do, and wait until it is validated."""
        content = {"input": str(tokens)} if endpoint == EMBEDDINGS else {"messages": [{"content": str(tokens)}]}
        line = {"custom_id": "r", "method": "POST", "url": endpoint, "body": {"model": model, **content}}
        files = {"file": ("in.jsonl", json.dumps(line).encode() + b"\n")}
        file_id = self.http.post("/files", files=files, data={"purpose": "batch"}).json()["id"]
        given: dict[str, Any] = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        if noted:
            given["metadata"] = {"carpool": "p-b1", "carpool_tokens": str(tokens)}
        batch_id = str(self.http.post("/batches", json=given).json()["id"])
        while self.http.get(f"/batches/{batch_id}").json()["status"] == "validating":
            pass
        return batch_id


@pytest.fixture(autouse=True)
def _own_environment(no_environment: None, no_certificates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(wire, "_PAUSE", 0.01)


@pytest.fixture
def url() -> Iterator[str]:
    """Serve an account with two limits, one of which was run into, and a batch of somebody else."""
    limits = {"gpt-4o": 90_000, "*": 2_000_000}
    with Emulator(enqueued_tokens=limits, count=count, pace=Pace(running=600), api_key=KEY) as emulator:
        account = Account(emulator.url)
        with account.http:
            for tokens in (40_000, 40_000, 30_000):
                account.put(tokens)
            account.put(1_812_003, "gpt-5-mini-2025-08-07")
            account.put(1_000, "gpt-5-mini", noted=False)
            account.put(12_000, "text-embedding-3-small", EMBEDDINGS)
        yield emulator.url


def run(*options: str) -> Result:
    result = CliRunner().invoke(app, ["limits", *options])
    assert KEY not in result.output
    assert "Traceback" not in result.output
    return result


# --- the account


def test_each_lane_is_a_line_and_what_is_not_known_is_said(url: str) -> None:
    result = run("--base-url", url)
    assert (result.exit_code, result.stderr) == (0, "")
    head, gap, *lines = result.output.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:\d+, the last 24 hours, at \d{4}-\d\d-\d\d \d\d:\d\d UTC", head)
    assert gap == ""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    table = [fields(line) for line in lines[:4]]
    used = table[1][6]
    assert re.fullmatch(r"\d+%|-", used)
    assert table == [
        ["model", "endpoint", "limit", "from", "enqueued", "open", "used", "refused", "waiting"],
        ["gpt-4o", "chat/completions", "90,000", f"learned {today}", "80,000", "2", used, "1", "-"],
        ["gpt-5-mini", "chat/completions", "-", "unknown", "1,812,003+", "2", "-", "0", "-"],
        ["text-embedding-3-small", "embeddings", "-", "unknown", "12,000", "1", "-", "0", "-"],
    ]
    assert lines[4:] == [
        "",
        WAITING,
        "+: and more, of batches that do not say what they weigh; carpool's own do.",
        "unknown: no refusal states this limit; --tier would look it up.",
    ]


def test_columns_are_aligned_where_nobody_folds_them(url: str) -> None:
    _, _, head, *rows = run("--base-url", url).output.splitlines()[:6]
    for name in ("limit", "enqueued", "open", "refused", "waiting"):
        end = head.index(name) + len(name)
        assert all(row[end - 1] != " " and row[end : end + 1].strip() == "" for row in rows)
    assert len({len(line) for line in (head, *rows)}) == 1


def test_the_tier_is_looked_up_where_no_refusal_was_heard(url: str) -> None:
    lines = run("--base-url", url, "--tier", "tier-2").output.splitlines()
    table = [fields(line) for line in lines[3:6]]
    assert [row[2] for row in table] == ["90,000", "20,000,000", "20,000,000"]
    assert [row[3] for row in table[1:]] == ["table 2026-03-01"] * 2
    assert "table 2026-03-01: model pages, Mar-Sep 2026." in lines
    assert "unknown" not in "".join(lines)


def test_an_older_table_is_looked_up_where_a_day_is_named(url: str) -> None:
    options = ("--base-url", url, "--tier", "tier-2", "--as-of", "2025-01-01")
    lines = run(*options, "gpt-4", "gpt-4o-2024-08-06").output.splitlines()
    assert [fields(line)[:4] for line in lines[3:5]] == [
        ["gpt-4", "-", "200,000", "table 2024-05-01"],
        ["gpt-4o", "chat/completions", "90,000", f"learned {datetime.now(UTC):%Y-%m-%d}"],
    ]
    assert lines[5:] == ["", WAITING, "table 2024-05-01: rate limits, May 2024."]


def test_a_table_that_does_not_have_it_is_named(url: str) -> None:
    last = run("--base-url", url, "--tier", "grow", "gpt-5-mini").output.splitlines()[-1]
    assert last == "unknown: no refusal states this limit; the table has none for grow."


def test_json_is_for_machines(url: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    result = run("--base-url", url, "--json", "--since", "1", "--tier", "tier-2", "gpt-4o", "gpt-5-mini")
    account = json.loads(result.stdout)
    at, since = (datetime.fromisoformat(account.pop(name)) for name in ("at", "since"))
    assert before <= at <= datetime.now(UTC)
    assert (at - since).total_seconds() == 3_600
    gpt_4o, gpt_5_mini = account.pop("lanes")
    assert account == {"server": url.split("/")[2], "complete": True}
    utilisation, as_of = gpt_4o.pop("utilisation"), gpt_4o.pop("limit_as_of")
    assert utilisation is None or 0 < utilisation <= 1
    assert abs((datetime.fromisoformat(as_of) - at).total_seconds()) < 60
    assert gpt_4o.pop("limit_said_by").startswith("batch_")
    assert gpt_4o == {
        "model": "gpt-4o",
        "endpoint": CHAT,
        "limit": 90_000,
        "limit_source": "learned",
        "enqueued": 80_000,
        "open": 2,
        "open_of_unknown_weight": 0,
        "utilisation_is_partial": False,
        "refusals": 1,
        "waiting": None,
    }
    assert (gpt_5_mini["limit"], gpt_5_mini["limit_source"]) == (20_000_000, "table")
    assert (gpt_5_mini["limit_as_of"], gpt_5_mini["limit_said_by"]) == ("2026-03-01", "model pages, Mar-Sep 2026")
    assert (gpt_5_mini["open"], gpt_5_mini["open_of_unknown_weight"]) == (2, 1)


def test_a_limit_that_is_not_known_is_null_in_json(url: str) -> None:
    (lane,) = json.loads(run("--base-url", url, "--json", "gpt-5-mini").stdout)["lanes"]
    assert [lane[f"limit{more}"] for more in ("", "_source", "_as_of", "_said_by")] == [None, "unknown", None, None]
    assert lane["utilisation"] is None


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_terminal_shows_it_within_its_width(url: str, columns: int) -> None:
    shown = on_a_screen(columns, limits, url, "--tier", "tier-2")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    for word in ("gpt-4o", "text-embedding-3-small", "chat/completions", "1,812,003+", "20,000,000", WAITING):
        assert word in shown
    one_a_line = fields(lines[3])[:3] == ["gpt-4o", "chat/completions", "90,000"]
    assert one_a_line == (columns == 120)


def test_the_url_may_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    found, named = (re.sub(r"\S+ UTC", "", run(*options).output) for options in ((), ("--base-url", url)))
    assert found == named  # but for the minute, which may end between the two


def test_an_account_without_batches_says_so() -> None:
    with Emulator() as emulator:
        result = run("--base-url", emulator.url, "--since", "0.5")
        assert result.exit_code == 0
        assert re.fullmatch(r".*, the last 0\.5 hours, at .* UTC\n\nNo batches\.\n", result.output)
        assert json.loads(run("--base-url", emulator.url, "--json").output)["lanes"] == []


def test_batches_that_are_validated_name_no_model() -> None:
    with Emulator(pace=Pace(validating=600)) as emulator, Account(emulator.url).http as http:
        given = {"endpoint": CHAT, "completion_window": "24h", "metadata": {"carpool_tokens": "7"}}
        for _ in range(2):
            file_id = http.post("/files", files={"file": ("in.jsonl", b"{}\n")}, data={"purpose": "batch"}).json()["id"]
            http.post("/batches", json={"input_file_id": file_id, **given})
        lines = run("--base-url", emulator.url, "gpt-4o").output.splitlines()
    assert fields(lines[4])[:6] == ["?", "chat/completions", "-", "unknown", "14", "2"]
    assert "?: batches whose model the provider has not told yet." in lines


def test_more_batches_than_are_read_are_told_of(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAGES", 1)
    with Emulator(pace=Pace(validating=600)) as emulator, Account(emulator.url).http as http:
        for _ in range(101):
            http.post("/batches", json={"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"})
        last = run("--base-url", emulator.url).output.splitlines()[-1]
        assert json.loads(run("--base-url", emulator.url, "--json").output)["complete"] is False
    assert re.fullmatch(r"Only the newest 100 batches were read, back to .* UTC: the figures may be too small\.", last)


def test_a_server_that_falters_is_asked_again() -> None:
    with Emulator(faults=Faults(server_error=0.4, reset=0.2), seed=19) as emulator:
        assert run("--base-url", emulator.url).exit_code == 0
        assert emulator.books().routes["GET /v1/batches"] == 3


# --- what goes wrong


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_refused_key_is_one_sentence(url: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-9876543210")
    result = run("--base-url", url, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"carpool: {url.split('/')[2]} refuses the key. Check OPENAI_API_KEY.\n"


def test_a_key_that_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk bad")
    result = run("--base-url", NOWHERE)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "carpool: The API key is empty or holds blanks or characters that no key has.\n"


def test_no_server_is_one_sentence() -> None:
    result = run("--base-url", NOWHERE)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"carpool: cannot reach 127\.0\.0\.1:9: ConnectError: .*\n", result.stderr)


def test_a_server_that_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PATIENCE", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = "127.0.0.1:{1}".format(*silent.getsockname())
        result = run("--base-url", f"http://{server}/v1")
    assert result.exit_code == 1
    assert result.stderr == f"carpool: cannot reach {server}: no answer within 0.1 seconds\n"


def test_a_server_without_a_listing_is_one_sentence(url: str) -> None:
    server = url.split("/")[2]
    result = run("--base-url", url.replace("/v1", "/v2"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"carpool: {server} refuses (HTTP 404): ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--base-url", "nonsense"], "carpool: base_url must be an http or https address"),
        (["--base-url", "http://me:secret@host/v1"], "carpool: base_url must hold no user name or password"),
        (["--base-url", "http://[bad"], "carpool: base_url must be an http or https address"),
        (["--base-url", "http://host:port/v1"], "carpool: base_url must be an http or https address"),
        (["--since", "0"], "carpool: --since is a number of hours above 0"),
        (["--since", "nan"], "carpool: --since is a number of hours above 0"),
        (["--since", "inf"], "carpool: --since is a number of hours above 0"),
        (["--since", "yesterday"], "Invalid value"),
        (["--tier", "tier-9"], "Invalid value"),
        (["--as-of", "yesterday"], "Invalid value"),
        (["--api-key", KEY[:5]], "No such option"),
    ],
)
def test_a_wrong_option_is_told(options: list[str], sentence: str) -> None:
    result = run(*options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (403, b'{"error":{"message":"Missing scopes: api.batch.read"}}', "does not let this key do that: Missing"),
        (400, b"a\x1b[31m\r\nb", r"refuses (HTTP 400): a?[31m b"),
        (200, b"<html>", "refuses (HTTP 200): a reply that is no JSON object: <html>"),
    ],
)
def test_what_a_server_says_is_one_line_and_no_command(
    status: int, body: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: object) -> Reply:
        return Reply(status, body)

    monkeypatch.setattr(Wire, "send", answer)
    result = run("--base-url", NOWHERE)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"carpool: 127.0.0.1:9 {sentence}")
    assert result.stderr.count("\n") == 1


# --- the table


def test_the_table_is_shown_alone_and_nobody_is_asked() -> None:
    result = run("--table", "--tier", "tier-2", "--base-url", NOWHERE, "gpt-4o-2024-08-06", "gpt-4.1-mini", "gtp")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [fields(line) for line in result.output.splitlines()] == [
        ["family", "tier", "tokens", "as of", "source"],
        ["gpt-4.1-mini", "tier-2", "20,000,000", "2026-03-01", "model pages, Mar-Sep 2026"],
        ["gpt-4.1-mini >128,000", "tier-2", "40,000,000", "2026-03-01", "model page, Mar-Sep 2026, long context"],
        ["gpt-4o", "tier-2", "1,350,000", "2026-03-01", "model pages, Mar-Sep 2026"],
        [""],
        ["gtp: no limit is published for tier-2."],
        [">: prompts of more tokens than that count in a queue of their own."],
    ]


def test_a_narrow_terminal_shows_sources_below_the_table() -> None:
    lines = on_a_screen(80, limits, NOWHERE, "--table", "--tier", "tier-2", "gpt-4.1-mini").splitlines()
    assert [fields(line) for line in lines] == [
        ["family", "tier", "tokens", "as of", "source"],
        ["gpt-4.1-mini", "tier-2", "20,000,000", "2026-03-01", "[1]"],
        ["gpt-4.1-mini >128,000", "tier-2", "40,000,000", "2026-03-01", "[2]"],
        [""],
        ["[1] model pages, Mar-Sep 2026"],
        ["[2] model page, Mar-Sep 2026, long context"],
        [">: prompts of more tokens than that count in a queue of their own."],
    ]
    assert "[1]" not in on_a_screen(120, limits, NOWHERE, "--table", "gpt-4.1-mini")


def test_without_a_tier_all_are_shown_and_what_is_not_offered() -> None:
    rows = [fields(line) for line in run("--table", "gpt-3.5-turbo").output.splitlines()[1:]]
    assert [(row[1], row[2]) for row in rows] == [
        ("free", "not offered"),
        ("tier-1", "2,000,000"),
        ("tier-2", "5,000,000"),
        ("tier-3", "50,000,000"),
        ("tier-4", "1,000,000,000"),
        ("tier-5", "10,000,000,000"),
    ]


@pytest.mark.parametrize("key", ["", "  ", None])
def test_without_a_key_the_table_is_shown_and_that_is_said(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    result = CliRunner().invoke(app, ["limits", "--base-url", NOWHERE])
    assert result.exit_code == 0
    assert result.stderr == "carpool: OPENAI_API_KEY is not set, so this is the published table alone.\n"
    assert len(result.stdout.splitlines()) > 100


def test_the_table_is_that_of_a_day() -> None:
    options = ("--table", "--tier", "tier-5", "--as-of", "2025-12-31")
    assert fields(run(*options, "gpt-4").output.splitlines()[1])[2:4] == ["45,000,000", "2024-05-01"]
    assert run(*options, "gpt-5").output == "gpt-5: no limit is published for tier-5.\n"
    assert run("--table", "--as-of", "2020-01-01").output == "No limit is published.\n"


def test_the_table_as_json() -> None:
    table = json.loads(run("--table", "--json", "--tier", "grow").stdout)
    assert table == {
        "table": [
            {
                "family": "gpt-6-astra",
                "tier": "grow",
                "tokens": 15_000_000_000,
                "as_of": "2026-10-08",
                "source": "rate-limits page, 8 Oct 2026",
                "above": 0,
            }
        ]
    }
    assert json.loads(run("--table", "--json", "--as-of", "2020-01-01").stdout) == {"table": []}


# --- the command


def test_a_real_process_writes_plain_text(url: str) -> None:
    given = {**os.environ, "OPENAI_BASE_URL": url}
    done = subprocess.run([*RUN, "gpt-4o"], env=given, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert fields(done.stdout.splitlines()[3])[:3] == ["gpt-4o", "chat/completions", "90,000"]
    assert "\x1b" not in done.stdout


def test_help_documents_options_and_exit_codes_and_takes_no_key() -> None:
    result = CliRunner().invoke(app, ["limits", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("--tier", "--since", "--base-url", "--table", "--as-of", "--json"):
        assert option in result.output
    assert "Exit codes: 0; 1 where the server cannot be reached" in result.output
    assert "--api-key" not in result.output

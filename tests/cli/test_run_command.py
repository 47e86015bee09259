"""`carpool run` from INPUT to OUTPUT, against a server over loopback."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_kit import (
    CHAT,
    EMBEDDINGS,
    KEY,
    LANES,
    REFUSED,
    RESPONSES,
    answer,
    check,
    check_paid_once,
    read,
    row_of,
    rows_of,
    run,
    text_of,
    write,
)

from carpool import config
from carpool.pytest_plugin import AT_ONCE
from carpool.testing import Emulator, Pace, Troubles


@pytest.fixture(autouse=True)
def _environment(no_environment: None, no_certificates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(config, "DEFAULT_TIMING", AT_ONCE)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(answer=answer, api_key=KEY) as served:
        yield served


def test_models_and_endpoints_may_be_mixed_and_answers_come_in_order(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(400)
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    check(read(out), asked)
    check_paid_once(emulator, asked)
    assert len(emulator.books().batches) >= len(LANES)
    assert "400 rows: 400 answered, 0 failed" in result.stderr
    assert str(out) in result.stderr


def test_over_a_complete_output_nothing_is_done_and_nothing_needed(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in.jsonl", [*rows_of(20), b"bad"]), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out).exit_code == 1
    before = out.read_bytes()
    monkeypatch.delenv("OPENAI_API_KEY")
    result = run(None, source, "-o", out)
    assert result.exit_code == 0
    assert "21 rows: 20 answered, 1 failed, 21 of them from before" in result.stderr
    assert out.read_bytes() == before


def test_an_input_without_rows_makes_an_output_without_rows(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", [b"", b""]), tmp_path / "out.jsonl"
    assert run(None, source, "-o", out).exit_code == 0
    assert out.read_bytes() == b""


def test_as_they_come_all_come_once(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(400)
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out, "--as-completed").exit_code == 0
    rows = sorted(read(out), key=lambda row: int(row["id"].split("_")[1]))
    check(rows, asked)
    first, *others = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([*others, first]))
    assert run(None, source, "-o", out, "--as-completed").exit_code == 0
    result = run(None, source, "-o", out)  # in order, which they are not
    assert result.exit_code == 2
    assert "--as-completed" in result.stderr


def test_what_was_begun_in_order_may_go_on_as_it_comes(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(40)
    source, out = write(tmp_path / "in.jsonl", asked[:20]), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out).exit_code == 0
    assert run(emulator, write(source, asked), "-o", out, "--as-completed").exit_code == 0
    check(sorted(read(out), key=lambda row: int(row["id"].split("_")[1])), asked)
    check_paid_once(emulator, asked)


def test_texts_alone_are_strings_of_json_and_null_where_there_is_none(emulator: Emulator, tmp_path: Path) -> None:
    asked = [row_of(n, lane=LANES[n % 2]) for n in range(6)]
    lines: list[Any] = [*asked[:3], b"bad", *asked[3:], row_of(9, f"{REFUSED} 9", LANES[0])]
    source, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    for code in (1, 0):
        result = run(emulator, source, "-o", out, "--text")
        assert result.exit_code == code
        assert "8 rows: 6 answered, 2 failed" in result.stderr
        texts = [text_of(row["body"]) for row in asked]
        assert read(out) == [*texts[:3], None, *texts[3:], None]


def test_texts_in_any_order_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", rows_of(1))
    assert run(None, source, "-o", tmp_path / "out", "--text", "--as-completed").exit_code == 2


def test_bare_bodies_are_for_the_endpoint(emulator: Emulator, tmp_path: Path) -> None:
    bodies = [row["body"] for row in rows_of(20, LANES[2])]
    source, out = write(tmp_path / "in.jsonl", bodies), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out, "--endpoint", EMBEDDINGS).exit_code == 0
    assert [row["response"]["body"]["said"] for row in read(out)] == [text_of(body) for body in bodies]
    assert {row["custom_id"] for row in read(out)} == {None}


@pytest.mark.parametrize("more", [[], ["--as-completed"], ["--text"], ["--strict"], ["--dry-run"]])
def test_bare_bodies_without_an_endpoint_are_refused_and_with_one_answered(
    emulator: Emulator, tmp_path: Path, more: list[str]
) -> None:
    source, out = write(tmp_path / "in.jsonl", [row["body"] for row in rows_of(20, LANES[2])]), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out, *more)
    assert result.exit_code == 2
    assert "--endpoint" in result.stderr
    assert not emulator.books().routes
    assert run(emulator, source, "-o", out, *more, "--endpoint", EMBEDDINGS).exit_code == 0


def test_an_archive_and_a_pipe_are_read_likewise(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(30)
    source = write(tmp_path / "in.jsonl", asked)
    packed = tmp_path / "in.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert run(emulator, packed, "-o", tmp_path / "out.jsonl").exit_code == 0
    check(read(tmp_path / "out.jsonl"), asked)
    check_paid_once(emulator, asked)
    assert run(None, source, "-o", tmp_path / "out.jsonl").exit_code == 0  # the rows count, not what holds them


BAD = [
    b"nonsense",
    b'{"custom_id": "x"}',
    b'{"custom_id": "y", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}',
    b'{"custom_id": "z", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "stream": true}}',
    b'{"custom_id": "u", "method": "POST", "url": "/v1/none", "body": {"model": "m"}}',
    b'{"custom_id": "m", "method": "GET", "url": "/v1/responses", "body": {"model": "m"}}',
]


@pytest.mark.parametrize("more", [[], ["--as-completed"]])
def test_bad_lines_are_told_with_file_and_line_and_become_error_rows(
    emulator: Emulator, tmp_path: Path, more: list[str]
) -> None:
    asked = rows_of(4)
    lines: list[Any] = [asked[0], b"", *BAD[:3], asked[1], *BAD[3:], *asked[2:]]
    source, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out, *more)
    assert result.exit_code == 1
    rows = sorted(read(out), key=lambda row: int(row["id"].split("_")[1]))
    bad = [row for row in rows if row["error"]]
    assert [row["custom_id"] for row in rows] == ["mine-0", None, "x", "y", "mine-1", "z", "u", "m", "mine-2", "mine-3"]
    for row, line in zip(bad, (3, 4, 5, 7, 8, 9), strict=True):
        assert row["response"] is None
        assert row["error"]["code"] == "invalid_request"
        assert row["error"]["message"].startswith(f"{source}:{line}: ")
        assert f"{source}:{line}: " in result.stderr
    assert "10 rows: 4 answered, 6 failed" in result.stderr
    assert "invalid_request 6" in result.stderr
    check_paid_once(emulator, asked)


def test_of_many_bad_lines_twenty_are_told(tmp_path: Path, emulator: Emulator) -> None:
    source = write(tmp_path / "in.jsonl", [b"bad"] * 50)
    result = run(emulator, source, "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert f"{source}:20: " in result.stderr
    assert f"{source}:22: " not in result.stderr
    assert "50 lines" in result.stderr
    assert len(read(tmp_path / "out.jsonl")) == 50


def test_a_row_that_the_provider_refuses_is_a_row_as_in_its_error_file(emulator: Emulator, tmp_path: Path) -> None:
    asked = [row_of(n, f"{REFUSED} {n}" if n == 3 else None) for n in range(6)]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out)
    assert result.exit_code == 1
    row = read(out)[3]
    assert (row["custom_id"], row["error"]) == ("mine-3", None)
    assert row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["code"] == "no_answer"
    assert "no_answer 1" in result.stderr


def test_what_fails_now_and_then_is_answered(tmp_path: Path) -> None:
    asked = rows_of(60)
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    with Emulator(answer=answer, troubles=Troubles(failing={500: 0.05}, missing=0.05, doubled=0.1), seed=3) as troubled:
        assert run(troubled, source, "-o", out).exit_code == 0
    check(read(out), asked)


# --- checked first


@pytest.mark.parametrize("bad", [BAD[0], BAD[2], BAD[3]])
def test_strictly_nothing_is_sent_unless_all_lines_are_requests(emulator: Emulator, tmp_path: Path, bad: bytes) -> None:
    source, out = write(tmp_path / "in.jsonl", [*rows_of(3), bad, *rows_of(3)]), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out, "--strict")
    assert result.exit_code == 2
    assert f"{source}:4: " in result.stderr
    assert not emulator.books().routes
    assert [*tmp_path.iterdir()] == [source]
    assert run(emulator, write(source, rows_of(3)), "-o", out, "--strict").exit_code == 0


@pytest.mark.parametrize("more", [[], ["--as-completed"], ["--text"]])
def test_another_input_than_output_was_begun_with_is_refused(
    emulator: Emulator, tmp_path: Path, more: list[str]
) -> None:
    asked = rows_of(10, LANES[0])
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out, *more).exit_code == 0
    before = out.read_bytes()
    changed = [*asked[:6], row_of(6, "another text", LANES[0]), *asked[7:]]
    for lines, said in ((changed, "row 7 (line 7)"), (asked[:5], "5 rows")):
        result = run(emulator, write(source, lines), "-o", out, *more)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "another OUTPUT" in result.stderr.replace("\n", " ")
    assert out.read_bytes() == before


@pytest.mark.parametrize("more", [[], ["--as-completed"], ["--text"]])
def test_rows_that_are_added_at_the_end_are_answered(emulator: Emulator, tmp_path: Path, more: list[str]) -> None:
    asked = rows_of(30, LANES[0])
    source, out = write(tmp_path / "in.jsonl", asked[:20]), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out, *more).exit_code == 0
    result = run(emulator, write(source, asked), "-o", out, *more)
    assert result.exit_code == 0
    assert "30 rows: 30 answered, 0 failed, 20 of them from before" in result.stderr
    assert len(read(out)) == 30
    check_paid_once(emulator, asked)


@pytest.mark.parametrize("more", [[], ["--text"]])
@pytest.mark.parametrize(
    "content",
    [
        b"my notes\n",
        b"\nmine\n",
        b'{\n  "name": 1\n}\n',
        b"{",
        b'{"custom_id": "a"}\n',
        b'"text"\n',
        b"PK\x03",
        b"\0\0\0\x18",
    ],
)
def test_an_output_that_is_not_ours_is_left_alone(
    emulator: Emulator, tmp_path: Path, content: bytes, more: list[str]
) -> None:
    source, out = write(tmp_path / "in.jsonl", rows_of(3)), tmp_path / "out.jsonl"
    out.write_bytes(content)
    result = run(emulator, source, "-o", out, *more)
    assert result.exit_code == 2
    assert "OUTPUT" in result.stderr
    assert out.read_bytes() == content
    assert not emulator.books().routes


def test_what_stands_behind_a_line_that_is_not_ours_is_not_cut_off(emulator: Emulator, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", rows_of(4)), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out).exit_code == 0
    first, rest = out.read_bytes().split(b"\n", 1)
    out.write_bytes(first + b"\n\n" + rest)
    shutil.rmtree(tmp_path / "out.jsonl.carpool")
    result = run(None, source, "-o", out)
    assert result.exit_code == 2
    assert "line 2" in result.stderr
    assert out.read_bytes() == first + b"\n\n" + rest


def test_a_folder_of_others_beside_output_is_left_alone(tmp_path: Path) -> None:
    source, folder = write(tmp_path / "in.jsonl", [b"bad"]), tmp_path / "out.jsonl.carpool"
    folder.mkdir()
    (folder / "notes").touch()
    for more in ([], ["--text"], ["--text", "--mode", "live"]):
        result = run(None, source, "-o", tmp_path / "out.jsonl", *more)
        assert result.exit_code == 2
        assert "holds other files" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl.carpool"}


@pytest.mark.parametrize("one", [[], ["--text"]])
def test_rows_and_texts_are_not_mixed(emulator: Emulator, tmp_path: Path, one: list[str]) -> None:
    source, out = write(tmp_path / "in.jsonl", rows_of(6)), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out, *one).exit_code == 0
    before = out.read_bytes()
    assert run(emulator, source, "-o", out, *({"--text"} - {*one})).exit_code == 2
    assert out.read_bytes() == before


@pytest.mark.parametrize("torn", [b'{"id":"row_11', b'{"id":"ro', b"\0" * 3_000])
def test_what_a_crash_tore_is_written_again_and_paid_once(emulator: Emulator, tmp_path: Path, torn: bytes) -> None:
    asked = rows_of(30)
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out).exit_code == 0
    whole = out.read_bytes()
    lines = whole.split(b"\n")
    out.write_bytes(b"\n".join([*lines[:10], torn]))
    result = run(emulator, source, "-o", out)
    assert result.exit_code == 0
    assert "10 of them from before" in result.stderr
    assert out.read_bytes() == whole
    check_paid_once(emulator, asked)


def test_without_its_line_break_the_last_row_is_whole(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(12)
    source, out = write(tmp_path / "in.jsonl", asked[:10]), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out).exit_code == 0
    out.write_bytes(out.read_bytes()[:-1])
    assert run(emulator, write(source, asked), "-o", out).exit_code == 0
    check(read(out), asked)


# --- custom_ids


def test_custom_ids_that_repeat_or_lack_are_answered_and_counted(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(10)
    for number in (3, 4, 9):
        asked[number]["custom_id"] = "mine-0"
    asked[5]["custom_id"] = None
    del asked[6]["custom_id"]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    for more in (["--dry-run"], ["-o", str(out)]):
        result = run(emulator, source, *more)
        assert result.exit_code == 0
        assert "custom_ids: 3 rows with one that an earlier row has" in result.output
        assert "custom_ids: 2 rows without" in result.output
    check(read(out), [{"custom_id": None, **row} for row in asked])


# --- dry runs


def test_a_dry_run_says_what_would_be_sent_and_needs_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: Emulator
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    source = write(tmp_path / "in.jsonl", [*rows_of(40), *BAD])
    result = run(None, source, "--dry-run", "--json", "--limit", "gpt-5-mini=50")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert (said["requests"], said["batches"], said["bad_lines"], said["held"]) == (40, 4, 6, 0)
    assert said["tokens"] == sum(lane["tokens"] for lane in said["lanes"]) > 40
    assert 0 < said["cost"] < said["live"]
    lanes = {(lane["model"], lane["endpoint"]): lane for lane in said["lanes"]}
    mine = lanes["gpt-5-mini", CHAT], lanes["gpt-5-mini", RESPONSES]
    assert {lane["limit"] for lane in mine} == {50}
    assert {lane["turns"] for lane in mine} == {-(-sum(lane["tokens"] for lane in mine) // 50)}
    assert lanes["gpt-4o", CHAT]["limit"] is None
    assert f"{source}:41: " in result.stderr
    assert [*tmp_path.iterdir()] == [source]


def test_a_dry_run_for_people_has_a_table_and_sentences(tmp_path: Path, emulator: Emulator) -> None:
    asked = [*rows_of(8, LANES[0]), row_of(8, lane=(CHAT, "nobody-knows"))]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    result = run(None, source, "--dry-run")
    assert re.search(r"gpt-5-mini +chat/completions +8 ", result.stdout)
    assert "9 requests" in result.stdout
    assert "no price is known of nobody-knows" in result.stdout
    assert "24 hours" in result.stdout
    prices = tmp_path / "prices.toml"
    prices.write_text("[nobody-knows]\ninput = 2\noutput = 10\n")
    assert "Cost: $" in run(None, source, "--dry-run", "--prices", prices).stdout
    write(source, asked[:3])
    assert run(emulator, source, "-o", out).exit_code == 0
    assert "3 rows more are in OUTPUT already" in run(None, write(source, asked), "-o", out, "--dry-run").stdout
    assert len(read(out)) == 3


def test_a_dry_run_looks_whether_output_is_ours(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", rows_of(3)), tmp_path / "out.jsonl"
    out.write_text("my notes\n")
    assert run(None, source, "-o", out, "--dry-run").exit_code == 2


# --- what is wrong with options, files, keys


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "-o"),
        (["-o", "missing/out"], "OUTPUT"),
        (["-o", "-"], "name a file"),
        (["-o", "."], "OUTPUT"),
        (["-o", ".", "--dry-run"], "OUTPUT"),
        (["-o", "in.jsonl/out"], "OUTPUT"),
        (["-o", "x" * 300], "OUTPUT"),
        (["-o", "x" * 300, "--dry-run"], "OUTPUT"),
        (["-o", "in.jsonl"], "same file"),
        (["-o", "out", "--limit", "gpt-4o"], "MODEL=N"),
        (["-o", "out", "--limit", "gpt-4o=many"], "MODEL=N"),
        (["-o", "out", "--limit", "gpt-4o=" + "9" * 5_000], "MODEL=N"),
        (["-o", "out", "--prices", "missing"], "missing"),
        (["-o", "out", "--prices", "in.jsonl"], "in.jsonl"),
        (["-o", "out", "--canary", "0"], "canary"),
        (["-o", "out", "--timeout", "-1"], "timeout"),
        (["-o", "out", "--budget", "-1"], "budget"),
        (["-o", "out", "--max-pending", "0"], "max_pending"),
        (["-o", "out", "--base-url", "ftp://x"], "base_url"),
        (["-o", "out", "--mode", "odd"], "odd"),
        (["-o", "out", "--escalate", "odd"], "odd"),
        (["-o", "out", "--endpoint", "chat/completions"], "no batches for the endpoint 'chat/completions'"),
        (["--dry-run", "--endpoint", "chat/completions"], "no batches for the endpoint 'chat/completions'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", rows_of(1))
    result = run(emulator, "in.jsonl", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not emulator.books().routes
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_input_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    result = run(None, tmp_path / "missing.jsonl", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "missing.jsonl" in result.stderr
    damaged = tmp_path / "in.gz"
    damaged.write_bytes(gzip.compress(b"x" * 1_000)[:-9])
    result = run(None, damaged, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "in.gz" in result.stderr


def test_without_a_key_nothing_is_begun(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    source = write(tmp_path / "in.jsonl", rows_of(3))
    result = run(emulator, source, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "OPENAI_API_KEY is not set" in result.stderr
    assert [*tmp_path.iterdir()] == [source]


def test_a_wrong_key_stops_the_run_and_is_not_shown_and_the_right_one_goes_on(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rows_of(20, LANES[0])
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    result = run(emulator, source, "-o", out)
    assert result.exit_code == 3
    assert "sk-another-key" not in result.output
    assert "the same command goes on" in result.stderr
    assert read(out) == []
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert run(emulator, source, "-o", out).exit_code == 0
    check(read(out), asked)


@pytest.mark.parametrize("more", [[], ["--as-completed"], ["--text"]])
def test_a_base_url_where_nothing_is_served_stops_the_run_and_the_right_one_goes_on(
    emulator: Emulator, tmp_path: Path, more: list[str]
) -> None:
    asked = rows_of(20, LANES[0])
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out, *more, "--base-url", emulator.url.removesuffix("/v1"))
    assert result.exit_code == 3
    assert "mostly ends in /v1" in result.stderr
    assert out.read_bytes() == b""
    assert run(emulator, source, "-o", out, *more).exit_code == 0
    assert len(out.read_bytes().splitlines()) == 20
    check_paid_once(emulator, asked)


@pytest.mark.parametrize("told", [b"", b"\0" * 80])
def test_texts_go_on_where_a_power_cut_took_what_says_whose_they_are(
    emulator: Emulator, tmp_path: Path, told: bytes
) -> None:
    asked = rows_of(6, LANES[0])
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "texts"
    assert run(emulator, source, "-o", out, "--text").exit_code == 0
    (tmp_path / "texts.carpool" / "row.seen").write_bytes(told)
    assert run(emulator, source, "-o", out, "--text").exit_code == 0
    assert read(out) == [text_of(row["body"]) for row in asked]
    check_paid_once(emulator, asked)


def test_the_journal_of_another_account_is_not_taken(emulator: Emulator, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", rows_of(3)), tmp_path / "out.jsonl"
    assert run(emulator, source, "-o", out).exit_code == 0
    result = run(emulator, write(source, rows_of(4)), "-o", out, "--base-url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 2
    assert "belongs to" in result.stderr


# --- what ends a run


@pytest.mark.parametrize("more", [[], ["--as-completed"]])
def test_a_budget_stops_a_run_and_more_of_it_goes_on(emulator: Emulator, tmp_path: Path, more: list[str]) -> None:
    asked = rows_of(100, LANES[0])
    prices = tmp_path / "prices.json"
    prices.write_text(
        json.dumps({"*": {"input": 100.0, "output": 100.0}, "gpt-5-mini": {"input": 100.0, "output": 100.0}})
    )
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out, "--prices", prices, "--budget", "0.02", *more)
    assert result.exit_code == 3
    assert "budget" in result.stderr
    assert "the same command goes on" in result.stderr
    first = read(out)
    assert all(row["error"] is None for row in first)
    assert len(first) < 100
    assert run(emulator, source, "-o", out, "--prices", prices, "--budget", "100", *more).exit_code == 0
    rows = sorted(read(out), key=lambda row: int(row["id"].split("_")[1]))
    check(rows, asked)
    check_paid_once(emulator, asked)


def test_a_canary_that_is_refused_stops_the_run(emulator: Emulator, tmp_path: Path) -> None:
    asked = [row_of(n, f"{REFUSED} {n}", LANES[0]) for n in range(100)]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    result = run(emulator, source, "-o", out, "--canary", "5")
    assert result.exit_code == 3
    assert "No answer to this" in result.stderr
    assert len(read(out)) <= 5
    assert 1 <= sum(emulator.books().bodies.values()) <= 5  # fewer where the file is still read as they go


def test_a_timeout_makes_error_rows(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", rows_of(4)), tmp_path / "out.jsonl"
    with Emulator(answer=answer, pace=Pace(running=60)) as slow:
        result = run(slow, source, "-o", out, "--timeout", "0.3")
    assert result.exit_code == 1
    assert {row["error"]["code"] for row in read(out)} == {"timeout"}


# --- elsewhere


def test_live_and_emulated(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rows_of(5, LANES[0])
    source = write(tmp_path / "in.jsonl", asked)
    assert run(emulator, source, "-o", tmp_path / "live", "--mode", "live").exit_code == 0
    check(read(tmp_path / "live"), asked)
    assert emulator.books().live == 5
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run(None, source, "-o", tmp_path / "emulated", "--mode", "emulate", "--text").exit_code == 0
    assert read(tmp_path / "emulated") == [text_of(row["body"]) for row in asked]


@pytest.mark.parametrize("more", [[], ["--text"]])
def test_answers_that_are_made_up_do_not_pass_for_others(emulator: Emulator, tmp_path: Path, more: list[str]) -> None:
    source, out = write(tmp_path / "in.jsonl", [*rows_of(3, LANES[0]), b"bad"]), tmp_path / "out.jsonl"
    result = run(None, source, "-o", out, "--mode", "emulate", "-q", *more)
    assert result.exit_code == 1
    assert "paid" not in result.stderr
    before = out.read_bytes()
    assert run(None, source, "-o", out, "--mode", "emulate", *more).exit_code == 0
    for dry in ([], ["--dry-run"]):
        assert run(emulator, source, "-o", out, *more, *dry).exit_code == 2
    assert (out.read_bytes(), emulator.books().routes.total()) == (before, 0)
    if not more:
        assert [row["id"].split("_")[0] for row in read(out)] == ["emulated"] * 4
    out.unlink()
    assert run(emulator, source, "-o", out, *more).exit_code == 1
    assert run(None, source, "-o", out, "--mode", "emulate", *more).exit_code == 2


def test_files_are_left_at_the_provider_where_that_is_wished(emulator: Emulator, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", rows_of(3, LANES[0]))
    assert run(emulator, source, "-o", tmp_path / "one").exit_code == 0
    assert not emulator.books().files
    assert run(emulator, source, "-o", tmp_path / "two", "--keep-remote-files").exit_code == 0
    assert emulator.books().files


def test_progress_is_told_in_lines_or_events_or_not_at_all(emulator: Emulator, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", rows_of(8, LANES[0]))
    spoken = run(emulator, source, "-o", tmp_path / "one").stderr
    quiet = run(emulator, source, "-o", tmp_path / "two", "--quiet").stderr
    events = run(emulator, source, "-o", tmp_path / "three", "--json-events").stderr
    assert "answered 8 of 8" in spoken
    assert "answered 8 of 8" not in quiet
    assert "8 rows: 8 answered" in quiet
    told = [json.loads(line) for line in events.splitlines() if line.startswith("{")]
    assert told[-1]["answered"] == 8
    assert "8 rows: 8 answered" in events


def test_without_its_journal_a_run_goes_on_and_says_what_that_means(emulator: Emulator, tmp_path: Path) -> None:
    asked = rows_of(12, LANES[0])
    source, out = write(tmp_path / "in.jsonl", asked[:6]), tmp_path / "out.jsonl"
    assert "is missing" not in run(emulator, source, "-o", out).stderr
    shutil.rmtree(tmp_path / "out.jsonl.carpool")
    assert run(None, source, "-o", out).exit_code == 0
    result = run(emulator, write(source, asked), "-o", out)
    assert result.exit_code == 0
    assert "out.jsonl.carpool is missing" in result.stderr
    check(read(out), asked)


def test_the_summary_for_machines(emulator: Emulator, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", [*rows_of(4, LANES[1]), b"bad"]), tmp_path / "out.jsonl"
    said = json.loads(run(emulator, source, "-o", out, "--json").stdout)
    assert {**said, "seconds": 0, "paid": said["paid"] > 0} == {
        "rows": 5,
        "answered": 4,
        "failed": 1,
        "earlier": 0,
        "codes": {"invalid_request": 1},
        "bad_lines": 1,
        "custom_ids_repeated": 0,
        "custom_ids_missing": 0,
        "paid": True,
        "saved": said["paid"],
        "unpriced": 0,
        "seconds": 0,
        "output": str(out),
        "exit_code": 1,
    }

"""`carpool doctor`: each judgement without a network; then the command over loopback, and on terminals."""

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from account_kit import KEY, NOWHERE, Account, journal_of, on_a_screen, run, scripted
from typer.testing import CliRunner, Result

from carpool.cli import doctor as command
from carpool.cli import journal_check, mounts
from carpool.cli.app import app
from carpool.cli.doctor import doctor
from carpool.cli.findings import Finding, of_clock, of_key, of_listing, of_mode, of_reach, of_tier, of_url
from carpool.cli.journal_check import check_journal, of_file_system, of_presence, of_room
from carpool.cli.mounts import bsd_mounts, is_remote, kind_of, linux_mounts
from carpool.cli.show import Screen, grades_of
from carpool.journal.sqlite.folder import DATABASE
from carpool.journal.sqlite.presence import Presence
from carpool.models import BatchStatus, Failure, NoRoom
from carpool.providers.replies import Listed
from carpool.testing import Emulator, Faults
from carpool.tokens import NoVocabulary
from carpool.wire import wire

NOW = 1_790_000_000.0


class Counting:
    """Stand in for tiktoken: its vocabulary is there, or is missing, which it also logs."""

    problem = ""

    def __init__(self, *, patience: float) -> None:
        assert patience <= 5

    def __call__(self, endpoint: str, model: str, body: bytes) -> int:
        if self.problem:
            logging.getLogger("carpool.tokens").warning("said once more")
            raise NoVocabulary(self.problem)
        return 1


@pytest.fixture(autouse=True)
def _environment(no_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(wire, "_PAUSE", 0.01)
    monkeypatch.setattr(Counting, "problem", "")
    monkeypatch.setattr(command, "Tiktoken", Counting)


@pytest.fixture
def emulator(no_certificates: None) -> Iterator[Emulator]:
    with Emulator(api_key=KEY, enqueued_tokens={"*": 90_000}) as served:
        yield served


def found(result: Result) -> dict[str, Finding]:
    """Give the findings of a run by their names, the worst of each."""
    order = ("ok", "warning", "problem")
    whole = json.loads(result.stdout)
    worst: dict[str, Finding] = {}
    for each in whole["findings"]:
        finding = Finding(**each)
        known = worst.get(finding.name)
        if known is None or order.index(known.level) < order.index(finding.level):
            worst[finding.name] = finding
    assert whole["ok"] == (result.exit_code == 0) == all(each.level != "problem" for each in worst.values())
    return worst


def look(url: Emulator | str, *arguments: str, key: str = KEY) -> dict[str, Finding]:
    return found(run(doctor, url, "--json", *arguments, key=key))


# --- the environment


@pytest.mark.parametrize(
    ("mode", "level", "words"),
    [
        ("", "ok", "batches"),
        ("batch", "ok", "batches"),
        ("live", "warning", "paid for in full"),
        ("emulate", "warning", "made up"),
        ("Live", "problem", "none of batch, live, emulate"),
        ("\x1b[31m", "problem", "'?[31m'"),
    ],
)
def test_a_mode_that_surprises_is_told(mode: str, level: str, words: str) -> None:
    finding = of_mode(mode)
    assert finding.level == level
    assert words in finding.sentence
    assert bool(finding.remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("key", "level", "words"),
    [
        (None, "problem", "not set"),
        ("", "problem", "not set"),
        ('"sk-hidden"', "problem", "quotation marks"),
        ("sk-hidden'", "problem", "quotation marks"),
        ("sk hidden", "problem", "blanks"),
        ("sk-hidden\u200b", "problem", "blanks"),
        ("sk-hidden", "ok", "is set"),
    ],
)
def test_a_key_is_judged_by_its_looks_and_nothing_of_it_is_shown(key: str | None, level: str, words: str) -> None:
    finding = of_key(key)
    assert finding.level == level
    assert words in finding.sentence
    assert "hidden" not in str(finding)


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        ("https://api.openai.com/v1", "ok", "Calls go to https://api.openai.com/v1."),
        ("https://eu.api.openai.com/v1", "ok", "Calls go to https://eu.api.openai.com/v1."),
        ("https://host/v1", "ok", "Calls go to https://host/v1. That is not OpenAI's own."),
        ("http://localhost:8000/v1", "ok", "Calls go to http://localhost:8000/v1."),
        ("http://host/v1", "warning", "The key travels unencrypted."),
    ],
)
def test_where_calls_go_is_said(url: str, level: str, words: str) -> None:
    finding = of_url(url, {})
    assert (finding.level, finding.sentence.endswith(words)) == (level, True)
    named = of_url(url, {"OpenAI-Project": "proj_1", "OpenAI-Organization": "org-1"})
    assert f"{url}, OpenAI-Organization org-1, OpenAI-Project proj_1." in named.sentence


# --- the server


@pytest.mark.parametrize(
    ("failure", "level", "words"),
    [
        (None, "ok", "host answers."),
        (Failure("lost", "oops", 502), "ok", "host answers."),
        (Failure("lost", "ConnectError: refused"), "problem", "host cannot be reached: ConnectError: refused."),
        (
            Failure("lost", "ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"),
            "problem",
            "No safe connection to host: ",
        ),
    ],
)
def test_whether_a_server_can_be_reached(failure: Failure | None, level: str, words: str) -> None:
    finding = of_reach("host", failure)
    assert finding.level == level
    assert finding.sentence.startswith(words)
    assert ("SSL_CERT_FILE" in finding.remedy) == ("SSL" in finding.sentence)


@pytest.mark.parametrize(
    ("failure", "words", "remedy"),
    [
        (Failure("auth", "Incorrect API key provided: sk-hi**den", 401), "The key is refused", "OPENAI_API_KEY"),
        (Failure("auth", "Missing scopes: api.batch.read", 403), "The key may not: Missing scopes", "Give the key"),
        (Failure("gone", "no", 404), "There is no list of files at /files (HTTP 404)", "ends in /v1"),
        (Failure("rejected", "no", 405), "There is no list of files at /files (HTTP 405)", "ends in /v1"),
        (Failure("lost", "a reply that is no JSON object: <html>", 200), "cannot be had: a reply that is no", "later"),
    ],
)
def test_whether_an_endpoint_is_there(failure: Failure, words: str, remedy: str) -> None:
    finding = of_listing("files", failure)
    assert finding.level == "problem"
    assert words in finding.sentence
    assert remedy in finding.remedy
    assert "sk-" not in finding.sentence
    assert of_listing("files", None).level == "ok"


@pytest.mark.parametrize(
    ("skew", "level", "words"),
    [
        (None, "ok", "does not tell"),
        (0.5, "ok", "agrees"),
        (-59.0, "ok", "agrees"),
        (300.0, "warning", "5 min behind the server's"),
        (-300.0, "warning", "5 min ahead of the server's"),
        (7_200.0, "problem", "2 h behind the server's. Batches may not be found again."),
    ],
)
def test_whether_the_clock_is_right(skew: float | None, level: str, words: str) -> None:
    finding = of_clock(skew)
    assert finding.level == level
    assert words in finding.sentence


# --- the tier


def refused(model: str, limit: int) -> Listed:
    status = BatchStatus("b", None, "failed", no_room=NoRoom(limit))
    return Listed(status, model=model, created_at=NOW - 60, ended_at=NOW - 50)


@pytest.mark.parametrize(
    ("batches", "words", "remedy"),
    [
        ([], "No refusal of the last month", "page of limits"),
        ([Listed(BatchStatus("b", None, "completed"), model="gpt-4o")], "No refusal", "page of limits"),
        ([refused("gpt-4o", 90_000)], "gpt-4o 90,000: as in the table of tier-1", "Give --tier tier-1."),
        (
            [refused("gpt-4o-2024-08-06", 1_350_000), refused("gpt-5-mini", 20_000_000)],
            "gpt-4o 1,350,000, gpt-5-mini 20,000,000: as in the table of tier-2",
            "Give --tier tier-2.",
        ),
        ([refused("gpt-6-astra", 200_000_000)], "as in the table of tier-4, launch", "Give --tier tier-4."),
        ([refused("gpt-4o", 123)], "gpt-4o 123: that is no tier's table", "Give --limit gpt-4o=123."),
        ([refused("mine", 123)], "mine 123: that is no tier's table", "Give --limit mine=123."),
        (
            [refused("gpt-4o", 90_000), refused("gpt-5-mini", 20_000_000)],
            "no tier's table",
            "Give --limit gpt-4o=90000 --limit gpt-5-mini=20000000.",
        ),
        ([refused("gpt-4o", 90_000), refused("mine", 123)], "as in the table of tier-1", "Give --tier tier-1."),
    ],
)
def test_which_tier_the_refusals_tell_of(batches: list[Listed], words: str, remedy: str) -> None:
    finding = of_tier(batches, NOW - 100, NOW)
    assert finding.level == "ok"
    assert words in finding.sentence
    assert remedy in finding.remedy


# --- the folder of a journal


def worst(folder: Path, account: str | None = None) -> Finding:
    order = ("ok", "warning", "problem")
    finding = max(check_journal(folder, account), key=lambda finding: order.index(finding.level))
    assert finding.sentence.startswith(f"{folder}: ")
    return finding


def said(folder: Path, account: str | None = None) -> str:
    return " ".join(finding.sentence.removeprefix(f"{folder}: ") for finding in check_journal(folder, account))


class Room(NamedTuple):
    free: int


@pytest.fixture
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Room(10**12))
    monkeypatch.setattr(journal_check, "kind_of", lambda _: "ext4")


@pytest.mark.usefixtures("_room")
def test_a_sound_journal_is_well(tmp_path: Path) -> None:
    journal_of(tmp_path, "https://host/v1", awaited=[("batch_1", "file-1")])
    assert worst(tmp_path, "https://host/v1").level == "ok"
    told = said(tmp_path, "https://host/v1")
    assert "It is sound, and holds 0 answers, 0 requests in flight in 1 batch, 0 waiting." in told
    assert "1 TB are free. Its file system is local (ext4)." in told
    assert "open in" not in told


@pytest.mark.usefixtures("_room")
def test_what_is_no_journal_yet_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(tmp_path).level == "ok"
    assert worst(tmp_path / "new" / "folder") == Finding(
        "warning",
        "journal",
        f"{tmp_path / 'new' / 'folder'}: The folder does not exist: it would be made.",
        "Check its name.",
    )
    (tmp_path / "notes.txt").touch()
    assert worst(tmp_path).sentence.partition(": ")[2] == "It holds other files, and no journal."
    assert worst(tmp_path / "notes.txt").sentence.partition(": ")[2] == "It is no folder."
    assert (
        worst(tmp_path / "notes.txt" / "below").sentence.partition(": ")[2]
        == f"The folder cannot be made in {tmp_path / 'notes.txt'}."
    )
    assert worst(tmp_path / ("x" * 300)).sentence.partition(": ")[2] == "It cannot be looked at: File name too long."
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert worst(tmp_path).sentence.partition(": ")[2] == "The folder cannot be written to."
    assert worst(tmp_path / "new").sentence.partition(": ")[2] == f"The folder cannot be made in {tmp_path}."


@pytest.mark.usefixtures("_room")
def test_a_journal_of_another_account_is_told(tmp_path: Path) -> None:
    journal_of(tmp_path, "https://host/v1, OpenAI-Project proj_1")
    finding = worst(tmp_path, "https://host/v1")
    assert (finding.level, finding.sentence.partition(": ")[2]) == (
        "problem",
        "It belongs to https://host/v1, OpenAI-Project proj_1, and the environment names https://host/v1.",
    )
    assert worst(tmp_path, None).level == "ok"


@pytest.mark.usefixtures("_room")
def test_a_damaged_journal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_of(tmp_path, "x")
    monkeypatch.setattr(journal_check, "damage", lambda _: "row 3 missing from index")
    assert worst(tmp_path).sentence.partition(": ")[2] == "It is damaged: row 3 missing from index."
    monkeypatch.undo()
    (tmp_path / DATABASE).write_bytes(b"no database" * 1_000)
    finding = worst(tmp_path)
    assert (finding.level, finding.remedy) == ("problem", "Put a copy back, or name another folder.")
    assert "cannot be read" in finding.sentence


def test_who_has_a_journal_open_is_told() -> None:
    assert of_presence(Presence("process 7 on here", seen=True)).sentence == "It is open in process 7 on here."
    finding = of_presence(Presence("process 7 on there", seen=False))
    assert (finding.level, "cannot be seen from here" in finding.sentence) == ("warning", True)


@pytest.mark.parametrize(("free", "level"), [(10**12, "ok"), (10**9, "warning"), (10**8, "problem")])
def test_room_is_judged(free: int, level: str) -> None:
    finding = of_room(free)
    assert (finding.level, bool(finding.remedy)) == (level, level != "ok")


@pytest.mark.parametrize(
    ("kind", "level"),
    [("ext4", "ok"), ("apfs", "ok"), ("overlay", "ok"), ("", "ok"), ("nfs4", "problem"), ("fuse.sshfs", "problem")],
)
def test_file_systems_are_judged(kind: str, level: str) -> None:
    assert of_file_system(kind).level == level
    assert is_remote(kind) == (level == "problem")


def test_what_is_mounted_where_is_read_on_linux() -> None:
    table = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:41 / /mnt/my\\040share rw,relatime - nfs4 host:/x rw,vers=4.2\n"
        "31 22 0:42 / /mnt/äöü\\134 rw - nfs host:/y rw\n"
        "half a line\n"
    )
    assert dict(linux_mounts(table)) == {"/": "ext4", "/mnt/my share": "nfs4", "/mnt/äöü\\": "nfs"}


def test_what_is_mounted_where_is_read_on_macos() -> None:
    table = (
        "/dev/disk1s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "//me@host/share (old) on /Volumes/share (old) (smbfs, nodev, nosuid, mounted by me)\n"
        "map auto_home on /System/Volumes/Data/home (autofs)\n"
        "half a line\n"
    )
    assert dict(bsd_mounts(table)) == {
        "/": "apfs",
        "/Volumes/share (old)": "smbfs",
        "/System/Volumes/Data/home": "autofs",
    }


def test_a_folder_lies_on_what_is_mounted_nearest_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path} rw - nfs4 x rw\n")
    monkeypatch.setattr(mounts, "_TABLE", table)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert kind_of(tmp_path / "deep" / "er") == "nfs4"
    assert kind_of(tmp_path.parent) == "ext4"
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "none")
    monkeypatch.setattr("sys.platform", "plan9")
    assert kind_of(tmp_path) == ""


# --- the command


def test_where_all_is_well_it_says_so_and_nothing_is_created(emulator: Emulator, tmp_path: Path) -> None:
    result = run(doctor, emulator, "--journal", str(tmp_path))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    names = ("versions", "mode", "key", "base URL", "network", "batches", "files", "clock", "tier", "vocabulary")
    for name in names:
        assert any(line.startswith(f"ok{' ' * 2}") and f"  {name}  " in line for line in lines), name
    assert any(f"  {tmp_path}: The folder is empty" in line for line in lines)
    assert lines[-1] == "All is well." or "1 to be looked at." in lines[-1]  # this machine may have little room
    assert all(line == line.rstrip() for line in lines)
    assert set(emulator.books().routes) == {"GET /v1/batches", "GET /v1/files"}


def test_json_is_for_machines(emulator: Emulator) -> None:
    findings_ = look(emulator)
    assert set(findings_) == {
        "versions", "extra emulator", "mode", "key", "base URL", "network", "batches", "files", "clock", "tier",
        "vocabulary",
    }  # fmt: skip
    assert findings_["base URL"].sentence == f"Calls go to {emulator.url}."
    assert findings_["versions"].sentence.startswith("carpool 0.")


def test_the_tier_is_told_by_the_account(emulator: Emulator) -> None:
    with Account(emulator) as account:
        batch_id = account.create(account.upload(content=b"".join(_heavy(400))), "p-b1")
        account.wait(batch_id, "failed")
    assert look(emulator)["tier"].remedy == "Give --tier tier-1."


def _heavy(rows: int) -> Iterator[bytes]:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 1_000}]}
    for number in range(rows):
        row = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(row).encode() + b"\n"


def test_the_environment_is_looked_at(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARPOOL_MODE", "live")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_1")
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.url)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    told = found(result)
    assert result.exit_code == 0
    assert told["mode"].level == "warning"
    assert told["base URL"].sentence == f"Calls go to {emulator.url}, OpenAI-Project proj_1."


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("OPENAI_BASE_URL", "http://me:hidden@host/v1", "base URL"),
        ("OPENAI_BASE_URL", "nonsense", "base URL"),
        ("OPENAI_ORG_ID", "org\u00e9", "base URL"),
        ("CARPOOL_MODE", "hidden", "mode"),
        ("OPENAI_API_KEY", "", "key"),
    ],
)
def test_an_environment_that_is_wrong_is_a_problem(
    variable: str, value: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", NOWHERE)
    monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    finding = found(result)[name]
    assert (result.exit_code, finding.level, bool(finding.remedy)) == (1, "problem", True)
    assert "me:hidden" not in result.output


def test_without_a_key_or_an_address_nobody_is_asked(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert "network" not in look(emulator)
    assert not emulator.books().routes


def test_a_refused_key_is_a_problem_and_not_shown(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    told = look(emulator, key="sk-another-key")
    assert told["network"].level == "ok"
    assert told["batches"].sentence == told["files"].sentence == "The key is refused (HTTP 401)."
    assert told["clock"].level == "ok"
    assert "tier" not in told


def test_a_key_that_no_header_can_carry_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk bad")
    with scripted({}) as url:
        told = look(url, key="sk bad")
    assert told["key"].level == "problem"
    assert "network" not in told


def test_a_server_without_these_endpoints_is_a_problem(emulator: Emulator) -> None:
    told = look(emulator.url.replace("/v1", "/v2"))
    for name in ("batches", "files"):
        assert f"There is no list of {name} at /{name} (HTTP 404)." in told[name].sentence
        assert "ends in /v1" in told[name].remedy


def test_one_list_without_the_other(emulator: Emulator) -> None:
    with scripted({"/batches": {"data": []}}) as url:
        told = look(url)
    assert (told["batches"].level, told["files"].level) == ("ok", "problem")


def test_a_page_of_a_proxys_own_is_told() -> None:
    with scripted({"/batches": b"<html>sign in here", "/files": b"<html>"}) as url:
        told = look(url)
    assert "a reply that is no JSON object: <html>sign in here" in told["batches"].sentence


@pytest.mark.parametrize(("ahead", "level"), [(0.0, "ok"), (-600.0, "warning"), (90_000.0, "problem")])
def test_a_clock_that_is_wrong_is_told(ahead: float, level: str) -> None:
    with scripted({"/batches": {"data": []}, "/files": {"data": []}}, ahead=ahead) as url:
        assert look(url)["clock"].level == level


def test_a_server_that_falters_is_asked_again() -> None:
    with Emulator(api_key=KEY, faults=Faults(reset=1.0, nth={1})) as emulator:
        told = look(emulator)
    assert {told[name].level for name in ("network", "batches", "files")} == {"ok"}


# --- without a network


def test_no_server_is_a_problem_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    told = look(NOWHERE, "--journal", str(tmp_path))
    assert told["network"].sentence.startswith("127.0.0.1:9 cannot be reached: ConnectError: ")
    assert told["network"].level == "problem"
    assert not {"batches", "files", "clock", "tier"} & set(told)
    assert {"vocabulary", "journal"} <= set(told)


def test_a_name_that_leads_nowhere_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    finding = look("https://host.invalid/v1")["network"]
    assert finding.level == "problem"
    assert "host.invalid cannot be reached: host.invalid has no address: " in finding.sentence


def test_a_lookup_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: over.wait())
    monkeypatch.setattr(command, "_NAMING", 0.05)
    try:
        assert "not found within 0.05 seconds" in look("https://host.invalid/v1")["network"].sentence
    finally:
        over.set()
        for thread in threading.enumerate():
            if thread.name == "carpool lookup":
                thread.join()


def test_a_server_that_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PATIENCE", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = "http://127.0.0.1:{1}/v1".format(*silent.getsockname())
        assert "no answer within 0.1 seconds" in look(url)["network"].sentence


def test_a_server_that_speaks_no_tls_is_told_apart(emulator: Emulator) -> None:
    finding = look(emulator.url.replace("http:", "https:"))["network"]
    assert finding.sentence.startswith("No safe connection to 127.0.0.1:")
    assert "SSL_CERT_FILE" in finding.remedy


@pytest.mark.parametrize("password", ["hidden", "hidden@"])
def test_a_proxy_is_shown_without_its_password(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{password}@127.0.0.1:9")
    result = run(doctor, "https://host.invalid/v1", "--json")
    told = found(result)
    assert told["proxy"].sentence == "Calls go through 127.0.0.1:9, as the environment says."
    assert told["network"].level == "problem"
    assert "hidden" not in result.output


def test_a_proxy_that_is_not_for_this_server_is_not_told_of(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    told = look(emulator)
    assert "proxy" not in told
    assert told["network"].level == "ok"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "gopher://me:hidden@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://me:hidden/x@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://me:hidden@[::1"),
        ("SSL_CERT_FILE", "/nowhere.pem"),
    ],
)
def test_an_environment_that_no_connection_can_be_made_with_is_a_problem(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = run(doctor, "https://127.0.0.1:9/v1", "--json")
    finding = found(result)["network"]
    assert (finding.level, variable in finding.sentence) == ("problem", True)
    assert "hidden" not in result.output


# --- what is installed


def test_a_vocabulary_that_is_missing_is_a_warning_said_once(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Counting, "problem", "The vocabulary o200k_base is missing: ConnectionError")
    result = run(doctor, emulator, "--json")
    assert result.exit_code == 0
    finding = found(result)["vocabulary"]
    assert (finding.level, "TIKTOKEN_CACHE_DIR" in finding.remedy) == ("warning", True)
    assert "said once more" not in caplog.text
    assert not logging.getLogger("carpool.tokens").disabled


def test_an_extra_that_is_missing_is_told_and_no_problem(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else object())
    finding = look(emulator)["extra emulator"]
    assert (finding.level, finding.sentence.startswith("Not installed: uvicorn,")) == ("ok", True)
    assert "install carpool with its extra emulator" in finding.remedy


def test_a_package_that_is_not_there_has_no_version(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SHOWN", ("httpx2", "no-such-package-of-ours"))
    sentence = look(emulator)["versions"].sentence
    assert "httpx2 " in sentence
    assert "no-such-package" not in sentence


# --- how it looks


@pytest.mark.parametrize("columns", [120, 60])
def test_a_terminal_shows_it_within_its_width(emulator: Emulator, columns: int, tmp_path: Path) -> None:
    shown = on_a_screen(columns, doctor, emulator, "--journal", str(tmp_path))
    assert max(map(len, shown.splitlines())) <= columns
    for word in ("ok", "network", "key", "journal"):
        assert word in shown
    assert KEY not in shown


def test_grades_have_colours_on_a_screen_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("problem", "a name", "[bold]a sentence", "a remedy")]
    Screen().table(grades_of(rows))
    assert capsys.readouterr().out == "problem  a name  [bold]a sentence\n                 a remedy\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    Screen().table(grades_of(rows))
    assert "\x1b[1;31mproblem" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"), [(["--journal"], "requires an argument"), (["--api-key", "sk"], "No such option")]
)
def test_a_wrong_option_is_told(options: list[str], sentence: str) -> None:
    result = run(doctor, NOWHERE, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_help_documents_options_and_exit_codes_and_takes_no_key() -> None:
    result = CliRunner().invoke(app, ["doctor", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("--journal", "--base-url", "--json"):
        assert option in result.output
    assert "Exit codes: 0 where nothing is a problem" in result.output
    assert "--api-key" not in result.output

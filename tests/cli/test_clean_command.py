"""`carpool clean`: what may go and what must stay, judged without a network; then the command over loopback."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from account_kit import CHAT, KEY, NOWHERE, POOL, Account, fields, journal_of, on_a_screen, run, scripted
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import carpool
from carpool.cli import leftovers as rules
from carpool.cli import sweeping
from carpool.cli.app import app
from carpool.cli.batch_words import files_of
from carpool.cli.clean import clean
from carpool.cli.leftovers import DAY, GOES, HOUR, Known, Verdict, leftovers, verdicts
from carpool.cli.leftovers import Account as Held
from carpool.cli.ownership import key_of
from carpool.models import BatchStatus
from carpool.providers.openai import OpenAI
from carpool.providers.overview import RemoteFile
from carpool.providers.replies import Listed
from carpool.testing import Emulator, Faults, Pace, Troubles
from carpool.wire import wire

NOW = 1_790_000_000.0
OTHER = "ffff00001111"
NOTHING = Known()


@pytest.fixture(autouse=True)
def _environment(no_environment: None, no_certificates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(wire, "_PAUSE", 0.01)


# --- what may go


def batch(
    id_: str = "b",
    status: str = "completed",
    *,
    key: str | None = f"{POOL}-b1",
    ended: float | None = 2 * DAY,
    files: tuple[str | None, str | None, str | None] = ("in", "out", "err"),
) -> Listed:
    """Make a batch that ended so many seconds ago."""
    over = status in ("completed", "failed", "expired", "cancelled")
    ended_at = NOW - ended if over and ended is not None else None
    return Listed(BatchStatus(id_, key, status, *files), created_at=NOW - 3 * DAY, ended_at=ended_at)


def file(id_: str, *, age: float | None = 3 * DAY, name: str | None = None) -> RemoteFile:
    return RemoteFile(id_, name, 10, None if age is None else NOW - age)


def judged(
    *batches: Listed,
    inputs: tuple[RemoteFile, ...] = (),
    outputs: tuple[RemoteFile, ...] = (),
    complete: bool = True,
    known: Known = NOTHING,
) -> dict[str, Verdict]:
    held = Held(inputs, outputs, batches, complete)
    found = leftovers(held)
    return {left.file.id: verdict for left, verdict in zip(found, verdicts(found, held, known, NOW), strict=True)}


ALL: dict[str, Any] = {"inputs": (file("in"),), "outputs": (file("out"), file("err"))}


def test_the_input_of_a_batch_that_is_over_goes_and_its_rows_stay() -> None:
    found = judged(batch(), **ALL)
    assert found["in"] == GOES
    assert found["out"] == found["err"] == Verdict("nobody is known to have fetched it", forcible=True)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "paused", "unknown"])
def test_files_of_a_batch_that_is_not_over_stay_whatever_is_said(status: str) -> None:
    on_disk = Known(on_disk=frozenset({"in", "out", "err"}))
    for known in (NOTHING, on_disk):
        assert set(judged(batch(status=status), known=known, **ALL).values()) == {Verdict("its batch is not over")}


def test_one_open_batch_holds_a_file_that_others_used() -> None:
    found = judged(batch("b1"), batch("b2", "in_progress", files=("in", None, None)), **ALL)
    assert found["in"] == Verdict("its batch is not over")


@pytest.mark.parametrize("ended", [0.0, DAY - 1, None])
def test_what_ended_within_a_day_stays(ended: float | None) -> None:
    assert set(judged(batch(ended=ended), **ALL).values()) == {Verdict("ended within a day", forcible=True)}


def test_what_a_journal_has_on_disk_goes_at_once_and_what_it_awaits_stays() -> None:
    on_disk = Known(on_disk=frozenset({"in", "out", "err"}))
    assert set(judged(batch(ended=1.0), known=on_disk, **ALL).values()) == {GOES}
    for awaited in ("b", f"{POOL}-b1"):
        known = Known(awaited=frozenset({awaited}))
        assert set(judged(batch(), known=known, **ALL).values()) == {Verdict("the journal awaits it")}
    assert judged(inputs=(file("in"),), known=Known(awaited=frozenset({"in"})))["in"] == Verdict(
        "the journal awaits it"
    )


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        (None, Verdict("made within the hour")),
        (HOUR - 1, Verdict("made within the hour")),
        (DAY - 1, Verdict("uploaded within a day", forcible=True)),
        (DAY + 1, GOES),
    ],
)
def test_an_upload_that_no_batch_uses_goes_after_a_day(age: float | None, verdict: Verdict) -> None:
    assert judged(inputs=(file("in", age=age, name=f"{POOL}-b9.jsonl"),))["in"] == verdict


def test_an_upload_that_waits_for_room_stays_while_its_pool_is_at_work() -> None:
    waiting = file("next", age=9 * DAY, name=f"{POOL}-b9.jsonl")
    working = batch(status="in_progress")
    assert judged(working, inputs=(waiting,))["next"] == Verdict("its pool is at work", forcible=True)
    another = batch(status="in_progress", key=f"{OTHER}-b1")
    assert judged(another, inputs=(waiting,))["next"] == GOES


def test_where_not_all_batches_were_read_what_may_be_in_use_stays() -> None:
    unread = Verdict("more batches than were read")
    found = judged(batch(), complete=False, **ALL)
    assert found["in"] == unread  # an older batch may use it too
    assert found["out"] == Verdict("nobody is known to have fetched it", forcible=True)
    lone = judged(inputs=(file("in"),), outputs=(file("out"),), complete=False)
    assert set(lone.values()) == {unread}


def test_rows_of_a_batch_that_no_listing_shows_stay() -> None:
    assert judged(outputs=(file("out"),))["out"] == Verdict("its batch is unknown", forcible=True)


def test_rows_are_rows_wherever_they_are_listed() -> None:
    """Some servers keep their output files under the purpose of inputs (llama-stack), or know no purposes."""
    everything = (file("in", name=f"{POOL}-b1.jsonl"), file("out"), file("err"))
    for outputs in ((), everything):
        found = judged(batch(), inputs=everything, outputs=outputs)
        assert found["in"] == GOES
        assert found["out"] == found["err"] == Verdict("nobody is known to have fetched it", forcible=True)


def test_what_is_in_both_lists_and_of_no_batch_may_be_rows_unless_a_pool_named_it() -> None:
    both = (file("mine", name=f"{POOL}-b1.jsonl"), file("what", name="rows.jsonl"))
    found = judged(inputs=both, outputs=both)
    assert found == {"mine": GOES, "what": Verdict("its batch is unknown", forcible=True)}


STATUSES = st.sampled_from(["completed", "failed", "expired", "cancelled", "in_progress", "validating", "odd"])
IDS = st.sampled_from(["f1", "f2", "f3", "f4"])
AGES = st.none() | st.floats(0, 9 * DAY)
BATCHES = st.builds(
    batch,
    st.sampled_from(["b1", "b2", "b3"]),
    STATUSES,
    key=st.sampled_from([None, f"{POOL}-b1", f"{OTHER}-b1"]),
    ended=AGES,
    files=st.tuples(st.none() | IDS, st.none() | IDS, st.none() | IDS),
)
FILES = st.lists(
    st.builds(file, IDS, age=AGES, name=st.sampled_from([None, f"{POOL}-b2.jsonl"])), unique_by=lambda each: each.id
)
NAMES = st.frozensets(st.sampled_from(["f1", "f2", "b1", "b2", f"{POOL}-b1", f"{POOL}-b2"]))


@given(st.lists(BATCHES), FILES, FILES, st.booleans(), NAMES, NAMES)
def test_whatever_is_there_what_is_in_use_or_awaited_or_may_be_paid_for_stays(
    batches: list[Listed],
    inputs: list[RemoteFile],
    outputs: list[RemoteFile],
    complete: bool,
    awaited: frozenset[str],
    on_disk: frozenset[str],
) -> None:
    held, known = Held(inputs, outputs, batches, complete), Known(awaited, on_disk)
    found = leftovers(held)
    assert sorted(left.file.id for left in found) == sorted({each.id for each in (*inputs, *outputs)})
    for left, verdict in zip(found, verdicts(found, held, known, NOW), strict=True):
        used = [each for each in batches if left.file.id in files_of(each).values()]
        rows = any(left.file.id in (each.status.output_file_id, each.status.error_file_id) for each in used)
        names = {left.file.id, left.key, *(each.status.id for each in used)}
        if any(each.open for each in used) or names & awaited:
            assert verdict.reason
            assert not verdict.forcible
        elif (rows or left.file.id not in {each.id for each in inputs}) and left.file.id not in on_disk:
            assert verdict.reason
        assert rows <= (left.kind != "input")
        assert verdict.reason or not verdict.forcible


def test_each_file_is_told_apart_by_the_batches_that_name_it() -> None:
    found = leftovers(
        Held(
            (
                file("in", age=5.0),
                file("named", age=4.0, name=f"{OTHER}-b2.jsonl"),
                file("mine", age=1.0, name="my.jsonl"),
            ),
            (file("out", age=3.0), file("err", age=2.0), file("lone", age=None)),
            (batch(),),
            True,
        )
    )
    assert [(left.file.id, left.kind, left.key) for left in found] == [
        ("mine", "input", None),
        ("err", "error", f"{POOL}-b1"),
        ("out", "output", f"{POOL}-b1"),
        ("named", "input", f"{OTHER}-b2"),
        ("in", "input", f"{POOL}-b1"),
        ("lone", "output", None),
    ]


# --- the command


@pytest.fixture
def account() -> Iterator[Account]:
    """Serve an account with what a pool has left, what another one has, and what another program has."""
    with Emulator(api_key=KEY, troubles=Troubles(failing={400: 0.3})) as emulator, Account(emulator) as served:
        served.run(f"{POOL}-b1", 20)
        served.run(f"{OTHER}-b1", 20)
        served.run(None, 20)
        yield served


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be old that is there."""
    monkeypatch.setattr(rules, "DAY", -60.0)
    monkeypatch.setattr(rules, "HOUR", -60.0)


def sweep(account: Account | str, *arguments: str) -> Result:
    return run(clean, account if isinstance(account, str) else account.emulator, *arguments)


def told(account: Account, *arguments: str) -> list[Any]:
    result = sweep(account, "--json", *arguments)
    found: list[Any] = json.loads(result.stdout)["files"]
    return found


@pytest.mark.parametrize("options", [[], ["--force"], ["--all"], ["--all", "--force"]])
def test_nothing_is_deleted_before_yes_is_said(account: Account, old: None, options: list[str]) -> None:
    before = account.files()
    result = sweep(account, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert account.files() == before
    assert "would be deleted: give --yes." in result.stdout


def test_inputs_go_and_rows_stay(account: Account, old: None) -> None:
    result = sweep(account, "--yes")
    assert result.exit_code == 0
    head, gap, columns, *lines = result.stdout.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:\d+, at \d{4}-\d\d-\d\d \d\d:\d\d UTC", head)
    assert (gap, fields(columns)) == ("", ["file", "kind", "made by", "batch", "size", "age", "outcome"])
    outcomes = {fields(line)[1]: fields(line)[-1] for line in lines[:6]}
    assert outcomes == {
        "input": "deleted",
        "output": "stays: nobody is known to have fetched it",
        "error": "stays: nobody is known to have fetched it",
    }
    assert re.fullmatch(r"2 files of [\d.]+ kB deleted\.", lines[7])
    assert re.fullmatch(r"4 files of [\d.]+ kB stay\.", lines[8])
    assert lines[9].startswith("Answers are paid for: `carpool results BATCH -o FILE` fetches them")
    assert re.fullmatch(r"3 files of [\d.]+ kB of other programs not shown: see --all\.", lines[10])
    kept = account.files()
    for entry in account.http.get("/batches").json()["data"]:
        mine = entry["metadata"] is not None
        assert (entry["input_file_id"] in kept) != mine
        assert {entry["output_file_id"], entry["error_file_id"]} <= kept


def test_of_the_last_day_everything_stays(account: Account) -> None:
    before = account.files()
    assert {entry["reason"] for entry in told(account, "--yes")} == {"ended within a day"}
    assert account.files() == before


def test_with_force_what_a_pool_may_need_goes_too_and_that_is_said(account: Account) -> None:
    result = sweep(account, "--force", "--yes")
    assert re.search(r"^6 files of [\d.]+ kB deleted\.$", result.stdout, re.MULTILINE)
    assert "Rows that nobody is known to have fetched were among them." in result.stdout
    assert len(account.files()) == 3
    assert "Nothing of carpool's is left." in sweep(account, "--force", "--yes").stdout


def test_one_pool_alone(account: Account) -> None:
    found = told(account, "--force", "--yes", "--pool", POOL)
    assert {entry["client_key"] for entry in found} == {f"{POOL}-b1"}
    assert len(account.files()) == 6


def test_files_of_other_programs_go_with_all_alone_and_that_is_said(account: Account, old: None) -> None:
    result = sweep(account, "--all", "--yes")
    assert "Files of other programs are among them: carpool cannot know whether they are needed." in result.stdout
    assert len(account.files()) == 6  # rows stay, of others too
    assert sweep(account, "--all", "--yes", "--force").exit_code == 0
    assert account.files() == set()
    assert "No files are left." in sweep(account, "--all").stdout


def test_files_of_batches_that_run_are_never_deleted(old: None) -> None:
    with Emulator(api_key=KEY, pace=Pace(running=3_600)) as emulator, Account(emulator) as account:
        running = account.put(f"{POOL}-b1")
        cancelled = account.put(f"{POOL}-b2")
        account.http.post(f"/batches/{cancelled}/cancel")
        account.wait(cancelled, "cancelled")
        found = told(account, "--all", "--yes", "--force")
        reasons = {entry["reason"] for entry in found if entry["batches"] == [running]}
        assert reasons == {"its batch is not over"}
        assert account.files() == {account.batch(running)["input_file_id"]}


def test_what_was_made_a_moment_ago_stays_for_its_batch_may_not_be_listed_yet(account: Account) -> None:
    account.upload(f"{POOL}-b7.jsonl")
    (left,) = [entry for entry in told(account, "--yes", "--force") if not entry["batches"]]
    assert (left["outcome"], left["reason"]) == ("stays", "made within the hour")


def test_a_batch_that_begins_to_use_an_old_file_meanwhile_saves_it(
    account: Account, old: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program creates a batch of a file after the batches were listed, and before the file would go."""
    mine = account.http.get("/batches").json()["data"][-1]
    listing = OpenAI.recent
    listings = 0

    def recent(self: OpenAI, *arguments: Any) -> Any:
        nonlocal listings
        listings += 1
        if listings == 2:
            account.create(mine["input_file_id"])
        return listing(self, *arguments)

    monkeypatch.setattr(OpenAI, "recent", recent)
    found = {entry["id"]: entry for entry in told(account, "--yes")}
    assert listings == 2
    assert len(found[mine["input_file_id"]]["batches"]) == 2
    other = next(entry for entry in found.values() if entry["kind"] == "input" and entry["id"] != mine["input_file_id"])
    assert other["outcome"] == "deleted"


def test_younger_files_than_asked_for_stay(account: Account, old: None) -> None:
    found = told(account, "--yes", "--older-than", "0.5")
    assert {entry["reason"] for entry in found if entry["kind"] == "input"} == {"younger than --older-than"}
    assert {entry["reason"] for entry in found if entry["kind"] != "input"} == {"nobody is known to have fetched it"}
    assert {entry["outcome"] for entry in told(account, "--older-than", "0") if entry["kind"] == "input"} == {
        "would go"
    }


@pytest.mark.parametrize(("ahead", "outcome"), [(0.0, "would go"), (-3 * DAY, "stays")])
def test_ages_are_by_the_clock_of_the_server(ahead: float, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is days ahead of the server's makes nothing old."""
    made = 1_900_000_000
    monkeypatch.setattr("time.time", lambda: float(made + 2 * DAY))
    listed = {"id": "f1", "filename": f"{POOL}-b1.jsonl", "bytes": 7, "created_at": made, "purpose": "batch"}
    with scripted({"/files": {"data": [listed]}, "/batches": {"data": []}}, ahead=ahead) as url:
        (entry,) = json.loads(sweep(url, "--json").stdout)["files"]
    assert entry["outcome"] == outcome


def test_json_is_for_machines(account: Account, old: None) -> None:
    whole = json.loads(sweep(account, "--json", "--yes", "--pool", POOL).stdout)
    files = whole.pop("files")
    whole.pop("at")
    assert whole == {
        "server": account.emulator.url.split("/")[2],
        "deleted": True,
        "complete": True,
        "not_shown": 3,
    }
    gone = next(entry for entry in files if entry["kind"] == "input")
    assert (gone.pop("created_at") or "").startswith("20")
    mine = account.http.get("/batches").json()["data"][-1]
    assert gone == {
        "id": mine["input_file_id"],
        "kind": "input",
        "name": f"{POOL}-b1.jsonl",
        "bytes": gone["bytes"],
        "made_by": "carpool",
        "client_key": f"{POOL}-b1",
        "batches": [mine["id"]],
        "outcome": "deleted",
        "reason": None,
        "problem": None,
    }


def test_more_files_than_a_page_are_read_and_deleted_many_at_once(old: None) -> None:
    with Emulator(api_key=KEY) as emulator, Account(emulator) as account:
        for number in range(130):
            account.upload(f"{POOL}-b{number}.jsonl", b"{}\n")
        assert sweep(account, "--yes").exit_code == 0
        assert account.files() == set()


def test_where_more_is_there_than_is_read_that_is_said(old: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "THOROUGH", 1)
    with Emulator(api_key=KEY) as emulator, Account(emulator) as account:
        for number in range(101):
            account.upload(f"{POOL}-b{number}.jsonl", b"{}\n")
        result = sweep(account)
        assert json.loads(sweep(account, "--json").stdout)["complete"] is False
    assert "there may be more." in result.stdout.splitlines()[-1]


def test_a_batch_behind_a_page_of_old_ones_saves_its_file(old: None) -> None:
    """Some servers list the oldest first."""
    first = 1_600_000_000
    runs = {"id": "b", "status": "in_progress", "input_file_id": "f1", "created_at": 1_600_900_000}
    past = [{"id": f"b{n}", "status": "completed", "created_at": first + n} for n in range(100)]
    pages = iter([{"data": past, "has_more": True}, {"data": [runs]}])

    def turn(connection: Any) -> None:
        body = json.dumps(next(pages)).encode()
        connection.send_response(200)
        connection.send_header("Content-Length", str(len(body)))
        connection.end_headers()
        connection.wfile.write(body)

    listed = {"id": "f1", "filename": f"{POOL}-b1.jsonl", "bytes": 7, "created_at": 1_600_900_000}
    with scripted({"/files": {"data": [listed]}, "/batches": turn}) as url:
        (entry,) = json.loads(sweep(url, "--json", "--yes", "--force").stdout)["files"]
    assert entry["reason"] == "its batch is not over"


def test_a_file_that_has_gone_meanwhile_is_no_failure(account: Account, old: None) -> None:
    faults = Faults(lost_reply=1.0, only={"DELETE /v1/files/{id}"}, nth={1})
    with Emulator(api_key=KEY, faults=faults) as emulator, Account(emulator) as served:
        served.upload(f"{POOL}-b1.jsonl")
        assert sweep(served, "--yes").exit_code == 0
        assert served.files() == set()


@pytest.mark.parametrize(
    ("reply", "code", "outcome"),
    [({"id": "f1", "deleted": False}, 1, "failed"), ({"id": "f1", "deleted": True}, 0, "deleted"), (b"", 0, "deleted")],
)
def test_a_server_that_says_that_it_has_not_deleted_is_believed(reply: object, code: int, outcome: str) -> None:
    listed = {"id": "f1", "filename": f"{POOL}-b1.jsonl", "bytes": 7, "created_at": 1_600_000_000}
    with scripted({"/files": {"data": [listed]}, "/batches": {"data": []}, "/files/f1": reply}) as url:
        result = sweep(url, "--yes", "--json")
    (entry,) = json.loads(result.stdout)["files"]
    assert (result.exit_code, entry["outcome"]) == (code, outcome)
    assert entry["problem"] == (f"{url.split('/')[2]} says that it was not deleted" if code else None)


def test_each_deletion_that_fails_is_told(old: None) -> None:
    faults = Faults(server_error=1.0, only={"DELETE /v1/files/{id}"}, nth=range(1, 5))
    with Emulator(api_key=KEY, faults=faults, seed=3) as emulator, Account(emulator) as account:
        account.upload(f"{POOL}-b1.jsonl")
        result = sweep(account, "--yes")
        assert len(account.files()) == 1
    assert result.exit_code == 1
    assert re.search(r"failed: 127\.0\.0\.1:\d+ refuses \(HTTP 50\d\): ", result.stdout)
    assert re.search(r"^1 file of \d+ B could not be deleted\.$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("columns", [140, 80])
def test_a_terminal_shows_it_within_its_width(account: Account, columns: int) -> None:
    shown = on_a_screen(columns, clean, account.emulator)
    assert max(map(len, shown.splitlines())) <= columns
    for entry in told(account):
        assert entry["id"] in shown
    assert "ended within a day" in shown


# --- with a journal


def test_what_journals_have_on_disk_goes_and_what_they_await_stays(account: Account, tmp_path: Path) -> None:
    _, theirs, mine = account.http.get("/batches").json()["data"]
    on_disk = [mine[f"{kind}_file_id"] for kind in ("input", "output", "error")]
    journal_of(tmp_path / "one", "x", on_disk=on_disk)
    journal_of(tmp_path / "two", "x", awaited=[(theirs["id"], theirs["input_file_id"])])
    folders = ("--journal", str(tmp_path / "one"), "--journal", str(tmp_path / "two"))
    before = account.files()
    found = told(account, *folders, "--yes", "--force")
    assert {(entry["client_key"], entry["outcome"], entry["reason"]) for entry in found} == {
        (f"{POOL}-b1", "deleted", None),
        (f"{OTHER}-b1", "stays", "the journal awaits it"),
    }
    assert account.files() == before - set(on_disk)


def test_what_a_journal_has_on_disk_goes_at_once_and_without_a_warning(account: Account, tmp_path: Path) -> None:
    on_disk = sorted(account.files())
    journal_of(tmp_path, "x", on_disk=on_disk)
    result = sweep(account, "--journal", str(tmp_path), "--yes")
    assert re.search(r"^6 files of [\d.]+ kB deleted\.$", result.stdout, re.MULTILINE)
    assert "nobody is known to have fetched" not in result.stdout
    assert len(account.files()) == 3


def test_a_folder_without_a_journal_is_one_sentence(tmp_path: Path) -> None:
    result = sweep(NOWHERE, "--journal", str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"carpool: There is no journal in {tmp_path}.\n"


def test_the_files_of_a_pool_are_known_by_their_names() -> None:
    """What is read here is what a pool writes."""

    async def upload(url: str) -> None:
        timing = carpool.Timing(linger=0.01, poll_min=0.01)
        async with carpool.Pool(api_key=KEY, base_url=url, timing=timing, keep_remote_files=True) as pool:
            await pool.request(CHAT, {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]})

    with Emulator(api_key=KEY) as emulator, Account(emulator) as account:
        anyio.run(upload, emulator.url)
        for entry in account.http.get("/files", params={"purpose": "batch"}).json()["data"]:
            assert key_of(entry["filename"]) is not None


# --- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--all", "--pool", "p"], "carpool: --all and --pool exclude each other."),
        (["--older-than", "-1"], "carpool: --older-than is a number of hours from 0"),
        (["--older-than", "nan"], "carpool: --older-than is a number of hours from 0"),
        (["--base-url", "nonsense"], "carpool: base_url must be an http or https address"),
    ],
)
def test_a_wrong_argument_is_told_and_nobody_is_asked(arguments: list[str], sentence: str) -> None:
    result = sweep(NOWHERE, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_without_a_key_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert (sweep(NOWHERE).exit_code, sweep(NOWHERE).stderr) == (2, "carpool: OPENAI_API_KEY is not set.\n")


def test_a_refused_key_is_said_and_not_shown(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    result = run(clean, account.emulator, "--yes", key="sk-another-key")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("refuses the key. Check OPENAI_API_KEY.\n")


@pytest.mark.parametrize("missing", ["/files", "/batches"])
def test_without_one_of_the_lists_nothing_is_deleted(missing: str) -> None:
    listed = {"id": "f1", "filename": f"{POOL}-b1.jsonl", "bytes": 7, "created_at": 1_600_000_000}
    answers = {"/files": {"data": [listed]}, "/batches": {"data": []}}
    del answers[missing]
    with scripted(answers) as url:
        result = sweep(url, "--yes", "--force")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "refuses (HTTP 404)" in result.stderr


@pytest.mark.parametrize("content", [b"<html>", b'"x"', b"{}"])
def test_garbage_is_one_sentence(content: bytes) -> None:
    with scripted({"/files": content}) as url:
        result = sweep(url, "--yes")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


def test_names_of_files_are_no_commands_for_the_terminal() -> None:
    listed = {"id": "f\x1b[31m", "filename": f"{POOL}-b1.jsonl", "bytes": 7, "created_at": 1_600_000_000}
    with scripted({"/files": {"data": [listed]}, "/batches": {"data": []}}) as url:
        result = sweep(url)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout


def test_help_documents_options_and_exit_codes_and_takes_no_key() -> None:
    result = CliRunner().invoke(app, ["clean", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("--yes", "--older-than", "--pool", "--journal", "--force", "--all", "--base-url", "--json"):
        assert option in result.output
    assert "Exit codes: 0; 1 where a file could not be deleted" in result.output
    assert "--api-key" not in result.output

"""`carpool cost`: over folders that pools left, against what the pools themselves said that it cost."""

import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner, Result
from virtual import CHAT, EMBEDDINGS, Site, body, site

import carpool
from carpool.cli.app import app
from carpool.cli.spent import Place, Places
from carpool.models import Lane, Row
from carpool.testing import Answer

PATIENT = carpool.Timing(linger=1_000, max_linger=1_000)
RESPONSES = "/v1/responses"
NOTE = "Not in it: what failed, what is not answered yet, and answers that are not kept any more."


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


@pytest.fixture(autouse=True)
def _environment(no_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["cost", *arguments])
    assert "Traceback" not in result.output
    return result


def told(*arguments: str) -> dict[str, Any]:
    result = run("--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return dict(json.loads(result.stdout))


def fields(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "journal.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


def usage(input_: int, output: int, cached: int = 0, **more: Any) -> dict[str, Any]:
    """Make an answer that says what it cost."""
    return {
        "object": "chat.completion",
        "choices": [{"message": {"content": "yes"}}],
        "usage": {
            "prompt_tokens": input_,
            "completion_tokens": output,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        **more,
    }


class Said:
    """Add up what pools say, as the command should."""

    def __init__(self) -> None:
        self.costs: dict[tuple[str, str], Any] = {}

    def add(self, pool: carpool.Pool) -> None:
        for lane, cost in pool.stats().costs.items():
            key = lane.model, lane.endpoint
            self.costs[key] = cost.plus(self.costs[key]) if key in self.costs else cost

    def check(self, *arguments: str) -> None:
        """Hold what the command tells against it."""
        found = told(*arguments)
        assert [(each["model"], each["endpoint"]) for each in found["costs"]] == sorted(self.costs)
        for each in [*found["costs"]]:
            cost = self.costs[each["model"], each["endpoint"]]
            for name in ("requests", "unpriced", "input_tokens", "cached_tokens", "output_tokens"):
                assert each[name] == getattr(cost, name), name
            for name in ("paid", "live", "saved"):
                assert each[name] == pytest.approx(getattr(cost, name)), name
        for name in found["total"]:
            assert found["total"][name] == pytest.approx(sum(each[name] for each in found["costs"])), name


async def ask(at: Site, said: Said, *requests: carpool.Request, **settings: Any) -> None:
    """Ask in a pool of its own."""
    async with at.open(**settings) as w:
        await w.pool.gather(requests, return_exceptions=True)
        said.add(w.pool)


def request(text: str, model: str = "gpt-5-mini", endpoint: str = CHAT) -> carpool.Request:
    if endpoint == CHAT:
        return carpool.Request(CHAT, {**body(text), "model": model})
    return carpool.Request(endpoint, {"model": model, "input": text})


# --- what it comes to


@pytest.mark.anyio
async def test_it_is_what_the_pools_said_that_it_cost(tmp_path: Path) -> None:
    said = Said()
    async with site(tmp_path) as at:
        mixed = [
            request(f"text {number} " + "long " * number, model, endpoint)
            for number in range(10)
            for model, endpoint in [
                ("gpt-5-mini", CHAT),
                ("gpt-4o", CHAT),
                ("gpt-4o", RESPONSES),
                ("text-embedding-3-small", EMBEDDINGS),
                ("nobody-prices-me", CHAT),
            ]
        ]
        await ask(at, said, *mixed[:30])
        await ask(at, said, *mixed)  # the first thirty are read from disk, and cost nothing again
        await ask(at, said, request("more"), reuse="never")
    assert len(said.costs) == 5
    said.check()


@pytest.mark.anyio
async def test_it_is_shown_as_a_table_with_a_sum_and_what_is_not_in_it(tmp_path: Path) -> None:
    async with site(tmp_path, answer=lambda *_: usage(1_000_000, 2_000_000, 500_000)) as at:
        requests = [request("x", "gpt-5.4"), request("y", "gpt-5.4"), request("x", "nobody-prices-me")]
        await ask(at, Said(), *requests)
    result = run("journal")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [fields(line) for line in result.stdout.splitlines()] == [
        ["journal"],
        [""],
        ["model", "endpoint", "requests", "in", "cached", "out", "paid", "live", "saved", "unpriced"],
        ["gpt-5.4", "chat/completions", "2", "2,000,000", "1,000,000", "4,000,000", "$31.38", "$62.75", "$31.38", "0"],
        ["nobody-prices-me", "chat/completions", "1", "1,000,000", "500,000", "2,000,000", "-", "-", "-", "1"],
        ["all", "-", "3", "3,000,000", "1,500,000", "6,000,000", "$31.38", "$62.75", "$31.38", "1"],
        [""],
        ["unpriced: no price is known of their models, so that they are in no amount; --prices states one."],
        [NOTE],
    ]
    narrow = CliRunner().invoke(app, ["cost"], env={"COLUMNS": "70", "FORCE_COLOR": "1"}).stdout
    assert "in, cached, out" in narrow
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in narrow.splitlines()) <= 70


@pytest.mark.anyio
@pytest.mark.parametrize("tier", ["live", "flex"])
async def test_what_was_sent_live_counts_at_the_price_it_was_paid(tmp_path: Path, tier: Any) -> None:
    """Answers name a snapshot and the tier; some of the lane came in a batch, by which the snapshot is known."""

    def answer(endpoint: str, given: dict[str, Any]) -> dict[str, Any]:
        return usage(1_000, 2_000, model="gpt-5-mini-2025-08-07", service_tier=given.get("service_tier", "default"))

    said = Said()
    async with site(tmp_path, answer=answer) as at:
        await ask(at, said, request("by a batch"))
        await ask(at, said, *map(request, "abc"), timing=PATIENT, timeout=100, escalate=tier)
        assert at.emulator.books().live == 3
    (cost,) = said.costs.values()
    assert (cost.requests, cost.saved > cost.paid) == (4, False)
    said.check()


@pytest.mark.anyio
async def test_what_failed_or_is_under_way_is_not_in_it(tmp_path: Path) -> None:
    def answer(endpoint: str, given: dict[str, Any]) -> Any:
        return Answer(400) if given["messages"][0]["content"] == "bad" else usage(10, 20)

    said = Said()
    async with site(tmp_path, answer=answer) as at:
        await ask(at, said, request("good"), request("bad"))
        async with anyio.create_task_group() as tasks, at.interrupted(timing=PATIENT) as w:
            tasks.start_soon(w.ask, "waits")
            await anyio.sleep(10)
    said.check()
    assert told()["total"]["requests"] == 1


@pytest.mark.anyio
async def test_answers_that_say_nothing_of_their_cost_are_told(tmp_path: Path) -> None:
    async with site(tmp_path, answer=lambda *_: {"choices": []}) as at:
        await ask(at, Said(), request("one"), request("two"))
    found = told()
    assert (found["without_usage"], found["total"]["requests"], found["total"]["paid"]) == (2, 2, 0)
    assert "2 answers without a usage: what it cost is not known, and counts nothing." in run().stdout


@pytest.mark.anyio
async def test_several_folders_add_up(tmp_path: Path) -> None:
    said = Said()
    for name in ("one", "other"):
        async with site(tmp_path / name) as at:
            await ask(at, said, request(name), request("same"))
    said.check()
    assert told()["journals"] == ["one/journal", "other/journal"]
    assert told("one")["total"]["requests"] == 2
    assert run().stdout.startswith("one/journal, other/journal\n")


@pytest.mark.anyio
async def test_a_journal_is_counted_once_however_it_is_named(tmp_path: Path) -> None:
    async with site(tmp_path / "one") as at:
        await ask(at, Said(), request("one"), request("two"))
    (tmp_path / "link").symlink_to("one")
    found = told("link", str(tmp_path / "one"), "one/journal", ".")
    assert (found["journals"], found["total"]["requests"]) == (["link/journal"], 2)


@pytest.mark.anyio
async def test_only_answers_since_a_time_are_counted(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        await ask(at, Said(), request("one"), request("two"))
        await ask(at, Said(), request("three"))
    change(tmp_path / "journal", f"UPDATE outcome SET at = {time.time() - 7_200} WHERE id = 1")
    change(tmp_path / "journal", f"UPDATE outcome SET at = {time.time() - 1_800} WHERE id = 2")
    assert [told("--since", hours)["total"]["requests"] for hours in ("0.1", "1", "3")] == [0, 1, 3]
    assert told()["since"] is None
    assert re.match(r"journal, since \d{4}-\d\d-\d\d \d\d:\d\d UTC\n", run("--since", "3").stdout)
    assert run("--since", "0.1").stdout.splitlines()[1:] == ["No answers.", NOTE]


@pytest.mark.anyio
async def test_a_batch_that_is_forgotten_is_made_up_for_by_what_its_answers_say(tmp_path: Path) -> None:
    said = Said()
    async with site(tmp_path) as at:
        requests = [
            request("one"),
            request("one", "gpt-4o", RESPONSES),
            request("one", "text-embedding-3-small", EMBEDDINGS),
        ]
        await ask(at, said, *requests)
    change(tmp_path / "journal", "DELETE FROM batch")
    said.check()


@pytest.mark.parametrize(
    ("answer", "lane"),
    [
        ({"model": "gpt-4o", "object": "chat.completion"}, Lane(CHAT, "gpt-4o")),
        ({"model": "gpt-4o-2024-08-06", "object": "chat.completion"}, Lane(CHAT, "gpt-4o")),
        ({"model": "mine-2024-08-06", "object": "chat.completion"}, Lane(CHAT, "mine-2024-08-06")),
        ({"model": "gpt-4o-2024-08-06", "object": "response"}, Lane(RESPONSES, "gpt-4o-2024-08-06")),
        ({"model": "gpt-4o", "object": "text_completion"}, Lane("/v1/completions", "gpt-4o")),
        ({"model": "gpt-4o", "object": "novelty"}, Lane("", "gpt-4o")),
        ({"model": "gpt-4o"}, Lane("", "gpt-4o")),
        ({"model": 5}, Lane("", "")),
        (["gpt-4o"], Lane("", "")),
    ],
)
def test_an_answer_is_of_the_lane_of_its_model_or_of_what_it_says(answer: Any, lane: Lane) -> None:
    places = Places({"b": Lane(CHAT, "gpt-4o"), "c": Lane(CHAT, "gpt-4o", priority=5)})
    row = Row("r", 200, "", json.dumps(answer).encode())
    assert places.of_row(row, live=True) == Place(lane, live=True)
    assert places.of_row(row, live=False) == Place(lane, live=False)
    assert places.of_batch("c") == Place(Lane(CHAT, "gpt-4o", priority=5), live=False)
    assert places.of_batch("") is None


# --- prices


TOML = '["gpt-5-mini"]\ninput = 100\noutput = 200\n["*"]\ninput = 1\nbatch = 0.25\n'
JSON = '{"gpt-5-mini": {"input": 100, "output": 200}, "*": {"input": 1, "batch": 0.25}}'


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "content"), [("p.toml", TOML), ("p.json", JSON), ("prices", JSON)])
async def test_prices_of_ones_own_go_on_top(tmp_path: Path, name: str, content: str) -> None:
    async with site(tmp_path, answer=lambda *_: usage(1_000_000, 1_000_000)) as at:
        await ask(at, Said(), request("x"), request("x", "mine"))
    (tmp_path / name).write_text(content)
    found = told("--prices", name)
    assert [(each["model"], each["paid"], each["live"]) for each in found["costs"]] == [
        ("gpt-5-mini", pytest.approx(150), pytest.approx(300)),
        ("mine", pytest.approx(0.25), pytest.approx(1)),
    ]
    assert found["total"]["unpriced"] == 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.json", None, "p.json cannot be read: No such file or directory"),
        ("p.json", "{", "p.json cannot be read: Input data was truncated"),
        ("p.toml", "= 5", "p.toml cannot be read: Invalid statement (at line 1, column 1)"),
        ("p.toml", "\xff", "p.toml cannot be read: "),
        ("p.json", '{"m": 5}', "p.json: prices['m'] must hold input, and may hold output and cached"),
        ("p.json", "[1]", "p.json: prices must be a mapping"),
    ],
)
def test_prices_that_are_none_are_refused(tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    result = run("--prices", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"carpool: {sentence}")
    assert result.stderr.count("\n") == 1


# --- what cannot be read


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"status_code":200', b'"status_code":"x"', 1).replace(b"{", b"?", 1))


@pytest.mark.anyio
@pytest.mark.parametrize(("harm", "left"), [(Path.unlink, 0), (cut, 2), (spoil, 2)])
async def test_answers_whose_file_is_gone_or_damaged_are_told(
    tmp_path: Path, harm: Callable[[Path], object], left: int
) -> None:
    async with site(tmp_path) as at:
        await ask(at, Said(), *map(request, "abc"))
    (file,) = (tmp_path / "journal").glob("download-*")
    harm(file)
    result = run("--json")
    found = json.loads(result.stdout)
    noun = "answers" if left == 0 else "answer"
    assert result.stderr == f"carpool: {3 - left} {noun} cannot be read: their files are gone or damaged\n"
    assert (result.exit_code, found["total"]["requests"], found["unread"]) == (1, left, 3 - left)


@pytest.mark.anyio
async def test_a_journal_that_cannot_be_read_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    async with site(tmp_path / "z") as at:
        await ask(at, Said(), request("x"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.sqlite").write_text("no database" * 100)
    result = run("--json")
    assert (result.exit_code, json.loads(result.stdout)["total"]["requests"]) == (1, 1)
    assert result.stderr.startswith("carpool: The journal torn/journal.sqlite cannot be read: it is no database")


def test_where_there_is_no_journal_that_is_said(tmp_path: Path) -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "There is no journal here, nor in the folders below.\n"
    assert told()["costs"] == []
    assert (run("none").exit_code, run("none").stdout) == (2, "")


@pytest.mark.parametrize("hours", ["0", "-1", "9000", "nan"])
def test_a_wrong_time_is_refused(hours: str) -> None:
    result = run("--since", hours)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--since is a number of hours above 0" in result.stderr

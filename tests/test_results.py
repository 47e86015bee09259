"""What is kept of a benchmark names the commit that was measured, where there is one."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.records import Record


def git(root: Path, *words: str) -> str:
    options = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", root, *options, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("src/code.py", "benchmarks/results/README.md", "benchmarks/results/kept.json", "notes"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    (tmp_path / "pyproject.toml").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "all")
    return tmp_path


def test_a_checkout_is_named_by_its_commit(checkout: Path) -> None:
    assert report.commit(checkout) == git(checkout, "rev-parse", "--short", "HEAD").strip()


@pytest.mark.parametrize("name", ["src/code.py", "src/new.py", "benchmarks/new.py", "pyproject.toml"])
def test_what_is_measured_and_not_committed_is_told(checkout: Path, name: str) -> None:
    (checkout / name).write_text("changed")
    assert str(report.commit(checkout)).endswith(", dirty")


@pytest.mark.parametrize("name", ["notes", "benchmarks/results/README.md", "benchmarks/results/kept.json"])
def test_what_is_not_measured_may_change(checkout: Path, name: str) -> None:
    """Or the results of one benchmark would make the next one dirty."""
    (checkout / name).write_text("changed")
    assert not str(report.commit(checkout)).endswith("dirty")


def test_without_a_checkout_or_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert report.commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert report.commit(tmp_path) is None


@pytest.mark.parametrize("commit", ["abc1234", "abc1234, dirty", None])
def test_the_line_below_a_table_names_the_commit(
    commit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "commit", lambda: commit)
    report.write(tmp_path, "made up", "Says little.", [Record("case", {})], "| a |", [], quick=False)
    assert json.loads((tmp_path / "made up.json").read_text()).get("commit") == commit
    page = report.page(tmp_path, ["made up"])
    assert (f", commit {commit}." in page) if commit else ("commit" not in page)

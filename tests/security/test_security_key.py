"""A key that is searched for in everything that a run leaves behind, after failures of many kinds."""

import base64
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import carpool

KEY = "sk-marked-5f1d3c7b9a2e4860"
CHILD = Path(__file__).with_name("leaky_child.py")
SEEN = {"AuthenticationFailed", "ConfigurationError", "ConnectError", "Response"}
FAILED = {"RequestRejected", "RequestFailed", "RequestExpired", "ResultMissing"}  # by chance some of them


def spellings() -> Iterator[bytes]:
    """Write the key in the ways in which it might be left; its middle alone is a mark already."""
    marked = KEY[3:].encode()
    yield marked
    yield marked[::-1]
    yield marked.hex().encode()
    for shift in range(3):  # as base64 has it, wherever it begins
        yield base64.b64encode(b"x" * shift + marked)[4:-4]


def test_the_key_is_in_nothing_that_a_run_leaves_behind(tmp_path: Path) -> None:
    journal, temporary = tmp_path / "journal", tmp_path / "tmp"
    temporary.mkdir()
    outer = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {**outer, "OPENAI_API_KEY": KEY, "TMPDIR": str(temporary), "PYTHONWARNINGS": "default"}
    environment.pop("OPENAI_BASE_URL", None)
    environment.pop("CARPOOL_MODE", None)
    died = subprocess.run(
        [sys.executable, str(CHILD), str(journal)],
        env=environment,
        capture_output=True,
        cwd=tmp_path,
        timeout=100,
        check=False,
        preexec_fn=_without_core,
    )
    said = {"standard output": died.stdout, "standard error": died.stderr}
    assert died.returncode == -signal.SIGABRT, died.stderr[-3_000:].decode()
    seen = set(died.stdout.decode().rsplit("seen:", 1)[-1].split())
    assert seen >= SEEN
    assert seen & FAILED
    assert b"Current thread" in died.stderr
    assert b"carpool.events" in died.stderr
    left = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(name.endswith("journal.sqlite") for name in left)
    assert any("download" in name for name in left)
    for name, content in {**said, **left}.items():
        for spelling in spellings():
            place = content.find(spelling)
            assert place < 0, f"{name}: {content[max(0, place - 300) : place + 40]!r}"


def _without_core() -> None:
    """Leave no image of the memory, in which the key is: that is the system's to keep safe."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("name", "value"),
    [("OPENAI_BASE_URL", "nonsense"), ("OPENAI_BASE_URL", "https://me:hidden@host"), ("OPENAI_ORG_ID", "\N{SNOWMAN}")],
)
def test_a_traceback_with_its_variables_shows_no_key(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is passed is in the arguments of whoever passes it on; one of the environment is nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv(name, value)
    with pytest.raises(carpool.ConfigurationError) as caught:
        carpool.Pool()
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [frame for frame in told.stack if "carpool" in Path(frame.filename).parts]
    assert {frame.name for frame in frames} >= {"__init__", "find_account"}
    assert [frame.name for frame in frames if KEY in str(frame.locals)] == []

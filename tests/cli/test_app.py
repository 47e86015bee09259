"""The command as a whole: its help, its exit codes, and the completion of shells."""

import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from account_kit import journal_of
from typer.testing import CliRunner

from carpool.cli import main
from carpool.cli.app import app

RUN = [sys.executable, "-c", "from carpool.cli import main; main()"]
COMMANDS = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
WIDE = {"COLUMNS": "200", "TERM": "dumb"}


INTERRUPTED = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "carpool.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from carpool.cli import main
main()
"""


def test_ctrl_c_while_it_starts_ends_it_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# --- help


def test_the_commands_are_those_that_are_documented() -> None:
    assert sorted(COMMANDS) == [
        "batches",
        "cancel",
        "clean",
        "cost",
        "doctor",
        "emulate",
        "limits",
        "results",
        "run",
        "status",
    ]


def test_help_names_all_commands_with_examples_and_exit_codes() -> None:
    done = CliRunner().invoke(app, ["--help"], env=WIDE)
    assert (done.exit_code, done.stderr) == (0, "")
    for name in COMMANDS:
        assert f" {name} " in done.stdout
    for text in ("carpool run requests.jsonl -o answers.jsonl", "Exit codes", "--install-completion", "--version"):
        assert text in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_tells_its_exit_codes_and_takes_no_key(name: str) -> None:
    for option in ("--help", "-h"):
        result = CliRunner().invoke(app, [name, option], env=WIDE)
        assert result.exit_code == 0
        assert "Exit codes: 0" in result.stdout
        assert "--json" in result.stdout or name in ("emulate", "results")  # whose rows are JSON
        assert "--api-key" not in result.stdout or name == "emulate"


def test_paragraphs_of_help_are_wrapped_where_the_screen_ends() -> None:
    lines = CliRunner().invoke(app, ["status", "--help"], env={"COLUMNS": "60", "TERM": "dumb"}).stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if "Journals are looked for" in line)
    end = next(number for number in range(start, len(lines)) if not lines[number].strip())
    assert min(len(line.rstrip()) for line in lines[start : end - 1]) > 45


def test_without_a_command_help_is_shown() -> None:
    result = CliRunner().invoke(app, [], env=WIDE)
    assert result.exit_code == 2
    assert "Usage: carpool" in result.output or "Usage: " in result.output
    assert "Exit codes" in result.output


def test_the_version_is_told() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"carpool {version('carpool')}\n", "")


@pytest.mark.parametrize(
    "arguments", [("statsu",), ("--nonsense",), ("status", "--nonsense"), ("limits", "--since", "x")]
)
def test_what_cannot_be_understood_ends_with_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, arguments, env=WIDE)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr
    if arguments == ("statsu",):
        assert "status" in result.stderr


def test_a_reader_that_goes_ends_it_quietly() -> None:
    with subprocess.Popen([*RUN, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_a_terminal_that_knows_few_characters_is_shown_others_in_their_stead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal_of(tmp_path / "é", "x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["carpool", "status"])
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert shown.getvalue().startswith(b"\\xe9\n  account ")


# --- what starts with it


def test_nothing_heavy_is_imported_that_its_help_does_not_need() -> None:
    heavy = ("tiktoken", "uvicorn", "starlette", "openai", "httpx", "numpy", "pydantic")
    script = f"import sys; import carpool.cli.app; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


# --- completion


def asked_by(shell: str, line: str) -> dict[str, str]:
    """Give the environment in which a shell asks how a line may go on."""
    return {
        "_CARPOOL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


@pytest.mark.parametrize(
    ("shell", "text"),
    [("bash", "cancel"), ("zsh", '"cancel":"Cancel batches'), ("fish", "cancel\tCancel batches")],
)
def test_a_shell_is_told_how_a_line_may_go_on(shell: str, text: str) -> None:
    done = CliRunner().invoke(app, [], env=asked_by(shell, "carpool ca"), prog_name="carpool")
    assert (done.exit_code, done.stderr) == (0, "")
    assert text in done.stdout
    assert "clean" not in done.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("carpool c", ["cancel", "clean", "cost"]),
        ("carpool status --wa", ["--watch"]),
        ("carpool limits --tier tier-", [f"tier-{number}" for number in range(1, 6)]),
    ],
)
def test_commands_options_and_their_values_are_completed(line: str, words: list[str]) -> None:
    result = CliRunner().invoke(app, [], env=asked_by("bash", line), prog_name="carpool")
    assert result.exit_code == 0
    assert sorted(result.stdout.split()) == words


@pytest.mark.parametrize(
    ("shell", "text"),
    [
        ("bash", "complete -o default -F _carpool_completion carpool"),
        ("zsh", "#compdef carpool"),
        ("fish", "complete --command carpool"),
    ],
)
def test_the_script_for_a_shell_is_shown(shell: str, text: str) -> None:
    result = CliRunner().invoke(app, [], env={"_CARPOOL_COMPLETE": f"source_{shell}"}, prog_name="carpool")
    assert (result.exit_code, result.stderr) == (0, "")
    assert text in result.stdout


# The protocol of each shell is tested above; this one needs the shell itself.
@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash here")
def test_a_bash_in_which_it_is_installed_completes(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "carpool"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom carpool.cli import main\nmain()\n")
    command.chmod(0o755)
    home = {**os.environ, "HOME": str(tmp_path), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    install = "carpool --install-completion bash"
    subprocess.run(
        ["/bin/bash", "-c", install],
        env={**home, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    script = """
        . ~/.bashrc
        COMP_WORDS=(carpool can); COMP_CWORD=1
        $(complete -p carpool | sed 's/.*-F \\([^ ]*\\).*/\\1/') carpool
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", script], env=home, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("cancel\n", "")

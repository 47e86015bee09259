"""What the site shows of the code itself, so that it cannot go stale: hooks of MkDocs.

On a page `<!-- generated: NAME -->` stands where the text of a function of `GENERATED` is to be.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import typer.main

import carpool.errors
from carpool.cli.app import app
from carpool.engine.stages import NEXT, STEPS, Stage, Step

_MARK = re.compile(r"<!-- generated: (.+?) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is generated where a page asks for it; an unknown name is a KeyError, and no site."""
    return _MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)


def stages() -> str:
    """Draw how a batch moves on here: the table of transitions in `carpool.engine.stages`."""
    arrows = (f"{_word(before)} --> {_word(after)}: {_word(step)}" for (before, step), after in STEPS.items())
    return _diagram(f"[*] --> {_word(Stage.PACKED)}", *arrows, f"{_word(Stage.DONE)} --> [*]")


def statuses() -> str:
    """Draw which status of the provider's may be seen after which."""
    arrows = (f"{before} --> {after}" for before, seen in NEXT.items() for after in NEXT if after in seen)
    ends = (f"{status} --> [*]" for status, seen in NEXT.items() if not seen)
    return _diagram("[*] --> validating", *arrows, *ends)


def _word(name: Stage | Step) -> str:
    return name.name.lower().replace("_", " ") if isinstance(name, Step) else name.name.lower()


def _diagram(*lines: str) -> str:
    return "\n".join(("```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"))


def exceptions() -> str:
    """Show the tree of exceptions, as the module of errors draws it."""
    _, _, tree = inspect.cleandoc(carpool.errors.__doc__ or "").partition("\n\n")
    return f"```text\n{tree}\n```"


def commands() -> str:
    """Show the help of every command."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in sorted(group.commands.items()))


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join((f"carpool {name}", *command.collect_usage_pieces(context)))
    head = (f"## `carpool {name}`", f"```text\n{usage}\n```")
    return "\n\n".join((*head, *_paragraphs(command), _table(command, context)))


def _paragraphs(command: Any) -> Iterator[str]:
    """Give the help, its example commands as code."""
    for paragraph in inspect.cleandoc(command.help or "").replace("\b", "").split("\n\n"):
        text = " ".join(paragraph.split())
        yield f"```text\n{text}\n```" if re.search(r"^(\w+ .*\| )?carpool \w+", text) and text[-1] not in ".:" else text


def _table(command: Any, context: Any) -> str:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    rows = (_row(*record) for record in records if record is not None and "--help" not in record[0])
    return "\n".join(("| argument or option | |", "|---|---|", *rows))


def _row(names: str, text: str) -> str:
    said = re.sub(r"([|*[])", r"\\\1", " ".join(text.split()))
    return f"| `{' '.join(names.split()).replace('|', chr(92) + '|')}` | {said} |"


GENERATED: dict[str, Callable[[], str]] = {
    "stages": stages,
    "statuses": statuses,
    "exceptions": exceptions,
    "commands": commands,
}

"""The commands, gathered."""

from typing import Annotated

import typer

from .batches import batches
from .cancel import cancel
from .clean import clean
from .cost import cost
from .doctor import doctor
from .emulate import emulate
from .limits import limits
from .results import results
from .run import run
from .status import status

_EXIT_CODES = """
Exit codes, which each command's help tells in full:

0  it is done, or there was nothing to do.

1  it could not be done, or not all of it.

2  an argument, an input or the environment cannot be used; nothing was done.

3  it was cut short: what `carpool run` and `carpool results` tell in their help.

130, 143  after Ctrl-C and SIGTERM, where the command does not end by them in good order.
"""

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs are wrapped where the screen ends, and not where a docstring does
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)
_RUN, _LOOK, _ACCOUNT, _LOCAL = "Requests", "Journals", "The provider's account", "This machine"
app.command(rich_help_panel=_RUN)(run)
app.command(rich_help_panel=_LOOK)(status)
app.command(rich_help_panel=_LOOK)(cost)
app.command(rich_help_panel=_ACCOUNT)(batches)
app.command(rich_help_panel=_ACCOUNT)(results)
app.command(rich_help_panel=_ACCOUNT)(cancel)
app.command(rich_help_panel=_ACCOUNT)(limits)
app.command(rich_help_panel=_ACCOUNT)(clean)
app.command(rich_help_panel=_LOCAL)(doctor)
app.command(rich_help_panel=_LOCAL)(emulate)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"carpool {version('carpool')}")
        raise typer.Exit


@app.callback()
def carpool(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version, and exit.")
    ] = False,
) -> None:
    """Single LLM calls that ride together through the provider's Batch API at half the price.

    Examples:

    carpool run requests.jsonl -o answers.jsonl

    carpool status --watch

    carpool batches --open

    carpool COMMAND --help
    """

"""The commands, gathered."""

import typer

from .cancel import cancel
from .emulate import emulate
from .limits import limits

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(cancel)
app.command()(emulate)
app.command()(limits)


@app.callback()
def carpool() -> None:
    """Single LLM calls that ride together through the provider's Batch API at half the price."""

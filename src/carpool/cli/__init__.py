"""The command `carpool`."""

import sys


def main() -> None:
    """Run the command; exits with 2 where the extra that it needs is not installed."""
    try:
        import typer  # noqa: F401 - asked for here, so that a missing extra is one sentence and no traceback
    except ModuleNotFoundError:
        sys.stderr.write("carpool: the command needs typer: pip install 'carpool[cli]'\n")
        sys.exit(2)
    from .app import app

    app(prog_name="carpool")

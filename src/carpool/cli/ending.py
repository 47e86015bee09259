"""How a command ends that cannot do what it was asked to."""

import typer


def ended(code: int, sentence: str) -> typer.Exit:
    """Say why in one sentence, and give what is to be raised."""
    typer.echo(f"carpool: {plain(sentence)}", err=True)
    return typer.Exit(code)


def plain(text: str) -> str:
    """Put a text of others on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))

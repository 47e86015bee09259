"""The program: `python -m benchmarks list`, `python -m benchmarks run NAME... | all [--quick]`."""

import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from . import catalogue, report
from .catalogue import CATALOGUE
from .records import kept, say, verdict

app = typer.Typer(add_completion=False, help="Measure what carpool costs, and how it keeps limits.")


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Measure what carpool costs, beside the straight line, an oracle, and others."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """List the benchmarks, and how many minutes they take on two cores, whole and quick."""
    for entry in CATALOGUE.values():
        print(f"{entry.name:12}{entry.minutes:5g}{entry.quick:5g}  {catalogue.summary(entry.load())}")


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="names, or all")],
    quick: Annotated[bool, typer.Option(help="smaller, once, and without most bars")] = False,
    runs: Annotated[int | None, typer.Option(help="runs of which medians are taken")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="where results are written; for quick ones a temporary folder", show_default=False),
    ] = None,
) -> None:
    """Run benchmarks and write their results; exit 1 when a bar is missed, or when one of them fails."""
    chosen = list(CATALOGUE) if names == ["all"] else names
    if unknown := set(chosen) - set(CATALOGUE):
        raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(CATALOGUE)}")
    folder = results or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if quick else report.RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    missed = [name for name in chosen if not tried(name, quick, runs, folder)]
    (folder / "README.md").write_text(report.page(folder, CATALOGUE))
    say(f"written to {folder}" + (f"; missed: {', '.join(missed)}" if missed else ""))
    sys.exit(bool(missed))


def tried(name: str, quick: bool, runs: int | None, folder: Path) -> bool:
    """Run a benchmark; one that fails is missed, and the others go on."""
    try:
        return one(name, quick, runs, folder)
    except Exception:  # noqa: BLE001 - whatever it is, hours of others must not be lost
        traceback.print_exc()
        say(f"{name}: FAILED, nothing of it is written")
        return False


def one(name: str, quick: bool, runs: int | None, folder: Path) -> bool:
    """Run a benchmark and write its results; gives whether its bars are kept."""
    module = CATALOGUE[name].load()
    began = time.monotonic()
    say(f"{name}: {catalogue.summary(module)}")
    records = module.results(**catalogue.options_of(CATALOGUE[name], quick, runs))
    table = module.table(records)
    pictures: list[Path] = []
    if hasattr(module, "draw") and find_spec("matplotlib") is not None:
        pictures = module.draw(records, folder)
    report.write(folder, name, catalogue.summary(module), records, table, pictures, quick)
    print(f"## {name}\n\n{table}\n", *verdict(records), "", sep="\n", flush=True)
    say(f"{name}: {time.monotonic() - began:.0f} s")
    return kept(records)


if __name__ == "__main__":
    app()

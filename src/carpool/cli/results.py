"""`carpool results`: the rows of any batch that is over, whoever made it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple, TypeAlias

import typer

from ..models import CallFailed, Failure
from ..providers import overview
from ..providers.openai import OpenAI
from ..providers.replies import Listed
from . import remote
from .batch_words import done, files_of, made_by
from .batches import checked_id
from .downloads import Begin, downloads
from .ending import ended
from .fetching import Arrived, Expected, Verdict, fetch
from .landing import landing, problem_with
from .parameters import BaseUrl
from .remote import Server
from .wording import plural, size

Kind: TypeAlias = Literal["output", "error"]


def results(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="An id, as in `carpool batches`.")],
    output: Annotated[
        Path | None, typer.Option("--output-file", "-o", metavar="FILE", help="Where to; standard output without it.")
    ] = None,
    output_alone: Annotated[bool, typer.Option("--output", help="The rows of the output file alone.")] = False,
    errors_alone: Annotated[bool, typer.Option("--errors", help="The rows of the error file alone.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    base_url: BaseUrl = None,
) -> None:
    """Fetch the rows of a batch that is over, byte for byte: those of its output file, then those of its error file.

    carpool results batch_6a1f0c -o answers.jsonl

    carpool results batch_6a1f0c --errors | jq .response.body.error

    FILE is whole or absent: what ends early is fetched again, and it gets its name when nothing is missing.

    The key is taken from OPENAI_API_KEY.

    Exit codes: 0; 1 where nothing was written: the batch is not known, or not over, its files are gone, or the server
    cannot be reached or refuses; 2 where an argument is wrong; 3 where all was written that there is, and the batch
    counts more rows.
    """
    if output_alone and errors_alone:
        raise ended(2, "--output and --errors exclude each other; without both, the rows of both come.")
    kinds: tuple[Kind, ...] = ("output",) if output_alone else ("error",) if errors_alone else ("output", "error")
    target = None if output is None or str(output) == "-" or _is_standard_output(output) else output
    if target is not None and (problem := problem_with(target, force=force)):
        raise ended(2, problem)
    id_, key = checked_id(batch_id), remote.needed_key()
    server, found = remote.ask(base_url, key, overview.details(id_))
    if found is None:
        raise ended(1, f"{server} knows no batch {id_}.")
    if refusal := why_not(found.listed, kinds):
        raise ended(1, refusal)
    parts = parts_of(found.listed, kinds)
    fill = partial(_fill, base_url, key, parts)
    try:
        fetched = _to_stdout(fill) if target is None else _to_file(fill, target, force=force)
    except _Missed as exc:
        raise ended(1, _why_missed(server, found.listed, exc)) from None
    _report(fetched, target)


def _is_standard_output(path: Path) -> bool:
    """Tell whether a file is the one that standard output goes to, as /dev/stdout is: it must not be replaced."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):
        return False


# --- what is there


class Part(NamedTuple):
    """Name one of a batch's files; it should hold so many rows, None where nobody says."""

    kind: Kind
    file_id: str
    rows: int | None


def parts_of(batch: Listed, kinds: Sequence[Kind]) -> list[Part]:
    """Name the files that are there of those that are wanted."""
    files, rows = files_of(batch), _rows_of(batch)
    return [Part(kind, file_id, rows[kind]) for kind in kinds if (file_id := files[kind])]


def why_not(batch: Listed, kinds: Sequence[Kind]) -> str:
    """Say in a sentence why a batch's rows cannot be had; "" where they can."""
    status, name = batch.status.status, f"The batch {batch.status.id}"
    if batch.open:
        so_far = "" if batch.status.answered is None else f", with {done(batch)} rows done"
        return f"{name} is not over: it is {status}{so_far}. Its rows can be fetched when it has ended."
    if status == "failed":
        return f"{name} failed at its validation, so no row ran: `carpool batches {batch.status.id}` says why."
    files = files_of(batch)
    for kind in kinds:
        if not files[kind] and (rows := _rows_of(batch)[kind]):
            other = "--output" if kind == "error" else "--errors"
            return f"{name} has {rows:,} rows of {kind} and names no file with them: try again, or {other} alone."
    if not files["output"] and not files["error"]:
        return f"{name} is {status} and names no file: it left no rows."
    return ""


def _rows_of(batch: Listed) -> dict[Kind, int | None]:
    """Give how many rows each file should hold; those that did not run count nowhere (traps 7)."""
    return {"output": batch.status.succeeded, "error": batch.failed}


# --- fetching


Fetched: TypeAlias = list[tuple[Part, Arrived, Verdict]]
Fill: TypeAlias = Callable[[BinaryIO], Fetched]


class _Missed(Exception):
    """Say which file could not be had, and why."""

    def __init__(self, part: Part, failure: Failure) -> None:
        super().__init__(failure.message)
        self.part = part
        self.failure = failure


def _to_file(fill: Fill, target: Path, *, force: bool) -> Fetched:
    try:
        with landing(target, force=force) as file:
            return fill(file)
    except FileExistsError:
        raise ended(1, f"{target} has come to exist meanwhile: nothing was written.") from None
    except OSError as exc:
        raise ended(1, f"{target} cannot be written: {exc.strerror}.") from None


def _to_stdout(fill: Fill) -> Fetched:
    """Fetch all before anything is shown: what has been shown cannot be taken back."""
    with ExitStack() as stack:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - it closes with the stack
            stack.callback(_drop, file)
            fetched = fill(file)
            file.seek(0)
        except OSError as exc:
            raise ended(1, f"The rows cannot be kept in {tempfile.gettempdir()}: {exc.strerror}.") from None
        shown = typer.get_binary_stream("stdout")
        shutil.copyfileobj(file, shown)
        shown.flush()
    return fetched


def _drop(file: BinaryIO) -> None:
    """Close a file that nobody needs any more: what could not be written is tried once more, and fails again."""
    with suppress(OSError):
        file.close()


def _fill(base_url: str | None, key: str, parts: Sequence[Part], file: BinaryIO) -> Fetched:
    with downloads() as begin:
        _, fetched = remote.meet(base_url, key, lambda server: _fetch(server, parts, file, begin))
    return fetched


async def _fetch(server: Server, parts: Sequence[Part], file: BinaryIO, begin: Begin) -> Fetched:
    fetched: Fetched = []
    for part in parts:
        try:
            expected = Expected(await server.ask(overview.size(part.file_id)), part.rows)
            tick = begin(f"{part.kind} file", expected.size)
            came = await fetch(OpenAI().content(part.file_id), expected, file, server.fetch, tick)
        except CallFailed as exc:
            raise _Missed(part, exc.failure) from None
        fetched.append((part, *came))
    return fetched


# --- what is said


def _why_missed(server: str, batch: Listed, missed: _Missed) -> str:
    part, failure = missed.part, missed.failure
    if failure.kind == "auth":
        return remote.sentence(server, failure)
    file = f"The {part.kind} file {part.file_id} of {batch.status.id}"
    if failure.kind != "gone":
        return f"{file} cannot be fetched whole from {server}, so nothing was written: {failure.message[:300]}"
    if batch.status.key is None:
        return f"{file} is not at the provider any more: it was deleted, or has expired."
    return (
        f"{file} is not at the provider any more: carpool deletes files once it has their rows, and others expire. "
        f"With a journal the rows are in the folder of pool {made_by(batch.status.key)}, in its download-*.jsonl."
    )


def _report(fetched: Fetched, target: Path | None) -> None:
    """Say on stderr what came; exit code 3 where rows are missing."""
    rows = " and ".join(f"{plural(arrived.rows, 'row')} of {part.kind}" for part, arrived, _ in fetched) or "no rows"
    amount = size(sum(arrived.size for _, arrived, _ in fetched))
    typer.echo(f"carpool: {rows}, {amount}{f', in {target}' if target else ''}", err=True)
    for part, arrived, verdict in fetched:
        if verdict != "whole":
            doubt = (
                "" if verdict == "few rows" else " Perhaps it ended early: the provider does not say how long it is."
            )
            typer.echo(
                f"carpool: the {part.kind} file holds {plural(arrived.rows, 'row')}, and the batch counts "
                f"{part.rows:,}.{doubt}",
                err=True,
            )
    if any(verdict != "whole" for _, _, verdict in fetched):
        raise typer.Exit(3)

"""`carpool emulate`: the emulator as a command."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import fields
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from .ending import ended
from .parameters import EnqueuedTokens, read_limits

Seconds = Annotated[float, typer.Option(min=0, metavar="SECONDS")]
Rate = Annotated[float, typer.Option(min=0, max=1, metavar="RATE")]


def emulate(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free port.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback open it to the network.")] = (
        "127.0.0.1"
    ),
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that answers; its URL ends in /v1.")
    ] = None,
    upstream_key: Annotated[
        str | None, typer.Option(help="The key for the upstream.", envvar="UPSTREAM_API_KEY")
    ] = None,
    upstream_concurrency: Annotated[int, typer.Option(min=1, help="Upstream calls under way in each batch.")] = 16,
    validating: Seconds = 0.0,
    running: Seconds = 0.0,
    finalizing: Seconds = 0.0,
    cancelling: Seconds = 0.0,
    window: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="When unfinished batches expire.")
    ] = 86_400.0,
    limit: EnqueuedTokens = None,
    release_after: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long after its end a batch's tokens still count.")
    ] = 0.0,
    refuse_at: Annotated[
        Literal["validation", "creation"],
        typer.Option(help="When there is no room: fail the batch, or answer its creation with 429."),
    ] = "validation",
    lost_upload: Rate = 0.0,
    lost_create: Rate = 0.0,
    lost_reply: Rate = 0.0,
    truncated: Rate = 0.0,
    cut: Rate = 0.0,
    server_error: Rate = 0.0,
    too_many: Rate = 0.0,
    reset: Rate = 0.0,
    trouble: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RATE",
            help="What goes wrong within batches: a status such as 500=0.01, which rows fail with, or one of the rates "
            "of carpool.testing.Troubles, such as missing=0.01 or expiring=0.1. Repeatable.",
        ),
    ] = None,
    listing_lag: Seconds = 0.0,
    creation_lag: Seconds = 0.0,
    file_lag: Seconds = 0.0,
    live_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Live calls a minute, above which they are a 429.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where to tell, signed, that a batch has ended.")
    ] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(help="What webhooks are signed with.", envvar="OPENAI_WEBHOOK_SECRET")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="The only key let in; any key is without it.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the faults and the order of the rows.")] = 0,
) -> None:
    """Serve a local Files and Batches API, until Ctrl-C.

    The four steps of a batch take the seconds given; faults strike requests, and troubles batches and rows, at the
    rates given (0 to 1). For the seconds of a lag what is new is not seen.

    Exit codes: 0 after Ctrl-C or SIGTERM; 1 where it cannot serve, such as on a port in use;
    2 where an option is wrong or an extra is missing.
    """
    try:
        from ..testing import Emulator, Faults, Pace, Troubles
    except ModuleNotFoundError as exc:
        raise ended(2, f"the emulator needs {exc.name}: install carpool with its extra emulator") from None
    try:
        emulator = Emulator(
            host=host,
            port=port,
            upstream=upstream,
            upstream_key=upstream_key,
            upstream_concurrency=upstream_concurrency,
            pace=Pace(
                validating=validating, running=running, finalizing=finalizing, cancelling=cancelling, window=window
            ),
            enqueued_tokens=read_limits(limit),
            release_after=release_after,
            refuse_at=refuse_at,
            faults=Faults(
                lost_upload=lost_upload,
                lost_create=lost_create,
                lost_reply=lost_reply,
                truncated=truncated,
                cut=cut,
                server_error=server_error,
                too_many=too_many,
                reset=reset,
            ),
            troubles=Troubles(**_troubles(trouble or [], _rates_of(Troubles))),
            listing_lag=listing_lag,
            creation_lag=creation_lag,
            file_lag=file_lag,
            live_per_minute=live_per_minute,
            webhook_url=webhook_url,
            webhook_secret=None if webhook_url is None else webhook_secret,
            api_key=api_key,
            seed=seed,
        )
    except ValueError as exc:
        raise ended(2, str(exc)) from None
    _serve(emulator, api_key or "any")


def _serve(emulator: Any, key: str) -> None:
    with _until_signal() as stopped:
        try:
            emulator.__enter__()
        except OSError as exc:
            raise ended(1, f"cannot serve at {emulator.url}: {exc.strerror or exc}") from None
        try:
            typer.echo(f"Serving at {emulator.url}; Ctrl-C ends it. To try it:")
            typer.echo(f"  export OPENAI_BASE_URL={emulator.url}")
            typer.echo(f"  export OPENAI_API_KEY={key}")
            stopped.wait()
        finally:
            emulator.__exit__()
    typer.echo(str(emulator.books()))


@contextlib.contextmanager
def _until_signal() -> Iterator[threading.Event]:
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def _rates_of(settings: Any) -> list[str]:
    return [entry.name for entry in fields(settings) if entry.type is float]


def _troubles(texts: list[str], names: list[str]) -> dict[str, Any]:
    rates = dict(_trouble(text, names) for text in texts)
    failing = {int(name): rate for name, rate in rates.items() if name.isdecimal()}
    return {"failing": failing} | {name: rate for name, rate in rates.items() if name in names}


def _trouble(text: str, names: list[str]) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    with contextlib.suppress(ValueError):
        if name.isdecimal() or name in names:
            return name, float(rate)
    raise ValueError(f"--trouble is NAME=RATE, its name a status or one of {', '.join(names)}; not {text!r}")

"""`carpool run`: a file of requests in, a file of answers out."""

import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from .. import progress
from ..config import Escalate, Mode
from ..errors import ConfigurationError
from ..limits import KnownLimits, Tier
from ..prices import Prices
from ..progress import Progress
from ..settings import checked_mode
from ..tokens import Tiktoken
from .ending import ended
from .filerun.endings import Refused, Stopped
from .filerun.forecast import HEAD, Settings, cells, forecast, forecast_json, in_lines
from .filerun.output import scan
from .filerun.reading import Input
from .filerun.resuming import Begun
from .filerun.rows import check_endpoint
from .filerun.shell import Ended, Order
from .filerun.shell import run as run_file
from .filerun.stopping import Stop
from .filerun.tally import Tally, odd_names, summary, summary_json
from .parameters import AsJson, BaseUrl, EnqueuedTokens, PricesFile, read_limits
from .pricing import read_prices
from .saying import give_up_what_is_unsaid, say, write
from .show import Screen, table_of, write_json


def run(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="JSONL, also gzipped; - is the standard input.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUTPUT", help="Where the answers go, a row for each row.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Of bare bodies and of rows without a url: /v1/embeddings.")
    ] = None,
    as_completed: Annotated[
        bool, typer.Option("--as-completed", help="Write rows as answers come, not in the order of INPUT.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Write the answers' texts alone, a JSON string a line; null where it failed.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Send nothing unless every line of INPUT is a request.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is to be sent and what it may cost; send nothing, need no key.")
    ] = False,
    canary: Annotated[
        int | None, typer.Option(metavar="N", help="Send the first N of each model alone; stop if many are refused.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long a request may wait for its answer.")
    ] = None,
    escalate: Annotated[
        Escalate | None, typer.Option(help="Send what the timeout comes near to live, at full price, or flex.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Stop when so much is spent, in this run of the command.")
    ] = None,
    prices: PricesFile = None,
    limit: EnqueuedTokens = None,
    tier: Annotated[Tier | None, typer.Option(help="Look enqueued-token limits up in this tier's table.")] = None,
    base_url: BaseUrl = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Batches; or live, at full price; or emulate, where answers are made up.")
    ] = None,
    max_pending: Annotated[
        int | None,
        typer.Option(max=2**23, metavar="N", help="How many rows may be under way.", show_default="1000000"),
    ] = None,
    keep_remote_files: Annotated[
        bool, typer.Option("--keep-remote-files", help="Leave the batches' files at the provider.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    json_events: Annotated[
        bool, typer.Option("--json-events", help="Show progress as JSON, one object a line, on the standard error.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer a file of requests, of any size: stop it in any way, give the same command again, and it goes on.

    INPUT holds rows as batches take them, {"custom_id", "method", "url", "body"}, of any models and endpoints, or bare
    bodies with --endpoint. OUTPUT holds the provider's rows, one for each of INPUT, in its order; what failed is a row
    too. A journal stands beside it, in OUTPUT.carpool: nothing is paid twice.

    carpool run requests.jsonl -o answers.jsonl

    zcat prompts.gz | carpool run - --endpoint /v1/responses --text -o texts.jsonl

    carpool run requests.jsonl --dry-run --tier tier-2

    The key is taken from OPENAI_API_KEY.

    Exit codes: 0 all rows are answered, or there was nothing to do; 1 all rows are in OUTPUT, and some failed; 2 an
    option, INPUT or OUTPUT cannot be used; 3 stopped before the end, and the same command goes on; 130 after Ctrl-C,
    143 after SIGTERM, likewise.
    """
    if output is None and not dry_run:
        raise ended(2, "name the file for the answers: -o OUTPUT")
    if str(output) == "-":
        raise ended(2, "name a file for the answers, not -: by what stands in it a run goes on")
    if text and as_completed:
        raise ended(2, "--text and --as-completed exclude each other: nobody could tell whose text is whose")
    with _ending(), closing(_open(source)) as opened:
        check_endpoint(endpoint)
        tally = Tally(opened.name, say)
        settings = _settings(
            base_url=base_url,
            mode=mode,
            tier=tier,
            limits=read_limits(limit) or None,
            prices=read_prices(prices),
            canary=canary,
            timeout=timeout,
            escalate=escalate,
            budget=budget,
            max_pending=max_pending,
            keep_remote_files=keep_remote_files,
            progress=False if quiet or dry_run else _progress(tally, mode, json_events=json_events),
        )
        order = Order(output, endpoint, not as_completed, text, strict, settings)
        if dry_run:
            _forecast(opened, order, tally, as_json=as_json)
            return
        finished = _run(order, opened, tally)
        _tell(finished, tally, order, as_json=as_json)
        raise typer.Exit(finished.code)


# --- options


def _settings(**given: Any) -> dict[str, Any]:
    """Leave out what was not given: the pool knows what that means."""
    return {name: value for name, value in given.items() if value is not None}


def _progress(tally: Tally, mode: Mode | None, *, json_events: bool) -> Progress:
    """Choose what is told of how far the pool has come."""
    if json_events:
        return progress.JsonEvents(write, lambda: tally.total)
    return progress.start(None, total=lambda: tally.total, journal=checked_mode(mode) == "batch", say=say)


def _open(source: str) -> Input:
    try:
        return Input.open(source)
    except OSError as exc:
        raise Refused(f"INPUT {source} cannot be read: {exc.strerror}") from None


# --- what is done


def _run(order: Order, source: Input, tally: Tally) -> Ended:
    stop = Stop()
    uvloop = find_spec("uvloop") is not None
    with stop.listening():
        return anyio.run(partial(run_file, order, source, tally, stop), backend_options={"use_uvloop": uvloop})


def _forecast(source: Input, order: Order, tally: Tally, *, as_json: bool) -> None:
    begun = Begun() if order.output is None else scan(order.output, order.mark, texts=order.texts)
    settings = order.settings
    limits = KnownLimits(settings.get("tier"), settings.get("limits"))
    prices = Prices(settings.get("prices"))
    found = forecast(source, begun, tally, Settings(order.endpoint, limits, prices, Tiktoken()))
    with _on_standard_output():
        if as_json:
            write_json(forecast_json(found, tally))
            return
        screen = Screen()
        if found.lanes:
            screen.table(table_of(HEAD, map(cells, found.lanes)))
            screen.gap()
        screen.lines(*in_lines(found), *odd_names(tally))


# --- what is said


def _tell(finished: Ended, tally: Tally, order: Order, *, as_json: bool) -> None:
    lines = () if as_json else (*summary(tally, finished.result), f"output: {order.output}")
    for line in (*lines, *filter(None, [finished.why])):
        say(line)
    if as_json:
        with _on_standard_output(finished.code):
            write_json(
                {**summary_json(tally, finished.result), "output": str(order.output), "exit_code": finished.code}
            )


@contextmanager
def _on_standard_output(code: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ended(code or 3, f"the standard output cannot be written: {exc.strerror}") from None


@contextmanager
def _ending() -> Iterator[None]:
    """End with a code that is true, whatever happens: 1 would say that all rows are in OUTPUT."""
    try:
        yield
    except (Refused, ConfigurationError) as exc:
        raise ended(2, str(exc)) from None
    except Stopped as exc:
        raise ended(3, f"Stopped: {exc}") from None
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise ended(130, "stopped") from None
    except Exception as exc:  # noqa: BLE001 - there is nobody above that would make more of it
        write(traceback.format_exc())
        raise ended(3, f"Stopped by a mistake of carpool's own, {exc!r}. The same command goes on from here.") from None
    finally:
        give_up_what_is_unsaid()

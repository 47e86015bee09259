"""`carpool doctor`: what is as it should be, what is not, and what to do about it."""

import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import typer

from ..account import Account, find_account
from ..errors import ConfigurationError
from ..models import CallFailed, Failure
from ..providers import overview
from ..providers.openai import OpenAI
from ..providers.replies import Listed
from ..tokens import NoVocabulary, Tiktoken
from . import findings, remote
from .ending import plain
from .findings import Finding
from .journal_check import check_journal
from .parameters import AsJson, BaseUrl
from .remote import Server
from .show import Screen, grades_of, write_json

_PATIENCE = 10.0  # seconds for each call
_NAMING = 5.0  # seconds for the name of a server to be looked up
_VOCABULARY = 5.0  # seconds
_MONTH = 30 * 86_400.0
_PAGES = 5  # of batches, in which refusals are looked for
_SHOWN = ("httpx2", "openai", "tiktoken", "anyio")  # packages whose versions matter in a report
_EXTRAS = {"emulator": ("starlette", "uvicorn", "python_multipart")}


def doctor(
    journal: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Look at this journal's folder too. Repeatable.")
    ] = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check what carpool needs: the environment, the key, the network, the account, the clock, a journal's folder.

    carpool doctor --journal tickets

    It reads lists of the account and nothing else: nothing is created, and nothing costs.

    The key is taken from OPENAI_API_KEY, and is never shown.

    Exit codes: 0 where nothing is a problem; 1 where something is; 2 where an option is wrong.
    """
    found = list(_find(base_url, journal or []))
    if as_json:
        write_json({"ok": not _is_ill(found), "findings": [finding._asdict() for finding in found]})
    else:
        _show(found)
    if _is_ill(found):
        raise typer.Exit(1)


def _is_ill(found: list[Finding]) -> bool:
    return any(finding.level == "problem" for finding in found)


def _show(found: list[Finding]) -> None:
    screen = Screen()
    screen.table(grades_of((one.level, one.name, one.sentence, one.remedy) for one in found))
    screen.gap()
    problems, warnings = (sum(one.level == level for one in found) for level in ("problem", "warning"))
    screen.lines(
        f"{problems:,} to be put right, {warnings:,} to be looked at." if problems + warnings else "All is well."
    )


def _find(base_url: str | None, journals: list[Path]) -> Iterator[Finding]:
    yield _versions()
    yield from _extras()
    yield findings.of_mode(os.environ.get("CARPOOL_MODE", ""))
    key = remote.key()
    yield (looks := findings.of_key(key))
    account = None
    try:
        account = find_account(key or "none", base_url)
        yield findings.of_url(account.base_url, account.names)
    except ConfigurationError as exc:
        yield Finding("problem", "base URL", plain(str(exc)), "Set OPENAI_BASE_URL right, or leave it out.")
    if account is not None and looks.level == "ok":
        yield from _network(account)
    yield _vocabulary()
    for folder in journals:
        yield from check_journal(folder, None if account is None else account.name)


# --- what is installed


def _versions() -> Finding:
    others = ", ".join(f"{name} {at}" for name in _SHOWN if (at := _version(name)))
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("ok", "versions", f"carpool {_version('carpool') or '?'}, {system}, {others}.")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _extras() -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            sentence = f"Not installed: {', '.join(missing)}, which `carpool emulate` needs, and mode emulate."
            yield Finding("ok", f"extra {extra}", sentence, f"To have them, install carpool with its extra {extra}.")
        else:
            yield Finding("ok", f"extra {extra}", "Installed.")


def _vocabulary() -> Finding:
    log = logging.getLogger("carpool.tokens")
    was, log.disabled = log.disabled, True  # it would say the same once more
    try:
        Tiktoken(patience=_VOCABULARY)("/v1/chat/completions", "gpt-4o", b"{}")
    except NoVocabulary as exc:
        remedy = "Without a network, set TIKTOKEN_CACHE_DIR to a folder that tiktoken has filled elsewhere."
        return Finding("warning", "vocabulary", f"Tokens are estimated. {plain(str(exc))}.", remedy)
    finally:
        log.disabled = was
    return Finding("ok", "vocabulary", "tiktoken's vocabulary is there: tokens are counted where it matters.")


# --- the network


class _Seen(NamedTuple):
    """Hold what came of the calls: the account's batches, and why it did not."""

    batches: tuple[Listed, ...]
    batches_failed: Failure | None
    files_failed: Failure | None
    skew: float | None


def _network(account: Account) -> Iterator[Finding]:
    parts = urlsplit(account.base_url)
    proxy = _proxy(parts.scheme, parts.hostname or "")
    if proxy:
        yield Finding("ok", "proxy", f"Calls go through {proxy}, as the environment says.")
    host = _host_of(proxy) if proxy else parts.hostname or ""
    if host and (problem := _unnamed(host)):
        yield findings.of_reach(parts.netloc, Failure("lost", problem))
        return
    now = time.time()
    try:
        seen = anyio.run(_look, account, now)
    except ConfigurationError as exc:
        yield Finding("problem", "network", plain(str(exc)), "Check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE.")
        return
    yield findings.of_reach(parts.netloc, seen.batches_failed)
    if seen.batches_failed is None or seen.batches_failed.status_code is not None:
        yield findings.of_listing("batches", seen.batches_failed)
        yield findings.of_listing("files", seen.files_failed)
        yield findings.of_clock(seen.skew)
    if seen.batches_failed is None:
        yield findings.of_tier(seen.batches, now - _MONTH, now)


def _proxy(scheme: str, host: str) -> str:
    """Give the address of the proxy for a server, without the password that may stand in its URL; "" for none."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(host):
        return ""
    return plain(proxy.rpartition("@")[2].rpartition("//")[2].partition("/")[0])


def _host_of(proxy: str) -> str:
    """Give the name of a proxy; "" where its address has none, which whoever connects will tell."""
    try:
        return urlsplit(f"//{proxy}").hostname or ""
    except ValueError:
        return ""


def _unnamed(host: str) -> str:
    """Say why a name leads nowhere; in a thread that nobody need wait for: a lookup cannot be stopped."""
    problems = [f"its name was not found within {_NAMING:g} seconds"]

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, None)
            problems.append("")
        except (OSError, UnicodeError) as exc:
            problems.append(f"{host} has no address: {exc}")

    thread = threading.Thread(target=look_up, name="carpool lookup", daemon=True)
    thread.start()
    thread.join(_NAMING)
    return problems[-1]


async def _look(account: Account, now: float) -> _Seen:
    server = Server(account, repeats=1, patience=_PATIENCE)
    try:
        return await _ask(server, now)
    finally:
        await server.aclose()


async def _ask(server: Server, now: float) -> _Seen:
    batches: tuple[Listed, ...] = ()
    batches_failed: Failure | None = None
    try:
        batches = (await server.ask(OpenAI().recent(now - _MONTH, _PAGES))).batches
    except CallFailed as exc:
        batches_failed = exc.failure
        if batches_failed.status_code is None:
            return _Seen((), batches_failed, None, server.skew)
    try:
        await server.ask(overview.files("batch", 1))
    except CallFailed as exc:
        return _Seen(batches, batches_failed, exc.failure, server.skew)
    return _Seen(batches, batches_failed, None, server.skew)

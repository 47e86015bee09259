"""What is found out, and what is to be done about it: pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import urlsplit

from ..account import LOOPBACK, is_in_clear
from ..config import Mode
from ..limits import TIERS, Tier, table_limit
from ..models import Failure
from ..providers.replies import Listed
from .ending import plain
from .lanes import sum_up
from .wording import span

Level: TypeAlias = Literal["ok", "warning", "problem"]

_AHEAD = 60.0  # seconds by which clocks differ that nobody looks after
_LOST = 3_600.0  # and by which what was created is not found again (`_SKEW` of the provider)
_MAKER = "api.openai.com"


class Finding(NamedTuple):
    """Tell what was looked at and what was found; `remedy` says what to do, "" for nothing."""

    level: Level
    name: str
    sentence: str
    remedy: str = ""


def of_mode(mode: str) -> Finding:
    """Judge what CARPOOL_MODE says, "" where it is not set."""
    match mode:
        case "" | "batch":
            return Finding("ok", "mode", "Calls ride in batches.")
        case "live":
            cost = "CARPOOL_MODE is live: nothing rides in a batch, and everything is paid for in full."
            return Finding("warning", "mode", cost, "Unset it, unless that is what you want.")
        case "emulate":
            made_up = "CARPOOL_MODE is emulate: nothing reaches the provider, and all answers are made up."
            return Finding("warning", "mode", made_up, "Unset it, unless that is what you want.")
    words = ", ".join(get_args(Mode))
    return Finding("problem", "mode", f"CARPOOL_MODE is none of {words}: {plain(mode)[:40]!r}.", "Unset it.")


def of_key(key: str | None) -> Finding:
    """Judge a key by its looks; nothing of it is shown."""
    if not key:
        return Finding("problem", "key", "OPENAI_API_KEY is not set.", "Set it: `export OPENAI_API_KEY=...`.")
    if key[0] in "\"'" or key[-1] in "\"'":
        return Finding("problem", "key", "OPENAI_API_KEY holds quotation marks.", "Set it without them.")
    if not key.isascii() or not key.isprintable() or " " in key:
        return Finding(
            "problem", "key", "OPENAI_API_KEY holds blanks or characters that no key has.", "Copy the key again."
        )
    return Finding("ok", "key", "OPENAI_API_KEY is set.")


def of_url(base_url: str, names: Mapping[str, str]) -> Finding:
    """Judge where calls go, and for which organisation and project."""
    parts = urlsplit(base_url)
    whose = "".join(f", {name} {plain(value)}" for name, value in sorted(names.items()))
    goes = f"Calls go to {base_url}{whose}."
    if is_in_clear(base_url):
        return Finding("warning", "base URL", f"{goes} The key travels unencrypted.", "Use https.")
    if parts.hostname not in LOOPBACK and not (parts.hostname or "").endswith(_MAKER):
        return Finding("ok", "base URL", f"{goes} That is not OpenAI's own.")
    return Finding("ok", "base URL", goes)


# --- the server


def of_reach(server: str, failure: Failure | None) -> Finding:
    """Judge whether a server can be reached: any reply of its own will do."""
    if failure is None or failure.status_code is not None:
        return Finding("ok", "network", f"{server} answers.")
    said = plain(failure.message)[:200]
    if "CERTIFICATE" in said or "SSL" in said:
        return Finding(
            "problem",
            "network",
            f"No safe connection to {server}: {said}.",
            "Where a proxy of yours breaks TLS open, set SSL_CERT_FILE to a file with its certificate; else check the "
            "clock, and what OPENAI_BASE_URL says.",
        )
    return Finding(
        "problem",
        "network",
        f"{server} cannot be reached: {said}.",
        "Check the network, the firewall and OPENAI_BASE_URL; behind a proxy, set HTTPS_PROXY.",
    )


def of_listing(what: Literal["batches", "files"], failure: Failure | None) -> Finding:
    """Judge whether the Batches or the Files API is there, and lets this key in."""
    if failure is None:
        return Finding("ok", what, f"The list of {what} is there, and the key may read it.")
    said = plain(failure.message)[:200]
    if failure.status_code == 401:
        return Finding(
            "problem",
            what,
            "The key is refused (HTTP 401).",
            "Check OPENAI_API_KEY, and that it is of this base URL, organisation and project.",
        )
    if failure.kind == "auth":
        return Finding(
            "problem", what, f"The key may not: {said}.", f"Give the key the right to read and write {what}."
        )
    if failure.status_code in (404, 405):
        return Finding(
            "problem",
            what,
            f"There is no list of {what} at /{what} (HTTP {failure.status_code}).",
            "Check OPENAI_BASE_URL, which mostly ends in /v1: carpool cannot do without this list.",
        )
    return Finding("problem", what, f"The list of {what} cannot be had: {said}.", "Try again later.")


def of_clock(skew: float | None) -> Finding:
    """Judge the clock by the server's, which is ahead by `skew` seconds, None where it does not tell."""
    if skew is None:
        return Finding("ok", "clock", "The server does not tell the time.")
    if abs(skew) <= _AHEAD:
        return Finding("ok", "clock", "The clock agrees with the server's.")
    sentence = f"The clock is {span(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the server's."
    if abs(skew) < _LOST:
        return Finding("warning", "clock", sentence, "Set the clock.")
    return Finding("problem", "clock", f"{sentence} Batches may not be found again.", "Set the clock.")


# --- the tier


def of_tier(batches: Iterable[Listed], since: float, now: float) -> Finding:
    """Say which tier's limits are those that the account's refusals state."""
    lanes = sum_up(batches, since=since, now=now)
    learned = {
        lane.model: lane.limit.tokens
        for lane in lanes
        if lane.model is not None and lane.limit is not None and lane.limit.source == "learned"
    }
    if not learned:
        return Finding(
            "ok",
            "tier",
            "No refusal of the last month states a limit.",
            "A --tier that you know saves a refused batch: it is on your account's page of limits.",
        )
    stated = ", ".join(f"{plain(model)} {tokens:,}" for model, tokens in sorted(learned.items()))
    fits = _fits(learned)
    if not fits:
        limits = " ".join(f"--limit {plain(model)}={tokens}" for model, tokens in sorted(learned.items()))
        return Finding("ok", "tier", f"Refusals state {stated}: that is no tier's table.", f"Give {limits}.")
    return Finding(
        "ok", "tier", f"Refusals state {stated}: as in the table of {', '.join(fits)}.", f"Give --tier {fits[0]}."
    )


def _fits(learned: Mapping[str, int]) -> Sequence[Tier]:
    """Name the tiers whose table says all of it, as far as it has these models."""
    return [tier for tier in TIERS if (said := list(_said(learned, tier))) and all(said)]


def _said(learned: Mapping[str, int], tier: Tier) -> Iterable[bool]:
    for model, tokens in learned.items():
        row = table_limit(model, tier)
        if row is not None:
            yield row.tokens == tokens

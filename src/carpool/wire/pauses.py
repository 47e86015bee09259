"""How long a server asks us to wait, as its headers say it."""

import re
import time
from email.utils import parsedate_to_datetime

import httpx2

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SPAN = re.compile(f"(?:{_PART.pattern})+")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def asked_pause(headers: httpx2.Headers) -> float | None:
    """Read `retry-after-ms` and `Retry-After` (seconds or a date) as seconds from now."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        after = headers.get("retry-after")
        if after is None:
            return None
        return max(0.0, float(after) if after[:1].isdigit() else parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def asked_rest(headers: httpx2.Headers) -> float:
    """Read for how long nothing more is allowed, in seconds: what remains of requests or tokens is none."""
    rests = [
        _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    return max(rests, default=0.0)


def _seconds(span: str) -> float:
    """Read a span such as "1s", "6m0s" or "20ms"; 0 for what is none."""
    if not _SPAN.fullmatch(span):
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(span))

"""Times, spans and sizes in words: pure."""

from datetime import UTC, datetime

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_PREFIXES = ("B", "kB", "MB", "GB", "TB")


def moment(seconds: float) -> str:
    """Write a time, given in seconds since the epoch, as a day and a minute in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def iso(seconds: float | None) -> str | None:
    """Write a time for machines."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def span(seconds: float) -> str:
    """Write a number of seconds in its two largest units: "42 s", "3 h 12 min", "2 d"."""
    left = max(0, round(seconds))
    if left >= 3_600:
        left = round(left / 60) * 60  # nobody counts the seconds of hours
    words: list[str] = []
    for unit, name in _UNITS:
        count, left = divmod(left, unit)
        if count:
            words.append(f"{count} {name}")
        elif words:
            break
    return " ".join(words[:2]) or "0 s"


def size(count: int) -> str:
    """Write a number of bytes: "812 B", "1.2 MB"."""
    amount, prefixes = float(count), list(_PREFIXES)
    while amount >= 999.5 and len(prefixes) > 1:
        amount /= 1_000
        prefixes.pop(0)
    return f"{amount:.3g} {prefixes[0]}" if amount < 999.5 else f"{amount:,.0f} {prefixes[0]}"


def plural(count: int, noun: str) -> str:
    """Write a count of things."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{ending}"

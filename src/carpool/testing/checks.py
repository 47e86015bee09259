"""What the settings of the emulator must be; each raises ValueError."""

from collections.abc import Iterable
from typing import get_args

from .answers import Answering, echo
from .setting import RefuseAt
from .webhooks import key_of


def check_port(port: int) -> None:
    """Check the number of a port."""
    if not 0 <= port <= 65_535:
        raise ValueError(f"port is 0 to 65535, not {port}")


def check_answer(answer: Answering, upstream: str | None) -> None:
    """Check who answers."""
    if not callable(answer):
        raise ValueError("answer is a callable that takes an endpoint and a body")
    if upstream is not None and answer is not echo:
        raise ValueError("answer and upstream exclude each other")
    if upstream is not None and not upstream.startswith(("http://", "https://")):
        raise ValueError(f"upstream is a URL such as http://127.0.0.1:8000/v1, not {upstream!r}")


def check_webhook(url: str | None, secret: str | None) -> None:
    """Check where webhooks go to, and what they are signed with."""
    if (url is None) != (secret is None):
        raise ValueError("webhook_url and webhook_secret are given together")
    if url is not None and not url.startswith(("http://", "https://")):
        raise ValueError(f"webhook_url is a URL such as http://127.0.0.1:8001/webhooks, not {url!r}")
    if secret is not None:
        key_of(secret)


def check_queue(limits: Iterable[int], refuse_at: RefuseAt) -> None:
    """Check the limits of enqueued tokens, and where a batch above them is refused."""
    for limit in limits:
        check_limit(limit)
    if refuse_at not in get_args(RefuseAt):
        raise ValueError(f"refuse_at is 'validation' or 'creation', not {refuse_at!r}")


def check_limit(limit: int) -> None:
    """Check one limit of enqueued tokens."""
    if limit < 0:
        raise ValueError(f"an enqueued-token limit is 0 or more, not {limit}")


def check_seconds(**spans: float) -> None:
    """Check spans of time; math.inf is one."""
    for name, seconds in spans.items():
        if not seconds >= 0:
            raise ValueError(f"{name} is a number of seconds, 0 or more, not {seconds}")


def check_positive(**numbers: int | None) -> None:
    """Check numbers, of which None is none."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is 1 or more, not {number}")

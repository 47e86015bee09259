"""What clients ask, and what the provider answers."""

import json
import random
from collections import Counter
from typing import Any

from carpool.testing import Refused

from .plan import Plan

CHAT = "/v1/chat/completions"
_BAD = "bad"


def text_of(number: int, plan: Plan) -> str:
    """Write what a client asks."""
    kind = _BAD if random.Random(f"bad/{plan.seed}/{number}").random() < plan.bad else "good"
    return f"{kind} {number} " + "word " * (10 + (number * 37) % 20)


def is_bad(text: str) -> bool:
    """Tell whether the provider refuses to answer a text."""
    return text.startswith(_BAD)


def number_of(body: bytes) -> int:
    """Give which call this is what is sent for."""
    return int(json.loads(body)["messages"][0]["content"].split()[1])


def body_of(number: int, plan: Plan) -> dict[str, Any]:
    """Make what a client sends."""
    text = text_of(number, plan)
    return {"model": f"model-{number % plan.lanes}", "messages": [{"role": "user", "content": text}]}


def tokens_of(body: dict[str, Any]) -> int:
    """Count tokens as all do."""
    return 7 + len(body["messages"][0]["content"]) // 4


def count(_endpoint: str, _model: str, body: bytes) -> int:
    """Count tokens as pools do."""
    return tokens_of(json.loads(body))


class Answers:
    """Answer so that each run of a text can be told from the others."""

    def __init__(self) -> None:
        self._runs = Counter[str]()

    def __call__(self, _endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][0]["content"]
        if is_bad(text):
            raise Refused(400, "No answer to this.")
        self._runs[text] += 1
        usage = {"prompt_tokens": tokens_of(body), "completion_tokens": 1, "total_tokens": tokens_of(body) + 1}
        return {"choices": [{"message": {"content": f"{text}#{self._runs[text]}"}}], "usage": usage}

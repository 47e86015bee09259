"""Count the prompt tokens of a request before it is sent: the queue's limit is about them (contracts A9, C)."""

import logging
import re
import textwrap
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias
from urllib.request import getproxies

from .prompts import Meter

if TYPE_CHECKING:
    from tiktoken import Encoding

log: logging.Logger = logging.getLogger("carpool.tokens")

Counter: TypeAlias = Callable[[str, str, bytes], int]
"""Give the prompt tokens of an endpoint, a model and a body of JSON; called in a thread of its own, so it may block."""


class NoVocabulary(Exception):
    """Say why tokens cannot be counted exactly now; it never reaches a user."""


_RETRY = 60.0  # seconds between attempts to load a vocabulary


class Tiktoken:
    """Count with tiktoken, whose vocabularies are loaded at first use; NoVocabulary while one is missing.

    `patience` bounds, in seconds, how long a call waits for a vocabulary. A load that failed is tried again by a later
    call, a minute after it began. Safe to call from several threads.
    """

    def __init__(
        self,
        *,
        patience: float = 5.0,
        _load: "Callable[[str], Encoding] | None" = None,
        _clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._load = _load or _get_encoding
        self._clock = _clock
        self._lock = threading.Lock()
        self._loads: dict[str, _Load] = {}  # by vocabulary
        self._meters: dict[str, Meter] = {}  # by model
        self._warned = False

    def __call__(self, endpoint: str, model: str, body: bytes) -> int:
        """Count the prompt tokens of a body, at least 1; a body that is no JSON object counts its bytes."""
        meter = self._meters.get(model)
        if meter is None:
            base = model.split(":")[1] if model.startswith("ft:") else model
            encoding = self._encoding(_vocabulary_of(base))
            # "<|endoftext|>" in a prompt is text, not the end of it.
            meter = self._meters[model] = Meter(encoding.encode_ordinary, encoding.name, base)
        try:
            return max(1, meter.count(endpoint, body))
        except (ValueError, RecursionError):
            return max(1, len(body))  # no token is shorter than a byte

    def _encoding(self, vocabulary: str) -> "Encoding":
        with self._lock:
            now = self._clock()
            load = self._loads.get(vocabulary)
            if load is None or (load.failed and now >= load.since + _RETRY):
                load = self._loads[vocabulary] = _Load(self._load, vocabulary, now)
        load.join(max(0.0, load.since + self._patience - now))
        if load.encoding is not None:
            return load.encoding
        problem = load.problem or f"it has not arrived within {self._patience:g} s"
        self._warn(vocabulary, problem)
        raise NoVocabulary(f"The vocabulary {vocabulary} is missing: {problem}")

    def _warn(self, vocabulary: str, problem: str) -> None:
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            log.warning(
                "tiktoken's vocabulary %s is missing (%s): tokens are estimated until it can be loaded. Without a "
                "network, set TIKTOKEN_CACHE_DIR to a folder that tiktoken has filled elsewhere.",
                vocabulary,
                problem,
            )


# --- vocabularies --------------------------------------------------------------------------------------------------


def _vocabulary_of(model: str) -> str:
    from tiktoken.model import encoding_name_for_model  # at first use: importing it takes time and memory

    try:
        return encoding_name_for_model(model)
    except KeyError:
        return "o200k_base"  # of every model since gpt-4o; tiktoken learns of new ones late


def _get_encoding(vocabulary: str) -> "Encoding":
    import tiktoken

    return tiktoken.get_encoding(vocabulary)


class _Load:
    """Load one vocabulary in a thread that nobody need wait for: tiktoken downloads it without a timeout."""

    def __init__(self, load: "Callable[[str], Encoding]", vocabulary: str, now: float) -> None:
        self.since = now
        self.encoding: Encoding | None = None
        self.problem = ""
        self._load = load
        self._vocabulary = vocabulary
        self._thread = threading.Thread(target=self._run, name=f"carpool {vocabulary}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.encoding = self._load(self._vocabulary)
        except BaseException as exc:  # noqa: BLE001 - whatever it was, the callers must hear of it
            # The address of a proxy may hold a password, and is quoted whole or in part.
            behind_proxy = bool(getproxies().keys() - {"no"})
            said = "" if behind_proxy else ": " + re.sub(r"//\S*@", "//", str(exc))
            self.problem = textwrap.shorten(type(exc).__name__ + said, 200)

    @property
    def failed(self) -> bool:
        return bool(self.problem)

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

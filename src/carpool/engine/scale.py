"""How many tokens the provider is likely to count for what we counted, or did not."""

import math

from ..models import Load

_BLIND = 1 / 3  # tokens a byte where nothing can be counted: English has 0.21, Chinese 0.28, base64 0.67 (measured)
_USUAL = 1 / 4  # tokens a byte of English with its JSON around it, about
_DOUBT = 0.25  # a ratio learned from few rows is wrong by up to 30 % for one of them, by 1 % for the sum of many
_FADE = 0.8  # what older batches showed counts so much, batch by batch
_PRIOR = 5_000  # tokens: so much we believe our own count before the provider's is heard
_LEAST, _MOST = 0.1, 10.0  # a ratio outside is an accident, such as a provider that bills no input


class Scale:
    """Weigh loads in the provider's tokens.

    What was counted weighs `per_token`: 1, less where reports say so, more where refusals say so too, since what is
    billed may include what was never queued. A byte that was not counted weighs one token, which is the safe bound for
    text, until a sample or a report says how few it comes to.
    """

    def __init__(self) -> None:
        self.blind: bool = False  # counting is out of reach
        self.reported: bool = False  # the provider has said what batches that we counted came to
        self.most: float = 1.0  # bounds of `per_token` that admissions and refusals have shown
        self.least: float = 0.0
        self._ratio: float | None = None  # tokens a byte, by our count
        self._reported: float | None = None  # tokens a byte, by the provider's
        self._proofs = 0
        self._ratio_billed = 1.0
        self._billed = self._counted = float(_PRIOR)
        self._billed_blind = self._bytes = 0.0
        self._sampled = Load(0, 0)

    @property
    def calibrated(self) -> bool:
        """Tell whether bytes weigh less than the bound."""
        return self.blind or self._ratio is not None or self._reported is not None

    @property
    def per_token(self) -> float:
        """Give what a token of our count weighs."""
        return max(min(self._ratio_billed, self.most), self.least)

    @property
    def _likely_per_byte(self) -> float | None:
        return self._reported if self._ratio is None or self._reported is not None else self._ratio * self.per_token

    @property
    def per_byte(self) -> float:
        """Give the tokens that a byte weighs, with a margin for what is not known.

        Few rows may weigh otherwise than many did, and where more waits than finds room they are counted. Where they
        cannot be, the margin shrinks as more is known, lest a part of the queue stays empty.
        """
        likely = self._likely_per_byte
        if likely is None:
            return _BLIND if self.blind else 1.0
        return likely * (1 + _DOUBT / (math.sqrt(self._proofs) if self.blind else 1))

    def weigh(self, load: Load) -> float:
        """Give the tokens that the provider is expected to count, an upper estimate where rows were not counted."""
        return load.tokens * self.per_token + (load.size * self.per_byte if load.size else 0)

    @property
    def likely_per_byte(self) -> float:
        """Give the tokens that a byte most likely comes to."""
        return _USUAL if self._likely_per_byte is None else self._likely_per_byte

    def guess(self, load: Load) -> int:
        """Give the tokens that the provider will most likely count, for people to read."""
        return round(load.tokens * self.per_token + load.size * self.likely_per_byte)

    def sample(self, tokens: int, size: int) -> None:
        """Learn from an exact count of rows of `size` bytes."""
        self.blind = False
        self._sampled = self._sampled.plus(Load(tokens, size))
        self._ratio = self._sampled.tokens / self._sampled.size
        self._proofs += 1

    def report(self, load: Load, input_tokens: int) -> None:
        """Learn from a finished batch; one of which only a part was counted shows neither ratio, 0 tokens nothing."""
        if not input_tokens:
            return
        if load.tokens and not load.size:
            self._billed, self._counted = _faded(self._billed, input_tokens), _faded(self._counted, load.tokens)
            self._ratio_billed = min(max(self._billed / self._counted, _LEAST), _MOST)
            self.reported = True
        elif load.size and not load.tokens:
            self._billed_blind, self._bytes = _faded(self._billed_blind, input_tokens), _faded(self._bytes, load.size)
            self._reported = min(self._billed_blind / self._bytes, _MOST)
            self._proofs += 1


def _faded(sum_: float, more: float) -> float:
    return sum_ * _FADE + more

"""What an image costs in prompt tokens, by model, detail and size (contracts C).

The numbers are those of OpenAI's guide "Images and vision" of October 2026. An image whose size cannot be seen, such as
one behind a URL, counts as the largest that its model and detail allow.
"""

import base64
import binascii
import math
from typing import NamedTuple, TypeAlias

Size: TypeAlias = tuple[int, int]


class _Tiles(NamedTuple):
    """Cost `base`, and `tile` for each square of 512 px, which detail "low" does without."""

    base: int
    tile: int

    def tokens(self, detail: str, size: Size | None) -> int:
        if detail == "low":
            return self.base
        if size is None:
            return self.base + self.tile * 8  # 2,048 by 768 px
        width, height = _fit(*size, 2048)
        # Small images are not enlarged: 128 by 64 px was billed as one tile (community thread 1262691).
        width, height = _shrunk(width, height, 768 / min(width, height))
        return self.base + self.tile * math.ceil(width / 512) * math.ceil(height / 512)


class Bound(NamedTuple):
    """Bound an image by its longer side in pixels and by its patches of 32 px."""

    side: int
    patches: int


class _Patches(NamedTuple):
    """Cost `rate` for each patch of 32 px; images beyond the bound of their detail are made smaller first."""

    rate: float
    low: Bound
    high: Bound
    original: Bound
    auto: Bound

    def tokens(self, detail: str, size: Size | None) -> int:
        bound = {"low": self.low, "high": self.high, "original": self.original}.get(detail, self.auto)
        return math.ceil(self.rate * (bound.patches if size is None else patches(*size, bound)))


_SMALL = Bound(512, 256)
_HIGH = Bound(2048, 2_500)
_SQUARE = Bound(2048, 4_096)  # the guide's 6,144 patches do not fit into 2,048 px
_LARGE = Bound(6000, 10_000)
_WHOLE = Bound(65_535, 30_000)  # not made smaller: more patches are refused


def _one_size(rate: float) -> _Patches:
    return _Patches(rate, _SQUARE, _SQUARE, _SQUARE, _SQUARE)


_NEWEST = _Patches(1.2, _SMALL, _HIGH, _WHOLE, _WHOLE)

# By the beginning of the model's name, the first that fits. The guide names no GPT-6 but astra: the others, and models
# that are not OpenAI's, count as the newest.
_RULES: tuple[tuple[str, _Tiles | _Patches], ...] = (
    ("gpt-4o-mini", _Tiles(2833, 5667)),
    ("gpt-4.1-mini", _one_size(1.62)),
    ("gpt-4.1-nano", _one_size(2.46)),
    ("gpt-4", _Tiles(85, 170)),
    ("chatgpt-4o", _Tiles(85, 170)),
    ("o4-mini", _one_size(1.72)),
    ("o1", _Tiles(75, 150)),
    ("o3", _Tiles(75, 150)),
    ("computer-use", _Tiles(65, 129)),
    ("gpt-image", _Tiles(65 + 6240, 129)),  # with the larger surcharge of high input fidelity
    ("gpt-5-mini", _one_size(1.2)),
    ("gpt-5-nano", _one_size(1.5)),
    ("gpt-5-codex-mini", _one_size(1.2)),
    ("gpt-5.1-codex-mini", _one_size(1.2)),
    ("gpt-5.2", _one_size(1.2)),
    ("gpt-5.3", _one_size(1.2)),
    ("gpt-5.4", _Patches(1.2, _HIGH, _HIGH, _LARGE, _HIGH)),
    ("gpt-5.5", _Patches(1.2, _SMALL, _HIGH, _LARGE, _LARGE)),
    ("gpt-5.6", _NEWEST),
    ("gpt-5", _Tiles(70, 140)),
)


def image_tokens(model: str, url: str, detail: str) -> int:
    """Count the tokens of one image; `url` is a data URL, or anything else where the image cannot be seen."""
    rule = next((rule for start, rule in _RULES if model.startswith(start)), _NEWEST)
    return rule.tokens(detail, size_of(url))


def _shrunk(width: int, height: int, scale: float) -> Size:
    return (width, height) if scale >= 1 else (max(1, round(width * scale)), max(1, round(height * scale)))


def _fit(width: int, height: int, side: int) -> Size:
    return _shrunk(width, height, side / max(width, height))


def patches(width: int, height: int, bound: Bound) -> int:
    """Count the patches that cover an image once it is within a bound."""
    width, height = _fit(width, height, bound.side)
    if _cover(width, height) > bound.patches:
        # The guide's own arithmetic: shrink to the budget, then to whole patches in one direction.
        scale = math.sqrt(32 * 32 * bound.patches / (width * height))
        columns, rows = width * scale / 32, height * scale / 32
        scale *= min(math.floor(columns) / columns, math.floor(rows) / rows)
        width, height = _shrunk(width, height, scale)
    return min(bound.patches, _cover(width, height))


def _cover(width: int, height: int) -> int:
    return math.ceil(width / 32) * math.ceil(height / 32)


# --- the size of an image, from its first bytes --------------------------------------------------------------------

_HEAD = 1 << 18  # characters of base64: JPEG keeps colour profiles and previews before its size


def size_of(url: str) -> Size | None:
    """Read width and height of a PNG, JPEG, GIF or WebP in a base64 data URL; None where that fails."""
    start = url.find(";base64,", 0, 200) + 8
    if not url.startswith("data:image/") or start < 8:
        return None
    try:
        head = base64.b64decode(url[start : start + _HEAD])
    except (binascii.Error, ValueError):
        return None
    size = _size(head)
    return size if size and min(size) > 0 else None


def _size(head: bytes) -> Size | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _big(head[16:20]), _big(head[20:24])
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _little(head[6:8]), _little(head[8:10])
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp(head[12:16], head[20:30])
    if head.startswith(b"\xff\xd8"):
        return _jpeg(head)
    return None


def _webp(kind: bytes, head: bytes) -> Size | None:
    if kind == b"VP8X":
        return _little(head[4:7]) + 1, _little(head[7:10]) + 1
    if kind == b"VP8L":
        bits = _little(head[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(head[6:8]) & 0x3FFF, _little(head[8:10]) & 0x3FFF


def _jpeg(head: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame, not a table
            return _big(head[at + 7 : at + 9]), _big(head[at + 5 : at + 7])
        at += 1 if marker == 0xFF else 2 + _big(head[at + 2 : at + 4])
    return None


def _big(digits: bytes) -> int:
    return int.from_bytes(digits, "big")


def _little(digits: bytes) -> int:
    return int.from_bytes(digits, "little")

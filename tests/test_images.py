"""What images cost: the guide's own examples, and sizes read from the first bytes."""

import base64
import struct
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from carpool.images import Bound, image_tokens, patches, size_of


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(5)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def jpeg(width: int, height: int) -> bytes:
    preview = b"\xff\xe1" + struct.pack(">H", 60_000) + bytes(59_998)
    tables = b"\xff\xc4" + struct.pack(">H", 4) + bytes(2) + b"\xff"
    return b"\xff\xd8" + preview + tables + b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


def webp(width: int, height: int) -> bytes:
    frame = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8 " + struct.pack("<I", 10) + frame


def webp_lossless(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<IBI", 5, 0x2F, bits) + bytes(5)


def webp_extended(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + size


def url(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


@pytest.mark.parametrize("make", [png, gif, jpeg, webp, webp_lossless, webp_extended])
@pytest.mark.parametrize("size", [(1, 1), (1920, 1080), (300, 16_000)])
def test_the_size_is_read_from_the_first_bytes(make: Callable[[int, int], bytes], size: tuple[int, int]) -> None:
    assert size_of(url(make(*size))) == size


@pytest.mark.parametrize(
    "seen",
    [
        *(
            "",
            "https://example.org/a.png",
            "data:image/png;base64,",
            "data:image/png;base64,A",
            "data:image/png;base64,ü",
        ),
        *(url(png(1, 1))[:40], url(png(0, 9)), url(b"%PDF-1.7"), url(webp(9, 9)[:20]), url(jpeg(9, 9)[:60_000])),
        "data:application/pdf;base64," + url(png(1, 1))[22:],
    ],
)
def test_a_size_that_cannot_be_seen_is_none(seen: str) -> None:
    assert size_of(seen) is None


@given(st.binary(max_size=80), st.sampled_from([b"", png(1, 1)[:16], gif(1, 1)[:6], b"\xff\xd8", webp(1, 1)[:12]]))
@settings(deadline=None)
def test_no_image_is_too_odd(tail: bytes, head: bytes) -> None:
    size = size_of(url(head + tail))
    assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("model", "detail", "size", "expected"),
    [
        # the examples of OpenAI's guide
        ("gpt-4o", "high", (1024, 1024), 765),
        ("gpt-4o", "high", (2048, 4096), 1105),
        ("gpt-4o", "low", (4096, 8192), 85),
        # and by its rules
        ("gpt-4o", "auto", (128, 64), 85 + 170),
        ("gpt-4o", "high", (3000, 500), 85 + 170 * 4),
        ("gpt-4o", "high", None, 85 + 170 * 8),
        ("gpt-4.1-2025-04-14", "high", (1024, 1024), 765),
        ("gpt-4o-mini-2024-07-18", "high", (1024, 1024), 2833 + 5667 * 4),
        ("gpt-4o-mini", "low", None, 2833),
        ("gpt-5-2025-08-07", "high", (1024, 1024), 70 + 140 * 4),
        ("gpt-5.1", "low", (1024, 1024), 70),
        ("o3", "high", (1024, 1024), 75 + 150 * 4),
        ("gpt-4.1-mini", "high", (1024, 1024), 1659),
        ("gpt-4.1-mini", "low", None, 6636),
        ("o4-mini", "auto", (32, 33), 4),
        ("gpt-5.2", "high", (1024, 1024), 1229),
        ("gpt-5.4-mini", "high", (1920, 1080), 2448),
        ("gpt-5.4", "high", (1800, 2400), 2942),
        ("gpt-5.4", "auto", None, 3000),
        ("gpt-5.4", "original", None, 12_000),
        ("gpt-5.5", "auto", None, 12_000),
        ("gpt-5.5", "low", (4096, 4096), 308),
        ("gpt-5.6-luna", "auto", (4096, 4096), 19_661),
        ("gpt-6-astra", "original", (4096, 4096), 19_661),
        ("gpt-6-astra", "high", (4096, 4096), 3000),
        ("gpt-6-astra", "low", None, 308),
        ("gpt-6-astra", "original", None, 36_000),
        ("somebody-else", "auto", None, 36_000),
    ],
)
def test_what_an_image_costs(model: str, detail: str, size: tuple[int, int] | None, expected: int) -> None:
    seen = url(png(*size)) if size else "https://example.org/a.png"
    assert image_tokens(model, seen, detail) == expected


def test_the_guides_examples_of_a_budget_of_1536_patches() -> None:
    assert patches(1024, 1024, Bound(2048, 1536)) == 1024
    assert patches(1800, 2400, Bound(2048, 1536)) == 1452


@given(st.integers(1, 70_000), st.integers(1, 70_000), st.sampled_from(["low", "high", "original", "auto"]))
@settings(deadline=None)
def test_no_image_costs_more_than_one_that_cannot_be_seen(width: int, height: int, detail: str) -> None:
    for model in ("gpt-4o", "gpt-5.2", "gpt-5.4", "gpt-5.5", "gpt-6-astra"):
        assert 1 <= image_tokens(model, url(png(width, height)), detail) <= image_tokens(model, "", detail)

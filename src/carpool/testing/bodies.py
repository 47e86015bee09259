"""A JSON body, read as it arrives."""

from collections.abc import AsyncIterable
from typing import Any

import msgspec

from .refusals import Refused, bad_type


async def read_json(stream: AsyncIterable[bytes], most: int) -> dict[str, Any]:
    """Read an object of at most so many bytes; raises Refused: 400 for anything else, 413 for what is too large."""
    gathered, size = bytearray(), 0
    async for chunk in stream:
        size += len(chunk)
        if size <= most:
            gathered += chunk
        elif size > 2 * most:
            break
    if size > most:
        raise Refused(413, f"The body is larger than the {most:,} bytes allowed.")
    try:
        body = msgspec.json.decode(gathered)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise bad_type("body", "an object", body)
    return body

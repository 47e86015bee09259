"""How facts become BLOBs, and come back."""

from array import array
from collections.abc import Iterable

import msgspec

from ...models import BatchStatus, Lane, Leftovers, Run

_Run = tuple[int, int, bytes, bytes, bytes | None, bytes | None]

_encode = msgspec.msgpack.Encoder().encode
_lane = msgspec.msgpack.Decoder(Lane)
_runs = msgspec.msgpack.Decoder(list[_Run])
_leftovers = msgspec.msgpack.Decoder(Leftovers)
_status = msgspec.msgpack.Decoder(BatchStatus)


def array_of(kind: str, packed: bytes) -> "array[int]":
    """Give a packed array."""
    unpacked = array(kind)
    unpacked.frombytes(packed)
    return unpacked


def pack_lane(lane: Lane) -> bytes:
    """Pack a lane; without a priority as before there were any."""
    return _encode(lane if lane.priority else lane[:3])


def unpack_lane(packed: bytes) -> Lane:
    """Give a lane."""
    return _lane.decode(packed)


def pack_runs(runs: Iterable[Run]) -> bytes:
    """Pack runs."""
    return _encode(
        [
            (
                run.segment,
                run.offset,
                run.rows.tobytes(),
                run.sizes.tobytes(),
                None if run.inputs is None else run.inputs.tobytes(),
                None if run.tokens is None else run.tokens.tobytes(),
            )
            for run in runs
        ]
    )


def unpack_runs(packed: bytes) -> tuple[Run, ...]:
    """Give runs."""
    return tuple(
        Run(
            segment,
            offset,
            array_of("Q", rows),
            array_of("I", sizes),
            None if inputs is None else array_of("I", inputs),
            None if tokens is None else array_of("I", tokens),
        )
        for segment, offset, rows, sizes, inputs, tokens in _runs.decode(packed)
    )


def pack_status(status: BatchStatus) -> bytes:
    """Pack what the provider said of a batch."""
    return _encode(status)


def unpack_status(packed: bytes) -> BatchStatus:
    """Give what the provider said of a batch."""
    return _status.decode(packed)


def pack_leftovers(leftovers: Leftovers) -> bytes:
    """Pack what a batch leaves at the provider."""
    return _encode(leftovers)


def unpack_leftovers(packed: bytes) -> Leftovers:
    """Give what a batch leaves at the provider."""
    return _leftovers.decode(packed)

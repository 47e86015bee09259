"""Numbers of rows, batches, segments and downloads, and the names made of them; and of headers.

Whoever shares a journal numbers within a shard of its own, which is what stands above the fortieth bit.
"""

import re

OWN_HEADER = "x-carpool"  # begins the names of all headers of ours, of which no request that leaves has any

_BITS = 40
_FILE = re.compile(r"(?:segment|download)-(\d+)-\d+\.jsonl")


def shard_of(number: int) -> int:
    """Give the shard that a number belongs to; 0 where there is no journal."""
    return number >> _BITS


def span_of(shard: int) -> tuple[int, int]:
    """Give the first and the last number of a shard."""
    return shard << _BITS, (shard + 1 << _BITS) - 1


def client_key(pool: str, number: int) -> str:
    """Give the key that a batch is known by at the provider."""
    return f"{pool}-b{number}"


def number_of(key: str) -> int:
    """Give the number of a batch, with which its client key ends."""
    return int(key.rpartition("-b")[2])


def segment_name(number: int) -> str:
    """Name the file of a spool segment."""
    return _name("segment", number)


def download_name(number: int) -> str:
    """Name a downloaded file."""
    return _name("download", number)


def shard_of_file(name: str) -> int | None:
    """Give the shard that a file's name says it belongs to, None where it is none of ours."""
    named = _FILE.fullmatch(name)
    return None if named is None else int(named[1])


def _name(kind: str, number: int) -> str:
    shard = shard_of(number)
    return f"{kind}-{shard}-{number - span_of(shard)[0]}.jsonl"

"""Whose a batch or a file is, by the names that carpool gives: pure."""

import re

# What a pool calls its batches and, with an ending, their input files: twelve random digits, and a number.
_KEY = r"(?P<key>(?P<pool>[0-9a-f]{12})-b\d+)"
_NAME = re.compile(rf"{_KEY}\.jsonl")


def pool_of(key: str) -> str:
    """Name the pool that a client key begins with; the whole key where it is none of ours."""
    pool, _, number = key.rpartition("-b")
    return pool if pool and number.isdecimal() else key


def key_of(filename: str | None) -> str | None:
    """Give the client key that an input file is named after, None where it has another name."""
    named = _NAME.fullmatch(filename or "")
    return None if named is None else named["key"]

"""Measure what carpool costs, and how it keeps limits, beside the shortest program and beside an oracle."""

import os
from pathlib import Path

_VOCABULARY = Path(__file__).parent.parent / ".vocabulary"

if _VOCABULARY.is_dir():  # what `make` has fetched, so that no network is needed
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(_VOCABULARY))

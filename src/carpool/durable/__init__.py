"""Submissions: requests that are kept until somebody has taken care of their outcomes, whatever happens meanwhile."""

from .entry import Entry, checked_key, copies
from .heirloom import Heirloom
from .inbox import Inbox
from .kept import Kept
from .standing import Standing
from .submissions import Submissions
from .taker import Taker

__all__ = ["Entry", "Heirloom", "Inbox", "Kept", "Standing", "Submissions", "Taker", "checked_key", "copies"]

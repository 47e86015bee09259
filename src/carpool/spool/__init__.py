"""The spool: accepted lines on disk until they are settled, and the files that come back."""

from .spool import Spool
from .tails import CHUNK, SEGMENT, LaneKey, Lines

__all__ = ["CHUNK", "SEGMENT", "LaneKey", "Lines", "Spool"]

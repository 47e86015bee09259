"""Observability: the one place where `Event`s are made, and where the hook that wants them is called."""

from .calls import CallsSeen
from .observer import Observer, begin

__all__ = ["CallsSeen", "Observer", "begin"]

"""HTTP: calls out, replies in. The key is known to this room alone and appears in nothing that leaves it."""

from .forms import Read
from .wire import CHUNK, Receive, Transport, Wire

__all__ = ["CHUNK", "Read", "Receive", "Transport", "Wire"]

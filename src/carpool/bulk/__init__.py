"""Streams: more requests than memory go in, and their outcomes come out."""

from .errands import Errands
from .far import FarStream, here
from .outcomes import Outcomes
from .reading import Far, Reading, Source, check_iterable
from .rows import Asked, as_request
from .shelf import Shelf
from .stream import Port, Reader, Stream

__all__ = [
    "Asked",
    "Errands",
    "Far",
    "FarStream",
    "Outcomes",
    "Port",
    "Reader",
    "Reading",
    "Shelf",
    "Source",
    "Stream",
    "as_request",
    "check_iterable",
    "here",
]

"""A local server of the Files and Batches API, to test against and to put before any model.

    with Emulator() as emulator:
        client = OpenAI(base_url=emulator.url, api_key="any")

It needs the extra `emulator`. It imports nothing else of carpool and follows the provider's contract to
the letter, so that it is an independent check on the client.
"""

from .answers import Answer, Answering, echo
from .books import BatchLine, Books, DeliveryLine, FileLine
from .emulator import Emulator
from .faults import Faults
from .ledger import LimitLine, QueueLine
from .pace import Pace
from .refusals import Refused
from .rows import Usage, digest
from .troubles import Troubles

__all__ = [
    "Answer",
    "Answering",
    "BatchLine",
    "Books",
    "DeliveryLine",
    "Emulator",
    "Faults",
    "FileLine",
    "LimitLine",
    "Pace",
    "QueueLine",
    "Refused",
    "Troubles",
    "Usage",
    "digest",
    "echo",
]

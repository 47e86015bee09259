"""The provider's webhooks: a signed delivery that names a batch of the pool has it asked for at once."""

from .app import MOST, Webhooks

__all__ = ["MOST", "Webhooks"]

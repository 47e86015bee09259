"""Standard Webhooks: whether a delivery was signed by who knows the secret, and was sent just now. Pure.

The `standardwebhooks` package would do a part of it: it knows one secret, looks at a clock of its own, takes secrets
without a prefix for base64, which the official SDK does not, and one malformed entry beside a good signature makes it
raise a ValueError. What would be left for it is one call of `hmac`.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import ConfigurationError

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

TOLERANCE = 300  # seconds, both ways, as in the official SDK

_PREFIX = "whsec_"
_ID, _STAMP, _SIGNATURES = _NAMES = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
_DIGITS = 15
_ENTRIES = 100  # signatures looked at: one for each secret that the endpoint has is usual


def keys_of(secret: str | Iterable[str]) -> tuple[bytes, ...]:
    """Give what each of some secrets signs with: the bytes behind "whsec_", or the text itself where that is missing.

    Raises `ConfigurationError`, which says nothing of what is in them.
    """
    given: Any = (secret,) if isinstance(secret, str) else secret
    secrets = tuple(given) if isinstance(given, Iterable) else ()
    if not secrets or not all(isinstance(one, str) and one for one in secrets):
        raise ConfigurationError("webhooks() takes the secret of the endpoint, or several: text such as whsec_...")
    return tuple(map(_key_of, secrets))


def _key_of(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        return secret.encode()
    encoded = secret.removeprefix(_PREFIX).strip()
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ConfigurationError(f"What follows {_PREFIX} in the secret of a webhook must be base64, and is not.")
    return key


def refusal(headers: Headers, body: bytes, keys: Sequence[bytes], now: float) -> str | None:
    """Say why a delivery is not to be believed, None where it is; `now` is in seconds since the epoch."""
    found = _pick(headers)
    if any(len(values) != 1 for values in found.values()):
        return "it does not bear each of the headers webhook-id, webhook-timestamp and webhook-signature once"
    (delivery,), (stamp,), (signatures,) = found[_ID], found[_STAMP], found[_SIGNATURES]
    if not stamp.isdigit() or len(stamp) > _DIGITS:
        return "its timestamp is no number"
    if abs(int(now) - int(stamp)) > TOLERANCE:
        return f"its timestamp is more than {TOLERANCE} seconds away: it was sent then, or a clock is wrong"
    signed = b".".join((delivery, stamp, body))
    # Without the version too, as the official SDK has it.
    given = [entry.removeprefix(b"v1,") for entry in signatures.split()[:_ENTRIES]]
    expected = [sign(key, signed) for key in keys]
    if not any(hmac.compare_digest(one, other) for one in expected for other in given):
        return "no secret that is known here signs so"
    return None


def sign(key: bytes, signed: bytes) -> bytes:
    """Give a signature, in base64."""
    return b64encode(hmac.digest(key, signed, "sha256"))


def _pick(headers: Headers) -> dict[bytes, list[bytes]]:
    """Give all values of the three headers, however their names are written."""
    found: dict[bytes, list[bytes]] = {name: [] for name in _NAMES}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        values = found.get(_as_bytes(name).lower())
        if values is not None:
            values.append(_as_bytes(value))
    return found


def _as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")

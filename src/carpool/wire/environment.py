"""What the environment says of proxies and certificates."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2

from ..errors import ConfigurationError


def check_proxies() -> None:
    """Raise `ValueError` for a port that is none, to connect to which would end in an `OverflowError`."""
    for name, address in getproxies().items():
        if name in ("http", "https", "all"):
            _ = urlsplit(address if "//" in address else f"//{address}").port


@contextmanager
def environment_mapped() -> Iterator[None]:
    """Say what in the environment no client can be made with; the address of a proxy may hold a password."""
    try:
        yield
    except (httpx2.InvalidURL, ValueError):
        raise ConfigurationError(
            "A proxy that the environment names has no address that can be used. Check HTTPS_PROXY, HTTP_PROXY, "
            "ALL_PROXY and NO_PROXY."
        ) from None
    except (OSError, ImportError) as exc:
        raise ConfigurationError(
            f"The certificates or the proxy that the environment names cannot be used: {exc}. Check SSL_CERT_FILE, "
            "SSL_CERT_DIR and ALL_PROXY."
        ) from None

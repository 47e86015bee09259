"""What an SDK's client says of the account it is for."""

from typing import Any, NamedTuple

from .account import Account, account_of
from .errors import ConfigurationError
from .naming import OWN_HEADER

# The SDKs whose calls have the shape of OpenAI's, and where that begins below their base URL.
_BELOW = {"openai": "", "groq": "/openai/v1"}
_AZURE = {"AsyncAzureOpenAI", "AzureOpenAI"}  # the deployment stands in their URLs
_ADVICE = (
    "Of the clients only those of openai and groq can be batched, and compatible ones by their http_client=, from "
    "pool.http_client()."
)
_STANDARD = {
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "user-agent",
}
_OWN = ("x-stainless-", OWN_HEADER)  # of the SDK's calls, and of ours


class Facts(NamedTuple):
    """Hold a client's account, the HTTP client it uses, and whether it blocks."""

    account: Account
    http: Any
    sync: bool


def read_client(client: Any) -> Facts:
    """Read a configured client of an SDK; `ConfigurationError` for what cannot be batched."""
    kinds = type(client).__mro__
    sdk = next((name for name in (_top(kind) for kind in kinds) if name in _BELOW), None)
    http = getattr(client, "_client", None)
    if sdk is None or http is None or not hasattr(client, "with_options"):
        raise ConfigurationError(f"A client of {_top(type(client))} ({type(client).__name__}) cannot ride. {_ADVICE}")
    if any(kind.__name__ in _AZURE for kind in kinds):
        raise ConfigurationError("Azure's own clients cannot ride: they name the deployment in the URL of each call.")
    key = getattr(client, "_api_key_provider", None) or client.api_key
    if not key or any(getattr(client, name, None) is not None for name in ("workload_identity", "_provider")):
        raise ConfigurationError("The client has no API key by which batches could be submitted. Give it one.")
    headers = {
        name: value
        for name, value in dict(client.default_headers).items()
        if isinstance(value, str) and name.lower() not in _STANDARD and not name.lower().startswith(_OWN)
    }
    base_url = str(client.base_url).rstrip("/") + _BELOW[sdk]
    return Facts(account_of(base_url, key, headers), http, not hasattr(http, "aclose"))


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]

"""The parameters of a creation, each checked as the API does."""

from collections.abc import Mapping
from typing import Any

from .refusals import Refused, bad_type, bad_value, missing, out_of_range
from .validation import ENDPOINTS

LEAST_LIFE, MOST_LIFE = 3_600, 2_592_000


def check_create(body: Mapping[str, Any]) -> None:
    """Check the body of `POST /v1/batches`."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        if body.get(name) is None:
            raise missing(name)
        if not isinstance(body[name], str):
            raise bad_type(name, "a string", body[name])
    if body["endpoint"] not in ENDPOINTS:
        raise bad_value("endpoint", body["endpoint"], ", ".join(f"'{name}'" for name in ENDPOINTS))
    if body["completion_window"] != "24h":
        raise bad_value("completion_window", body["completion_window"], "'24h'")
    if body.get("metadata") is not None:
        check_metadata(body["metadata"])
    if body.get("output_expires_after") is not None:
        check_expiry("output_expires_after", body["output_expires_after"])


def check_metadata(metadata: object) -> None:
    """Check metadata: at most 16 pairs of strings, 64 characters to a key and 512 to a value."""
    if not isinstance(metadata, dict):
        raise bad_type("metadata", "an object", metadata)
    if len(metadata) > 16:
        message = (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(metadata)} properties instead."
        )
        raise Refused(400, message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise bad_type(f"metadata.{key}", "a string", value)
        _check_length("metadata", key, 64)
        _check_length(f"metadata.{key}", value, 512)


def _check_length(param: str, text: str, most: int) -> None:
    if len(text) > most:
        message = (
            f"Invalid '{param}': string too long. Expected a string with maximum length {most}, "
            f"but got a string with length {len(text)} instead."
        )
        raise Refused(400, message, param=param, code="string_above_max_length")


def check_expiry(param: str, expires: object) -> None:
    """Check an `expires_after`: from one hour to thirty days after the creation of the file."""
    if not isinstance(expires, dict):
        raise bad_type(param, "an object", expires)
    for name in ("anchor", "seconds"):
        if expires.get(name) is None:
            raise missing(f"{param}.{name}")
    if expires["anchor"] != "created_at":
        raise bad_value(f"{param}.anchor", expires["anchor"], "'created_at'")
    seconds = expires["seconds"]
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise bad_type(f"{param}.seconds", "an integer", seconds)
    if not LEAST_LIFE <= seconds <= MOST_LIFE:
        raise out_of_range(f"{param}.seconds", seconds, LEAST_LIFE, MOST_LIFE)

"""The error objects of the API, as exceptions."""

from typing import Any

SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"


class Refused(Exception):
    """Refuse one HTTP request, or one row of a batch, with a status and an error object.

    An answer callable may raise it: the row then goes to the error file with this status and body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Give the object that the API sends."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def by_status(status: int) -> Refused:
    """Refuse with a status for no reason that the request gave."""
    if status == 429:
        return Refused(429, "Rate limit reached for requests", kind="requests", code="rate_limit_exceeded")
    if status >= 500:
        return Refused(status, SERVER_ERROR, kind="server_error")
    return Refused(status, f"The request was answered with the status {status}.")


def bad_value(param: str, value: object, supported: str) -> Refused:
    """Refuse a value that is not among the supported ones."""
    return Refused(
        400, f"Invalid value: '{value}'. Supported values are: {supported}.", param=param, code="invalid_value"
    )


def bad_type(param: str, expected: str, value: object) -> Refused:
    """Refuse a value of the wrong JSON type."""
    message = f"Invalid type for '{param}': expected {expected}, but got {_json_type(value)} instead."
    return Refused(400, message, param=param, code="invalid_type")


def missing(param: str) -> Refused:
    """Refuse a body that lacks a parameter."""
    return Refused(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def out_of_range(param: str, value: int, least: int, most: int) -> Refused:
    """Refuse an integer outside its bounds."""
    low = value < least
    bound, sign, name = (least, ">=", "below minimum") if low else (most, "<=", "above maximum")
    code = "integer_below_min_value" if low else "integer_above_max_value"
    message = f"Invalid '{param}': integer {name} value. Expected a value {sign} {bound}, but got {value} instead."
    return Refused(400, message, param=param, code=code)


_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    type(None): "null",
}


def _json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), type(value).__name__)

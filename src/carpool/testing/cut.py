"""A download that ends early."""

from starlette.types import Message, Send


class Cut:
    """Pass on a share of a good response's body, from 0 to 1; `declared`, its headers still tell the whole length.

    A server closes the connection of a response that ends before its declared length; in memory it just ends.
    """

    def __init__(self, send: Send, share: float, declared: bool) -> None:
        self._send = send
        self._share = share
        self._declared = declared
        self._left: int | None = None  # None for a response that is passed on as it is

    async def __call__(self, message: Message) -> None:
        """Send what is left of a message."""
        if message["type"] == "http.response.start":
            await self._send(self._start(message))
        elif self._left is None:
            await self._send(message)
        else:
            await self._send(self._body(message, self._left))

    def _start(self, message: Message) -> Message:
        headers = dict(message["headers"])
        length = int(headers.get(b"content-length", 0))
        if message["status"] != 200 or not length:
            return message
        self._left = int(self._share * length)
        if not self._declared:
            del headers[b"content-length"]
            if self._left % 2:
                headers[b"content-length"] = str(self._left).encode()
        return {**message, "headers": list(headers.items())}

    def _body(self, message: Message, left: int) -> Message:
        body = message.get("body", b"")[:left]
        self._left = left - len(body)
        return {**message, "body": body}

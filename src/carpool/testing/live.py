"""The live endpoints: a call is answered as a row would be."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .answers import Whole
from .bodies import read_json
from .door import refusal
from .rate import Rate
from .refusals import Refused, by_status
from .setting import Setting


class Live:
    """Answer live calls, so many a minute; `per_minute` None is without limit."""

    def __init__(self, setting: Setting, per_minute: int | None, max_body_bytes: int) -> None:
        self._setting = setting
        self._rate = Rate(per_minute)
        self._max_body_bytes = max_body_bytes

    async def answer(self, request: Request) -> Response:
        """Answer one call; every reply tells of the rate."""
        self._setting.notes.live += 1
        wait, headers = self._rate.take(self._setting.clock())
        try:
            body = await read_json(request.stream(), self._max_body_bytes)
            if wait:
                raise by_status(429)
            status, content, more = await self._run(request.url.path, body)
        except Refused as exc:
            return refusal(exc, headers)
        return Response(content, status, {**headers, **more}, media_type="application/json")

    async def _run(self, endpoint: str, body: dict[str, Any]) -> Whole:
        if body.get("stream"):
            raise Refused(400, "The emulator does not stream.", param="stream", code="unsupported_value")
        if not body.get("model"):
            raise Refused(400, "you must provide a model parameter")
        self._setting.notes.ran_live(body)
        answer = await self._setting.reply(endpoint, body)
        if answer is None:
            raise Refused(504, "The request timed out.", kind="server_error")
        return answer

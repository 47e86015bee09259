"""The emulator tells an endpoint when batches end, as the official SDK understands it."""

import json
import logging
from typing import Any

import anyio
import httpx2
import openai
import pytest
from emulating import Client, some

from carpool.testing import Emulator, Pace, Troubles

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "http://endpoint/webhooks"


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Mailbox(httpx2.AsyncBaseTransport):
    """Keep deliveries, and answer them with these statuses, None for a broken connection, the last of them for good."""

    def __init__(self, *statuses: int | None) -> None:
        self._statuses = list(statuses or (204,))
        self.deliveries: list[tuple[dict[str, str], bytes]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert (request.method, str(request.url)) == ("POST", URL)
        self.deliveries.append((dict(request.headers), await request.aread()))
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if status is None:
            raise httpx2.ConnectError("nobody listens")
        return httpx2.Response(status)


def telling(mailbox: Mailbox, secret: str = SECRET, **settings: Any) -> Emulator:
    return Emulator(webhook_url=URL, webhook_secret=secret, _webhook_transport=mailbox, **settings)


async def run_one(emulator: Emulator, *, seconds: float = 60.0) -> str:
    client = Client(emulator)
    async with emulator.inline(), client.http:
        batch_id = await client.create(await client.upload(some(3)))
        await anyio.sleep(seconds)
        return batch_id


@pytest.mark.parametrize("secret", [SECRET, "a secret that is no base64"])
async def test_the_official_sdk_believes_a_delivery_and_reads_it(secret: str) -> None:
    mailbox = Mailbox()
    batch_id = await run_one(telling(mailbox, secret), seconds=1)
    ((headers, body),) = mailbox.deliveries
    with openai.OpenAI(api_key="any", base_url="http://localhost/v1", webhook_secret=secret) as client:
        client.webhooks.verify_signature(body, headers)
        event = client.webhooks.unwrap(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body + b" ", headers)
    assert (event.type, event.data.id, event.object) == ("batch.completed", batch_id, "event")  # type: ignore[union-attr]
    assert json.loads(body).keys() == {"id", "object", "type", "created_at", "data"}
    assert json.loads(body)["data"] == {"id": batch_id}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("batch.completed", {}),
        ("batch.failed", {"models": ["another"]}),
        ("batch.expired", {"pace": Pace(running=100, window=20)}),
        ("batch.cancelled", {"troubles": Troubles(cancelled=1.0)}),
    ],
)
async def test_each_end_is_told(kind: str, settings: dict[str, Any]) -> None:
    mailbox = Mailbox()
    emulator = telling(mailbox, **settings)
    batch_id = await run_one(emulator)
    assert [json.loads(body)["type"] for _, body in mailbox.deliveries] == [kind]
    assert [(line.batch_id, line.kind, line.status) for line in emulator.books().deliveries] == [(batch_id, kind, 204)]


async def test_what_is_not_taken_is_tried_again_under_the_same_id_and_a_new_time() -> None:
    mailbox = Mailbox(503, None, 200)
    emulator = telling(mailbox)
    await run_one(emulator)
    assert [line.status for line in emulator.books().deliveries] == [503, None, 200]
    assert len({(headers["webhook-id"], body) for headers, body in mailbox.deliveries}) == 1
    stamps = [int(headers["webhook-timestamp"]) for headers, _ in mailbox.deliveries]
    assert stamps[0] < stamps[-1]
    assert len({headers["webhook-signature"] for headers, _ in mailbox.deliveries}) > 1


async def test_what_is_never_taken_is_given_up_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = Mailbox(401)
    emulator = telling(mailbox)
    with caplog.at_level(logging.WARNING, "carpool.testing"):
        batch_id = await run_one(emulator, seconds=3_600)
    assert [line.status for line in emulator.books().deliveries] == [401] * 5
    (message,) = [record.getMessage() for record in caplog.records if record.name == "carpool.testing"]
    assert message == f"the webhook batch.completed of {batch_id} was not taken: 401"


async def test_without_an_endpoint_nothing_is_told() -> None:
    emulator = Emulator()
    await run_one(emulator, seconds=1)
    assert emulator.books().deliveries == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"webhook_url": URL},
        {"webhook_secret": SECRET},
        {"webhook_url": "localhost:8000", "webhook_secret": SECRET},
        {"webhook_url": URL, "webhook_secret": ""},
        {"webhook_url": URL, "webhook_secret": "whsec_"},
        {"webhook_url": URL, "webhook_secret": "whsec_no base64"},
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="webhook_"):
        Emulator(**settings)

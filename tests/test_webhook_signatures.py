"""Whether a delivery is believed: a table, what the official SDK says of the same, and anything mangled."""

import base64
import hmac
from collections.abc import Callable
from itertools import product
from typing import Any

import hypothesis.strategies as st
import openai
import pytest
from hypothesis import given

from carpool import ConfigurationError
from carpool.webhooks import signature
from carpool.webhooks.signature import keys_of, refusal

NOW = 1_790_000_000.0
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
BODY = b'{"id":"evt_1","object":"event","type":"batch.completed","created_at":1790000000,"data":{"id":"batch_1"}}'


def sign(
    body: bytes = BODY, *, key: bytes = KEY, at: float | str = NOW, delivery: str = "wh_1", version: str = "v1,"
) -> dict[str, str]:
    """Give the headers of a delivery."""
    stamp = at if isinstance(at, str) else str(int(at))
    digest = hmac.new(key, f"{delivery}.{stamp}.".encode() + body, "sha256").digest()
    encoded = base64.b64encode(digest).decode()
    return {"webhook-id": delivery, "webhook-timestamp": stamp, "webhook-signature": version + encoded}


def pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Give headers as ASGI has them."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def why(headers: Any, body: bytes = BODY, *secrets: str, now: float = NOW) -> str | None:
    return refusal(headers, body, keys_of(secrets or SECRET), now)


# Computed by version 1.1.0 of the `standardwebhooks` package.
VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR_BODY = b'{"test": 2432232314}'
VECTOR = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_what_the_reference_signs_is_believed() -> None:
    assert why(VECTOR, VECTOR_BODY, VECTOR_SECRET, now=1_614_265_330) is None


GOOD = sign()
SIGNATURE = GOOD["webhook-signature"]
OTHER = base64.b64encode(b"x" * 32).decode()


@pytest.mark.parametrize(
    "headers",
    [
        GOOD,
        {name.title(): value for name, value in GOOD.items()},
        {name.upper(): value for name, value in GOOD.items()},
        pairs(GOOD),
        [(name.upper(), value) for name, value in GOOD.items()],
        GOOD | {"webhook-signature": f"v1,{OTHER} {SIGNATURE}"},
        GOOD | {"webhook-signature": f"v1a,{OTHER} nonsense , v1, {SIGNATURE} v2,é"},
        GOOD | {"webhook-signature": SIGNATURE.removeprefix("v1,")},
        GOOD | {"webhook-signature": "v1,x " * 99 + SIGNATURE},
        GOOD | {"x-other": "é\ud800", "cookie": ""},
        sign(at=NOW - 300),
        sign(at=NOW + 300),
    ],
)
def test_what_is_believed(headers: Any) -> None:
    assert why(headers) is None


ONCE = "once"
NUMBER = "no number"
AWAY = "seconds away"
UNKNOWN = "no secret"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, ONCE),
        ([], ONCE),
        *(({name: value for name, value in GOOD.items() if name != left_out}, ONCE) for left_out in GOOD),
        *(([*pairs(GOOD), (name.title().encode(), b"x")], ONCE) for name in GOOD),
        ([*pairs(GOOD), *pairs(GOOD)], ONCE),
        (GOOD | {"Webhook-Id": "wh_1"}, ONCE),
        *(
            (sign(at=stamp), NUMBER)
            for stamp in ("", "now", "-1", "+1790000000", "1790000000.0", " 1", "1_0", "٣", "9" * 16)
        ),
        (sign(at=NOW - 301), AWAY),
        (sign(at=NOW + 301), AWAY),
        (sign(at=0), AWAY),
        (sign(at="9" * 15), AWAY),
        (GOOD | {"webhook-timestamp": str(int(NOW) + 1)}, UNKNOWN),
        (GOOD | {"webhook-id": "wh_2"}, UNKNOWN),
        (GOOD | {"webhook-id": ""}, UNKNOWN),
        (GOOD | {"webhook-id": "wh_1\ud800"}, UNKNOWN),
        (GOOD | {"webhook-signature": ""}, UNKNOWN),
        (GOOD | {"webhook-signature": "v1,"}, UNKNOWN),
        (GOOD | {"webhook-signature": "v1,é"}, UNKNOWN),
        (GOOD | {"webhook-signature": "v1,x " * 100 + SIGNATURE}, UNKNOWN),
        (GOOD | {"webhook-signature": f"v1,{OTHER}"}, UNKNOWN),
        (sign(version="v1a,"), UNKNOWN),
        (sign(version="v1,v1,"), UNKNOWN),
        (sign(key=b"another"), UNKNOWN),
        (sign(key=SECRET.encode()), UNKNOWN),
        (sign(BODY + b" "), UNKNOWN),
    ],
)
def test_what_is_not(headers: Any, reason: str) -> None:
    assert reason in (why(headers) or "believed")


def test_no_reason_quotes_a_secret_or_a_body() -> None:
    reasons = {why(headers, b"SECRET TEXT") for headers in ({}, GOOD, sign(at=0), sign(at="x"))}
    assert len(reasons) == 4
    assert not any("SECRET" in (reason or "") or SECRET[6:] in (reason or "") for reason in reasons)


def test_however_many_signatures_come_a_body_is_signed_once_for_each_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bytes] = []
    sign_once = signature.sign

    def count(key: bytes, content: bytes) -> bytes:
        signed.append(key)
        return sign_once(key, content)

    monkeypatch.setattr(signature, "sign", count)
    assert why(GOOD | {"webhook-signature": "v1,x " * 30_000}, BODY, SECRET, "another") is not None
    assert signed == [KEY, b"another"]


@pytest.mark.parametrize("end", range(2))
def test_each_of_several_secrets_is_good_while_one_is_replaced(end: int) -> None:
    other = "whsec_" + base64.b64encode(b"new" * 8).decode()
    secrets = (SECRET, other)
    key = (KEY, b"new" * 8)[end]
    assert why(sign(key=key), BODY, *secrets) is None
    assert why(sign(key=b"third"), BODY, *secrets) is not None


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("plain text, no base64!", b"plain text, no base64!"),
        ("MfKQ", b"MfKQ"),
        ("whsec_YWJjZA", b"abcd"),
        ("whsec_YWJjZA==\n", b"abcd"),
        ("pässword", "pässword".encode()),
    ],
)
def test_what_a_secret_signs_with(secret: str, key: bytes) -> None:
    assert keys_of(secret) == keys_of([secret]) == (key,)
    assert why(sign(key=key), BODY, secret) is None


@pytest.mark.parametrize(
    "secret", [None, "", [], [""], 5, b"whsec_YWJj", ["a", None], "whsec_", "whsec_no base64", "whsec_é", "whsec_a"]
)
def test_a_secret_that_cannot_be_is_refused_without_being_quoted(secret: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        keys_of(secret)
    assert "no base64" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- the official SDK


SDK = openai.OpenAI(api_key="any", base_url="http://localhost/v1", webhook_secret=SECRET)


def sdk_believes(headers: dict[str, str], body: bytes, secret: str = SECRET) -> bool:
    try:
        SDK.webhooks.verify_signature(body, headers, secret=secret)
    except (openai.InvalidWebhookSignatureError, ValueError):
        return False
    return True


@pytest.mark.parametrize("secret", [SECRET, "plain text", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_the_official_sdk_says_the_same(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setattr("time.time", lambda: NOW + 0.9)
    (key,) = keys_of(secret)
    for away, version in product([-301, -300, 0, 300, 301], ["v1,", "", "v1a,", "v1,AAAA v1,", "v2,"]):
        for headers in (sign(key=key, at=NOW + away, version=version), sign(key=b"wrong", at=NOW + away)):
            assert sdk_believes(headers, BODY, secret) is (why(headers, BODY, secret, now=NOW + 0.9) is None)


# --- anything


def flipped(text: str, at: int, to: str) -> str:
    position = at % (len(text) + 1)
    return text[:position] + to + text[position + 1 :]


MANGLED: list[Callable[[dict[str, str], int, str], dict[str, str]]] = [
    lambda headers, at, to, name=name: headers | {name: flipped(headers[name], at, to)}  # type: ignore[misc]
    for name in GOOD
]


@given(st.sampled_from(MANGLED), st.integers(0, 200), st.text(max_size=3))
def test_what_is_changed_in_any_place_is_not_believed_and_breaks_nothing(mangle: Any, at: int, to: str) -> None:
    mangled = mangle(GOOD, at, to)
    same = {name: value.split() for name, value in mangled.items()} == {n: v.split() for n, v in GOOD.items()}
    believed = why(mangled) is None
    assert not believed or same or SIGNATURE.removeprefix("v1,") in mangled["webhook-signature"]
    if believed:
        assert {mangled[name] for name in ("webhook-id", "webhook-timestamp")} <= set(GOOD.values())


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(1, 255))
def test_a_body_that_is_changed_is_not_believed(body: bytes, at: int, bits: int) -> None:
    headers = sign(body)
    assert why(headers, body) is None
    changed = bytearray(body or b"\0")
    changed[at % len(changed)] ^= bits
    assert why(headers, bytes(changed)) is not None


@given(st.lists(st.tuples(st.one_of(st.sampled_from(list(GOOD)), st.text()), st.text())))
def test_headers_of_any_kind_break_nothing(headers: list[tuple[str, str]]) -> None:
    assert why(headers) is not None

"""The fixture `carpool_emulator`, used here as users use it, and in test suites of its own."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI

import carpool
from carpool.testing import Answer, Emulator, Troubles

pytest_plugins = ["pytester"]

CHAT = "/v1/chat/completions"
BARE = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # of no use in such a process, and slow to load


def body(text: str) -> dict[str, Any]:
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.mark.anyio
async def test_a_pool_finds_the_emulator_and_does_not_wait(carpool_emulator: Emulator) -> None:
    carpool_emulator.answer = lambda endpoint, given: {"choices": [{"message": {"content": f"re: {endpoint}"}}]}
    with within(1.0):
        async with carpool.Pool() as pool:
            assert (await pool.request(CHAT, body("hi"))).text == f"re: {CHAT}"
    assert carpool_emulator.books().times(body("hi")) == 1


@pytest.mark.anyio
async def test_so_do_the_clients_of_the_sdk(carpool_emulator: Emulator) -> None:
    messages: Any = body("hello")["messages"]
    async with AsyncOpenAI() as client:
        live = await client.chat.completions.create(model="m", messages=messages)
    with within(1.0):
        async with carpool.batched(AsyncOpenAI()) as client:
            batched = await client.chat.completions.create(model="m", messages=messages)
    assert live.choices[0].message.content == batched.choices[0].message.content == "hello"
    assert (carpool_emulator.books().live, len(carpool_emulator.books().batches)) == (1, 1)


@pytest.mark.anyio
async def test_a_call_that_fails_does_so_at_once(carpool_emulator: Emulator) -> None:
    carpool_emulator.answer = lambda endpoint, given: Answer(400, {"error": {"message": "no", "code": "bad"}})
    with within(1.0):
        async with carpool.Pool() as pool:
            with pytest.raises(carpool.RequestRejected, match="no"):
                await pool.request(CHAT, body("hi"))


@pytest.mark.anyio
@pytest.mark.carpool_emulator(troubles=Troubles(failing={400: 1.0}), api_key="sk-mine")
async def test_the_marker_gives_the_settings(carpool_emulator: Emulator) -> None:
    assert os.environ["OPENAI_API_KEY"] == "sk-mine"
    with within(1.0):
        async with carpool.Pool() as pool:
            with pytest.raises(carpool.RequestRejected, match="status 400"):
                await pool.request(CHAT, body("hi"))
    assert not carpool_emulator.books().bodies


USE = """
import os
import carpool
import pytest
from carpool.config import DEFAULT_TIMING, Timing

@pytest.mark.carpool_emulator(seed=1)
def test_inside(carpool_emulator):
    assert os.environ["OPENAI_BASE_URL"] == carpool_emulator.url
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"
    assert "CARPOOL_MODE" not in os.environ
    with carpool.Pool() as pool:
        pass

def test_outside():
    assert "OPENAI_BASE_URL" not in os.environ
    assert carpool.config.DEFAULT_TIMING == Timing()
"""


def test_pytest_finds_the_plugin_and_knows_its_marker(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, no_environment: None
) -> None:
    monkeypatch.setenv("CARPOOL_MODE", "emulate")
    monkeypatch.setenv("NO_PROXY", "example.org")
    pytester.makepyfile(USE)
    pytester.runpytest_subprocess("--strict-markers", *BARE).assert_outcomes(passed=2)
    markers = pytester.runpytest_subprocess("--markers", *BARE).stdout
    markers.fnmatch_lines(["@pytest.mark.carpool_emulator(*): settings of*"])


def test_without_the_extra_only_the_fixture_fails(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys; sys.modules['starlette'] = None")
    pytester.makepyfile("def test_without(): pass\n\ndef test_with(carpool_emulator): pass")
    result = pytester.runpytest_subprocess(*BARE)
    result.assert_outcomes(passed=1, errors=1)
    assert "the fixture carpool_emulator needs starlette" in result.stdout.str()
    assert "install carpool with its extra emulator" in result.stdout.str()


def test_a_setting_that_there_is_none_of_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n\n@pytest.mark.carpool_emulator(colour='red')\ndef test_with(carpool_emulator): pass"
    )
    result = pytester.runpytest_subprocess(*BARE)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'colour'"])

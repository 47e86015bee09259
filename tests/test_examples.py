"""The examples of long-lived programs, each run for real: several processes, sockets, signals, one emulator."""

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import anyio
import httpx2
import pytest

import carpool
from carpool.testing import Emulator, Pace

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
GRACE = 0.5
FAST = carpool.Timing(linger=0.05, poll_min=0.02, poll_max=0.05)
SLOW = Pace(running=2.5)  # than the grace
CLIENTS = 40


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # nothing of carpool runs here


@contextmanager
def child(emulator: Emulator, *command: object, **environment: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python with an account at the emulator; it has ended, or is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={
            **os.environ,
            "OPENAI_BASE_URL": emulator.url,
            "OPENAI_API_KEY": "any",
            **{name: str(value) for name, value in environment.items()},
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], within: float = 20) -> tuple[int, str]:
    """Wait for the end of a process; gives its exit status and what it said."""
    said, _ = process.communicate(timeout=within)
    return process.returncode, said


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - no event reaches from there
            await anyio.sleep(0.02)


# --- a web service


class Clients:
    """Ask a service over HTTP, each until it is answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.statuses = Counter[int | str]()
        self.answers: dict[int, str] = {}

    async def ask_all(self) -> None:
        """Ask all at once."""
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(limits=limits, timeout=30.0) as client, anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(self._ask, client, number)

    async def _ask(self, client: httpx2.AsyncClient, number: int) -> None:
        """Ask again when told so; sooner than told, to be done sooner."""
        while number not in self.answers:
            try:
                asked = {"text": f"text {number}"}
                url = f"http://127.0.0.1:{self.port}/summaries"
                response = await client.post(url, json=asked, headers={"Idempotency-Key": str(number)})
            except (httpx2.ConnectError, httpx2.ReadError):  # nobody there, or gone before it was asked
                self.statuses["no reply"] += 1
            else:
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    self.answers[number] = response.json()["summary"]
                else:
                    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
            await anyio.sleep(0.1)


@contextmanager
def service(emulator: Emulator, port: int, journal: Path, workers: int) -> Iterator[subprocess.Popen[str]]:
    """Serve by so many processes."""
    command = ["--app-dir", HERE, "--factory", "service_child:create_app", "--port", port, "--workers", workers]
    limit = ["--timeout-graceful-shutdown", 10, "--log-level", "warning"]
    with child(emulator, "-m", "uvicorn", *command, *limit, JOURNAL=journal, GRACE=GRACE) as process:
        yield process


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_a_service_that_is_terminated_loses_nothing_and_pays_nothing_twice(tmp_path: Path) -> None:
    """Its two processes leave while all its callers wait for batches that take longer than their grace."""
    port, journal = free_port(), tmp_path / "journal"
    clients = Clients(port)
    with Emulator(pace=SLOW) as emulator:
        async with anyio.create_task_group() as tasks:
            with service(emulator, port, journal, 2) as first:
                tasks.start_soon(clients.ask_all)
                await until(lambda: sum(batch.total for batch in emulator.books().batches) == CLIENTS)
                start = anyio.current_time()
                first.send_signal(signal.SIGTERM)
                code, said = await anyio.to_thread.run_sync(ended, first)
                assert anyio.current_time() - start < GRACE + 5
                assert code in (0, -signal.SIGTERM)
                assert said == ""
            assert clients.answers == {}
            await until(lambda: clients.statuses[503] >= CLIENTS)
            with service(emulator, port, journal, 1) as second:
                await until(lambda: len(clients.answers) == CLIENTS)
                second.send_signal(signal.SIGTERM)
                _, said = await anyio.to_thread.run_sync(ended, second)
                assert said == ""
        books = emulator.books()
    assert clients.answers == {n: f"Summarise in one sentence: text {n}" for n in range(CLIENTS)}
    assert set(books.bodies.values()) == {1}
    assert sum(batch.total for batch in books.batches) == CLIENTS
    assert not any("cancel" in batch.status for batch in books.batches)
    assert books.files == ()


async def test_callers_that_are_sent_away_may_try_another_process_that_is_up(tmp_path: Path) -> None:
    """It goes on with what the other left, at once when it is asked."""
    ports, journal = (free_port(), free_port()), tmp_path / "journal"
    clients = Clients(ports[0])
    with (
        Emulator(pace=SLOW) as emulator,
        service(emulator, ports[0], journal, 1) as leaving,
        service(emulator, ports[1], journal, 1) as staying,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clients.ask_all)
            await until(lambda: sum(batch.total for batch in emulator.books().batches) == CLIENTS)
            clients.port = ports[1]
            leaving.send_signal(signal.SIGTERM)
        assert clients.statuses[503] == CLIENTS
        for process in (leaving, staying):
            process.send_signal(signal.SIGTERM)
            _, said = await anyio.to_thread.run_sync(ended, process)
            assert said == ""
        books = emulator.books()
    assert clients.answers.keys() == set(range(CLIENTS))
    assert set(books.bodies.values()) == {1}
    assert sum(batch.total for batch in books.batches) == CLIENTS


async def test_a_key_that_two_clients_chose_gives_neither_the_others_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    create_app = import_module("fastapi_service").create_app
    answers = []
    with Emulator() as emulator:
        for text in ("of Alice", "of Bob", "of Alice"):  # started anew for each
            app = create_app(carpool.Pool("any", emulator.url, journal=tmp_path / "journal", timing=FAST))
            transport = httpx2.ASGITransport(app=app)
            async with (
                app.router.lifespan_context(app),
                httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
            ):
                asked = await client.post("/summaries", json={"text": text}, headers={"Idempotency-Key": "1"})
                answers.append(asked.json()["summary"])
        books = emulator.books()
    assert answers == [f"Summarise in one sentence: {text}" for text in ("of Alice", "of Bob", "of Alice")]
    assert sum(batch.total for batch in books.batches) == 2


# --- a plain runner


async def test_a_plain_program_that_is_terminated_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"line {number}\n" for number in range(50)))
    command = [EXAMPLES / "plain_runner.py", lines, "--grace", 0.2]
    with Emulator(pace=SLOW) as emulator:
        with child(emulator, *command) as first:
            await until(lambda: emulator.books().batches)
            first.send_signal(signal.SIGTERM)
            code, said = await anyio.to_thread.run_sync(ended, first)
        assert (code, said.count("\n")) == (75, 1)
        assert "next process" in said
        with child(emulator, *command) as second:
            code, said = await anyio.to_thread.run_sync(ended, second)
        assert (code, said) == (0, "".join(f"{number} line {number}\n" for number in range(50)))
        books = emulator.books()
    assert set(books.bodies.values()) == {1}


# --- a queue


async def test_consumers_of_a_queue_that_are_killed_lose_no_message_and_pay_for_none_twice(tmp_path: Path) -> None:
    """The first is killed in the midst; of the two that come after it, each takes what comes and what was left."""
    inbox, outbox = tmp_path / "inbox", tmp_path / "outbox"
    inbox.mkdir()
    command = [EXAMPLES / "queue_consumer.py", inbox, outbox]

    def put(*numbers: int) -> None:
        for number in numbers:
            (inbox / f"message-{number}.txt").write_text(f"text {number}")

    with Emulator(pace=Pace(running=1.0)) as emulator:
        put(*range(20))
        with child(emulator, *command) as first:
            await until(lambda: emulator.books().batches)
            first.kill()
        put(0, *range(20, 40))  # the first is delivered a second time
        with child(emulator, *command) as second, child(emulator, *command) as third:
            await until(lambda: len(list(outbox.glob("*.txt"))) == 40)
            for process in (second, third):
                process.send_signal(signal.SIGTERM)
            for process in (second, third):
                assert await anyio.to_thread.run_sync(ended, process) == (0, "")
        books = emulator.books()
    assert {path.stem: path.read_text() for path in outbox.glob("*.txt")} == {
        f"message-{number}": f"text {number}" for number in range(40)
    }
    assert list(inbox.iterdir()) == []
    assert set(books.bodies.values()) == {1}


async def test_a_message_that_cannot_be_submitted_is_set_aside_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    consume = import_module("queue_consumer").consume
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.txt").write_text("another text than before")
    (inbox / "b.txt").write_text("text")
    with Emulator() as emulator:
        async with carpool.Pool("any", emulator.url, journal=tmp_path / "journal", timing=FAST) as pool:
            given = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "text"}]}
            await pool.submit("/v1/chat/completions", given, key="a")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, pool, inbox)
                await until(lambda: not list(inbox.glob("*.txt")))
                tasks.cancel_scope.cancel()
    assert [path.name for path in inbox.iterdir()] == ["a.refused"]
    assert "message a is set aside: Another request" in caplog.text

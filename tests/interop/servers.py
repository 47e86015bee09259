"""Other people's servers of Files and Batches, each of a pinned version, in its own environment and on loopback."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from carpool.testing import Emulator, Refused

from .environments import make, prepared, pythons

OGX = "1.5.0"
AIMOCK = "1.43.0"
MODELS = ("gpt-5-mini", "gpt-4o", "gpt-4.1")
_START = 120.0  # seconds


class Missing(Exception):
    """Say what a server would need that is not here."""


class Server(NamedTuple):
    """Know a server that runs; `models` are the names by which it knows MODELS."""

    url: str
    models: tuple[str, ...]
    process: "subprocess.Popen[bytes]"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something beside carpool."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, content, {"Content-Type": "application/json", "Authorization": "Bearer any"}, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            told: dict[str, Any] = json.load(reply)
        return told

    def batches(self) -> list[dict[str, Any]]:
        """List all that it has, each with what is known when asked for it alone."""
        return [self.ask("GET", f"/batches/{entry['id']}") for entry in self._all("/batches")]

    def files(self) -> list[dict[str, Any]]:
        """List all files that it has."""
        return self._all("/files")

    def _all(self, path: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        more = True
        while more:
            after = f"&after={entries[-1]['id']}" if entries else ""
            page = self.ask("GET", f"{path}?limit=100{after}")
            entries += page["data"]
            more = page["has_more"]
        return entries


@contextmanager
def ogx() -> Iterator[Server]:
    """Serve OGX, before an upstream that repeats what it is told, and refuses or delays on request."""
    python = next((path for version, path in pythons().items() if version != "3.11"), None)
    if python is None:
        raise Missing(f"ogx {OGX} needs Python 3.12 or newer: name one in PYTHONS")
    command = make("ogx", python, f"ogx=={OGX}").with_name("ogx")
    with tempfile.TemporaryDirectory(prefix="interop-") as folder, Emulator(answer=_answer, models=MODELS) as upstream:
        port, config = _free_port(), Path(folder, "config.yaml")
        config.write_text(_OGX.format(upstream=upstream.url, folder=folder, port=port))
        url = f"http://127.0.0.1:{port}/v1"
        environment = {**os.environ, "HOME": folder, "NO_COLOR": "1"}
        with _running([str(command), "run", str(config), "--insecure"], url, environment) as process:
            yield Server(url, tuple(f"upstream/{name}" for name in MODELS), process)


@contextmanager
def aimock() -> Iterator[Server]:
    """Serve aimock, which gives every call the same answer."""
    if shutil.which("npm") is None:
        raise Missing("aimock needs Node.js and npm")
    folder = prepared("aimock")
    if not (folder / AIMOCK).exists():
        print(f"--- making {folder.name}", flush=True)
        install = ["npm", "install", "--silent", "--no-save", "--prefix", str(folder), f"@copilotkit/aimock@{AIMOCK}"]
        folder.mkdir(exist_ok=True)
        subprocess.run(install, check=True)
        (folder / AIMOCK).touch()
    port = _free_port()
    package = folder / "node_modules" / "@copilotkit" / "aimock"
    command = ["node", str(package / "dist" / "cli.js"), "--port", str(port), "--fixtures", str(package / "fixtures")]
    url = f"http://127.0.0.1:{port}/v1"
    with _running([*command, "--log-level", "silent"], url, dict(os.environ)) as process:
        yield Server(url, MODELS, process)


@contextmanager
def _running(command: list[str], url: str, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for(url, process)
            yield process
        except Missing:
            output.seek(0)
            print(output.read()[-4_000:].decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/batches", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise Missing(f"nothing serves {url} after {_START:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answer(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    text = body["messages"][-1]["content"]
    if "slow" in text:
        time.sleep(0.5)
    if "refuse" in text:
        raise Refused(400, "The upstream refuses this.", code="refused")
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_774_437_322,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


_OGX = """\
version: 2
distro_name: carpool
apis: [batches, files, inference]
providers:
  inference:
  - {{provider_id: upstream, provider_type: "remote::openai", config: {{api_key: any, base_url: "{upstream}"}}}}
  files:
  - provider_id: files
    provider_type: inline::localfs
    config:
      storage_dir: {folder}/files
      metadata_store: {{table_name: files_metadata, backend: sql_default}}
  batches:
  - provider_id: reference
    provider_type: inline::reference
    config:
      sqlstore: {{table_name: batches, backend: sql_default}}
      max_concurrent_batches: 4
      max_concurrent_requests_per_batch: 4
storage:
  backends:
    kv_default: {{type: kv_sqlite, db_path: {folder}/kv.db}}
    sql_default: {{type: sql_sqlite, db_path: {folder}/sql.db}}
  stores:
    metadata: {{namespace: registry, backend: kv_default}}
    inference: {{table_name: inference_store, backend: sql_default, max_write_queue_size: 10000, num_writers: 4}}
    conversations: {{table_name: openai_conversations, backend: sql_default}}
    prompts: {{table_name: prompts, backend: sql_default}}
    connectors: {{table_name: connectors, backend: sql_default}}
registered_resources: {{models: [], vector_stores: []}}
server: {{host: 127.0.0.1, port: {port}}}
"""

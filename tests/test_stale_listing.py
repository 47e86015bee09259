"""A listing that never tells anything new (traps 12): batches are then asked for singly."""

import json
from typing import Any

import anyio
import httpx2
import pytest
from virtual import CHAT, InMemory, run_here

import carpool
from carpool.settings import Ports
from carpool.testing import Emulator, Pace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]


@pytest.fixture
def anyio_backend(virtual_backend: Any) -> Any:
    return virtual_backend


class Stale(InMemory):
    """Show each batch in the listing for ever as it was when it came to be `status`."""

    status = "validating"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if (request.method, request.url.path) != ("GET", "/v1/batches"):
            return response
        page = json.loads(await response.aread())
        page["data"] = [batch | self._old(batch["status"]) for batch in page["data"]]
        return httpx2.Response(response.status_code, json=page)

    def _old(self, status: str) -> dict[str, Any]:
        if status == "validating":
            return {}
        nothing = {"total": 0, "completed": 0, "failed": 0}
        return {"status": self.status, "request_counts": nothing, "output_file_id": None, "error_file_id": None}


class Frozen(InMemory):
    """Show for ever what the listing was when it first held two batches that ran, as a cache may."""

    kept: Any = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if (request.method, request.url.path) != ("GET", "/v1/batches"):
            return response
        page = self.kept or json.loads(await response.aread())
        if sum(batch["status"] == "in_progress" for batch in page["data"]) > 1:
            self.kept = page
        return httpx2.Response(response.status_code, json=page)


async def test_batches_that_come_one_after_the_other_do_not_hide_that_a_listing_is_stale() -> None:
    """Each new one is asked for singly, for it is not on the page, and that tells something new."""
    took = []
    async with Emulator(pace=Pace(running=600)).inline() as emulator:
        transport = Frozen(emulator.app)
        ports = Ports(run_sync=run_here, transport=transport)
        async with (
            carpool.Pool("sk-key", "http://emulator/v1", limits={"*": 10**9}, progress=False, _ports=ports) as pool,
            anyio.create_task_group() as tasks,
        ):

            async def ask(model: str) -> None:
                start = anyio.current_time()
                await pool.request(CHAT, {"model": model, "messages": [{"role": "user", "content": model}]})
                took.append(anyio.current_time() - start)

            for number in range(40):
                tasks.start_soon(ask, f"model-{number}")
                await anyio.sleep(300 if number else 0)
    assert len(took) == 40
    assert max(took) < 3_600


@pytest.mark.parametrize(("status", "patience"), [("validating", 3_600), ("in_progress", 43_200)])
async def test_batches_are_asked_for_singly_where_the_listing_tells_nothing_new(status: str, patience: float) -> None:
    answers = []
    async with Emulator(pace=Pace(running=600)).inline() as emulator:
        transport = Stale(emulator.app)
        transport.status = status
        ports = Ports(run_sync=run_here, transport=transport)
        async with (
            carpool.Pool("sk-key", "http://emulator/v1", limits={"*": 10**9}, progress=False, _ports=ports) as pool,
            anyio.create_task_group() as tasks,
        ):

            async def ask(model: str) -> None:
                content = {"model": model, "messages": [{"role": "user", "content": model}]}
                with anyio.fail_after(patience):
                    response = await pool.request(CHAT, content)
                answers.append(response.text)

            for number in range(5):
                tasks.start_soon(ask, f"model-{number}")
    assert sorted(answers) == [f"model-{number}" for number in range(5)]
    assert len(transport.requests) < 600

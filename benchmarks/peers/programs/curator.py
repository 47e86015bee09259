"""bespokelabs-curator's batch mode: it answers a whole data set in one blocking call, through files in HOME."""

import asyncio
import importlib
import os
from typing import Any

from ... import workload
from . import kit

os.environ.update(
    TELEMETRY_ENABLED="false",  # it tells its makers of each run
    CURATOR_DISABLE_RICH_DISPLAY="1",
    LITELLM_LOCAL_MODEL_COST_MAP="true",  # otherwise a table of prices is fetched from the network
)
curator: Any = importlib.import_module("bespokelabs.curator")  # it is in its own environment alone
datasets: Any = importlib.import_module("datasets")


class Asking(curator.LLM):  # type: ignore[misc]
    """Ask what the others ask, one row a call."""

    def prompt(self, row: dict[str, Any]) -> Any:
        """Give the messages of a row."""
        return workload.payload(row["number"])["messages"]

    def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
        """Keep the answer beside the row's number."""
        return {"number": row["number"], "text": response}


def patch(llm: Any) -> None:
    """Give its uploads a name: they have none, and the emulator takes `*.jsonl` alone, as the provider's pages say."""
    files = llm._request_processor.client.files  # noqa: SLF001 - it is made there, and cannot be passed in
    create = files.create

    async def named(*, file: bytes, purpose: str) -> Any:
        return await create(file=("requests.jsonl", file), purpose=purpose)

    files.create = named


async def ask(work: kit.Work) -> list[kit.Outcome]:
    """Answer the calls; nobody is answered before all are, and whoever is left out is a failure."""
    numbers = list(range(work.first, work.first + work.calls))
    try:
        # In a thread: inside of an event loop it would patch that one to run twice, with slower tasks.
        answers = await asyncio.wait_for(asyncio.to_thread(_answer, work, numbers), work.patience)
    except TimeoutError:
        return [None] * work.calls
    except Exception as exc:  # noqa: BLE001 - whatever its one call failed with, everyone got it
        return [exc] * work.calls
    return [answers.get(number, LookupError("left out of the data set")) for number in numbers]


def _answer(work: kit.Work, numbers: list[int]) -> dict[int, str]:
    llm = Asking(
        workload.MODEL,
        batch=True,
        backend="openai",
        backend_params={
            "base_url": work.url,
            "api_key": "any",
            "batch_size": min(work.rows, work.burst),  # 10,000 by default; it sends every batch at once
            "batch_check_interval": 1,  # whole seconds, 60 by default
            "require_all_responses": False,  # else one failed row fails all
        },
    )
    patch(llm)
    answered = llm(datasets.Dataset.from_dict({"number": numbers})).dataset
    return dict(zip(answered["number"], answered["text"], strict=True))


if __name__ == "__main__":
    kit.main(ask)

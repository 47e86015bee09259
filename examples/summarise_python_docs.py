"""Ask for a summary of every topic in Python's own documentation: one awaited call each, one batch for all.

    python examples/summarise_python_docs.py            # no key, no network: the embedded emulator answers
    python examples/summarise_python_docs.py --real     # with OPENAI_API_KEY, at the provider, at batch prices

The topics are those of `help()`, from `pydoc_data.topics` in the standard library.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pydoc_data.topics import topics
from typing import Any

import carpool
from carpool.testing import Emulator, Pace

MODEL = "gpt-5-mini"


def first_sentence(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    """Play the model: the first sentence of a document is its summary."""
    document = body["messages"][-1]["content"]
    paragraphs = (part for part in document.split("\n\n") if "***" not in part and "===" not in part)
    text = " ".join(next((part for part in paragraphs if len(part) > 40), document).split())
    summary = text.split(". ")[0].rstrip(".:") + "."
    usage = {"prompt_tokens": len(document) // 4, "completion_tokens": len(summary) // 4}
    return {"choices": [{"message": {"role": "assistant", "content": summary}}], "usage": usage}


async def summarise(pool: carpool.Pool, document: str) -> carpool.Response:
    """Await one summary; that it travels in a batch is the pool's business."""
    messages = [
        {"role": "system", "content": "Summarise this page of the Python documentation in one sentence."},
        {"role": "user", "content": document},
    ]
    return await pool.request("/v1/chat/completions", {"model": MODEL, "messages": messages})


async def show_progress(pool: carpool.Pool, total: int) -> None:
    """Say how many are answered, twice a second, until cancelled."""
    while True:
        stats = pool.stats()
        submitted = sum(lane.submitted for lane in stats.lanes)
        print(f"{stats.answered:4} of {total} answered, {submitted:4} submitted, {stats.batches} batches", flush=True)
        await asyncio.sleep(0.5)


async def run(base_url: str | None, key: str | None, timing: carpool.Timing) -> None:
    """Summarise everything and print what it took."""
    start = time.perf_counter()
    async with carpool.Pool(key, base_url, timing=timing) as pool:
        progress = asyncio.create_task(show_progress(pool, len(topics)))
        summaries = await asyncio.gather(*(summarise(pool, document) for document in topics.values()))
        progress.cancel()
        stats = pool.stats()
    wall = time.perf_counter() - start

    for topic, summary in list(zip(topics, summaries, strict=True))[:5]:
        print(f"\n{topic}\n    {summary.text}")
    cost = stats.cost
    print()
    for name, figure in {
        "requests": f"{stats.answered:,}",
        "batches": f"{stats.batches:,}",
        "tokens in": f"{cost.input_tokens:,}",
        "cached": f"{cost.cached_tokens:,}",
        "tokens out": f"{cost.output_tokens:,}",
        "paid": f"${cost.paid:.4f}",
        "live": f"${cost.live:.4f}",
        "wall time": f"{wall:.1f} s",
    }.items():
        print(f"{name:<12}{figure:>12}")


def main() -> None:
    """Choose who answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="ask the provider, with OPENAI_API_KEY")
    real = parser.parse_args().real
    emulator: AbstractContextManager[Emulator | None] = nullcontext()
    if not real:
        emulator = Emulator(answer=first_sentence, pace=Pace(validating=0.5, running=2.0, finalizing=0.5))
    with emulator as server:
        url, key = (server.url, "any") if server else (None, None)
        timing = carpool.Timing() if real else carpool.Timing(linger=0.2, poll_min=0.2)
        try:
            asyncio.run(run(url, key, timing))
        except carpool.CarpoolError as error:
            sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

"""Stand for a user's program: it asks two models, logs and prints meanwhile, and shows how far it has come.

python shown_program.py URL [POOLS [JOURNAL]]
"""

import asyncio
import contextlib
import logging
import sys

import carpool

ROWS = 40  # to each model


async def ask(pool: carpool.Pool, model: str, endpoint: str) -> None:
    texts = [f"text {number}" for number in range(ROWS)]
    chat = endpoint.endswith("completions")
    bodies = [
        {"model": model, "messages": [{"role": "user", "content": text}]} if chat else {"model": model, "input": text}
        for text in texts
    ]
    await pool.gather(bodies, endpoint=endpoint)


async def interrupt(pool: carpool.Pool) -> None:
    """Log and print while the view stands there: when the first answer has come, and others have not."""
    await pool.request("/v1/embeddings", {"model": "text-embedding-3-small", "input": "the first"})
    logging.getLogger("program").warning("a record of the log")
    print("a line of the program", flush=True)
    with contextlib.suppress(ImportError):
        import rich

        rich.print("a line by [bold]rich[/bold]", flush=True)


async def run(url: str, journal: str | None) -> None:
    timing = carpool.Timing(linger=0.1, poll_min=0.1, poll_max=0.2)
    limits = {"gpt-5-mini": 400}
    async with carpool.Pool("any", url, timing=timing, limits=limits, counter=lambda *_: 20, journal=journal) as pool:
        await asyncio.gather(
            ask(pool, "gpt-5-mini", "/v1/chat/completions"),
            ask(pool, "text-embedding-3-small", "/v1/embeddings"),
            interrupt(pool),
        )


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")  # its handler keeps a stream
    url, pools, journal, *_ = [*sys.argv[1:], *("1", "")[len(sys.argv) - 2 :]]
    try:
        await asyncio.gather(*(run(url, journal or None) for _ in range(int(pools))))
    except asyncio.CancelledError:
        print("stopped", flush=True)
        raise
    print("over", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

"""Answer the messages of a queue through a pool, whatever happens: started again, it goes on.

    carpool emulate --port 8000                                            # a provider for trying it out
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=any     # leave the first out for the real one
    python examples/queue_consumer.py inbox outbox

The queue is a folder: a message is a text file, delivered again and again until it is removed. It is removed as soon as
its request is submitted, which is when it is safe in the journal; its answer comes into the other folder. After a crash
both may happen twice, and neither does harm: a key is submitted once, and the same answer is written over itself. What
cannot be submitted is set aside, as NAME.refused, so that it does not hold up the others.
Several may run on the same folders at once. Ctrl-C, SIGTERM: it leaves at once, and what runs goes on at the provider.
"""

import argparse
import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path

import carpool

log = logging.getLogger("queue_consumer")

MODEL = "gpt-5-mini"
# What no other try makes right: a text that is too long, or another one than came under the same name before.
WRONG = carpool.Unbatchable, carpool.LimitExceeded, carpool.ConfigurationError
PAUSE = 0.2  # seconds between looks into the queue


def messages(inbox: Path) -> list[tuple[str, str]]:
    """Give the messages that are in a queue, each with its name."""
    found = []
    for path in sorted(inbox.glob("*.txt")):
        with suppress(FileNotFoundError):  # another consumer was faster
            found.append((path.stem, path.read_text()))
    return found


async def consume(pool: carpool.Pool, inbox: Path) -> None:
    """Submit what each message asks for, and remove it from the queue."""
    while True:
        for name, text in await asyncio.to_thread(messages, inbox):
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
            try:
                await pool.submit("/v1/chat/completions", body, key=name)
            except WRONG as exc:
                log.warning("message %s is set aside: %s", name, exc)
                with suppress(FileNotFoundError):
                    (inbox / f"{name}.txt").rename(inbox / f"{name}.refused")
            else:
                (inbox / f"{name}.txt").unlink(missing_ok=True)
        await asyncio.sleep(PAUSE)


async def deliver(pool: carpool.Pool, outbox: Path) -> None:
    """Write down what came of each message, and say so: until then it is given again."""
    async for outcome in pool.outcomes():
        half = outbox / f"{outcome.key}.half"
        half.write_text(outcome.result().text if outcome.ok else f"failed: {outcome.error}")
        half.rename(outbox / f"{outcome.key}.txt")
        outcome.ack()


async def run(pool: carpool.Pool, inbox: Path, outbox: Path) -> None:
    """Consume and deliver until a signal comes."""
    leaving = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    async with pool, asyncio.TaskGroup() as tasks:
        consuming = tasks.create_task(consume(pool, inbox))
        tasks.create_task(deliver(pool, outbox))
        await leaving.wait()
        consuming.cancel()
        await pool.drain(0)  # the outcomes end with it


def main() -> None:
    """Run until told to leave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inbox", type=Path)
    parser.add_argument("outbox", type=Path)
    given = parser.parse_args()
    for folder in (given.inbox, given.outbox):
        folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(run(carpool.Pool(journal=given.outbox / ".journal"), given.inbox, given.outbox))


if __name__ == "__main__":
    main()

"""A process that submits requests, says so, and is then killed: `crash_submitter.py URL FOLDER COUNT`."""

import sys
from functools import partial

import anyio

import carpool

CHAT = "/v1/chat/completions"


def body(text: str) -> dict[str, object]:
    """Make a chat body."""
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]}


async def main(url: str, folder: str, count: str) -> None:
    """Submit so many requests, each under its text, and say which custom_id each has; then wait for the end."""

    async def submit(pool: carpool.Pool, key: str) -> None:
        custom_id = await pool.submit(CHAT, body(key), key=key)
        sys.stdout.write(f"{key} {custom_id}\n")
        sys.stdout.flush()

    # It lingers until somebody else takes over.
    patient = carpool.Timing(linger=1_000, max_linger=1_000)
    async with carpool.Pool("sk-crash", url, journal=folder, timing=patient, progress=False) as pool:
        async with anyio.create_task_group() as tasks:
            for number in range(int(count)):
                tasks.start_soon(submit, pool, f"text-{number}")
        sys.stdout.write("all\n")
        sys.stdout.flush()
        await anyio.sleep(1_000)


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))

"""Ask for a translation of each word, with one awaited call each: they travel together, in one batch.

carpool emulate --port 8000                                            # a provider for trying it out
export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=any     # leave the first out for the real one
python examples/first_batch.py
"""

import asyncio

import carpool

WORDS = ["bread", "rain", "train", "window"]


async def translate(pool: carpool.Pool, word: str) -> str:
    """Await one translation, as if it were an ordinary call."""
    messages = [{"role": "user", "content": f"Say {word} in French."}]
    response = await pool.request("/v1/chat/completions", {"model": "gpt-5-mini", "messages": messages})
    return response.text


async def main() -> None:
    """Ask for all at once, and say what came and what it cost."""
    async with carpool.Pool(journal="words") as pool:
        texts = await asyncio.gather(*(translate(pool, word) for word in WORDS))
        stats = pool.stats()
    for word, text in zip(WORDS, texts, strict=True):
        print(f"{word}: {text}")
    print(f"answered: {stats.answered}, batches created: {stats.batches}, paid: ${stats.cost.paid:.6f}")


if __name__ == "__main__":
    asyncio.run(main())

"""The straight line of `benchmarks.floor`: what must be done, and nothing of what makes a library useful."""

from ...floor import floor
from . import kit


async def ask(work: kit.Work) -> list[kit.Outcome]:
    """Answer the calls; it knows no failure, so it runs where there is none."""
    return [content_text(content) for content in await floor(work.calls, work.url)]


def content_text(content: bytes) -> str:
    """Read the text of an answer."""
    import msgspec

    text: str = msgspec.json.decode(content)["choices"][0]["message"]["content"]
    return text


if __name__ == "__main__":
    kit.main(ask)

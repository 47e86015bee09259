"""Draw the view of a pool at work, for the documentation: `python tests/progress/draw_progress.py [FILE]`.

A real run: a pool, its journal and the emulator, on virtual time, so that hours pass in seconds and the picture is the
same each time.
"""

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from rich.console import Console  # noqa: E402 - the tests' own modules are found from here on
from virtual import CHAT, EMBEDDINGS, VirtualLoop, site  # noqa: E402

import carpool  # noqa: E402
from carpool.progress.columns import Frame, Picture  # noqa: E402
from carpool.progress.view import live  # noqa: E402
from carpool.progress.watch import Watch  # noqa: E402
from carpool.stats import Stats  # noqa: E402
from carpool.testing import Pace, Troubles  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "progress.svg"
WIDTH = 100
REQUESTS = (
    (CHAT, "gpt-5-mini", 12_000),
    ("/v1/responses", "gpt-4.1", 4_000),
    (EMBEDDINGS, "text-embedding-3-small", 6_000),
)
TOTAL = sum(number for _, _, number in REQUESTS)
LIMITS = {"gpt-5-mini": 400_000, "gpt-4.1": 300_000}
SHARE = 0.45  # of the requests is answered when the picture is taken


class Photographer:
    """Take a picture of the view once so much is answered."""

    pause = 5.0

    def __init__(self) -> None:
        self.picture: Picture | None = None
        self._watch = Watch(TOTAL, journal=True)

    def update(self, stats: Stats, now: float) -> None:
        """Look whether it is time."""
        self._watch.look(stats, now)
        if self.picture is None and stats.answered >= SHARE * TOTAL:
            total, left, _ = self._watch.glance(stats, now)
            self.picture = live(stats, left, total, now, Frame(WIDTH, 40))

    def close(self, stats: Stats, now: float) -> None:
        """Do nothing: there is another view for what is left standing."""


def body(endpoint: str, model: str, number: int) -> dict[str, Any]:
    """Make a request of some 100 tokens."""
    text = f"Say in one sentence what document {number} is about. " + "It is a rather long document. " * 10
    return {
        "model": model,
        **({"messages": [{"role": "user", "content": text}]} if endpoint == CHAT else {"input": text}),
    }


async def ask(pool: carpool.Pool, endpoint: str, model: str, count: int) -> None:
    """Await so many answers."""
    bodies = (body(endpoint, model, number) for number in range(count))
    await pool.gather(bodies, endpoint=endpoint, return_exceptions=True)


async def run(folder: Path) -> Picture:
    """Run everything, and give the picture that was taken on the way."""
    photographer = Photographer()
    pace = Pace(validating=45, running=400, finalizing=30, tokens_per_second=60)
    troubles = Troubles(failing={400: 0.0005})
    settings: dict[str, Any] = {
        "limits": LIMITS,
        "counter": lambda endpoint, model, body: len(body) // 4,
        "progress": photographer,
    }
    queues = LIMITS | {"*": 10**9}
    async with (
        site(folder, pace=pace, troubles=troubles, enqueued_tokens=queues) as served,
        served.pool(**settings) as pool,
    ):
        await asyncio.gather(*(ask(pool, *some) for some in REQUESTS))
    assert photographer.picture is not None
    return photographer.picture


def draw() -> str:
    """Give the picture as SVG."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("carpool.journal.sqlite.store.token_hex", return_value="0cd9bbc8099a"),  # all chance comes of it
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        picture = runner.run(run(Path(folder)))
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor")
    console.print(picture)
    return console.export_svg(title="carpool", unique_id="carpool")


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE).write_text(draw())

"""Figures on the pages that follow from a rule are what the rule gives."""

import re
import statistics

import pytest
from docs_kit import text_of

from carpool import Timing
from carpool.engine.cadence import check_pause, net_pause, spread

BATCHES = 51
VALIDATING = 30.0  # seconds, while which no webhook tells of a batch


def looks(key: str, hours: int, *, webhooks: bool) -> int:
    """Count how often a batch is asked for: until its end is seen, or told of and seen."""
    age, count = 0.0, 0
    while age < 3_600 * hours:
        count += 1
        jitter = spread(key, count)
        pause = check_pause(age, Timing(), jitter)
        age += net_pause(jitter) if webhooks and age >= VALIDATING else pause
    return count


@pytest.mark.parametrize("webhooks", [False, True])
@pytest.mark.parametrize("hours", [1, 20])
def test_the_page_of_webhooks_says_how_often_batches_are_asked_for(hours: int, webhooks: bool) -> None:
    row = rf"^\| {hours} hours?, {'webhooks' if webhooks else 'polling'} \|.*\| ([\d,]+) times \|$"
    told = re.search(row, text_of("docs/how-to/webhooks.md"), re.MULTILINE)
    assert told
    counted = statistics.median(looks(f"batch-{n}", hours, webhooks=webhooks) for n in range(BATCHES))
    assert int(told[1].replace(",", "")) == counted

"""A listing that goes on for ever is left, and says nothing of what is there."""

from itertools import count

import pytest

from carpool.models import CallFailed, Reply
from carpool.providers.openai import OpenAI


def test_a_listing_that_goes_on_for_ever_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool.providers.openai._PAGES", 3)
    search = OpenAI().find({"pool-b1": ""}, 0.0)

    def turn() -> None:
        next(search)
        for number in count():
            search.send(Reply(200, b'{"data":[{"id":"x%d"}],"has_more":true}' % number))

    with pytest.raises(CallFailed, match="no end") as caught:
        turn()
    assert caught.value.failure.kind == "lost"

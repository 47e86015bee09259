"""A process that dies at any instant, and is started again, has everything answered and nothing paid twice."""

from pathlib import Path
from typing import Any

import pytest
from crash_child import FAILED, LEFT, Orders, program
from crash_kit import SETTING, Children, at_all_instants, audit, inspect, judge

from carpool.testing import Emulator, Faults

pytestmark = pytest.mark.timeout(3_600)

KILLED, HUNG = -9, -14
LOST: dict[str, Any] = {"faults": Faults(lost_upload=1.0, lost_create=1.0, nth={1}), "listing_lag": 0.2}


@pytest.mark.parametrize(
    ("ending", "emulator", "codes"),
    [
        ({}, {}, [0, KILLED]),
        ({}, LOST, [0, KILLED]),
        ({"power": True}, {}, [0, KILLED]),
        ({"interrupt": "int"}, {}, [0, LEFT]),
        ({"interrupt": "cancel"}, {}, [0, LEFT]),
        # An exception out of nowhere may upset asyncio itself: any end will do, but for a fault of the interpreter, and
        # the answers of others.
        ({"interrupt": "exit", "wait": 10.0}, {}, [0, FAILED, LEFT, HUNG]),
    ],
    ids=["killed", "killed-lost-replies", "power-lost", "interrupted", "cancelled", "exit"],
)
def test_the_same_program_started_again(
    tmp_path: Path, ending: dict[str, Any], emulator: dict[str, Any], codes: list[int]
) -> None:
    def check(children: Children, instant: int) -> tuple[bool, list[str]]:
        folder = tmp_path / str(instant)
        with Emulator(**SETTING, **emulator) as served:
            orders = Orders(url=served.url, folder=str(folder))
            first = children(Orders(url=served.url, folder=str(folder), die_at=instant, **ending))
            wrong = judge(first, *codes) + audit(served.books(), program(), half_way=True)
            wrong += judge(children(orders))
            wrong += audit(served.books(), program())
            wrong += inspect(folder)
            # A third run finds all answers.
            routes = served.books().routes
            wrong += judge(children(orders))
            if "POST /v1/batches" in served.books().routes - routes:
                wrong += audit(served.books(), program())
        return not first.place, [f"{first.place}: {line}" for line in wrong]

    wrong = at_all_instants(check)
    assert not wrong, wrong


def test_a_program_that_has_changed_meanwhile(tmp_path: Path) -> None:
    def check(children: Children, instant: int) -> tuple[bool, list[str]]:
        folder = tmp_path / str(instant)
        with Emulator(**SETTING) as served:
            first = children(Orders(url=served.url, folder=str(folder), die_at=instant))
            wrong = judge(first, 0, KILLED)
            wrong += judge(children(Orders(url=served.url, folder=str(folder), every=2)))
            wrong += audit(served.books(), program(), half_way=True)
            wrong += judge(children(Orders(url=served.url, folder=str(folder))))
            wrong += audit(served.books(), program())
            wrong += inspect(folder)
        return not first.place, [f"{first.place}: {line}" for line in wrong]

    wrong = at_all_instants(check)
    assert not wrong, wrong

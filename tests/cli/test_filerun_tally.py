"""What is counted on the way, and said at the end."""

import random

from hypothesis import given
from hypothesis import strategies as st

from carpool.cli.filerun.rows import Bad, Row
from carpool.cli.filerun.tally import Names, Result, Tally, summary, summary_json
from carpool.spending import Cost


def row(name: bytes) -> Row:
    return Row(1, 1, name, "/v1/responses", b"{}")


@given(st.lists(st.sampled_from([b"null", b'"a"', b'"b"', b"1", b'"c"']), max_size=30))
def test_custom_ids_that_repeat_or_lack_are_counted(names: list[bytes]) -> None:
    counted = Names()
    counted.add([row(name) for name in names])
    given_ = [name for name in names if name != b"null"]
    assert counted.missing == names.count(b"null")
    assert counted.repeated == len(given_) - len(set(given_))


def test_many_custom_ids_are_told_apart() -> None:
    names, counted = [b'"%d"' % number for number in range(20_000)], Names()
    random.Random(1).shuffle(names)
    for start in range(0, len(names), 1_000):
        counted.add([*map(row, names[start : start + 1_000])])
    assert counted.repeated == 0
    counted.add([row(names[7]), Bad(1, 1, b"null", "no")])
    assert (counted.repeated, counted.missing) == (1, 0)


def test_twenty_bad_lines_are_told_and_that_there_are_more() -> None:
    said: list[str] = []
    tally = Tally("in.jsonl", said.append)
    messages = [tally.tell_bad(number, "it is odd") for number in range(1, 40)]
    assert messages[30] == "in.jsonl:31: it is odd"
    assert said[:20] == messages[:20]
    assert len(said) == 21
    assert "in.jsonl:21" in said[20]
    assert tally.bad == 39


def test_a_long_reason_is_told_in_short() -> None:
    assert len(Tally("in", lambda _: None).tell_bad(1, "long " * 1_000)) < 500


def test_the_summary_says_what_is_worth_saying() -> None:
    tally = Tally("in.jsonl", lambda _: None)
    assert [*summary(tally, Result(0, 0, 0, 0.04))] == ["0 rows: 0 answered, 0 failed", "took: 0.0 s"]
    tally.codes.update({"a": 5, "b": 4, "c": 3, "d": 2})
    tally.names.add([row(b"null"), row(b"1"), row(b"1")])
    tally.tell_bad(3, "odd")
    tally.cost = Cost(requests=10, unpriced=1, paid=1.0, live=2.5)
    lines = [*summary(tally, Result(1_234, 14, 1_000, 3_725.0))]
    assert lines == [
        "1,234 rows: 1,220 answered, 14 failed, 1,000 of them from before",
        "failed: a 5, b 4, c 3, and others",
        "bad: 1 line of in.jsonl",
        "custom_ids: 1 row with one that an earlier row has",
        "custom_ids: 1 row without",
        "paid: $1.00, saved $1.50; 1 answers are of models without a known price",
        "took: 1 h 2 min",
    ]
    said = summary_json(tally, Result(1_234, 14, 1_000, 3_725.0))
    assert (said["rows"], said["answered"], said["saved"], said["unpriced"]) == (1_234, 1_220, 1.5, 1)

"""The view, by its lines: at every width, at every height."""

import io
import itertools
import re

import pytest
from draw_progress import PICTURE, draw
from msgspec import structs
from progress_kit import NOW, batch, busy, lane, stats
from rich.console import Console

from carpool.progress.columns import Frame, Picture, bar, cut, text, width_of
from carpool.progress.forecast import Left
from carpool.progress.view import final, live, share_out
from carpool.spending import Cost
from carpool.stats import Stats

LEFT = Left(600, 3_000)


def lines_of(picture: Picture) -> list[str]:
    return ["".join(segment.text for segment in line) for line in picture.lines]


def seen(stats: Stats, width: int, height: int = 40, total: int | None = 2_000_000) -> list[str]:
    return lines_of(live(stats, LEFT, total, NOW, Frame(width, height)))


def drawn(picture: Picture, **settings: object) -> str:
    file = io.StringIO()
    given = {"file": file, "force_terminal": True, "width": 120, "legacy_windows": False, "color_system": "standard"}
    console = Console(**given | settings)  # type: ignore[arg-type]
    console.print(picture)
    return file.getvalue()


def test_a_wide_screen_shows_everything() -> None:
    assert seen(busy(), 200) == [
        "model                   endpoint                  waiting  in flight  answered  failed  "
        "queue                           limit",
        "gpt-5-mini              chat/completions        1,502,000     35,652    12,345       3  "
        "━━━━━━━━━━━━────────  61%   2,000,000",
        "gpt-4o-2024-11-20       responses                       0      1,000         0       0  "
        "                              unknown",
        "text-embedding-3-small  embeddings, priority 5          0          0   123,456       0  "
        "────────────────────   0%  20,000,000",
        "",
        "batch                                   model              status          requests  "
        "done                         age",
        "batch_00000000000000000000000000000009  gpt-5-mini         in progress        1,000  "
        "━━──────────────────  11%  9 min",
        "batch_00000000000000000000000000000008  gpt-5-mini         collecting         1,000  "
        "━━━━━━━━━━━━━━━━━━━━ 100%  8 min",
        "batch_00000000000000000000000000000007  gpt-4o-2024-11-20  validating         1,000  "
        "────────────────────   0%  7 min",
        "batch_00000000000000000000000000000006  gpt-5-mini         in progress        1,000  "
        "━━━━━━━━━━━━━━━━━━━─  99%  6 min",
        "0cd9bbc8-b5                             gpt-5-mini         waits for room     1,000  "
        "                           5 min",
        "and 2 more batches: 2,000 requests",
        "",
        "answered 135,801 of 2,000,000 (3 failed)  ━━━━────────────────────────────────────────────────────────   6%",
        "paid $1.23, saved $1.23, 200 unpriced; 10 to 50 min left",
    ]


def test_a_narrow_screen_shows_the_same_in_short() -> None:
    assert seen(busy(), 60) == [
        "model               waiting  flight  answered  failed  queue",
        "gpt-5-mini            1.50M   35.7k     12.3k       3    61%",
        "gpt-4o-2024-11-20         0   1,000         0       0      -",
        "text-embedding-3..        0       0      123k       0     0%",
        "",
        "batch             status          done    age",
        "batch_..00000009  in progress      11%  9 min",
        "batch_..00000008  collecting      100%  8 min",
        "batch_..00000007  validating        0%  7 min",
        "batch_..00000006  in progress      99%  6 min",
        "0cd9bbc8-b5       waits for room     -  5 min",
        "and 2 more batches: 2,000 requests",
        "",
        "answered 135,801 of 2,000,000 (3 failed)  ────────────   6%",
        "paid $1.23, saved $1.23, 200 unpriced; 10 to 50 min left",
    ]


@pytest.mark.parametrize(("width", "columns"), [(80, "queue"), (100, "endpoint"), (120, "limit")])
def test_in_between_there_is_as_much_as_fits(width: int, columns: str) -> None:
    lines = seen(busy(), width)
    assert columns in lines[0]
    assert "gpt-5-mini" in lines[1]
    assert max(map(len, lines)) <= width


def test_whatever_the_screen_is_the_view_is_no_larger() -> None:
    many = [lane(number, 5, f"model-{number}", answered=7, limit=1_000_000) for number in range(30)]
    open_ = tuple(batch(number, many[number % 30]) for number in range(1, 100))
    for shown in (busy(), stats(*many, open_=open_), stats(lane(3)), stats()):
        for width, height in itertools.product((1, 5, 20, 40, 60, 80, 100, 140, 200), (1, 2, 4, 5, 8, 12, 24, 60)):
            picture = live(shown, LEFT, None, NOW, Frame(width, height))
            assert len(picture.lines) <= max(height - 1, 1)
            assert all(width_of(line) <= width for line in picture.lines)


def test_a_high_screen_is_not_filled() -> None:
    many = [lane(number, 5, f"model-{number}") for number in range(60)]
    assert len(seen(stats(*many), 120, 40)) == 30
    assert len(seen(stats(*many[:3]), 120, 40)) == 7


def test_of_many_lanes_the_busiest_are_shown_in_their_order() -> None:
    many = [lane(number % 7, 5, f"model-{number}") for number in range(30)]
    lines = seen(stats(*many), 120, 12)
    assert [line.split()[0] for line in lines[1:7]] == [f"model-{number}" for number in (5, 6, 12, 13, 20, 27)]
    assert lines[7] == "and 24 more lanes: 51 waiting, 120 in flight"


def test_on_a_low_screen_the_totals_are_what_stays() -> None:
    assert seen(busy(), 80, 3) == [
        "answered 135,801 of 2,000,000 (3 failed)  ━━──────────────────────────────   6%",
        "paid $1.23, saved $1.23, 200 unpriced; 10 to 50 min left",
    ]
    assert seen(busy(), 80, 2) == seen(busy(), 80, 3)[:1]


@pytest.mark.parametrize(("lanes", "batches"), list(itertools.product((0, 1, 2, 5, 30), (0, 1, 5, 6, 7, 100))))
def test_what_is_shown_finds_room(lanes: int, batches: int) -> None:
    for room in range(-2, 50):
        shown, open_ = share_out(room, lanes, batches)
        assert 0 <= shown <= lanes
        assert 0 <= open_ <= min(batches, 6)
        used = sum(2 + some + (some < of) for some, of in ((shown, lanes), (open_, batches)) if some)
        assert used <= max(room, 0)
        if room >= 11 and lanes and batches:
            assert shown
            assert open_


def test_one_model_needs_no_column_for_its_batches() -> None:
    chat = lane(0, 2_000)
    head = seen(stats(chat, open_=(batch(1, chat),)), 120)[3]
    assert head.split() == ["batch", "status", "requests", "done", "age"]


def test_lanes_of_one_model_are_told_apart_on_a_narrow_screen() -> None:
    lines = seen(stats(lane(1), lane(2, endpoint="/v1/responses"), lane(3, long=True), lane(4, priority=-1)), 56)
    names = [line[:20].strip() for line in lines[1:5]]
    assert names == ["gpt-5-mini chat", "gpt-5-mini responses", "gpt-5-mini chat long", "gpt-5-mini chat p-1"]


def test_numbers_that_grow_keep_their_columns() -> None:
    before, after = seen(stats(lane(1, 10)), 100), seen(stats(lane(1, 11)), 100)
    assert before[0] == after[0]


def test_texts_of_others_can_do_no_harm() -> None:
    odd = lane(1, 1, "gpt\x1b[2J\n\u202e模型模型模型模型模型")
    shown = stats(odd, open_=(batch(1, odd, id="batch\r\x07", status="in\x1bprogress"),))
    for width in (40, 60, 120):
        picture = live(shown, None, None, NOW, Frame(width, 24))
        assert all(line.isprintable() for line in lines_of(picture))
        assert all(width_of(line) <= width for line in picture.lines)


def test_a_text_is_cut_where_characters_are_twice_as_wide() -> None:
    assert [segment.text for segment in cut(text("模型模型"), 7)] == ["模型 ", ".."]
    assert cut(text("模型模型"), 8) == list(text("模型模型"))
    assert width_of(cut(text("模型模型"), 1)) == 0


def test_a_bar_is_read_without_colours() -> None:
    assert "".join(part.text for part in bar(0.5, 10, ascii_only=False)) == "━━━━━─────"
    assert "".join(part.text for part in bar(0.999, 10, ascii_only=True)) == "=========-"
    assert "".join(part.text for part in bar(7.0, 4, ascii_only=True)) == "===="


def test_only_ascii_is_drawn_where_nothing_else_can_be_shown() -> None:
    lines = lines_of(live(busy(), LEFT, 2_000_000, NOW, Frame(120, 40, ascii_only=True)))
    assert all(line.isascii() for line in lines)


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    picture = live(busy(), LEFT, None, NOW, Frame(120, 40))
    assert "\x1b[36m" in drawn(picture)
    assert "\x1b[3" not in drawn(picture, no_color=True)
    plain = drawn(picture, color_system=None)
    assert "\x1b" not in plain
    assert plain.splitlines() == lines_of(picture)


def test_failures_are_seen() -> None:
    picture = live(busy(), LEFT, None, NOW, Frame(120, 40))
    (failed,) = (segment for segment in picture.lines[1] if segment.text == "3")
    assert failed.style is not None
    assert failed.style.color is not None
    assert failed.style.color.name == "red"


# --- what is left standing


def test_the_summary_of_one_lane_is_a_sentence() -> None:
    cost = Cost(12_345, 0, paid=1.23, live=2.46)
    done = stats(lane(answered=12_345, failed=3), cost=cost, batches=3)
    assert lines_of(final(done, 12_348, 4_000, Frame(120, 24), journal=True)) == [
        "answered 12,345 of 12,348 (3 failed) in 3 batches, 1 h 6 min; paid $1.23, saved $1.23",
    ]


def test_the_summary_of_several_lanes_tells_what_each_came_to() -> None:
    done = structs.replace(busy(), open=())
    assert lines_of(final(done, 2_000_000, 4_000, Frame(100, 24), journal=True)) == [
        "model                   endpoint                answered  failed   paid  saved",
        "gpt-5-mini              chat/completions          12,345       3  $1.23  $1.23",
        "gpt-4o-2024-11-20       responses                      0       0      -      -",
        "text-embedding-3-small  embeddings, priority 5   123,456       0      -      -",
        "answered 135,801 of 2,000,000 (3 failed) in 7 batches, 1 h 6 min; paid $1.23, saved $1.23, 200",
        "unpriced; 1,538,652 not over, which the next start takes over",
    ]


@pytest.mark.parametrize("width", [20, 60, 80])
def test_the_summary_is_no_wider_than_the_screen(width: int) -> None:
    assert all(width_of(line) <= width for line in final(busy(), None, 9, Frame(width, 24), journal=False).lines)


def test_the_picture_in_the_documentation_is_of_a_run() -> None:
    """Its figures may be those of an earlier version, its words are those of today."""
    words_of = [re.findall(r">([a-z&#;0-9]{4,}[^<]*)<", svg) for svg in (draw(), PICTURE.read_text())]
    today, shown = (
        {word for word in words if not re.search(r"[0-9]", word.replace("&#160;", ""))} for words in words_of
    )
    assert {"waiting", "answered", "requests", "embeddings"} <= today == shown

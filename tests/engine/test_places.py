"""Where the listing shows open batches: one call answers for all that a page shows together, and none is in vain."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
from engine_kit import NOW, TIMING, Shell, of, only, refused, remote, status

from carpool.engine.commands import Cancel, Check, Collect, Command
from carpool.engine.events import Abandoned, Checked, Collected, Failed, Leave, Tick, Woken
from carpool.models import NEWEST, BatchStatus, Page


def opened(shell: Shell, count: int, *, apart: float = 1.5) -> list[str]:
    """Bring so many batches as far as open, one after the other; gives their keys, the newest first."""
    keys = []
    for row in range(count):
        shell.now += apart if row else 0
        keys.append(shell.opened(row))
    return keys[::-1]


def due(shell: Shell) -> Check:
    """Let time pass until something is asked for."""
    return only(shell.until(Check), Check)


def page(keys: Sequence[str], place: str = NEWEST, next_: str | None = None) -> Page:
    """Show batches, the newest first."""
    return Page(tuple(map(remote, keys)), place, next_)


def tell(shell: Shell, check: Check, *pages: Page, ended: Sequence[str] = ()) -> list[Command]:
    """Say how what was asked for, and what is on the pages, stands: it runs, or has ended."""
    ids = dict.fromkeys([*check.remote_ids, *(remote_id for page in pages for remote_id in page.remote_ids)])
    keys = [remote_id.removeprefix("batch_") for remote_id in ids]
    return shell.tell(Checked(check.remote_ids, [_status(key, key in ended) for key in keys], check.place, pages))


def _status(key: str, ended: bool) -> BatchStatus:
    return status(key, "completed", output="out", answered=1) if ended else status(key, "in_progress")


def next_check(shell: Shell, key: str) -> Check:
    """Let time pass until a batch is asked for; the others run on, and nothing is listed."""
    while key not in (check := due(shell)).keys:
        tell(shell, check)
    return check


# --- together


def test_one_batch_is_asked_for_singly() -> None:
    shell = Shell()
    (key,) = opened(shell, 1)
    assert due(shell) == Check((key,), (remote(key),))


def test_what_was_just_created_is_looked_for_among_the_newest_with_all_others() -> None:
    shell = Shell()
    one, other = opened(shell, 2)
    check = due(shell)
    assert (check.keys, check.place, set(check.others)) == ((other,), NEWEST, {remote(one), remote(other)})


def test_what_is_at_one_place_and_due_in_a_moment_is_asked_for_by_the_same_call() -> None:
    shell = Shell()
    keys = opened(shell, 3, apart=0.2)
    assert due(shell).keys == tuple(keys)


def test_what_is_told_by_the_way_is_not_asked_for_before_it_is_due_again() -> None:
    shell = Shell()
    keys = opened(shell, 3, apart=3)
    calls = 0
    while shell.now < NOW + 3_600:
        tell(shell, due(shell), page(keys))
        calls += 1
        assert shell.pause >= 0.89 * 2
    assert calls < 160  # of one batch alone it would be 140


def test_what_ended_is_collected_once_though_it_was_told_by_the_way() -> None:
    shell = Shell()
    one, other = opened(shell, 2)
    check = due(shell)
    assert check.keys == (other,)
    assert only(tell(shell, check, page([one, other]), ended=[one]), Collect).key == one
    for _ in range(5):  # while its files are read
        check = due(shell)
        assert check.keys == (other,)
        tell(shell, check, page([one, other]), ended=[one])
    shell.answered(one, 1)
    shell.tell(Collected(one))
    assert shell.is_over(one)


def test_what_is_being_asked_for_is_not_told_by_the_way() -> None:
    shell = Shell()
    one, other = opened(shell, 2)
    first, second = due(shell), due(shell)
    assert (first.keys, second.keys) == ((other,), (one,))
    assert tell(shell, first, page([one, other]), ended=[one]) == []
    assert only(tell(shell, second, page([one, other]), ended=[one]), Collect).key == one


def test_files_that_fell_short_are_not_read_sooner_for_what_is_told_by_the_way() -> None:
    shell = Shell()
    one, other = opened(shell, 2)
    tell(shell, next_check(shell, one), ended=[one])
    shell.tell(Collected(one))
    assert tell(shell, next_check(shell, other), page([one, other]), ended=[one]) == []


@pytest.mark.parametrize("ended", [True, False])
def test_an_end_of_which_word_will_come_is_left_to_that(ended: bool) -> None:
    shell = Shell()
    keys = opened(shell, 5)
    tell(shell, next_check(shell, keys[0]), page(keys))
    shell.tell(Woken((remote(keys[0]),)))
    tell(shell, only(shell.tell(Tick()), Check), page(keys), ended=keys[:1])
    check = due(shell)  # they are asked for rarely now
    by_the_way = max(set(keys[1:]).difference(check.keys))
    assert tell(shell, check, page(keys[1:]), ended=[by_the_way] if ended else []) == []
    assert (shell.pause < 100) is ended


def test_what_a_page_shows_undoes_no_word_that_came_since() -> None:
    shell = Shell()
    one, other = opened(shell, 2)
    check = due(shell)
    assert check.keys == (other,)
    shell.tell(Woken((remote(one),)))
    tell(shell, check, page([one, other]))
    assert shell.pause <= 0
    assert only(shell.tell(Tick()), Check).keys == (one,)


# --- places


def test_a_place_is_kept_and_what_is_created_later_is_looked_for_among_the_newest() -> None:
    shell = Shell()
    keys = opened(shell, 2)
    tell(shell, due(shell), page(keys, "batch_of_others"))
    check = due(shell)
    assert check.place == "batch_of_others"
    tell(shell, check, page(keys, "batch_of_others"))
    shell.now += 1
    new = shell.opened(9)
    assert {next_check(shell, key).place for key in (new,)} == {NEWEST}


def test_what_the_newest_page_shows_with_a_new_batch_is_at_its_place_from_then_on() -> None:
    shell = Shell()
    keys = opened(shell, 2)
    tell(shell, due(shell), page(keys, "batch_of_others"))
    new = shell.opened(9)
    tell(shell, next_check(shell, new), page([new, *keys], "newer_batch_of_others"))
    assert {next_check(shell, key).place for key in keys[:1]} == {"newer_batch_of_others"}


def test_what_no_page_shows_with_another_is_asked_for_singly() -> None:
    shell = Shell()
    one, _ = opened(shell, 2)
    tell(shell, next_check(shell, one), page([one], "x"))
    assert next_check(shell, one) == Check((one,), (remote(one),))


def test_each_of_those_that_are_asked_for_singly_has_a_call_of_its_own() -> None:
    shell = Shell()
    keys = opened(shell, 2, apart=0)
    tell(shell, due(shell), page(keys[:1], "x"), page(keys[1:], "y"))
    shell.now += 3
    assert sorted(check.keys for check in of(shell.tell(Tick()), Check)) == sorted((key,) for key in keys)


def test_what_has_left_the_newest_page_is_behind_it() -> None:
    shell = Shell()
    new, old, older = opened(shell, 3, apart=30)
    tell(shell, next_check(shell, new), page([new], NEWEST, "last_on_the_page"))
    check = next_check(shell, old)
    assert check.place == "last_on_the_page"
    tell(shell, check)
    assert next_check(shell, older).place == "last_on_the_page"


def test_what_is_not_listed_yet_is_looked_for_among_the_newest_again() -> None:
    shell = Shell()
    new, one, other = opened(shell, 3)
    tell(shell, next_check(shell, new), page([one, other], "x", "y"))
    assert next_check(shell, new).place == NEWEST


def test_where_nothing_is_shown_it_is_not_for_ever_looked_for() -> None:
    shell = Shell()
    one, _ = opened(shell, 2)
    places = []
    while shell.now < NOW + 60:
        check = next_check(shell, one)
        places.append(check.place)
        tell(shell, check, page([]))
    assert places[:2] == [NEWEST, NEWEST]
    assert 2 < places.index(None) <= 6  # listings show after ten seconds what is there
    assert set(places[places.index(None) :]) == {None}


def test_what_has_gone_from_its_place_is_asked_for_singly() -> None:
    shell = Shell()
    keys = opened(shell, 2)
    tell(shell, due(shell), page(keys, "x"))
    check = due(shell)
    tell(shell, check, page([], "x", "y"))
    assert {due(shell).place for _ in range(2)} == {None}


def test_a_listing_that_could_not_be_read_moves_nothing() -> None:
    shell = Shell()
    keys = opened(shell, 2)
    tell(shell, due(shell), page(keys, "x"))
    check = due(shell)
    tell(shell, check)
    assert next_check(shell, check.keys[0]).place == "x"


def test_what_is_at_a_place_that_has_gone_is_looked_for_among_the_newest_once() -> None:
    shell = Shell()
    keys = opened(shell, 2)
    tell(shell, due(shell), page(keys, "x"))
    tell(shell, due(shell), page([], "x"))
    check = due(shell)
    assert check.place == NEWEST
    tell(shell, check, page(keys, "y"))
    check = due(shell)
    assert check.place == "y"
    tell(shell, check, page([], "y"))
    assert {due(shell).place for _ in range(2)} == {None}


# --- one call at a time


class Meeting:
    """Bring batches to where a new one is looked for on the newest page, while others that it showed fall due."""

    def __init__(self, shell: Shell, place: str = "x") -> None:
        self.shell = shell
        self.old = opened(shell, 2)
        tell(shell, next_check(shell, self.old[0]), page(self.old, place))
        while shell.pause < 4:  # as they have grown old
            tell(shell, due(shell), page(self.old, place))
        shell.now += shell.pause - 2.1
        self.new = shell.opened(9)
        self.listing = due(shell)
        assert (self.listing.keys, self.listing.place) == ((self.new,), NEWEST)

    def fall_due(self) -> list[Command]:
        """Let the others fall due."""
        self.shell.now += max(0.0, self.shell.pause)
        return self.shell.tell(Tick())


def test_what_falls_due_while_a_listing_is_read_that_shows_it_waits_for_its_answer() -> None:
    shell = Shell()
    scene = Meeting(shell)
    assert scene.fall_due() == []
    assert tell(shell, scene.listing, page([scene.new, *scene.old])) == []
    assert shell.pause > 1.7


def test_an_end_that_was_waited_for_is_collected() -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    said = tell(shell, scene.listing, page([scene.new, *scene.old]), ended=scene.old[:1])
    assert only(said, Collect).key == scene.old[0]


def test_what_was_awaited_in_vain_is_asked_for_at_its_place_at_once() -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    tell(shell, scene.listing, page([scene.new]))
    assert shell.pause <= 0
    check = only(shell.tell(Tick()), Check)
    assert (set(check.keys), check.place) == (set(scene.old), "x")


def test_what_the_newest_page_no_longer_shows_does_not_wait_for_it() -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    tell(shell, scene.listing, page([scene.new]))
    tell(shell, only(shell.tell(Tick()), Check), page(scene.old, "x"))
    newer = shell.opened(10)
    asked = [due(shell) for _ in range(2)]
    assert {check.place for check in asked if newer not in check.keys} <= {"x", None}
    assert {key for check in asked for key in check.keys} > {newer}


@pytest.mark.parametrize("unread", [True, False])
def test_a_listing_that_fails_is_waited_for_no_longer(unread: bool) -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    if unread:
        tell(shell, scene.listing)
    else:
        shell.tell(Failed(scene.listing.keys, refused("lost")))
    assert shell.pause <= 0
    assert set(only(shell.tell(Tick()), Check).keys) == set(scene.old)


def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_between_checks() -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    before = shell.now
    assert set(due(shell).keys) == set(scene.old)
    assert shell.now - before == pytest.approx(2)


def test_word_of_a_batch_that_waits_has_it_asked_for_at_once() -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    shell.tell(Woken((remote(scene.old[1]),)))
    assert only(shell.tell(Tick()), Check) == Check((scene.old[1],), (remote(scene.old[1]),))
    assert tell(shell, scene.listing, page([scene.new, *scene.old])) == []  # it is being asked for


def test_who_leaves_asks_for_nothing_that_waited() -> None:
    shell = Shell()
    scene = Meeting(shell)
    scene.fall_due()
    shell.tell(Leave(keep=False))
    tell(shell, scene.listing, page([scene.new]))
    assert of(shell.tell(Tick(), after=10), Check) == []


def test_what_a_listing_that_was_under_way_does_not_show_yet_is_asked_for_singly() -> None:
    shell = Shell()
    scene = Meeting(shell)
    newer = shell.opened(10)
    shell.now += 2
    assert of(shell.tell(Tick()), Check) == []
    tell(shell, scene.listing, page([scene.new, *scene.old]))
    assert only(shell.tell(Tick()), Check) == Check((newer,), (remote(newer),))


def test_what_only_the_newest_page_shows_is_looked_for_with_what_is_due_elsewhere() -> None:
    shell = Shell()
    old = opened(shell, 2)
    tell(shell, due(shell), page(old, "x"))
    shell.now += shell.pause - 1.5
    new = shell.opened(9)
    check = due(shell)
    assert (check.keys, check.place) == ((new,), NEWEST)
    assert tell(shell, check, page([new, *old])) == []
    assert shell.pause > 1.7


def test_listings_that_fail_again_and_again_are_tried_ever_more_rarely() -> None:
    """For they come on top of the single calls."""
    shell = Shell()
    keys = opened(shell, 3)
    tried = []
    while shell.now < NOW + 7_200:
        checks = of(shell.until(Check), Check)
        tried += [shell.now for check in checks if check.place is not None]
        for check in checks:
            tell(shell, check)
    assert tried[1] - tried[0] < 2.5
    assert len(tried) < 25
    assert tried[-1] > NOW + 6_000
    listed = False
    while not listed:
        for check in of(shell.until(Check), Check):
            listed = listed or check.place is not None
            tell(shell, check, *([page(keys)] if check.place is not None else []))
    tried.clear()
    for _ in range(20):  # one is asked for singly now and then, as the listing tells nothing new
        check = due(shell)
        tried += [shell.now] if check.place == NEWEST else []
        tell(shell, check, *([page(keys)] if check.place == NEWEST else []))
    assert len(tried) > 10


# --- listings that are stale


def test_where_two_that_are_asked_for_singly_were_further_in_turn_no_listing_is_read_for_a_while() -> None:
    shell = Shell()
    keys = opened(shell, 4)
    ended: list[str] = []
    listings = 0
    while len(ended) < 2:
        check = due(shell)
        if check.place is not None:  # it says that all run, for ever
            tell(shell, check, page([key for key in keys if key not in ended]))
            listings += 1
        else:
            (key,) = check.keys
            tell(shell, check, ended=[key])
            ended.append(key)
    assert listings > 3
    asked = shell.now
    while shell.now < asked + 800:
        for check in of(shell.until(Check), Check):
            assert check.place is None
            tell(shell, check)
    listed = False
    while not listed:
        for check in of(shell.until(Check), Check):
            listed = listed or check.place is not None
            tell(shell, check, *([page(check.keys)] if check.place is not None else []))
    assert shell.now < asked + 1_500


def test_what_is_asked_for_singly_as_it_is_alone_tells_nothing_against_listings() -> None:
    shell = Shell()
    one, other = shell.opened(1), shell.opened(2)
    tell(shell, due(shell), page([other, one]), ended=[one])
    shell.answered(one, 1)
    shell.tell(Collected(one))
    shell.now += 2_000
    tell(shell, due(shell), ended=[other])
    shell.answered(other, 2)
    shell.tell(Collected(other))
    shell.now += 2_000
    new = opened(shell, 2)
    check = due(shell)
    same = [status(key, "validating") for key in new]
    shell.tell(Checked(check.remote_ids, same, check.place, (page(new),)))
    assert (check.place, due(shell).place) == (NEWEST, NEWEST)


def test_a_listing_that_was_doubted_is_believed_where_it_tells_something_new() -> None:
    shell = Shell()
    keys = opened(shell, 3)
    doubted = False
    while not doubted:
        check = due(shell)
        doubted = check.place is None
        tell(shell, check, *([] if doubted else [page(keys)]))
    for _ in range(30):
        check = due(shell)
        assert check.place == NEWEST
        shell.tell(
            Checked(
                check.remote_ids,
                [status(key, "in_progress", answered=shell.now) for key in keys],
                NEWEST,
                (page(keys),),
            )
        )


@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("size", [3, 6])
def test_a_place_is_listed_between_two_of_its_batches_that_are_asked_for_singly(further: bool, size: int) -> None:
    """One that was further may just have ended: all others there are looked at before the next one is alone."""
    shell = Shell()
    keys = opened(shell, 6)
    ended: list[str] = []
    unlisted: set[str] = set()
    singles = 0
    while shell.now < NOW + 7_200:
        check = due(shell)
        if check.place is not None:  # it says that all run, for ever
            first = 0 if check.place == NEWEST else int(check.place)
            next_ = f"{first + size}" if first + size < len(keys) else None
            tell(shell, check, page(keys[first : first + size], check.place, next_))
            unlisted.difference_update(keys[first : first + size])
        elif shell.now > NOW + 200:  # now each is at its place
            (key,) = check.keys
            singles += 1
            assert key not in unlisted
            first = keys.index(key) // size * size
            unlisted.update(keys[first : first + size])
            tell(shell, check, ended=[key] if further and not ended else ())
            ended.append(key)
        else:
            tell(shell, check)
    assert singles > 3


def test_what_is_at_another_place_is_not_passed_over() -> None:
    shell = Shell()
    keys = opened(shell, 6)
    looked = {NEWEST: shell.now, "3": shell.now}
    singles = 0
    while shell.now < NOW + 7_200:
        check = due(shell)
        first = 3 * (check.keys[0] in keys[3:])
        place = "3" if first else NEWEST
        assert shell.now - looked[place] < 1.5 * TIMING.poll_max
        looked[place] = shell.now
        shown = page(keys[first : first + 3], place, None if first else "3")
        tell(shell, check, *([] if check.place is None else [shown]))
        singles += check.place is None
    assert singles > 3


# --- those that are passed over while one is asked for singly


def doubting(shell: Shell, keys: Sequence[str]) -> Check:
    """Let the batches grow old, with listings that tell nothing new; gives the call for one of them."""
    while (check := due(shell)).place is not None or shell.now < NOW + 1_300:
        tell(shell, check, *([] if check.place is None else [page(keys)]))
    return check


def before(shell: Shell, keys: Sequence[str], seconds: float) -> str:
    """Let time pass until so many seconds before one is asked for singly, and give which."""
    ahead = deepcopy(shell)
    (key,) = doubting(ahead, keys).keys
    while shell.engine.deadline() < ahead.now - seconds:
        tell(shell, due(shell), page(keys))
    shell.now = ahead.now - seconds
    return key


@pytest.mark.parametrize("early", [5.0, 0.0])
def test_what_is_passed_over_is_cancelled_as_soon_as_all_others(early: float) -> None:
    """Its callers go before another one is asked for singly, or while it is."""
    shell = Shell()
    keys = opened(shell, 4)
    doubted = before(shell, keys, early)
    check = None if early else due(shell)
    gone = shell.now
    shell.tell(Abandoned(frozenset([min(row for row, key in enumerate(keys[::-1]) if key != doubted)])))
    told = tell(shell, check or due(shell))
    while not of(told, Cancel):
        told = shell.wait()
        for check in of(told, Check):
            told += tell(shell, check, *([] if check.place is None else [page(keys)]))
    assert shell.now - gone <= TIMING.abandon + 1


def test_what_is_passed_over_is_not_taken_to_run_on() -> None:
    """Its word may be lost: that others come again is no reason to ask for it rarely, as it was not seen since."""
    shell = Shell()
    keys = opened(shell, 6)
    doubted = before(shell, keys, 5.0)
    other, told = (key for key in keys[:3] if key != doubted)
    start = shell.now
    shell.tell(Woken((remote(told),)))
    checks = of(shell.until(Check), Check)
    while all(check.place is None and other not in check.keys for check in checks):
        for check in checks:
            tell(shell, check, ended=[told])
        checks = of(shell.until(Check), Check)
    assert shell.now - start < 2 * TIMING.poll_max


def test_what_is_told_of_by_the_way_meanwhile_is_not_passed_over() -> None:
    shell = Shell()
    keys = opened(shell, 4)
    check = doubting(shell, keys)
    shell.now += 0.3
    shell.tell(Failed(check.keys, refused("lost")))
    checks = of(shell.until(Check), Check)
    (listing,) = (check for check in checks if check.place is not None)
    other = next(key for key in keys if key not in (*check.keys, *listing.keys))
    same = [status(key, "in_progress") for key in keys if key != other]
    shell.tell(Checked(listing.remote_ids, [*same, status(other, "completed", answered=1)], NEWEST, (page(keys),)))
    start = shell.now
    tell(shell, check)
    assert other in due(shell).keys  # for its files, which were not named yet
    assert shell.now - start < 15

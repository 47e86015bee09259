"""Simulate worlds drawn from seeds, and say which promises were broken, how to replay that, and in what smaller world.

    PYTHONPATH=tests python -m simulate 0:1000          so many seeds
    PYTHONPATH=tests python -m simulate --twice 0:100   each twice, which must take the same course
    PYTHONPATH=tests python -m simulate --plan '{...}'  a plan that was printed
    PYTHONPATH=tests python -m simulate --planted       bugs that are planted, each of which must be found

Exit code 1 where a promise was broken, or a planted bug was not found.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from .plan import Plan, draw
from .planted import PLANTED
from .run import hunt_by_name, promises_broken, repeated, simulate, tallied
from .shrink import shrink
from .tally import Tally

T = TypeVar("T")
R = TypeVar("R")

_WIDTH = 120  # characters of what was broken that are quoted


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("seeds", nargs="?", default="0:100", help="one, or FIRST:END")
    parser.add_argument("--small", action="store_true", help="with few calls")
    parser.add_argument("--twice", action="store_true", help="each, which must take the same course")
    parser.add_argument("--plan", help="a plan, in place of seeds")
    parser.add_argument("--trace", action="store_true", help="print what services and clients did")
    parser.add_argument("--planted", nargs="*", help="these planted bugs, or all")
    parser.add_argument("--jobs", type=int, default=1, help="run so many side by side")
    parser.add_argument("--no-shrink", action="store_true", help="leave failing plans as they are")
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    if options.planted is not None:
        return _planted(options.planted or [bug.name for bug in PLANTED], options.jobs)
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end or int(first) + 1))
    plans = [Plan.read(options.plan)] if options.plan else [draw(seed, small=options.small) for seed in seeds]
    if options.trace:
        return int(sum(map(_trace, plans)) > 0)
    failed, total, run = [], Tally.none(), repeated if options.twice else tallied
    for plan, (broken, tally) in zip(plans, _map(run, plans, options.jobs), strict=True):
        total = total.plus(tally)
        failed += [plan] * _tell(plan, broken)
    if not options.no_shrink:
        for plan in failed:
            _tell_smaller(plan)
    print(*total.lines(), f"{len(plans)} worlds, {len(failed)} of them with broken promises", sep="\n")
    return int(bool(failed))


def _map(func: Callable[[T], R], values: Sequence[T], jobs: int) -> Iterator[R]:
    """Map a function, so many side by side."""
    if jobs == 1:
        yield from map(func, values)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), logging.disable, (logging.CRITICAL,)) as processes:
        yield from processes.map(func, values)


def _trace(plan: Plan) -> bool:
    seen, broken = simulate(plan)
    print(*seen.trace, sep="\n")
    return _tell(plan, broken)


def _tell(plan: Plan, broken: Sequence[str]) -> bool:
    """Say what is broken, and how to see it again; gives whether it is anything."""
    if broken:
        print(f"seed {plan.seed} on {plan.backend}:", *broken, sep="\n    ")
        print(f"    replay: PYTHONPATH=tests python -m simulate --plan '{plan.text}'", flush=True)
    return bool(broken)


def _tell_smaller(plan: Plan) -> None:
    smaller = shrink(plan, lambda tried: bool(promises_broken(tried)))
    if smaller != plan:
        print("in a smaller world,", end=" ")
        _tell(smaller, promises_broken(smaller))


def _planted(names: Sequence[str], jobs: int) -> int:
    """Plant bugs, and say in which seed each is found."""
    caught = 0
    for name, seed in zip(names, _map(hunt_by_name, names, jobs), strict=True):
        caught += seed is not None
        how = "NOT FOUND" if seed is None else f"{'small ' * seed.small}seed {seed.seed}: {seed.broken[0][:_WIDTH]}"
        print(f"{name}: {how}", flush=True)
    print(f"{len(names)} bugs planted, {caught} of them found")
    return int(caught < len(names))


if __name__ == "__main__":
    sys.exit(main())

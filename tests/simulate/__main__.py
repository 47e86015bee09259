"""Simulate worlds drawn from seeds, and say which promises were broken, how to replay that, and in what smaller world.

    PYTHONPATH=tests python -m simulate 0:1000          so many seeds
    PYTHONPATH=tests python -m simulate --plan '{...}'  a plan that was printed
    PYTHONPATH=tests python -m simulate --planted       bugs that are planted, each of which must be found

Exit code 1 where a promise was broken, or a planted bug was not found.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from .plan import Plan, draw
from .planted import PLANTED
from .run import hunt, promises_broken, simulate
from .shrink import shrink

_WIDTH = 120  # characters of what was broken that are quoted


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("seeds", nargs="?", default="0:100", help="one, or FIRST:END")
    parser.add_argument("--small", action="store_true", help="with few calls")
    parser.add_argument("--plan", help="a plan, in place of seeds")
    parser.add_argument("--trace", action="store_true", help="print what services and clients did")
    parser.add_argument("--planted", nargs="*", help="these planted bugs, or all")
    parser.add_argument("--jobs", type=int, default=1, help="run so many side by side")
    parser.add_argument("--no-shrink", action="store_true", help="leave failing plans as they are")
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    if options.planted is not None:
        return _planted(options.planted)
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end or int(first) + 1))
    plans = [Plan.read(options.plan)] if options.plan else [draw(seed, small=options.small) for seed in seeds]
    if options.trace:
        return int(sum(map(_trace, plans)) > 0)
    failed = [plan for plan, broken in _outcomes(plans, options.jobs) if _tell(plan, broken)]
    if not options.no_shrink:
        for plan in failed:
            _tell_smaller(plan)
    print(f"{len(plans)} worlds, {len(failed)} of them with broken promises")
    return int(bool(failed))


def _outcomes(plans: Sequence[Plan], jobs: int) -> Iterator[tuple[Plan, Sequence[str]]]:
    """Run plans, some of them side by side, and give what each broke."""
    if jobs == 1:
        yield from zip(plans, map(promises_broken, plans), strict=True)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), logging.disable, (logging.CRITICAL,)) as processes:
        yield from zip(plans, processes.map(promises_broken, plans), strict=True)


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


def _planted(names: Sequence[str]) -> int:
    """Plant bugs, and say in which seed each is found."""
    missed = 0
    for bug in PLANTED:
        if names and bug.name not in names:
            continue
        found = hunt(bug)
        said = "NOT FOUND" if found is None else f"seed {found.seed}: {found.broken[0][:_WIDTH]}"
        print(f"{bug.name}: {said}", flush=True)
        missed += found is None
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Guard what a call costs: fail where a ratio to the floor of this run is worse than the one kept in `guard.json`.

    python -m benchmarks.guard [--short] [--burn SHARE]        under two minutes
    python -m benchmarks.guard --learn 5 [--busy] [--add]      measure so often, and keep that in place of what was kept

The floor and the programs take turns in one process, against one server, and what is compared is the CPU time of a
call, not the time that passed: a busy machine changes both alike. A ratio is the median of those of all turns, of
several processes; the first turn of each, in which everything is loaded, is left out. Kept are the ratios of repeated
runs of all that, of one state of the code, half of them beside two programs that keep the processors busy: `--learn 5`,
then `--learn 5 --busy --add`. The bound is their median and a band: twice the largest distance of any from it, and no
less than a tenth. What is worse is measured again before it is said to be worse. Each version of Python has ratios of
its own: where none are kept for it, nothing is judged.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from . import workload
from .floor import floor
from .pooled import pooled
from .records import Bar, say
from .serving import served
from .streamed import streamed

KEPT = Path(__file__).with_name("guard.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LEAST = 0.1  # of a ratio; other processors and interpreters have ratios of their own
CALLS = 4_000
PROGRAMS: dict[str, tuple[workload.Job, workload.Options]] = {
    "pooled": (pooled, workload.DEFAULT),
    "pooled journal": (pooled, workload.Options(journal=True)),
    "streamed": (streamed, workload.DEFAULT),
}
Ratios = Mapping[str, float]


class Form(NamedTuple):
    """Say how much is measured, by how many bands a ratio may be worse, and how often in a row."""

    processes: int
    turns: int
    bands: float = 1.0
    tries: int = 2


WHOLE = Form(processes=3, turns=5)
SHORT = Form(processes=1, turns=3, bands=1.5, tries=4)  # fewer turns are noisier, and those beside other tests more so


def take_turns(url: str, turns: int, programs: Iterable[str], burn: float) -> dict[str, list[float]]:
    """Measure in this process; gives the ratios to the floor of each turn but the first."""
    ratios: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(turns + 1):
        line = _cost(floor, url, workload.DEFAULT)
        for name, seen in ratios.items():
            job, options = PROGRAMS[name]
            cost = _cost(job, url, replace(options, burn=burn * line))
            if turn:
                seen.append(cost / line)
    return ratios


def _cost(job: workload.Job, url: str, options: workload.Options) -> float:
    gc.collect()  # or what one leaves is another's to look through: the most of the noise
    return workload.measured(job, CALLS, url, options)["cpu_us"]


def measure(form: Form, programs: Sequence[str] = tuple(PROGRAMS), burn: float = 0.0) -> Ratios:
    """Give the median ratio of each program; `burn` plants a slowdown of such a share of the floor."""
    seen: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(form.processes):
        with served() as url:
            command = [sys.executable, "-m", "benchmarks.guard", "--child", url, str(form.turns), str(burn), *programs]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for name, ratios in json.loads(result.stdout).items():
            seen[name] += ratios
    return {name: statistics.median(ratios) for name, ratios in seen.items()}


def bound(kept: Sequence[float], bands: float = 1.0) -> float:
    """Give the largest ratio that is no worse than those kept."""
    middle = statistics.median(kept)
    band = max(2 * max(abs(ratio - middle) for ratio in kept), LEAST * middle)
    return middle + bands * band


def judge(ratios: Ratios, kept: Mapping[str, Sequence[float]], bands: float = 1.0) -> list[Bar]:
    """Hold each ratio to its bound; KeyError where none is kept."""
    return [Bar(f"{name}, of the floor's CPU", ratio, most=bound(kept[name], bands)) for name, ratio in ratios.items()]


def guard(form: Form, kept: Mapping[str, Sequence[float]], measure: Callable[[], Ratios]) -> list[Bar]:
    """Measure, and again while anything is worse; gives the best of all."""
    bars = judge(measure(), kept, form.bands)
    for _ in range(form.tries - 1):
        if all(bar.kept for bar in bars):
            break
        say("\n".join((*map(str, bars), "once more:")))
        again = judge(measure(), kept, form.bands)
        bars = [min(pair, key=lambda bar: bar.value) for pair in zip(bars, again, strict=True)]
    return bars


def load() -> dict[str, dict[str, list[float]]]:
    """Give the ratios that are kept, by the version of Python that they are of."""
    kept: dict[str, dict[str, list[float]]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return kept


def load_ours() -> dict[str, list[float]]:
    """Give those of this version, none where nothing is kept of it."""
    return load().get(PYTHON, {})


def learn(times: int, busy: bool, kept: dict[str, list[float]]) -> None:
    """Measure so often, and keep the ratios beside those given."""
    for _ in range(times):
        with burners(2 if busy else 0):
            ratios = measure(WHOLE)
        say(", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
        for name, ratio in ratios.items():
            kept.setdefault(name, []).append(round(ratio, 3))
        KEPT.write_text(json.dumps({**load(), PYTHON: kept}) + "\n")


@contextmanager
def burners(count: int) -> Iterator[None]:
    """Keep processors busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def main() -> None:
    """Print the ratios beside their bounds; exit 1 when one is worse each time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--burn", type=float, default=0.0, help="plant a slowdown of such a share of the floor's cost")
    parser.add_argument("--learn", type=int)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--add", action="store_true", help="with --learn: beside what is kept, of the same code")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        url, turns, burn, *programs = options.child
        print(json.dumps(take_turns(url, int(turns), programs, float(burn))))
    elif options.learn:
        learn(options.learn, options.busy, load_ours() if options.add else {})
    elif not load_ours():
        print(f"nothing is judged: of Python {PYTHON} no ratios are kept, but of {', '.join(load())}")
    else:
        form = SHORT if options.short else WHOLE
        bars = guard(form, load_ours(), lambda: measure(form, burn=options.burn))
        print(*bars, sep="\n")
        sys.exit(not all(bar.kept for bar in bars))


if __name__ == "__main__":
    main()

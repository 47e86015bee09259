"""Run each program in a process of its own, the server in another, by turns, and make records of what they tell."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from .cases import CASES, Case
from .environments import PROGRAMS, ROOT, Program, make
from .record import Record, judged

_GRACE = 30.0  # seconds beyond patience, for imports and the warm-up, before a program is stopped
SHORT = 3  # runs at most of the cases in which programs wait: each with a seed of its own


def results(calls: int = 50_000, runs: int = 5, only: Collection[str] | None = None) -> list[Record]:
    """Measure all programs, or those named, in every case; cases in which programs wait get fewer calls and runs.

    Cases may be named too. Raises ValueError for what there is not.
    """
    programs, cases = chosen(only)
    for program in programs:
        make(program)  # before anything is measured
    return [record for case in cases for record in compare(case, min(calls, case.calls), runs, programs)]


def chosen(only: Collection[str] | None) -> tuple[list[Program], list[Case]]:
    """Choose programs and cases by their names."""
    names = set(only or ())
    programs = [program for program in PROGRAMS if program.name in names]
    cases = [case for case in CASES if case.name in names]
    if unknown := names - {program.name for program in programs} - {case.name for case in cases}:
        raise ValueError(f"there is no {', '.join(sorted(unknown))}")
    return programs or list(PROGRAMS), cases or list(CASES)


def compare(case: Case, calls: int, runs: int, programs: Collection[Program]) -> list[Record]:
    """Measure programs in a case by turns."""
    turns = range(min(runs, SHORT) if case.limited or case.faulty else runs)
    taken = [program for program in programs if not program.cases or case.name in program.cases]
    seen: dict[str, list[dict[str, Any]]] = {program.name: [] for program in taken}
    for seed in turns:
        for program in taken:
            seen[program.name].append(measure(program, case, calls, seed))
            print(f"{case.name}, {program.name}: {json.dumps(seen[program.name][-1])}", file=sys.stderr, flush=True)
    return judged([together(program, case, calls, seen[program.name]) for program in taken])


def together(program: Program, case: Case, calls: int, seen: list[dict[str, Any]]) -> Record:
    """Make a record of a program's runs."""
    failures = sum((Counter(run["failures"]) for run in seen), Counter[str]())
    return Record(
        program=program.name,
        version=program.version,
        case=case.name,
        runs=len(seen),
        calls=calls * len(seen),
        answered=sum(run["answered"] for run in seen),
        billed=sum(run["billed"] for run in seen),
        twice=sum(run["twice"] for run in seen),
        lost=sum(run["lost"] for run in seen),
        cpu_us=_median(seen, "cpu_us"),
        cpu_runs=tuple(run["cpu_us"] for run in seen if "cpu_us" in run),
        wall_s=_median(seen, "wall_s"),
        peak_bytes=_median(seen, "peak_bytes"),
        http_calls=statistics.median(run["http_calls"] for run in seen),
        failures=dict(failures),
        note=program.note,
    )


def _median(seen: list[dict[str, Any]], name: str) -> float | None:
    told = [run[name] for run in seen if name in run]
    return statistics.median(told) if told else None


def measure(program: Program, case: Case, calls: int, seed: int) -> dict[str, Any]:
    """Run a program once; gives what it printed and what the books tell."""
    with _served(case, calls, seed) as (server, warm, url):
        told = _run(program, case.warm_up(warm), case.work(url, calls), case.patience + _GRACE)
        books: dict[str, Any] = json.loads(server.communicate()[0])
    return {**({"answered": 0, "failures": {"stopped": calls}} if told is None else told), **books}


@contextmanager
def _served(case: Case, calls: int, seed: int) -> "Iterator[tuple[subprocess.Popen[str], str, str]]":
    command = [sys.executable, "-m", "benchmarks.peers.server", case.name, str(calls), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            warm, url = json.loads(server.stdout.readline())
            yield server, warm, url
        finally:
            server.kill()


def _run(program: Program, warm: Any, work: Any, patience: float) -> dict[str, Any] | None:
    """Give what a program prints, None if it had to be stopped; nothing that it keeps reaches its next run."""
    command = [str(make(program)), "-m", program.module, json.dumps([warm, work])]
    with tempfile.TemporaryDirectory(prefix="peers-") as folder, open(f"{folder}/log", "w+") as log:
        places = dict.fromkeys(("HOME", "TMPDIR", "HF_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"), folder)
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            printed, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{program.name} ended with {process.returncode}: {log.read()[-2_000:]}")
    told: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return told

"""What an enqueued-token limit costs: far away, and so near that every text is counted, beside tiktoken alone.

    python -m benchmarks.counting [--runs 5] [--count 50000]

Each program runs in a process of its own. tiktoken's own time is that of encoding the same texts, and of loading the
vocabulary, which the pool does too when it first counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from . import workload
from .throughput import measure

FAR_BAR = 1.1  # times the CPU without a limit
NEAR_BAR = 1.15  # times tiktoken's own, for what counting adds
TOKENS = 202  # of one call of the workload, about
FAR = 10**10


def tiktoken_alone(count: int) -> float:
    """Give the CPU time, in microseconds a call, that tiktoken takes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.counting", "--count", str(count), "--alone"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def alone(count: int) -> float:
    """Load the vocabulary and encode the texts of so many calls."""
    import tiktoken

    texts = [message["content"] for number in range(count) for message in workload.payload(number)["messages"]]
    begin = time.process_time()
    encode = tiktoken.get_encoding("o200k_base").encode_ordinary
    for text in texts:
        encode(text)
    return (time.process_time() - begin) / count * 1e6


def main() -> None:
    """Print the table; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(alone(options.count))
        return
    near = TOKENS * options.count // 2
    none_, far, counted, own = [], [], [], []
    for _ in range(options.runs):
        none_.append(measure("pooled", options.count)["cpu_us"])
        far.append(measure("pooled", options.count, f"limit={FAR}")["cpu_us"])
        counted.append(measure("pooled", options.count, f"limit={near}")["cpu_us"])
        own.append(tiktoken_alone(options.count))
    middle = {"none": none_, "far": far, "near": counted, "tiktoken": own}
    figures = {name: statistics.median(values) for name, values in middle.items()}
    far_ratio = figures["far"] / figures["none"]
    near_ratio = (figures["near"] - figures["none"]) / figures["tiktoken"]
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))
    print(f"far: {far_ratio:.2f} times the CPU without a limit (at most {FAR_BAR})")
    print(f"near: counting adds {near_ratio:.2f} times tiktoken's own CPU (at most {NEAR_BAR})")
    sys.exit(not (far_ratio <= FAR_BAR and near_ratio <= NEAR_BAR))


if __name__ == "__main__":
    main()

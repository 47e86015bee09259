"""The emulator in a process of its own, until standard input ends."""

import sys

from carpool.testing import Emulator

from . import workload


def main() -> None:
    """Print the URL and serve."""
    with Emulator(answer=workload.answer) as emulator:
        print(emulator.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

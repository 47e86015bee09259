"""Go through the flows with each server, and print what was seen: `python -m interop [ogx|aimock...]`."""

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager

import anyio

from .flows import FLOWS, Flow
from .servers import AIMOCK, OGX, Missing, Server, aimock, ogx

SERVERS: dict[str, tuple[str, Callable[[], AbstractContextManager[Server]]]] = {
    "ogx": (OGX, ogx),
    "aimock": (AIMOCK, aimock),
}


def main(names: list[str]) -> int:
    """Go through them; the number of flows that failed, and of servers that are not here, is the exit code."""
    logging.basicConfig(level=logging.ERROR)
    return sum(visit(name) for name in names or SERVERS)


def visit(name: str) -> int:
    """Go through the flows that one server can show; give the number of those that failed."""
    version, serve = SERVERS[name]
    failed = 0
    try:
        with serve() as server:
            print(f"\n## {name} {version}\n\n| flow | seen |\n|---|---|", flush=True)
            for flow in FLOWS:
                if name in flow.servers:
                    failed += not show(flow, server)
    except Missing as exc:
        print(f"\n## {name} {version}: {exc}")
        return 1
    return failed


def show(flow: Flow, server: Server) -> bool:
    """Go through one flow and print its row; tell whether all was as it must be."""
    try:
        seen = anyio.run(flow.run, server)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what was seen
        print(f"| {flow.name} | **failed**: {' '.join(str(exc).split())[:300] or type(exc).__name__} |", flush=True)
        traceback.print_exc()
        return False
    print(f"| {flow.name} | {seen} |", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

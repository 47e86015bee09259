"""The floors of the house: a room imports only from lower floors, and third-party libraries have one room each."""

import ast
from pathlib import Path

import pytest

import carpool

ROOT = Path(carpool.__file__).parent

FLOORS = [
    # The emulator imports nothing of the client, so that the mode "emulate" may start it.
    {
        "account",
        "models",
        "schema_sizes",
        "schemas",
        "spans",
        "structured",
        "vectors",
        "errors",
        "event",
        "config",
        "images",
        "limits",
        "naming",
        "numbers",
        "options",
        "outcomes",
        "ports",
        "prices",
        "spending",
        "testing",
    },
    {"engine", "prompts", "providers"},
    {"formats", "journal", "spool", "tokens", "waiter", "wire"},
    {"bulk", "sdk", "transports"},
    {
        "admission",
        "adoption",
        "answers",
        "background",
        "batched",
        "bridge",
        "callers",
        "clock",
        "collector",
        "deadlines",
        "declaring",
        "durable",
        "elsewhere",
        "embeddings",
        "escalation",
        "estimate",
        "home",
        "intake",
        "limiting",
        "live",
        "observe",
        "perform",
        "parts",
        "pool",
        "progress",
        "recorder",
        "recover",
        "resume",
        "run",
        "running",
        "session",
        "settings",
        "settling",
        "small",
        "stats",
        "streams",
        "thread",
        "wakes",
        "webhooks",
    },
    {"cli", "otel", "pytest_plugin", "__init__"},
]
ROOMS_OF = {
    "httpx2": {"transports", "wire", "testing"},
    "httpx": {"transports", "testing"},
    "asyncio": {"waiter", "testing"},
    "trio": {"waiter"},
    "sqlite3": {"journal"},
    "tiktoken": {"tokens"},
    "typer": {"cli"},
    "rich": {"cli", "progress"},
    "starlette": {"testing"},
    "uvicorn": {"testing"},
    "opentelemetry": {"otel"},
}
# Floor 1 decides and formats; whatever touches the world, or is not the same twice, stays out.
IMPURE = {
    "anyio",
    "asyncio",
    "trio",
    "time",
    "random",
    "secrets",
    "logging",
    "os",
    "io",
    "pathlib",
    "threading",
    "socket",
}


SETTINGS = {"account", "config", "testing"}  # these look at the environment, or are a world of their own


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imports_of(path: Path) -> set[str]:
    """Name the modules that a file imports, those of this package as `carpool.<room>`."""
    package = ("carpool", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join((*base, name)) for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_from_lower_floors_only(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top != "carpool":
            continue
        other = rest.partition(".")[0]
        if other != room:
            assert floor_of(other) < floor_of(room) or (
                floor_of(room) in (0, 4) and floor_of(other) == floor_of(room)
            ), f"{room} (floor {floor_of(room)}) imports {other} (floor {floor_of(other)})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_foreign_library_is_named_in_its_own_rooms_only(path: Path) -> None:
    room = room_of(path)
    tops = {name.partition(".")[0] for name in imports_of(path)}
    assert not {top for top in tops if top in ROOMS_OF and room not in ROOMS_OF[top]}
    if floor_of(room) <= 1 and room not in SETTINGS:
        assert not tops & IMPURE


def test_the_rules_see_what_they_forbid() -> None:
    assert "carpool.models" in imports_of(ROOT / "engine" / "engine.py")
    assert "carpool.engine.events" in imports_of(ROOT / "perform.py")
    assert "asyncio" in imports_of(ROOT / "waiter.py")


def test_the_emulator_is_independent_of_the_client() -> None:
    for path in (ROOT / "testing").rglob("*.py"):
        assert not {name for name in imports_of(path) if name.startswith("carpool.") and "testing" not in name}


def test_public_names_are_few_sorted_and_pinned() -> None:
    assert list(carpool.__all__) == sorted(carpool.__all__)
    assert carpool.__all__ == [
        "AuthenticationFailed",
        "BudgetExceeded",
        "CarpoolError",
        "ConfigurationError",
        "Event",
        "JournalError",
        "LimitExceeded",
        "Limits",
        "Outcome",
        "OutputInvalid",
        "Pool",
        "PoolClosed",
        "PoolFull",
        "Request",
        "RequestCancelled",
        "RequestExpired",
        "RequestFailed",
        "RequestRejected",
        "Response",
        "ResultMissing",
        "Retry",
        "Stats",
        "Timing",
        "Unbatchable",
        "Usage",
        "batched",
        "error_of",
        "options",
        "pool_of",
        "run",
    ]
    assert all(hasattr(carpool, name) for name in carpool.__all__)

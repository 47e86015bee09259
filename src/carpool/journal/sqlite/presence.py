"""Which processes have a journal's folder open, as their locks tell; none is taken, not for a moment.

Whoever takes the lock of a process that died makes it look alive to others that come to go on with its work.
"""

import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOCKS = Path("/proc/locks")  # where Linux lists them
_LOCK = re.compile(r"^\d+: FLOCK +\S+ +\S+ (\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ", re.MULTILINE)
_NAME = re.compile(r"shard-\d+\.lock")
_SIGNED = re.compile(r"process (\d+) on (.+)")


class Presence(NamedTuple):
    """Name a process that has the folder open; `seen` is false where that cannot be told, as of another machine."""

    name: str
    seen: bool


class _Lock(NamedTuple):
    process: int
    device: int
    inode: int


def present(folder: Path, listed: Path = LOCKS) -> list[Presence]:
    """Name the processes that have a journal's folder open.

    Where this machine does not list its locks, a process of the number that signed one is taken for its holder.
    """
    locks = _locks(listed)
    return [presence for path in _lock_files(folder) if (presence := _present(path, locks)) is not None]


def _lock_files(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except OSError:  # it is of another user, or has gone
        return []
    return [folder / name for name in sorted(filter(_NAME.fullmatch, names), key=lambda name: (len(name), name))]


def _locks(listed: Path) -> list[_Lock] | None:
    try:
        found = _LOCK.findall(listed.read_text())
    except OSError:
        return None
    return [
        _Lock(int(process), os.makedev(int(major, 16), int(minor, 16)), int(inode))
        for process, major, minor, inode in found
    ]


def _present(path: Path, locks: Iterable[_Lock] | None) -> Presence | None:
    try:
        signed = _SIGNED.fullmatch(path.read_text())
        file = path.stat()
    except (OSError, ValueError):
        return None  # it has gone meanwhile, or says nothing
    process, host = (int(signed[1]), signed[2]) if signed else (0, "")
    name = signed[0] if signed else "a process"
    if locks is not None and any(_is_of(lock, file, process) for lock in locks):
        return Presence(name, seen=True)
    if host not in ("", socket.gethostname()):
        return Presence(name, seen=False)
    return Presence(name, seen=True) if locks is None and _runs(process) else None


def _is_of(lock: _Lock, file: os.stat_result, process: int) -> bool:
    """Tell whether a lock is on a file, which some file systems list with another device."""
    return lock.inode == file.st_ino and (lock.device == file.st_dev or lock.process == process)


def _runs(process: int) -> bool:
    """Tell whether a process of this number is alive."""
    if process:
        with suppress(ProcessLookupError):
            with suppress(PermissionError):
                os.kill(process, 0)
            return True
    return False

"""Whether a folder lies on a local disk, by what is mounted where: pure, but for asking the system."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")  # Linux
_ESCAPED = re.compile(r"\\([0-7]{3})")  # a blank is written as "\040"
# Where locks and SQLite's write-ahead log do not work, or not between machines.
_REMOTE = frozenset(
    {
        "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone",
        "fuse.s3fs", "fuse.sshfs", "fuse.vmhgfs-fuse", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2",
        "prl_fs", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "webdav",
    }
)  # fmt: skip


def is_remote(kind: str) -> bool:
    """Tell whether a kind of file system is one over a network, or shared with another machine."""
    return kind in _REMOTE


def kind_of(folder: Path) -> str:
    """Name the file system that a folder lies on, "" where that cannot be told."""
    place = folder.resolve()
    mounts = dict(linux_mounts(os.fsdecode(_TABLE.read_bytes())) if _TABLE.exists() else bsd_mounts(_asked()))
    return next((mounts[str(path)] for path in (place, *place.parents) if str(path) in mounts), "")


def linux_mounts(table: str) -> Iterator[tuple[str, str]]:
    """Read /proc/self/mountinfo: where something is mounted, and what it is."""
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest and len(words := fields.split(" ")) > 4:
            yield _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), words[4]), rest.split(" ")[0]


def bsd_mounts(said: str) -> Iterator[tuple[str, str]]:
    """Read what `mount` says on macOS: "/dev/disk1s1 on / (apfs, local)"."""
    for line in said.splitlines():
        place, bracket, options = line.partition(" on ")[2].rpartition(" (")
        if bracket:
            yield place, options.rstrip(")").split(",")[0]


def _asked() -> str:
    if sys.platform != "darwin":
        return ""
    return subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=False).stdout

"""List the licences of what carpool needs at run time, and ask whether any of it is known to be vulnerable.

`python -m interop.audit`, in an environment with carpool and its extras; it fails on a licence that is not in ALLOWED,
on a known vulnerability, and where the service that knows of them cannot be asked.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from .environments import make

EXTRAS = ("", "cli", "emulator", "otel")
AUDIT = "pip-audit>=2.9"
ALLOWED = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CNRI-Python", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"}
)
_SPELLINGS = {
    "apache software license": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "bsd": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}


class Package(NamedTuple):
    """Name an installed package and its licence, as an SPDX expression where it is known."""

    name: str
    version: str
    licence: str

    @property
    def allowed(self) -> bool:
        """Tell whether it may be used whichever way its licence is read."""
        names = re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", self.licence)
        return bool(self.licence) and ALLOWED.issuperset(filter(None, map(str.strip, names)))


def main() -> int:
    """Print both; 0 where nothing is wrong."""
    packages = sorted(set(needed("carpool")))
    width = max(len(package.name) for package in packages)
    for package in packages:
        note = "" if package.allowed else "   <- not allowed"
        print(f"{package.name:{width}}  {package.version:18}  {package.licence or 'unknown'}{note}")
    refused = [package for package in packages if not package.allowed]
    print(f"{len(packages)} packages, {len(refused)} with a licence that is not allowed", flush=True)
    return (1 if refused else 0) | vulnerable(packages)


def needed(root: str) -> Iterator[Package]:
    """Give all that a package and its extras need, on this Python."""
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in EXTRAS]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found = distribution(name)
        if name != root:
            yield Package(found.name.lower(), found.version, licence(found))
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name.lower(), more) for more in ("", *sorted(requirement.extras))]


def licence(found: Distribution) -> str:
    """Give a package's licence by what it says in the newest of the ways to say it; "" where it does not."""
    told: dict[str, Any] = found.metadata.json
    classifiers = [text.rpartition(" :: ")[2] for text in told.get("classifier", ()) if text.startswith("License")]
    named = sorted(_spdx(text) for text in classifiers if text != "OSI Approved")
    field = told.get("license", "").partition("\n")[0]
    return str(told.get("license_expression") or " AND ".join(named) or _spdx(field.strip()))


def _spdx(text: str) -> str:
    return _SPELLINGS.get(text.lower(), text)


def vulnerable(packages: list[Package]) -> int:
    """Ask pip-audit; 0 where nothing is known, 2 where something is, and 4 where it cannot be asked."""
    command = [str(make("audit", sys.executable, AUDIT)), "-m", "pip_audit", "--strict", "--disable-pip", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "requirements.txt")
        pins.write_text("".join(f"{package.name}=={package.version}\n" for package in packages))
        asked = subprocess.run([*command, "--requirement", str(pins)], capture_output=True, text=True, check=False)
    print(asked.stdout, end="")
    if asked.returncode == 0:
        print("no known vulnerabilities")
        return 0
    if re.search(r"Found \d+ known vulnerabilit", asked.stderr):
        return 2
    reason = asked.stderr.strip().rpartition("\n")[2]
    print(f"NOT CHECKED: the service that knows of vulnerabilities could not be asked: {reason}")
    return 4


if __name__ == "__main__":
    sys.exit(main())

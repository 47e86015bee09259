"""Fetch tiktoken's vocabularies for the tests: `python tests/vocabulary.py` fills `.vocabulary/`.

Their own place is not open to every network. A package index is, and the wheel of llama-index-core carries both files
under the names that tiktoken looks for in TIKTOKEN_CACHE_DIR; tiktoken itself checks their hashes.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent / ".vocabulary"
WHEEL = "llama-index-core==0.14.*"
SHELF = "llama_index/core/_static/tiktoken_cache/"
CL100K = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
O200K = "fb374d419588a4632f3f557e76b4b70aebbca790"


def is_there() -> bool:
    """Tell whether both files were fetched."""
    return (FOLDER / CL100K).exists() and (FOLDER / O200K).exists()


def fetch() -> None:
    """Download the wheel, keep the two files, drop the rest."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder, WHEEL], check=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            for name in (CL100K, O200K):
                (FOLDER / name).write_bytes(wheel.read(SHELF + name))


if __name__ == "__main__":
    fetch()

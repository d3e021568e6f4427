"""Token ids on disk, found again by content: the next run on the same rows starts at once."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# Raise it when the meaning of a cached file changes.
FORMAT = 1


def cache_folder() -> Path:
    """The one place for caches: beside the hub's own, under HF_HOME."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "kitune"


def content_key(*parts: str) -> str:
    """A name for what follows from `parts` alone."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for part in parts:
        digest.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:40]


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` unless it is whole already.

    `make` writes into a staging folder beside it, which one rename puts in place: a half-written cache is never seen, and of
    two processes that make the same one the first wins. `sizes.json` tells a damaged one, which is made again.
    """
    if is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(staging)
        sizes = {file.name: file.stat().st_size for file in staging.iterdir()}
        (staging / "sizes.json").write_text(json.dumps(sizes))
        if folder.exists() and not is_whole(folder):
            shutil.rmtree(folder)
        try:
            staging.rename(folder)
        except OSError:
            if not is_whole(folder):  # another process was not first: something else is wrong
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every file of a cached folder has the size that it was written with."""
    try:
        sizes: dict[str, int] = json.loads((folder / "sizes.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False

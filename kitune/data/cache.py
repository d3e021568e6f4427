"""What is kept on disk and found again by content: the next run on the same rows starts at once."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kitune.errors import UserError

# Raise it when the meaning of a cached file changes.
FORMAT = 2
# What lies under `cache_folder()`, by the name of its folder.
KINDS = {
    "encoded": "token ids",
    "tables": "rows of large tables",
    "findings": "what the doctor found",
    "costs": "how long an update takes",
    "kernels": "compiled kernels",
    "converted": "old-style weights as safetensors",
    "hub-names": "new names of moved data sets",
}


def cache_folder() -> Path:
    """The one place for caches: beside the hub's own, under HF_HOME."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home).expanduser() / "kitune"


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
        staging.chmod(folder.parent.stat().st_mode & 0o777)  # mkdtemp's own is for this user alone
        if folder.exists() and not is_whole(folder):
            damaged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            with suppress(FileNotFoundError):  # another process was faster
                folder.rename(damaged)  # at once: it may be about to put a whole one here
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            staging.rename(folder)
        except OSError:
            if not is_whole(folder):  # another process was not first: something else is wrong
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def kept_json(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON has it; kept under `kind`, unless nothing can be written there."""
    made: list[str] = []

    def write(folder: Path) -> None:
        made.append(json.dumps(make(), ensure_ascii=False))
        (folder / f"{kind}.json").write_text(made[0], encoding="utf-8")

    try:
        text = (made_once(cache_folder() / kind / key, write) / f"{kind}.json").read_text(encoding="utf-8")
    except OSError:
        text = made[0] if made else json.dumps(make())
    return json.loads(text)


def is_whole(folder: Path) -> bool:
    """Whether every file of a cached folder has the size that it was written with."""
    try:
        sizes: dict[str, int] = json.loads((folder / "sizes.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Kept:
    """Something in a cache: what `--clear` calls it, what it is, how many of it, its bytes and its folder."""

    name: str
    what: str
    items: int
    size: int
    folder: Path


def kept() -> list[Kept]:
    """What kitune, the hub's client and `datasets` keep on this machine, all of it under HF_HOME."""
    own = [
        Kept(name, what, len(list(folder.iterdir())), size_of(folder), folder)
        for name, what in KINDS.items()
        if (folder := cache_folder() / name).is_dir()
    ]
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repository: str(repository.repo_id))
    except CacheNotFound:
        repositories = []
    of_hub = [
        Kept(repository.repo_id, f"{repository.repo_type} of the hub", 1, repository.size_on_disk, repository.repo_path)
        for repository in repositories
    ]
    datasets = Path(os.environ.get("HF_DATASETS_CACHE") or cache_folder().parent / "datasets")
    prepared = [
        Kept(folder.name.replace("___", "/"), "prepared by datasets", 1, size_of(folder), folder)
        for folder in sorted(datasets.glob("*"))
        if folder.is_dir() and not folder.name.startswith("_")
    ]
    return own + of_hub + prepared


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def clear(name: str) -> list[Kept]:
    """Delete what has this name, or with `all` everything of kitune's own; what the hub gave is deleted by its name alone.

    Raises:
        UserError: nothing has this name.
    """
    there = kept()
    chosen = [entry for entry in there if entry.name == name or (name == "all" and entry.name in KINDS)]
    if not chosen and name != "all":
        listed = ", ".join(dict.fromkeys(entry.name for entry in there)) or "nothing"
        raise UserError(f"--clear {name}: nothing is called so; there is {listed}", fix="kitune cache shows all")
    for entry in chosen:
        shutil.rmtree(entry.folder)
    return chosen

"""Folders that are whole or not there: written beside their place, sealed with a manifest, moved in by one rename."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kitune.errors import UserError, command
from kitune.model.encoder import PUT_ASIDE
from kitune.training.direct import blocks

MANIFEST = "manifest.json"
STAGING = ".staging-"
RENAME_EXCHANGE, AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint, and the newer ones that were passed over, each with the reason."""

    folder: Path | None
    passed_over: tuple[str, ...]


def write_folder(target: Path, write: Callable[[Path], None], *, sealed: bool) -> None:
    """Put a folder with what `write` writes at `target`, replacing one that is there: the old or the new, never between.

    Args:
        write: fills the staging folder that it is given.
        sealed: add manifest.json with the size and sha256 of every file.
    """
    seal(stage(target, write), target, sealed=sealed)


def stage(target: Path, write: Callable[[Path], None]) -> Path:
    """The staging folder of `target`, with what `write` writes: in the system's cache, not yet on the disk."""
    staging = target.parent / (STAGING + target.name)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    write(staging)
    return staging


def seal(staging: Path, target: Path, *, sealed: bool) -> None:
    """Put a staging folder on the disk and move it to `target`."""
    for file in sorted(staging.iterdir()):
        sync(file)
    if sealed:
        (staging / MANIFEST).write_text(json.dumps(manifest_of(staging), indent=1))
        sync(staging / MANIFEST)
    sync(staging)
    move_in(staging, target)
    sync(target.parent)
    shutil.rmtree(staging, ignore_errors=True)


def move_in(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; where that exists the two change places in one step (Linux), or by way of a third name."""
    if not target.exists():
        staging.rename(target)
    elif not exchange(staging, target):
        away = target.with_name(PUT_ASIDE + target.name)
        shutil.rmtree(away, ignore_errors=True)
        target.rename(away)
        staging.rename(target)
        shutil.rmtree(away, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places atomically; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of no name
        return False
    done = renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    if done == 0:
        return True
    if ctypes.get_errno() in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(first))


def sync(path: Path) -> None:
    """Put a file or a folder's names on the disk; Windows opens no folder, and no file to read alone, for this."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def manifest_of(folder: Path) -> dict[str, dict[str, int | str]]:
    """Size and sha256 of every file."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }


def sha256(file: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    for block in blocks(file):
        digest.update(block)
    return digest.hexdigest()


def fault(folder: Path) -> str | None:
    """What is wrong with a sealed folder, None where it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size:,} bytes, not {expected['bytes']:,}"
            if sha256(file) != expected["sha256"]:
                return f"{name} was changed (sha256)"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    except OSError as error:
        return f"not readable ({error.strerror or error})"
    return None if manifest else f"{MANIFEST} is damaged"


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` updates."""
    return checkpoints / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def newest_first(checkpoints: Path) -> list[Path]:
    """The checkpoint folders; copies and files of like names are not among them."""
    folders = [path for path in checkpoints.glob("step-*") if path.name[5:].isdecimal() and path.is_dir()]
    return sorted(folders, key=step_of, reverse=True)


def newest_whole(checkpoints: Path) -> Found:
    """The newest checkpoint that its manifest proves whole."""
    passed_over: list[str] = []
    for folder in newest_first(checkpoints):
        wrong = fault(folder)
        if wrong is None:
            return Found(folder, tuple(passed_over))
        passed_over.append(f"{folder.name}: {wrong}")
    return Found(None, tuple(passed_over))


def set_aside(checkpoints: Path, step: int) -> None:
    """Rename damaged checkpoints after `step`: they must not stand among those that are kept."""
    for folder in newest_first(checkpoints):
        if step_of(folder) > step:
            target = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


def drop_old(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest; renamed first, so that half a deletion never looks like a damaged checkpoint."""
    for folder in newest_first(checkpoints)[keep:]:
        away = folder.with_name(PUT_ASIDE + folder.name)
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what an interrupted save has left, and bring back a folder that was moved away and not replaced."""
    for place in (folder, folder / "checkpoints"):
        for left in place.glob(STAGING + "*") if place.is_dir() else ():
            original = place / left.name.removeprefix(PUT_ASIDE).removeprefix(STAGING)
            if left.name.startswith(PUT_ASIDE) and not original.exists() and not original.name.startswith("step-"):
                left.rename(original)
            else:
                shutil.rmtree(left, ignore_errors=True)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin a save that the disk has no room for."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise no_room(folder, f"{needed_bytes / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are free")


def no_room(run: Path, reason: str) -> UserError:
    """The error for a save that did not succeed: the last whole state still stands."""
    found = newest_whole(run / "checkpoints")
    kept = f"the last whole checkpoint is {found.folder.name}" if found.folder else "no checkpoint was written yet"
    return UserError(
        f"{run}: saving failed: {reason}; {kept}",
        fix=f"mend that (make room, or make it writable), then {command('kitune', 'train', '--resume', run)}",
    )

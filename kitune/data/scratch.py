"""Files of this process alone, under HF_HOME: nobody else sees them, and they are gone when their user is, even by a kill."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.data.cache import cache_folder
from kitune.errors import UserError

OPEN_FILES = Path("/proc/self/fd")
# Arrays below this size stay in memory.
SMALL_BYTES = 2**20


def scratch_folder() -> Path | None:
    """Where such files go: on the disk that HF_HOME names, for /tmp is often in memory. None where it cannot be written."""
    folder = cache_folder() / "tables"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else None
    return None


@contextmanager
def scratch_file(folder: Path) -> Iterator[Path]:
    """The path of an empty file, there as long as the context is; who has it open or mapped keeps its bytes longer."""
    if OPEN_FILES.is_dir():
        with written(folder):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        with file:  # on Linux it never has a name
            yield OPEN_FILES / str(file.fileno())
        return
    with written(folder):
        descriptor, name = tempfile.mkstemp(dir=folder)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):  # Windows keeps a file that is mapped: `kitune cache` shows it
            os.unlink(name)


@contextmanager
def scratch_array(shape: tuple[int, ...], dtype: Any) -> Iterator[NDArray[Any]]:
    """An array of zeros in a scratch file, or in memory where it is small or no file can be written."""
    size, folder = int(np.prod(shape)) * np.dtype(dtype).itemsize, None
    if size > SMALL_BYTES:
        folder = scratch_folder()
    if folder is None:
        yield np.zeros(shape, dtype)
        return
    with scratch_file(folder) as path, path.open("r+b") as file:
        with written(folder):
            # Now, or a full disk would end the process at a later write.
            os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
        yield np.memmap(file, dtype, "r+", shape=shape)


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """For a write, and nothing else: what goes wrong with it ends in a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: what does not fit in memory is put there, and it cannot be written: {error.strerror or error}",
            fix="free some space, or set HF_HOME to a folder on a larger disk",
        ) from None


@contextmanager
def scratch_copy(blocks: Iterable[bytes]) -> Iterator[Path]:
    """The path of a scratch file that holds all blocks."""
    folder = scratch_folder() or Path(tempfile.gettempdir())
    with scratch_file(folder) as path:
        file = path.open("wb")
        try:
            for block in blocks:
                with written(folder):
                    file.write(block)
            with written(folder):
                file.flush()
        finally:
            with suppress(OSError):  # of the same write, once more
                file.close()
        yield path

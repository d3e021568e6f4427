"""Files past the page cache: every size, and a file system that does not have the way."""

import errno
import os
from io import FileIO
from pathlib import Path

import pytest

from kitune.training import direct
from kitune.training.direct import BLOCK_BYTES, NewFile, blocks

SIZES = [0, 1, 4095, 4096, 4097, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 12345]


def content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(range(size % 251))


def read(path: Path) -> bytes:
    return b"".join(bytes(block) for block in blocks(path))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1000, BLOCK_BYTES, 3 * BLOCK_BYTES])
def test_what_is_written_is_read(tmp_path: Path, size: int, piece: int) -> None:
    wanted = content(size)
    with NewFile(tmp_path / "file") as file:
        for begin in range(0, size, piece):
            file.write(memoryview(wanted)[begin : begin + piece])
    assert (tmp_path / "file").read_bytes() == wanted
    assert read(tmp_path / "file") == wanted


def test_a_file_system_without_it_takes_the_usual_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct.DIRECT:
        pytest.skip("this system has no O_DIRECT")
    real = os.open

    def refuses(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & direct.DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuses)
    with NewFile(tmp_path / "file") as file:
        file.write(memoryview(content(BLOCK_BYTES + 7)))
    assert read(tmp_path / "file") == content(BLOCK_BYTES + 7)


def test_a_disk_that_takes_it_only_when_opening_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    class Picky(FileIO):
        def write(self, data: memoryview) -> int:  # type: ignore[override]
            if not asked:
                asked.append(True)
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return super().write(data)

    monkeypatch.setattr(direct, "FileIO", Picky)
    if not direct.DIRECT:
        pytest.skip("this system has no O_DIRECT")
    with NewFile(tmp_path / "file") as file:
        file.write(memoryview(content(2 * BLOCK_BYTES)))
    assert (tmp_path / "file").read_bytes() == content(2 * BLOCK_BYTES)


def test_a_full_disk_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"), NewFile(Path("/dev/full")) as file:
        file.write(memoryview(content(BLOCK_BYTES)))


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(blocks(tmp_path / "none"))

"""A file as its readers see it: where its bytes are, what messages call it, and which format it is in."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from kitune.config import Layout
from kitune.data.scratch import scratch_copy
from kitune.errors import UserError

UTF8 = "utf-8-sig"  # with a byte order mark or without
WEB = ("https://", "http://")
# Without an answer for so long a server counts as silent.
WEB_SECONDS = 60.0


@dataclass(frozen=True)
class File:
    """Bytes on the disk.

    Attributes:
        name: what messages call it: a path as it was given, an address, or `standard input`.
        format: what its reader is called: `csv`, `jsonl` and so on, or the ending of a file that none reads.
    """

    path: Path
    name: str
    format: str
    packed: bool = False

    @property
    def title(self) -> str:
        """The name without its folders, for a sentence that is no error."""
        return self.name.rsplit("/", 1)[-1]

    def bytes(self) -> BufferedIOBase:
        """The bytes, unpacked."""
        return gzip.GzipFile(self.path) if self.packed else self.path.open("rb")

    def text(self, encoding: str = UTF8) -> TextIO:
        """The text, unpacked; line ends stay as they are."""
        unpacked: Any = self.bytes()
        return TextIOWrapper(unpacked, encoding, newline="")


def ending_of(name: str) -> str:
    """The ending that names the format: `csv` of `rows.CSV.gz`."""
    return Path(name.lower().removesuffix(".gz")).suffix.removeprefix(".")


def is_packed(name: str) -> bool:
    """Whether the name says gzip; of an address, the part before the question mark."""
    return name.partition("?")[0].lower().endswith(".gz")


def is_remote(source: object) -> bool:
    """Whether a name is an address: https://, hf://, s3:// and so on."""
    return isinstance(source, str) and "://" in source


@contextmanager
def opened(source: str | Path, layout: Layout) -> Iterator[File]:
    """The file at a path or an address. What is not on the disk, or can be read only once, is there as long as it is open.

    Raises:
        UserError: the address cannot be read.
    """
    name, path = str(source), Path(source)
    kind = ending_of(name.partition("?")[0]) if layout.format == "auto" else layout.format
    if is_remote(source):
        with fetched(name) as copy:
            yield File(copy, name, kind, is_packed(name))
    elif path.is_file():
        yield File(path, name, kind, is_packed(name))
    else:
        with path.open("rb") as pipe, spooled(pipe) as copy:
            yield File(copy, name, kind, is_packed(name))


@contextmanager
def in_utf8(file: File, encoding: str) -> Iterator[File]:
    """The file, or a copy of it in UTF-8: for readers there is one encoding.

    Raises:
        UnicodeDecodeError: its bytes are not of that encoding.
    """
    if encoding == UTF8:
        yield file
        return
    with file.text(encoding) as text:
        blocks = (block.encode() for block in iter(partial(text.read, 2**20), ""))
        with scratch_copy(blocks) as path:
            yield File(path, file.name, file.format)


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """A copy of what is at an address."""
    with ExitStack() as stack:
        try:
            blocks = from_web(address, stack) if address.startswith(WEB) else from_fsspec(address, stack)
            path = stack.enter_context(scratch_copy(blocks))
        except ImportError as error:  # says which package reads this kind of address
            raise UserError(f"{address}: {error}", fix="install it with pip") from None
        except Exception as error:  # every file system has errors of its own
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise UserError(f"{address}: cannot be read: {reason}", fix="check the address and your access") from None
        yield path


def from_web(address: str, stack: ExitStack) -> Iterator[bytes]:
    """What a web server sends: fsspec would want two more packages for it."""
    from urllib.request import Request, urlopen

    response = stack.enter_context(urlopen(Request(address, headers={"User-Agent": "kitune"}), timeout=WEB_SECONDS))
    told, sent = response.headers["Content-Length"], 0
    for block in blocks_of(response):
        sent += len(block)
        yield block
    if told is not None and sent < int(told):  # which urllib keeps to itself
        raise OSError(f"it breaks off after {sent:,} of {int(told):,} bytes")


def from_fsspec(address: str, stack: ExitStack) -> Iterator[bytes]:
    """What another file system has."""
    import fsspec

    return blocks_of(stack.enter_context(fsspec.open(address, "rb")))


@contextmanager
def spooled(stream: BinaryIO) -> Iterator[Path]:
    """A file with all that the stream holds."""
    with scratch_copy(blocks_of(stream)) as path:
        yield path


def blocks_of(stream: BinaryIO) -> Iterator[bytes]:
    """The stream, a mebibyte at a time."""
    return iter(partial(stream.read, 2**20), b"")

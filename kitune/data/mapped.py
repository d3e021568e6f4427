"""Tables larger than memory: where rows are many, they go to a file as they come, and are mapped from there."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa

from kitune.data.cache import cache_folder
from kitune.errors import UserError

# Tables below this size stay in memory; of larger ones, so much of the rows is in memory at a time.
MAPPED_BYTES = 8 * 2**20


def gathered(chunks: Iterable[pa.Table]) -> pa.Table:
    """The rows of all chunks as one table; a column that a chunk lacks is empty there.

    A table of more than MAPPED_BYTES lies in a file that nobody else sees, and that goes when the table does.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError: a column has several types.
        UserError: the disk is full.
    """
    blocks = in_blocks(chunks)
    first = next(blocks, pa.table({}))
    folder = writable_folder() if first.nbytes > MAPPED_BYTES else None
    whole = chain([first], blocks)
    del first  # or it would be in memory beside all that follow
    return joined(whole if folder is None else in_files(whole, folder))


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables one below the other, without a copy where their columns agree."""
    return pa.concat_tables(tables, promote_options="permissive")


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """What goes wrong with a write, and with nothing else, ends in a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: the rows of a large table do not fit there: {error.strerror or error}",
            fix="free some space, or set HF_HOME to a folder on a larger disk",
        ) from None


def in_blocks(chunks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Chunks joined to blocks of about MAPPED_BYTES."""
    pending: list[pa.Table] = []
    size = 0
    for chunk in chunks:
        pending.append(chunk)
        size += chunk.nbytes
        if size > MAPPED_BYTES:
            yield joined(pending)
            pending, size = [], 0
    if pending:
        yield joined(pending)


def writable_folder() -> Path | None:
    """Where large tables go; None where nothing can be written there."""
    folder = cache_folder() / "tables"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else None
    return None


def in_files(blocks: Iterable[pa.Table], folder: Path) -> Iterator[pa.Table]:
    """Blocks of the same columns in one file each, mapped."""
    for schema, same in groupby(blocks, key=lambda block: block.schema):
        with written(folder):
            descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            os.close(descriptor)
            with pa.ipc.new_file(name, schema) as writer:
                for block in same:
                    with written(folder):
                        writer.write_table(block)
                with written(folder):
                    writer.close()
            yield pa.ipc.open_file(pa.memory_map(name)).read_all()
        finally:
            with suppress(OSError):  # Windows keeps a file that is mapped: `kitune cache` shows it
                os.unlink(name)

"""Tables larger than memory: where rows are many, they go to a file as they come, and are mapped from there."""

from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa

from kitune.data.scratch import scratch_file, scratch_folder, written

# Tables below this size stay in memory; of larger ones, so much of the rows is in memory at a time.
MAPPED_BYTES = 8 * 2**20


def gathered(chunks: Iterable[pa.Table]) -> pa.Table:
    """The rows of all chunks as one table; a column that a chunk lacks is empty there.

    A table of more than MAPPED_BYTES lies in a scratch file, which goes when the table does.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError: a column has several types.
        UserError: the disk is full.
    """
    blocks = in_blocks(chunks)
    first = next(blocks, pa.table({}))
    folder = scratch_folder() if first.nbytes > MAPPED_BYTES else None
    whole = chain([first], blocks)
    del first  # or it would be in memory beside all that follow
    return joined(whole if folder is None else in_files(whole, folder))


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables one below the other, without a copy where their columns agree."""
    tables = list(tables)
    # Permissive is not a superset: it refuses two columns of one name.
    agree = all(table.schema.equals(tables[0].schema) for table in tables)
    return pa.concat_tables(tables, promote_options="none" if agree else "permissive")


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


def in_files(blocks: Iterable[pa.Table], folder: Path) -> Iterator[pa.Table]:
    """Blocks of the same columns in one file each, mapped."""
    for schema, same in groupby(blocks, key=lambda block: block.schema):
        with scratch_file(folder) as path:
            with written(folder):
                sink = pa.OSFile(str(path), "wb")
                # A stream, for a column of categories may have others in each block; a file of Arrow's has one list of them.
                writer = pa.ipc.new_stream(sink, schema)
            for block in same:
                with written(folder):
                    writer.write_table(block)
            with written(folder):
                writer.close()
                sink.close()
            yield pa.ipc.open_stream(pa.memory_map(str(path))).read_all()

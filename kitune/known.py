"""Which texts a run was made with, so that an evaluation can tell the ones that are new to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitune.data.table import Rows
from kitune.errors import numbered
from kitune.run_folder import replace_file

# In a run's folder: keys of the texts that it was trained on, the validation part that was cut from them included; and of those
# that chose its weights, where they came in a file of their own.
TRAINED, CHOOSING = "train_texts.npy", "valid_texts.npy"
Keys = NDArray[np.uint64]  # of texts (see `text_keys`)


@dataclass(frozen=True)
class KnownTexts:
    """Keys of the texts that a run was trained on, and of others that chose its weights."""

    trained: Keys
    choosing: Keys

    def new(self, keys: Keys) -> Rows | None:
        """The rows whose texts the run was not trained on; None where all are so.

        Args:
            keys: of the rows' texts, (rows,).
        """
        rows = np.flatnonzero(~np.isin(keys, self.trained))
        return rows if len(rows) < len(keys) else None

    def notes(self, keys: Keys) -> Iterator[str]:
        """What there is to say of these texts."""
        new = self.new(keys)
        if new is not None and not len(new):
            yield "it was trained on all of these texts: these scores say nothing about new ones"
        # None of them is among those that it was trained on.
        if chose := int(np.isin(keys, self.choosing).sum()):
            yield f"{numbered(chose, 'row')} chose its weights, which flatters it on them"

    def save(self, run: Path) -> None:
        """Write them into the folder of a run."""
        for name, keys in ((TRAINED, self.trained), (CHOOSING, self.choosing)):
            if name == TRAINED or len(keys):
                replace_file(run / name, array_bytes(keys))


def known_texts(run: Path) -> KnownTexts | None:
    """What a run has noted; None where it did not, or not to the end."""
    trained, choosing = read_keys(run / TRAINED), read_keys(run / CHOOSING)
    return None if trained is None else KnownTexts(trained, trained[:0] if choosing is None else choosing)


def read_keys(path: Path) -> Keys | None:
    """The keys in a file; None where it is not there, or not whole."""
    try:
        keys: Keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return keys


def array_bytes(keys: Keys) -> bytes:
    """The content of an .npy file."""
    content = BytesIO()
    np.save(content, keys)
    return content.getvalue()

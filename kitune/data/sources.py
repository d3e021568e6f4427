"""What a name or an object holds: a file, a folder or a hub data set with its parts train, valid and test."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kitune.config import Layout
from kitune.data.files import ending_of, is_remote
from kitune.data.hub import load_hub, looks_like_hub_name, require_datasets
from kitune.data.read import FORMATS, READERS, Source, read_table
from kitune.data.table import Table
from kitune.errors import UserError, command

PARTS = ("train", "valid", "test")
# How the parts are called in folders, in a DatasetDict and on the hub.
SPELLINGS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def parts_in(source: Source) -> dict[str, Source]:
    """The sources in `source` by part; a file, a frame or any other single table is `train`.

    Splits with other names keep them.

    Raises:
        UserError: there is no such file, folder or data set, or no data in it.
    """
    if isinstance(source, Mapping):
        return by_part(source, "data")
    if not isinstance(source, str | Path) or is_remote(source):
        return {"train": source}
    path = Path(source)
    if os.path.isdir(path):  # which is false, and no error, of a text that is too long for a name
        return parts_in_folder(path)
    if not os.path.exists(path) and ending_of(path.name) not in READERS and looks_like_hub_name(str(source)):
        return by_part(load_hub(str(source)), str(source))
    return {"train": source}


def by_part(splits: Mapping[Any, Source], name: str) -> dict[str, Source]:
    """The splits by the names of the parts.

    Raises:
        UserError: two of them are the same part.
    """
    found: dict[str, Source] = {}
    for split, source in splits.items():
        part = SPELLINGS.get(str(split).lower(), str(split))
        if part in found:
            raise UserError(f"{name}: two parts are {part}: {', '.join(map(str, splits))}", fix=f"keep one {part}")
        found[part] = source
    return found


def parts_in_folder(folder: Path) -> dict[str, Source]:
    """The files `train.*`, `valid.*` and `test.*` of a folder or its `data` folder, or what `save_to_disk` wrote there."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return saved_to_disk(folder)
    places = [place for place in (folder, folder / "data") if place.is_dir()]
    for place in places:
        files: dict[str, list[Path]] = {}
        for child in sorted(place.iterdir()):
            part = SPELLINGS.get(SHARD.sub("", stem_of(child)))
            if part is not None and ending_of(child.name) in READERS:
                files.setdefault(part, []).append(child)
        for part, paths in files.items():
            if len(paths) > 1 and not all(SHARD.search(stem_of(path)) for path in paths):
                raise UserError(
                    f"{folder}: more than one file is {part}: {', '.join(path.name for path in paths)}",
                    fix=f"give one of them: {paths[0]}",
                )
        if files:
            return {part: paths[0] if len(paths) == 1 else tuple(paths) for part, paths in files.items()}
    if any((folder / name).exists() for name in ("record.json", "repeats.json", "config.json")):
        raise UserError(
            f"{folder}: a run or a model, not data",
            fix=f"give a file of rows: {FORMATS}; --model takes a run or a model",
        )
    inside = sorted(child.name for place in places for child in place.iterdir() if ending_of(child.name) in READERS)
    raise UserError(
        f"{folder}: a folder without train.*, valid.* or test.*"
        + (f"; it holds {', '.join(inside[:5])}" if inside else " and no data in it"),
        fix=f"give one of its files: {folder / inside[0]}" if inside else f"give a file: {FORMATS}",
    )


def stem_of(path: Path) -> str:
    """`train-00000-of-00002` of `Train-00000-of-00002.jsonl.gz`."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[0]


def saved_to_disk(folder: Path) -> dict[str, Source]:
    """The data set or its splits in a folder of `datasets`' `save_to_disk`."""
    require_datasets(str(folder))
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: not a whole saved data set: {error}", fix="save it again: save_to_disk") from None
    return by_part(loaded, str(folder)) if isinstance(loaded, Mapping) else {"train": loaded}


def read_part(
    source: Source, part: str | None, *, layout: Layout, name: str = "data", otherwise: str = "auto"
) -> Table:
    """The table of one part of `source`; it must be named where there are several.

    Raises:
        UserError: there is no such part, or it must be named.
    """
    parts = parts_in(source)
    place = source if isinstance(source, str | Path) else name
    chosen = only_part(parts, part, str(place))
    return read_table(parts[chosen], layout=layout, name=name, otherwise=otherwise)


def only_part(parts: Mapping[str, Source], told: str | None, place: str) -> str:
    """The part that was told, in any spelling, or the only one.

    Raises:
        UserError: there is no such part, or it must be named.
    """
    part = SPELLINGS.get(told.lower(), told) if told else next(iter(parts)) if len(parts) == 1 else None
    if part is None or part not in parts:
        listed = ", ".join(parts)
        what = f"there is no part {told!r}; there are {listed}" if told else f"it has the parts {listed}"
        fix = f"choose one: {command('--split', list(parts)[-1])}; for --valid and --test, give the part's own file"
        raise UserError(f"{place}: {what}", fix=fix)
    return part

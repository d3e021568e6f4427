"""What a data set or a model is, without training and, for files, without torch."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kitune.config import DataOptions, RunOptions, with_values
from kitune.data.columns import choose_columns, is_text, require_columns, require_own_names
from kitune.data.hub import looks_like_hub_name
from kitune.data.labels import guess_task, label_lists, label_names, name_of, quoted
from kitune.data.read import Source, read_table
from kitune.data.sources import only_part, parts_in
from kitune.data.table import Table, lengths_of
from kitune.errors import UserError, numbered
from kitune.metrics import Metrics
from kitune.notebook import Block, Grid, Shown, in_words

QUARTILES = (0, 25, 50, 75, 100)
# Labels that are shown.
MOST_LABELS = 100


@dataclass(frozen=True)
class DataFacts(Shown):
    """What `kitune inspect DATA` shows; `as_json` is its whole.

    Attributes:
        columns: name, type, filled rows and, of strings, quartiles of their lengths in characters.
        labels: rows of each label, in the order of the outputs.
        first: the first rows, as they are.
    """

    source: str
    rows: int
    splits: Mapping[str, int]
    columns: list[dict[str, Any]]
    task: str | None
    text: tuple[str, ...]
    label: str | None
    labels: Mapping[str, int]
    first: list[dict[str, Any]]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def blocks(self) -> list[Block]:
        """Its parts, columns, labels and first rows."""
        size = f"{numbered(self.rows, 'row')}, {numbered(len(self.columns), 'column')}"
        blocks: list[Block] = [f"{self.source}: {size}"]
        if self.splits:
            blocks.append("parts: " + ", ".join(f"{part} {rows:,}" for part, rows in self.splits.items()))
        blocks += self.notes
        header = ("column", "type", "filled", "different", "characters (least, quartiles, most)")
        rows = [
            (
                column["name"] or "(no name)",
                column["type"],
                column["filled"],
                column.get("different", ""),
                "  ".join(f"{size:,}" for size in column.get("characters", ())),
            )
            for column in self.columns
        ]
        blocks += ["", Grid(header, rows)]
        if self.label is not None:
            blocks += ["", f"task: {self.task}; label: {self.label}; text: {' and '.join(self.text)}"]
        if self.labels:
            whole = max(1, sum(self.labels.values()))
            shares = [(quoted(name), count, f"{count / whole:.1%}") for name, count in self.labels.items()]
            blocks.append(Grid(("label", "rows", "share"), shares[:MOST_LABELS]))
            if len(shares) > MOST_LABELS:
                blocks.append(f"and {numbered(len(shares) - MOST_LABELS, 'label')} more; --json has all")
        for number, row in enumerate(self.first):
            cells = [(name or "(no name)", value) for name, value in row.items()]
            blocks += ["", f"row {number}", Grid(("", ""), cells)]
        return blocks


class ModelFacts(dict[str, Any], Shown):
    """What `kitune inspect MODEL` shows, by name."""

    def as_json(self) -> dict[str, Any]:
        return dict(self)

    def blocks(self) -> list[Block]:
        """A fact a line."""
        rows: list[tuple[str, Any]] = []
        for name, value in self.items():
            if isinstance(value, Mapping):
                rows += [(name, ""), *((f"- {part}", number) for part, number in value.items())] if value else []
            elif value not in (None, []):
                rows.append((name, ", ".join(value) if isinstance(value, list) else value))
        return [Grid(("", ""), [(name, in_words(value)) for name, value in rows])]


def inspect(
    what: Source,
    *,
    split: str | None = None,
    where: str | None = None,
    count: int = 5,
    options: Mapping[str, Any] | None = None,
) -> DataFacts | ModelFacts:
    """What a data set or a model is.

    Args:
        what: `starter`, the folder of a run or a model, a hub name; or whatever `kitune.train` takes as data.
        split, where, count: of data alone (see `inspect_data`).
        options: of data, by name: `{"data.encoding": "cp932"}`.

    Raises:
        UserError: there is no such data or model.
    """
    data = with_values(RunOptions(), options or {}).data
    if isinstance(what, str | Path) and is_model(str(what)):
        for name, told in (("--split", split), ("--where", where)):
            if told is not None:
                raise UserError(f"{name} {told}: {what} is a model, which has no rows", fix="leave it out")
        name, _, revision = (str(what), "", "") if Path(what).exists() else str(what).partition("@")
        return inspect_model(name, revision or None)
    return inspect_data(what, split=split, where=where, count=count, options=data)


def inspect_data(
    source: Source,
    *,
    split: str | None = None,
    where: str | None = None,
    count: int = 5,
    options: DataOptions | None = None,
) -> DataFacts:
    """Rows, columns, labels and the first rows of a data set.

    Args:
        split: the part to look at, where there are several; without it train, or the first one.
        where: `COLUMN=VALUE`: only rows with this value.
        count: how many rows to show.

    Raises:
        UserError: there is no such data, part or column.
    """
    options = options or DataOptions()
    parts = parts_in(source)
    usual = "train" if "train" in parts else next(iter(parts))
    told = only_part(parts, split or usual, str(source) if isinstance(source, str | Path) else "data")
    tables = {part: read_table(inner, layout=options, name=part) for part, inner in parts.items()}
    table = tables[told]
    require_own_names(table)
    if where is not None:
        table = rows_where(table, where)
    text: tuple[str, ...] = ()
    label: str | None = None
    task: str | None = None
    try:
        columns, _ = choose_columns(tables[told], options)
        text, label = columns.text, columns.label
    except UserError:  # data without labels may be looked at too
        pass
    labels: dict[str, int] = {}
    if label is not None:
        values = table.values(label)
        task = guess_task(values)[0]
        labels = label_counts(values, task, options.label_separator, table.classes.get(label))
    return DataFacts(
        table.source,
        len(table),
        {part: len(inner) for part, inner in tables.items()} if len(tables) > 1 else {},
        [column_facts(table, name) for name in table.columns],
        task,
        text,
        label,
        labels,
        table.data.slice(0, count).to_pylist(),
        table.notes,
    )


def rows_where(table: Table, where: str) -> Table:
    """The rows with `COLUMN=VALUE`."""
    column, equals, value = where.partition("=")
    if not equals:
        raise UserError(f"--where {where}: it has no '='", fix="write it as --where COLUMN=VALUE")
    require_columns(table, [column])
    rows = [row for row, found in enumerate(table.values(column)) if ("" if found is None else str(found)) == value]
    if not rows:
        values = ", ".join(sorted({str(found) for found in table.values(column)[:10_000]})[:8])
        raise UserError(f"--where {where}: no row has this value; there are {values}", fix="choose one of them")
    return table.take(np.asarray(rows, dtype=np.int64))


def column_facts(table: Table, name: str) -> dict[str, Any]:
    """Type, filled rows and quartiles of one column."""
    data = table.data.column(name)
    facts: dict[str, Any] = {"name": name, "type": type_name(data.type)}
    if is_text(table, name):
        sizes = lengths_of(data)
        facts["filled"] = int((sizes > 0).sum())
        facts["characters"] = [int(size) for size in np.percentile(sizes, QUARTILES)]
        facts["different"] = len(pc.unique(data))
    else:
        facts["filled"] = len(data) - data.null_count
    return facts


def type_name(kind: pa.DataType) -> str:
    """An Arrow type in a word."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "number"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return "record" if pa.types.is_struct(kind) else "empty" if pa.types.is_null(kind) else str(kind)


def label_counts(values: list[Any], task: str, separator: str, classes: tuple[str, ...] | None) -> dict[str, int]:
    """Rows of each label; none for numbers."""
    if task == "regression":
        return {}
    if task == "multi-label":
        counts = Counter(name for labels in label_lists(values, separator) for name in labels)
    else:
        counts = Counter(name_of(value) for value in values if value not in (None, ""))
    names = classes or label_names(task, values, separator)  # type: ignore[arg-type]
    return {name: counts.get(name, 0) for name in names}


def is_model(name: str) -> bool:
    """Whether a name is a model's: `starter`, a folder with a config, a run, or a hub name that is no data set."""
    path = Path(name)
    if name == "starter" and not path.exists():
        return True
    if path.is_dir():
        return any((folder / "config.json").exists() for folder in (path, path / "best"))
    return not path.exists() and looks_like_hub_name(name) and ":" not in name and on_hub_as_model(name)


def on_hub_as_model(name: str) -> bool:
    """Whether the hub, or its cache where it cannot be reached, has a model of this name."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    repo = name.partition("@")[0]
    try:
        HfApi().model_info(repo, timeout=10)
    except (HfHubHTTPError, HFValidationError):
        return False
    except (OfflineModeIsEnabled, httpx.TransportError):
        return isinstance(try_to_load_from_cache(repo, "config.json"), str)
    return True


def inspect_model(name: str, revision: str | None = None) -> ModelFacts:
    """Architecture, sizes, tokenizer, label names and pooling of a model.

    Raises:
        UserError: there is no such model.
    """
    from kitune.model.encoder import load_config, load_tokenizer, model_folder, most_tokens, shape_of

    folder = model_folder(name, revision)
    config = load_config(folder)
    network, tokenizer = shape_of(config), load_tokenizer(folder)
    parts: dict[str, int] = {}
    for parameter, tensor in network.named_parameters():
        part = parameter.partition(".")[0]
        parts[part] = parts.get(part, 0) + tensor.numel()
    names = [str(label) for _, label in sorted(config.id2label.items())]
    trained = any("For" in kind for kind in config.architectures or []) and not all(
        n.startswith("LABEL_") for n in names
    )
    from_run = (folder / "run.yaml").exists()
    facts = {
        "model": name,
        "folder": str(folder),
        "architecture": (config.architectures or [type(network).__name__])[0],
        "type": config.model_type,
        "layers": getattr(config, "num_hidden_layers", None),
        "heads": getattr(config, "num_attention_heads", None),
        "width": getattr(config, "hidden_size", None),
        "inner width": getattr(config, "intermediate_size", None),
        "vocabulary": getattr(config, "vocab_size", None),
        "parameters": sum(parts.values()),
        "parameters by part": parts,
        "positions": getattr(config, "max_position_embeddings", None),
        "most tokens": most_tokens(network, tokenizer, from_run=from_run),
        "tokenizer": type(tokenizer).__name__ + ("" if tokenizer.is_fast else ", slow"),
        "tokenizer algorithm": algorithm_of(tokenizer),
        "lower case": getattr(tokenizer, "do_lower_case", None),
        "labels": names if trained else [],
        "pooling": pooling_of(folder),
        "metrics": metrics_of(folder) if from_run else {},
    }
    return ModelFacts(facts)


def algorithm_of(tokenizer: Any) -> str | None:
    """WordPiece, BPE or Unigram."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else type(backend.model).__name__


def pooling_of(folder: Path) -> str | None:
    """How a sentence-transformers folder makes one vector of a text."""
    path = next(
        (root / "1_Pooling" / "config.json" for root in (folder, folder.parent) if (root / "1_Pooling").is_dir()), None
    )
    if path is None or not path.exists():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    on = [name.removeprefix("pooling_mode_") for name, chosen in told.items() if chosen is True and "_mode_" in name]
    return " and ".join(mode.removesuffix("_tokens").removesuffix("_token") for mode in on) or told.get("pooling_mode")


def metrics_of(folder: Path) -> Metrics:
    """The metrics that a run was chosen by."""
    from kitune.run_folder import read_metrics

    return {name: value for name, value in read_metrics(folder).items() if isinstance(value, float)}

"""Every option of a run: one tree of frozen models. The YAML file, `--set` and the docs all read names and defaults here."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from kitune.errors import UserError
from kitune.findings import CODES

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
TaskName = Literal["single-label", "multi-label", "regression"]
Precision = Literal["fp32", "bf16", "fp16"]
ScheduleName = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]


class Options(BaseModel):
    """A frozen group of options; a name that it does not know is an error."""

    # Columns, labels and even a branch of the hub may be called 1, 2, 3.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), coerce_numbers_to_str=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def one_is_a_list_of_one(cls, value: Any, info: ValidationInfo) -> Any:
        """`doctor.allow=leak` for `doctor.allow=[leak]`."""
        kind = cls.model_fields[str(info.field_name)].annotation
        takes_list = any(get_origin(one) is tuple for one in (kind, *get_args(kind)))
        return (value,) if takes_list and isinstance(value, str | int | float) else value


class Layout(Options):
    """How a file says its rows."""

    format: Literal["auto", "csv", "tsv", "txt", "jsonl", "json", "parquet", "xlsx", "conll"] = Field(
        "auto",
        description="Format of the files; auto: as their ending says, and standard input as its first line shows.",
    )
    encoding: str = Field(
        "auto",
        description="Encoding of text files; auto: UTF-8, else the one that the characters show, said aloud.",
    )
    delimiter: Literal[",", ";", "\t", "|"] | Auto = Field(
        "auto",
        description="What parts the fields of .csv, .tsv and .txt files; auto: the one that the first lines show.",
    )
    header: bool | Auto = Field(
        "auto",
        description="Whether the first line names the columns; auto: unless it is a row like the others. Without a header "
        "they are called 1, 2, 3 and so on.",
    )
    ragged: bool = Field(
        False,
        description="Rows may have fewer fields than the first, which are then empty, or more, in columns of their own.",
    )
    label_first: bool = Field(
        False,
        description="The first word of each line of a .txt file is its label (as in fastText's format, which is found).",
    )
    sheet: str | None = Field(None, description="The sheet of an .xlsx file; null: the first one.")


class DataOptions(Layout):
    """Where the rows are and what their columns mean."""

    train: str | None = Field(None, description="File with the rows to learn from.")
    valid: str | None = Field(
        None, description="File that chooses the best weights; without it a part of train is split off."
    )
    test: str | None = Field(None, description="File that is scored once, at the end, and chooses nothing.")
    text: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=2, description="One text column, or two for a pair; guessed where not given."
    )
    label: str | None = Field(None, description="The label column; guessed where not given.")
    id: str | None = Field(None, description="A column that names a row; kept beside its predictions.")
    weight: str | None = Field(None, description="A column with each row's weight in the loss, 0 or more.")
    group: str | None = Field(
        None,
        description="Rows of one group (one customer) never stand on both sides of a split, and intervals draw them together.",
    )
    labels: tuple[str, ...] | None = Field(
        None, min_length=1, description="Label names in order; a label that is a number may then be a position in it."
    )
    label_separator: Annotated[str, Field(min_length=1)] | Auto = Field(
        "auto", description="What parts the labels of one row in a multi-label file."
    )
    valid_share: float = Field(
        0.1, gt=0, lt=1, description="Share of train that is split off where valid is not given."
    )
    limit: int | None = Field(
        None, ge=2, description="At most so many rows of each part: a trial run, stratified and seeded."
    )
    max_length: Annotated[int, Field(ge=8)] | Auto = Field(
        "auto", description="Tokens of one sequence, in which a text (or pair) is read."
    )
    long_texts: Literal["cut", "head-tail", "windows"] = Field(
        "cut",
        description="Of a text that is longer: leave out its end, leave out its middle, or read it in overlapping windows "
        "and average what the model says of each.",
    )
    most_windows: Count = Field(
        16, description="Windows of one row; where they would be more, so many are spread over it, with gaps."
    )

    @field_validator("labels")
    @classmethod
    def are_different(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
        return names


class TrainOptions(Options):
    """How the network learns."""

    seed: int = Field(
        1, ge=0, le=2**32 - 1, description="Decides the split, the new head, the order of rows and dropout."
    )
    epochs: Annotated[int, Field(ge=0)] | Auto = Field(
        "auto", description="Passes over the training rows; 0 only writes the untrained model."
    )
    learning_rate: Rate | Auto = Field("auto", description="Peak learning rate, reached at the end of warm-up.")
    head_rate: Annotated[float, Field(gt=0)] | Auto = Field(
        "auto",
        description="The learning rate of what lies above the encoder's layers, in multiples of learning_rate; auto: 5 for a "
        "new head, which has more to learn than they have, else 1.",
    )
    resume_learning_rate: Rate | Auto = Field(
        "auto", description="Peak rate of the epochs that a finished run gets on top; auto: half of learning_rate."
    )
    batch_rows: Count | Auto = Field(
        "auto", description="Rows of one optimizer step, over all micro-batches and processes."
    )
    batch_tokens: int | None = Field(
        None, ge=1, description="Instead of batch_rows: tokens of one optimizer step, padding counted."
    )
    accumulation: int = Field(1, ge=1, description="Micro-batches into which each process cuts its part of a step.")
    sampler: Literal["bucketed", "random"] = Field("bucketed", description="Rows of like length together, or any rows.")
    schedule: ScheduleName = Field(
        "linear", description="Course of the learning rate after warm-up; names as in transformers."
    )
    schedule_options: dict[str, float | Annotated[str, Field(strict=True)]] = Field(
        default_factory=dict,
        description="What transformers calls lr_scheduler_kwargs: num_cycles, min_lr_rate, power, ...",
    )
    warmup_share: float = Field(0.06, ge=0, lt=1, description="Share of all optimizer steps spent warming up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of matrices; biases and norms have none.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: decay of the first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW: decay of the second moment.")
    epsilon: float = Field(1e-8, gt=0, description="AdamW: added to the root of the second moment.")
    clip: float | None = Field(1.0, gt=0, description="Largest norm of all gradients together; null: no clipping.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all labels (single-label)."
    )
    class_weights: Literal["auto"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="Weight of each label by name; auto: inverse to its frequency (single-label)."
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="Every dropout of the model; null: as its config says.")
    patience: Count | None = Field(
        None,
        description="Evaluations without a better score before it stops; null: never, for the weights go on getting better "
        "while the rate falls to its end.",
    )
    best_metric: str = Field(
        "auto",
        description="The metric on valid that chooses best/: loss, one of the task's, or one of compute_metrics.",
    )
    more_is_better: bool | Auto = Field(
        "auto", description="Which way best_metric is better; it must be told for a metric of compute_metrics."
    )
    best_within: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=True,
        description="Standard errors by which a later evaluation may be worse and still replace best/ (of a loss, RMSE, "
        "MAE or a metric of your own: none, it must be equal): a difference that small is noise. 0: only a better score does.",
    )
    compute_metrics: str | None = Field(
        None, description="FILE.py or FILE.py:NAME, a function from an EvalPrediction to numbers by name, as Trainer's."
    )
    include_for_metrics: tuple[Literal["inputs", "loss"], ...] = Field(
        (), description="What else compute_metrics is given: .inputs (token ids) and .losses (of each row)."
    )
    evaluate_every: Literal["epoch"] | Count = Field(
        "epoch", description="Evaluate after each epoch, or also every so many steps."
    )
    checkpoint_every: Literal["epoch"] | Count = Field(
        "epoch", description="Checkpoint after each epoch, or also every so many steps."
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def are_by_name(cls, weights: Any) -> Any:
        """Labels that are truth values have the names True and False."""
        return {str(name): weight for name, weight in weights.items()} if isinstance(weights, dict) else weights

    @field_validator("class_weights")
    @classmethod
    def are_not_all_nothing(cls, weights: Any) -> Any:
        if isinstance(weights, dict) and not any(weights.values()):
            raise ValueError("some weight must be above 0")
        return weights


class EngineOptions(Options):
    """What the machine does; none of it changes the mathematics, but for rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs.")
    precision: Precision | Auto = Field("auto", description="Of forward and backward; master weights are always fp32.")
    threads: Annotated[int, Field(ge=1, le=4096)] | Auto = Field("auto", description="CPU threads of each process.")
    plain: bool = Field(False, description="Transformers' and torch's own code alone: every fast path off.")
    deterministic: bool = Field(False, description="On CUDA: only kernels that give the same bits again.")
    gradient_checkpointing: bool = Field(False, description="Less memory for a second forward of each layer.")
    keep_checkpoints: int = Field(2, ge=1, description="The newest checkpoints that are kept.")
    log_every: int = Field(1, ge=1, description="A line in events.jsonl every so many steps.")
    cache: bool = Field(
        True, description="Keep token ids under HF_HOME, so that the next run on these rows starts at once."
    )


class DoctorOptions(Options):
    """What the doctor lets pass."""

    allow: tuple[str, ...] = Field(
        (),
        description="Codes of findings that are not said and stop no training; missing-labels: rows without one are dropped.",
    )

    @field_validator("allow")
    @classmethod
    def are_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if code not in CODES:
                near = difflib.get_close_matches(code, CODES, n=1)
                raise ValueError(f"there is no finding {code!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return codes


class RunOptions(Options):
    """All options of one training."""

    model: str = Field("starter", description="`starter`, a folder, an earlier run, or a hub name.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    task: TaskName | Auto = Field("auto", description="Guessed from the label column where not given.")
    data: DataOptions = Field(default_factory=lambda: DataOptions())
    train: TrainOptions = Field(default_factory=lambda: TrainOptions())
    engine: EngineOptions = Field(default_factory=lambda: EngineOptions())
    doctor: DoctorOptions = Field(default_factory=lambda: DoctorOptions())


SECTIONS = tuple(name for name, value in RunOptions() if isinstance(value, Options))
# What may differ between a run and its resumption: the end of the training, where it runs, and what it writes.
FREE_AT_RESUME = frozenset(
    {
        "model",  # its content is compared, not its place
        "revision",
        "train.epochs",
        "train.resume_learning_rate",
        "train.checkpoint_every",
        "train.compute_metrics",  # likewise
        "engine.gradient_checkpointing",
        "engine.log_every",
        "engine.device",
        "engine.threads",
        "engine.keep_checkpoints",
        "engine.cache",
        "doctor.allow",
    }
)


# Of several trainings, some of which are finished: all are to be made alike.
FREE_OF_REPEATS = frozenset(name for name in FREE_AT_RESUME if name.startswith(("engine.", "doctor.")))


def option_names(model: type[Options] = RunOptions, prefix: str = "") -> Iterator[str]:
    """Every option as `section.key`."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            yield from option_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def flat(options: Options, prefix: str = "") -> dict[str, Any]:
    """`section.key` -> value."""
    values: dict[str, Any] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Options) else {prefix + name: value}
    return values


def with_values(options: RunOptions, values: Mapping[str, Any], *, where: str = "--set") -> RunOptions:
    """`options` with the values of `section.key` names, or of sections, replaced, and checked as a whole."""
    tree = options.model_dump()
    known = list(option_names())
    for name, value in by_whole_name(values, where).items():
        if name not in known:
            raise unknown_option(name, [*known, *SECTIONS] if isinstance(value, dict) else known, where)
        *sections, key = name.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        branch[key] = value
    return checked(tree, where)


def unknown_option(name: str, known: Sequence[str], where: str) -> UserError:
    """The error for a misspelt option, with the nearest one."""
    near = nearest_option(name, known)
    fix = f"did you mean {near}?" if near else "kitune train --options lists every option"
    return UserError(f"{where}: there is no option {name!r}", fix=fix)


def nearest_option(name: str, known: Sequence[str]) -> str | None:
    """The option that a name seems to mean: by the whole name, or by its last part."""
    last, key = {option.rpartition(".")[2]: option for option in known}, name.rpartition(".")[2]
    if key in last:
        return last[key]
    near = difflib.get_close_matches(name, known, n=1)
    near += [last[other] for other in difflib.get_close_matches(key, list(last), n=1)]
    return near[0] if near else None


def checked(tree: Mapping[str, Any], where: str) -> RunOptions:
    """`tree` as `RunOptions`; a value that does not fit is named with its option."""
    try:
        return RunOptions.model_validate(tree)
    except ValidationError as error:
        errors = error.errors()
        # Of a number that may also be a word, the bound says more than "not that word".
        first = next((one for one in errors if one["type"].startswith(("greater", "less"))), errors[0])
        name = ".".join(
            str(part) for part in first["loc"] if str(part) in " ".join(option_names()).replace(".", " ").split()
        )
        schema = dict(option_schemas()).get(name)
        reason = first["msg"].removeprefix("Value error, ")
        if schema is not None and first["type"] != "value_error":
            reason = f"it takes {allowed(schema)}"
        place = "" if where == "--set" and name else f"{where}: "
        raise UserError(
            f"{place}{name or 'the options'}: {reason} (given: {first['input']!r})",
            fix="kitune train --options shows each option with its type, range and default",
        ) from None


# Delimiters, which YAML would not take for text.
LITERALLY = {",": ",", "|": "|", r"\t": "\t", "\t": "\t"}


def parse_set(words: Sequence[str]) -> dict[str, Any]:
    """`["train.epochs=3", "data.labels=[a, b]"]` -> values by name; a value is read as YAML."""
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--set {word}: it has no '='", fix="write it as --set section.key=value")
        try:
            value = LITERALLY[text] if text in LITERALLY else yaml.load(text, Loader)
        except (yaml.YAMLError, ValueError):  # a number of 5,000 digits
            value = None
        if value is None and text.strip().lower() not in ("", "~", "null"):  # YAML takes `#1 String` for a comment
            raise UserError(f"--set {name}: {text!r} is not a value", fix="quote it: --set 'section.key=\"value\"'")
        values[name.strip()] = value
    return values


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `no`, `2:1`, `010`, `1_000` and dates are texts, `5e-5` is a number; no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A table whose keys differ."""
        seen = list[Any]()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} stands there twice, and only the last would count", key.start_mark
                )
            seen.append(name)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Quotes a string that `Loader` would take for a number, or whose line breaks of another kind it would take for spaces."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """A string, in double quotes where only their escapes keep it."""
        style = '"' if re.search("[\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, Dumper.represent_str)

# YAML 1.2.2, section 10.3.2, but that a number with a leading 0 is a text: it is a name, or a code.
SCALARS = {
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": ("[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in SCALARS.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"({_pattern})$"), _first)
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"({_pattern})$"), _first)


def load_yaml(path: Path) -> RunOptions:
    """The options in a YAML file, in sections or by their whole names; what it leaves out has its default."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file", fix="give the path of a run.yaml") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", fix="give the path of a run.yaml that you may read") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML: {error.problem}", fix="correct that place") from None
    except (yaml.YAMLError, ValueError) as error:  # a number of 5,000 digits, bytes that are not UTF-8
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}", fix="correct that place") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: not a table of options", fix="write it as 'train: {epochs: 3}'")
    return with_values(RunOptions(), tree, where=str(path))


def by_whole_name(tree: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """`{"train": {"epochs": 3}}` as `{"train.epochs": 3}`; an empty section is none.

    Raises:
        UserError: a section is no table, or an option is told in both ways.
    """
    values: dict[str, Any] = {}
    for section, told in tree.items():
        inner: Mapping[str, Any] = {str(section): told}
        if section in SECTIONS:
            if not isinstance(told, dict | None):
                raise UserError(
                    f"{where}: {section}: a section of options, not a value (given: {told!r})",
                    fix=f"write it as '{section}: {{name: value}}'; kitune train --options lists the names",
                )
            inner = {f"{section}.{key}": value for key, value in (told or {}).items()}
        if twice := [name for name in inner if name in values]:
            raise UserError(f"{where}: {twice[0]} stands there twice", fix="leave one of them out")
        values |= inner
    return values


def yaml_line(value: Any) -> str:
    """`value` as YAML of one line, quoted as far as it needs it."""
    value = list(value) if isinstance(value, tuple) else value
    return yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=10**6).splitlines()[0]


def dump_yaml(options: RunOptions) -> str:
    """`options` as the text of a run.yaml."""
    return yaml.dump(options.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def describe_options() -> str:
    """Two lines an option: name, default, type and range; what it does. What `kitune train --options` prints."""
    defaults = flat(RunOptions())
    lines = []
    for name, schema in option_schemas():
        lines.append(f"{name} = {yaml_line(defaults[name])}  ({allowed(schema)})\n    {schema.get('description', '')}")
    return "\n".join(lines)


def option_schemas() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every option as `section.key`, with its JSON schema."""
    whole = RunOptions.model_json_schema()
    for name, schema in whole["properties"].items():
        section = schema.get("$ref", "").rpartition("/")[2]
        if section:
            yield from ((f"{name}.{key}", inner) for key, inner in whole["$defs"][section]["properties"].items())
        else:
            yield name, schema


def allowed(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema lets pass, in words: `auto or integer >= 1`."""
    if "anyOf" in schema:
        return " or ".join(allowed(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(r"\t" if value == "\t" else str(value) for value in values)
    if schema.get("type") == "array":
        least, most = (schema.get(key) for key in ("minItems", "maxItems"))
        size = f" ({least} to {most} of them)" if most else f" (at least {least})" if least else ""
        return f"list of {allowed(schema['items'])}{size}"
    if schema.get("type") == "object":
        return f"table of {allowed(schema['additionalProperties'])} by name"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:.10g}" for key, sign in signs.items() if key in schema]
    words = {"string": "text, not empty" if "minLength" in schema else "text", "boolean": "true or false"}
    kind: str = words.get(schema["type"], schema["type"])
    return f"{kind} {' and '.join(bounds)}" if bounds else kind

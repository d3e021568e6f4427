"""What stands ready before the first step: the network, settled options, token ids, and all of it as a `Training`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kitune.config import RunOptions, TaskName, checked
from kitune.data.batches import BatchPlan, padding_id
from kitune.data.encode import Encoded, choose_max_length, encode, sample_lengths
from kitune.data.labels import class_weights, weight_array
from kitune.data.long_texts import LongTexts
from kitune.data.parts import Parts, label_shares
from kitune.data.read import Source
from kitune.data.sources import PARTS
from kitune.errors import UserError
from kitune.evaluate.own_metrics import OwnMetrics, file_and_function
from kitune.findings import Finding
from kitune.model.encoder import Pretrained, load_pretrained, model_folder
from kitune.model.engine import kernels_for, speed_up
from kitune.model.heads import LabelScale
from kitune.model.losses import target_weight_sum
from kitune.model.memory import give_back
from kitune.model.vocabulary import require_rows, use_rows
from kitune.tasks import TASKS
from kitune.training.defaults import resolve
from kitune.training.devices import DTYPES, Machine
from kitune.training.loop import Epochs, State, Training
from kitune.training.optimizer import FlatAdamW
from kitune.training.probe import estimate

# Of a schedule with options of its own.
SAMPLED_RATES = 1_000


def asked(
    given: Sequence[Source],
    *,
    model: Any,
    text: str | Sequence[str] | None,
    label: str | None,
    task: TaskName | None,
    options: Mapping[str, Any] | None,
) -> tuple[dict[str, Source], dict[str, Any]]:
    """What the arguments of a call in Python say: the sources by part, and options by name.

    Args:
        given: train, valid and test; None where there is none.
        model: a name, a path or a run.
    """
    sizes = [(options or {}).get(f"train.{name}") for name in ("batch_rows", "batch_tokens")]
    if all(size not in (None, "auto") for size in sizes):
        raise UserError("train.batch_rows and train.batch_tokens are two ways to say one thing", fix="give one of them")
    told = {part for part in PARTS if (options or {}).get(f"data.{part}") is not None}  # which counts more
    sources = {
        part: source for part, source in zip(PARTS, given, strict=True) if source is not None and part not in told
    }
    named: dict[str, Any] = {
        "model": None if model is None else str(getattr(model, "folder", model)),
        "task": task,
        "data.text": (text,) if isinstance(text, str) else text,
        "data.label": label,
    }
    named |= {f"data.{part}": whole_name(source) for part, source in sources.items() if isinstance(source, str | Path)}
    return sources, {name: value for name, value in named.items() if value is not None} | dict(options or {})


def whole_name(source: str | Path) -> str:
    """A whole path, because a run may be resumed from another folder; the name of a hub data set as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


def network_for(parts: Parts) -> Pretrained:
    """The network before its first step; the same one at every call, so that a run without a checkpoint begins again."""
    options = parts.options
    return load_pretrained(
        model_folder(options.model, options.revision),
        parts.task,
        parts.names,
        seed=options.train.seed,
        dropout=options.train.dropout,
        label_shares=None if parts.task == "regression" else label_shares(parts),
    )


def lengths_in(parts: Parts, pretrained: Pretrained) -> NDArray[np.int64]:
    """Tokens of each whole text of train, without special ones, from a sample, (sampled rows, texts)."""
    table, cache = parts.tables["train"], parts.options.engine.cache
    return sample_lengths(table, parts.columns.text, pretrained.tokenizer, cache=cache)


def settle(
    parts: Parts,
    pretrained: Pretrained,
    lengths: NDArray[np.int64],
    machine: Machine,
    own: OwnMetrics | None = None,
) -> RunOptions:
    """The options with a value in place of every `auto` that decides what is learned; the run.yaml of the run.

    Args:
        lengths: tokens of each whole text of train, (sampled rows, texts).
        own: the user's metrics, which are called once now.
    """
    options, columns, say = parts.options, parts.columns, machine.say
    whole = lengths.sum(axis=1) + pretrained.tokenizer.num_special_tokens_to_add(pair=len(columns.text) == 2)
    most = pretrained.most_tokens
    if options.data.max_length == "auto":
        max_length = choose_max_length(whole, most)
        longer, longest = float((whole > max_length).mean()), int(whole.max())
        what = {"cut": "cut", "head-tail": "cut in the middle", "windows": "read in windows"}[options.data.long_texts]
        say(f"max_length: {max_length} tokens; longer, and {what}, are {longer:.1%} of the texts (up to {longest:,})")
    elif options.data.max_length > most:
        raise UserError(
            f"data.max_length: {options.data.max_length} is more than the model's {most} positions",
            fix=f"--set data.max_length={most}",
        )
    else:
        max_length = options.data.max_length
    for name in ("label_smoothing", "class_weights"):
        if getattr(options.train, name) and parts.task != "single-label":
            say(f"train.{name} has no effect on a {parts.task} task")
    parameters = sum(parameter.numel() for parameter in pretrained.network.parameters())
    resolved = resolve(
        options.train,
        task=parts.task,
        rows=len(parts.tables["train"]),
        num_labels=len(parts.names),
        parameters=parameters,
        head_is_new=pretrained.head_is_new,
        own=own.names(parts.task, len(parts.names)) if own else (),
    )
    told = {
        "text": columns.text,
        "label": columns.label,
        "labels": parts.names,
        "max_length": max_length,
    }
    data = options.data.model_copy(update=told)
    engine = options.engine.model_copy(update={"precision": machine.precision})
    settled = options.model_copy(update={"task": parts.task, "data": data, "train": resolved, "engine": engine})
    return checked(with_whole_paths(settled).model_dump(), "options")


def with_whole_paths(options: RunOptions) -> RunOptions:
    """The options with whole paths in them, because a run may be resumed from another folder; names of the hub stay."""
    data, train = options.data, options.train
    files = {part: whole_name(name) for part in PARTS if (name := getattr(data, part)) is not None}
    if train.compute_metrics is not None:
        path, function = file_and_function(train.compute_metrics)
        train = train.model_copy(update={"compute_metrics": f"{path.resolve()}:{function}"})
    return options.model_copy(
        update={"model": whole_name(options.model), "data": data.model_copy(update=files), "train": train}
    )


def encode_parts(parts: Parts, pretrained: Pretrained, options: RunOptions, machine: Machine) -> dict[str, Encoded]:
    """Token ids, labels and weights of each part; the first process fills the cache, the others read it."""
    max_length = options.data.max_length
    assert isinstance(max_length, int)
    pretrained.tokenizer.model_max_length = max_length

    def all_parts() -> dict[str, Encoded]:
        encoded = {}
        for part, table in parts.tables.items():
            ids = encode(
                table,
                parts.columns.text,
                pretrained.tokenizer,
                max_length=max_length,
                long_texts=LongTexts.asked(options.data),
                cache=options.engine.cache,
            )
            weights = weight_array(table, parts.columns.weight if part == "train" else None)
            encoded[part] = ids.with_labels(parts.labels(part), weights)
        return encoded

    return machine.first_makes(all_parts)


def training_for(
    parts: Parts, pretrained: Pretrained, encoded: Mapping[str, Encoded], options: RunOptions, machine: Machine
) -> Training:
    """All that does not change while the network learns; refuses settings that do not fit before anything is written."""
    give_back()
    network, tokenizer, train = pretrained.network, pretrained.tokenizer, encoded["train"]
    if options.engine.gradient_checkpointing:
        if not network.supports_gradient_checkpointing:
            raise UserError(
                f"engine.gradient_checkpointing: a {type(network).__name__} has none",
                fix="leave it out; --set train.accumulation=2 takes less memory too",
            )
        network.activation_checkpointing_enable()
    loss, of_classes = TASKS[parts.task].loss, None
    if parts.task == "single-label":
        assert train.labels is not None
        weights = class_weights(options.train.class_weights, train.labels.astype(np.int64), parts.names)
        of_classes = None if weights is None else torch.tensor(weights, device=machine.device)
        loss = partial(loss, class_weights=of_classes, label_smoothing=options.train.label_smoothing)
    pad_id = padding_id(tokenizer, network)
    scale = None
    if parts.task == "regression":
        assert train.labels is not None
        scale = LabelScale.of(network, train.labels, train.weights)
        scale.begin(network, new=pretrained.head_is_new)
        loss = partial(loss, scale=scale)
    special = [*tokenizer.all_special_ids, pad_id]
    token_ids = [np.asarray(special), *(part.input_ids for part in encoded.values())]
    require_rows(network, token_ids[1:])
    if not options.engine.plain:
        use_rows(network, token_ids)
    dtype = DTYPES[machine.precision]
    fast = kernels_for(options.engine, dtype=dtype, device=machine.device, threads=machine.threads)
    optimizer = FlatAdamW(network, options.train, dtype=dtype, device=machine.device, kernels=fast)
    slow = speed_up(network, options.engine, kernels=fast, dtype=dtype, store=optimizer)
    if slow is not None:
        machine.say(slow)
    training = Training(
        network,
        optimizer,
        train,
        plan_of(train, options),
        loss,
        mean_weight(train, of_classes),
        options.train,
        machine,
        pad_id,
        options.engine.log_every,
        len(encoded["valid"]),
        "plain" if options.engine.plain else slow or "fast",
        scale,
    )
    require_rates(training)
    return training


def require_rates(training: Training) -> None:
    """Refuse options of a schedule that give no rates from 0 to its peak."""
    peak, last = float(training.options.learning_rate), max(0, training.epochs.total_steps - 1)
    count = (
        SAMPLED_RATES if training.options.schedule_options else 1
    )  # without any, all that can lack is told at the first
    for step in np.unique(np.linspace(0, last, count, dtype=np.int64)):
        try:
            rate = training.learning_rate(State(peak=peak, planned_epochs=0, step=int(step)))
            wrong = not 0 <= rate <= peak * (1 + 1e-9)
            reason = f"the rate of step {step} would be {rate:g}, and the peak is {peak:g}"
        except (ArithmeticError, ValueError, TypeError) as error:
            wrong, reason = True, f"the rate of step {step} cannot be computed: {error}"
        if wrong:
            raise UserError(f"train.schedule_options: {reason}", fix="correct the options of the schedule")


def mean_weight(train: Encoded, of_classes: Tensor | None) -> float:
    """The mean weight of the rows, times their classes' where those have any."""
    if train.weights is None and of_classes is None:
        return 1.0
    assert train.labels is not None
    weights = None if train.weights is None else torch.from_numpy(train.weights)
    classes = None if of_classes is None else of_classes.cpu()
    return target_weight_sum(torch.from_numpy(train.labels), weights, classes) / len(train)


def expected(training: Training, encoded: Mapping[str, Encoded], options: RunOptions) -> list[Finding]:
    """What the training will take, where that is worth an estimate and it is not allowed to go unsaid."""
    training.network.train()
    others = {part: ids for part, ids in encoded.items() if part != "train"}
    finding = None if "estimate" in options.doctor.allow else estimate(training, others, options.engine)
    return [] if finding is None else [finding]


def plan_of(train: Encoded, options: RunOptions) -> Epochs:
    """Every epoch's updates."""
    rows, epochs = options.train.batch_rows, options.train.epochs
    assert isinstance(rows, int)
    assert isinstance(epochs, int)
    plan = BatchPlan(options.train.sampler, rows, options.train.batch_tokens)
    return Epochs(plan, train.lengths, options.train.seed, epochs)

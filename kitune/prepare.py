"""What stands ready before the first step: the network, settled options, token ids, findings, and all of it as a `Training`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kitune.config import RunOptions, checked
from kitune.data.batches import BatchPlan
from kitune.data.doctor import Case, examine
from kitune.data.encode import Encoded, choose_max_length, encode, sample_lengths
from kitune.data.labels import class_weights, weight_array
from kitune.data.long_texts import LongTexts
from kitune.data.parts import Parts, label_shares, read_parts
from kitune.data.read import Source
from kitune.doctor import findings_of, worth_saying
from kitune.errors import UserError
from kitune.findings import Finding, in_order
from kitune.model.encoder import Pretrained, load_pretrained, model_folder
from kitune.model.engine import kernels_for, speed_up
from kitune.model.vocabulary import use_rows
from kitune.tasks import TASKS
from kitune.training.defaults import resolve
from kitune.training.devices import DTYPES, Machine, connect
from kitune.training.loop import Epochs, State, Training
from kitune.training.optimizer import FlatAdamW
from kitune.training.probe import estimate


def network_for(parts: Parts) -> Pretrained:
    """The network before its first step; the same one at every call, so that a run without a checkpoint begins again."""
    options = parts.options
    return load_pretrained(
        model_folder(options.model, options.revision),
        parts.task,
        parts.names,
        seed=options.train.seed,
        dropout=options.train.dropout,
        label_shares=label_shares(parts),
    )


def settle(parts: Parts, pretrained: Pretrained, lengths: NDArray[np.int64], machine: Machine) -> RunOptions:
    """The options with a value in place of every `auto` that decides what is learned; the run.yaml of the run.

    Args:
        lengths: tokens of whole texts of train.
    """
    options, columns, say = parts.options, parts.columns, machine.say
    most = pretrained.most_tokens
    if options.data.max_length == "auto":
        max_length = choose_max_length(lengths, most)
        longer, longest = float((lengths > max_length).mean()), int(lengths.max())
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
    )
    told = {
        "text": columns.text,
        "label": columns.label,
        "labels": parts.names,
        "max_length": max_length,
    }
    paths = {"model": str(Path(options.model).resolve()) if Path(options.model).exists() else options.model}
    data = options.data.model_copy(update=told)
    engine = options.engine.model_copy(update={"precision": machine.precision})
    settled = options.model_copy(
        update={"task": parts.task, "data": data, "train": resolved, "engine": engine, **paths}
    )
    return checked(settled.model_dump(), "options")


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


def examined(
    parts: Parts,
    pretrained: Pretrained,
    encoded: Mapping[str, Encoded],
    lengths: NDArray[np.int64],
    options: RunOptions,
    machine: Machine,
) -> list[Finding]:
    """What the doctor finds, said by the first process; an error ends every process with the same sentence."""
    max_length = options.data.max_length
    assert isinstance(max_length, int)
    findings = machine.first_makes(lambda: findings_of(parts, encoded, pretrained.tokenizer, lengths, max_length))
    for finding in worth_saying(findings, options.doctor.allow):
        machine.say(f"{finding.severity}: {finding.line()}")
    return findings


def diagnose(options: RunOptions, sources: Mapping[str, Source]) -> list[Finding]:
    """Every finding about a data set for a model, the severe ones first, and what a training would take.

    All that a training does before its first step, and nothing of it is kept but the caches.

    Args:
        sources: by part: train, valid, test.

    Raises:
        UserError: there is no such file or model, or no column can be chosen.
    """
    machine = connect(options.engine, alone=True)
    try:
        parts, said = read_parts(options, sources, examined=True)
    except UserError as error:
        if error.in_rows:
            return [Finding("unreadable", error.problem, error.fix)]
        raise
    for sentence in said:
        machine.say(sentence)
    if len(parts.names) < 2 and parts.task == "single-label":
        return in_order([*parts.found, *examine(Case(parts))])
    pretrained = network_for(parts)
    lengths = sample_lengths(parts.tables["train"], parts.columns.text, pretrained.tokenizer)
    resolved = settle(parts, pretrained, lengths, machine)
    encoded = encode_parts(parts, pretrained, resolved, machine)
    findings = findings_of(parts, encoded, pretrained.tokenizer, lengths, int(resolved.data.max_length))
    if "estimate" in options.doctor.allow or any(finding.severity == "error" for finding in findings):
        return findings
    training = training_for(parts, pretrained, encoded, resolved, machine)
    return findings + expected(training, encoded, resolved)


def training_for(
    parts: Parts, pretrained: Pretrained, encoded: Mapping[str, Encoded], options: RunOptions, machine: Machine
) -> Training:
    """All that does not change while the network learns; refuses settings that do not fit before anything is written."""
    network, tokenizer, train = pretrained.network, pretrained.tokenizer, encoded["train"]
    if options.engine.gradient_checkpointing:
        network.activation_checkpointing_enable()
    loss, of_classes = TASKS[parts.task].loss, None
    if parts.task == "single-label":
        assert train.labels is not None
        weights = class_weights(options.train.class_weights, train.labels.astype(np.int64), parts.names)
        of_classes = None if weights is None else torch.tensor(weights, device=machine.device)
        loss = partial(loss, class_weights=of_classes, label_smoothing=options.train.label_smoothing)
    if not options.engine.plain:
        use_rows(network, [np.asarray(tokenizer.all_special_ids), *(part.input_ids for part in encoded.values())])
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
        of_classes,
        options.train,
        machine,
        tokenizer.pad_token_id or 0,
        options.engine.log_every,
    )
    training.learning_rate(State(peak=float(options.train.learning_rate), planned_epochs=0))
    return training


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

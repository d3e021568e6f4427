"""Networks that only answer: in the machine's precision, on the fast path where there is one."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import EngineOptions, TaskName
from kitune.data.batches import padding_id
from kitune.data.encode import encode, sample_lengths
from kitune.data.long_texts import LongTexts
from kitune.data.table import Table
from kitune.evaluate.score import outputs
from kitune.model.encoder import Pretrained, load_encoder, load_pretrained
from kitune.model.engine import kernels_for, speed_up
from kitune.model.families import OwnWeights
from kitune.model.heads import output_layer
from kitune.model.pooling import Pooled
from kitune.model.vocabulary import word_embedding
from kitune.training.devices import DTYPES, Machine


def load_to_answer(
    folder: Path, task: TaskName, names: Sequence[str], engine: EngineOptions, machine: Machine
) -> Pretrained:
    """The network of a folder where it computes, in the machine's precision and on the fast path where there is one.

    The output of a regression is in fp32: in bf16 all years would be 2008.
    """
    pretrained = load_pretrained(folder, task, names)
    network = pretrained.network
    exact = deepcopy(output_layer(network)) if task == "regression" else None
    slower = set_to_answer(network, engine, machine)
    if exact is not None:
        name, layer = exact
        network.set_submodule(name, layer.to(machine.device).requires_grad_(False))
        layer.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    return pretrained if slower is None else replace(pretrained, said=(*pretrained.said, slower))


def set_to_answer(network: Any, engine: EngineOptions, machine: Machine) -> str | None:
    """Put a network that learns nothing where it computes; the reason where that is the slower path, as `speed_up` has it."""
    network.eval().requires_grad_(False)
    dtype = DTYPES[machine.precision]
    fast = kernels_for(engine, dtype=dtype, device=machine.device, threads=machine.threads)
    if fast is None:
        network.to(machine.device, dtype)
    slower = speed_up(network, engine, kernels=fast, dtype=dtype, store=OwnWeights())
    if slower is not None:
        network.to(machine.device, dtype)
    return slower


@dataclass(frozen=True)
class Embedder:
    """An encoder as it came, from texts to vectors.

    Attributes:
        parameters: of the encoder, but for its embeddings.
    """

    network: Pooled
    tokenizer: Any
    max_length: int
    long_texts: LongTexts
    machine: Machine
    parameters: int

    def __call__(self, table: Table, column: str) -> NDArray[np.float32]:
        """A vector of unit length for each row's text, the mean over its tokens: (rows, width)."""
        encoded = encode(
            table, (column,), self.tokenizer, max_length=self.max_length, long_texts=self.long_texts, cache=False
        )
        pad_id = padding_id(self.tokenizer, self.network.encoder)
        vectors = outputs(self.network, encoded, pad_id=pad_id, machine=self.machine)
        return vectors if encoded.first is None else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def work(self, table: Table, text: Sequence[str]) -> float:
        """Multiplications for a row, about: parameters x tokens."""
        most = self.max_length * (self.long_texts.most_windows if self.long_texts.how == "windows" else 1)
        tokens = np.minimum(sample_lengths(table, text, self.tokenizer, cache=False), most)
        return float(self.parameters * max(1.0, tokens.sum(axis=1).mean()))


def load_to_embed(
    folder: Path, engine: EngineOptions, machine: Machine, *, max_length: int, long_texts: LongTexts
) -> Embedder:
    """The encoder of a folder, where it computes."""
    encoder, tokenizer = load_encoder(folder)
    every = sum(parameter.numel() for parameter in encoder.parameters())
    words = word_embedding(encoder)
    parameters = every - (0 if words is None else words.weight.numel())
    set_to_answer(encoder, engine, machine)
    tokenizer.model_max_length = max_length
    return Embedder(Pooled(encoder), tokenizer, max_length, long_texts, machine, parameters)

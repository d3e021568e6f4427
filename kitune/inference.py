"""Networks that only answer: in the machine's precision, on the fast path where there is one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import EngineOptions, TaskName
from kitune.data.encode import encode
from kitune.data.table import Table
from kitune.evaluate.baselines import Vectors
from kitune.evaluate.score import outputs
from kitune.model.encoder import Pretrained, load_encoder, load_pretrained
from kitune.model.engine import kernels_for, speed_up
from kitune.model.families import OwnWeights
from kitune.model.pooling import Pooled
from kitune.training.devices import DTYPES, Machine


def load_to_answer(
    folder: Path, task: TaskName, names: Sequence[str], engine: EngineOptions, machine: Machine
) -> Pretrained:
    """The network of a folder where it computes, in the machine's precision and on the fast path where there is one."""
    pretrained = load_pretrained(folder, task, names)
    set_to_answer(pretrained.network, engine, machine)
    return pretrained


def set_to_answer(network: Any, engine: EngineOptions, machine: Machine) -> None:
    """Put a network that learns nothing where it computes."""
    network.eval().requires_grad_(False)
    dtype = DTYPES[machine.precision]
    fast = kernels_for(engine, dtype=dtype, device=machine.device, threads=machine.threads)
    if fast is None:
        network.to(machine.device, dtype)
    if speed_up(network, engine, kernels=fast, dtype=dtype, store=OwnWeights()) is not None:
        network.to(machine.device, dtype)


def load_to_embed(folder: Path, engine: EngineOptions, machine: Machine, *, max_length: int) -> Vectors:
    """From a table and a text column to vectors, (rows, width) of unit length: the mean over each text's tokens."""
    encoder, tokenizer = load_encoder(folder)
    set_to_answer(encoder, engine, machine)
    tokenizer.model_max_length = max_length
    network = Pooled(encoder)

    def vectors(table: Table, column: str) -> NDArray[np.float32]:
        encoded = encode(table, (column,), tokenizer, max_length=max_length, cache=False)
        return outputs(network, encoded, pad_id=tokenizer.pad_token_id or 0, machine=machine)

    return vectors

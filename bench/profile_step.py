"""Where the time of one update goes: every kernel and matrix product of the packed path, the least of many repeats.

    python bench/profile_step.py --threads 2
    python bench/profile_step.py --plain

`starter`, 16 rows of like length, the whole vocabulary. Least times hide what neighbours take; the sums are therefore a
floor, and an update in a real run takes longer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import circumstances
from quality import starter_folder
from torch.nn import functional as F

from kitune.config import EngineOptions, TrainOptions
from kitune.model.encoder import load_pretrained
from kitune.model.engine import kernels_for, speed_up
from kitune.model.kernels import Kernels
from kitune.training.optimizer import FlatAdamW

ROWS = 16
Log = list[tuple[str, float]]


def timed(owner: Any, name: str, label: Callable[..., str], log: Log) -> None:
    """Let a function note its name and seconds in `log` at each call."""
    function = getattr(owner, name)

    def noting(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments, **named)
        log.append((label(*arguments), time.perf_counter() - began))
        return result

    setattr(owner, name, noting)


def product_label(*operands: Any) -> str:
    """`mm 832x384 384x1536`; a bias comes before the operands."""
    return "mm " + " ".join("x".join(map(str, operand.shape)) for operand in operands[-2:])


def kernel_label(kernels: Kernels, name: str, dtype: torch.dtype, *values: Any) -> str:
    """The kernel's name; for a product its shape, as of a product of torch's: rows x depth, depth x columns."""
    if not name.startswith("product"):
        return name
    rows, columns, depth = values[:3]
    return f"{name} {rows}x{depth} {depth}x{columns}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--length", type=int, default=52, help="tokens of a row")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--plain", action="store_true", help="transformers' forward and torch's AdamW")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    dtype, engine, device = getattr(torch, told.dtype), EngineOptions(plain=told.plain), torch.device("cpu")
    network = load_pretrained(starter_folder(), "single-label", ["a", "b"]).network.train()
    kernels = kernels_for(engine, dtype=dtype, device=device, threads=told.threads)
    optimizer = FlatAdamW(network, TrainOptions(), dtype=dtype, device=device, kernels=kernels)
    slow = speed_up(network, engine, kernels=kernels, dtype=dtype, store=optimizer)
    if slow is not None:
        raise SystemExit(slow)
    log: Log = []
    timed(Kernels, "call", kernel_label, log)
    for name in ("mm", "addmm"):
        timed(torch, name, product_label, log)
    ids = torch.randint(5, 30_000, (ROWS, told.length), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    repeats = [one_update(network, optimizer, batch, log) for _ in range(told.repeats)]
    least = np.min([[seconds for _, seconds in repeat] for repeat in repeats], axis=0) * 1e3
    parts, calls = Counter[str](), Counter(name for name, _ in repeats[0])
    for (name, _), ms in zip(repeats[0], least, strict=True):
        parts[name] += ms
    for name, ms in parts.most_common():
        print(f"{name:32} {calls[name]:4d} calls {ms:9.2f} ms")
    shown = {name: round(ms, 3) for name, ms in parts.items()}
    print(json.dumps({"benchmark": "profile_step", **vars(told), "ms": shown, **circumstances()}))


def one_update(network: Any, optimizer: FlatAdamW, batch: dict[str, torch.Tensor], log: Log) -> Log:
    """The parts of one update with their seconds."""
    log.clear()
    clock = [time.perf_counter()]
    optimizer.zero_gradient()
    clock.append(time.perf_counter())
    logits = network(**batch).logits
    clock.append(time.perf_counter())
    torch.autograd.backward(F.cross_entropy(logits.float(), torch.arange(ROWS) % 2))
    clock.append(time.perf_counter())
    optimizer.gradient_norm()
    optimizer.step(1e-5)
    clock.append(time.perf_counter())
    names = ("= zeroing", "= forward", "= backward", "= norm and AdamW", "= all")
    return [*log, *zip(names, [*np.diff(clock), clock[-1] - clock[0]], strict=True)]


if __name__ == "__main__":
    main()

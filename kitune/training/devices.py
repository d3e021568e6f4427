"""Where the network runs: device, precision, threads, and the other processes, through Accelerate."""

import errno
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from kitune.config import EngineOptions, Precision
from kitune.errors import UserError, command, numbered
from kitune.notebook import say

Made = TypeVar("Made")

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Accelerate takes these over its arguments; kitune has options of its own for both.
OVERRIDES = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "train.accumulation",
    "ACCELERATE_MIXED_PRECISION": "engine.precision",
}


@dataclass(frozen=True)
class Machine:
    """One process among `world_size`, and what it computes on.

    Attributes:
        accelerator: Accelerate's, or None where this is the only process.
    """

    device: torch.device
    precision: Precision
    threads: int
    rank: int
    world_size: int
    accelerator: Any

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of every process's `tensor`, on each of them."""
        return tensor if self.accelerator is None else self.accelerator.reduce(tensor, "sum")

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """The items of every process behind one another, by rank, on each of them."""
        if self.accelerator is None:
            return list(values)
        from accelerate.utils import gather_object

        return list(gather_object(list(values)))

    def meet(self) -> None:
        """Wait until every process is here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def first_makes(self, make: Callable[[], Made]) -> Made:
        """What `make` gives: on the first process, which fills the cache, and then on the others, which find it there."""
        made = make() if self.is_first else None
        self.meet()
        return make() if made is None else made

    def say(self, sentence: str) -> None:
        """Say a sentence once."""
        if self.is_first:
            say(sentence)

    def describe(self) -> str:
        """The sentence that is said at the start."""
        on_gpu = self.device.type == "cuda"
        where = torch.cuda.get_device_name(self.device) if on_gpu else f"CPU, {numbered(self.threads, 'thread')}"
        ranks = f", process {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return f"{where}, {self.precision}{ranks}"


def memory_told(error: BaseException) -> str | None:
    """That the system, or the GPU, gives no more memory, where the error says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU has no more memory"
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    of_torch = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return "the system gives no more memory" if of_system or of_torch or isinstance(error, MemoryError) else None


def connect(options: EngineOptions, *, alone: bool = False) -> Machine:
    """The machine of this process, joined to the others where torchrun or accelerate started several.

    Args:
        alone: do not look for others: this process loads a model for itself.

    Raises:
        UserError: the launcher's settings contradict kitune's, or the processes do not find each other.
    """
    refuse_overrides(options)
    world_size = 1 if alone else int(os.environ.get("WORLD_SIZE", "1"))
    on_cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        raise UserError("engine.device: cuda was asked for and there is none", fix="--set engine.device=cpu")
    accelerator = None
    if world_size > 1:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        # Without cpu=True torchrun's processes stay unconnected on a CPU (accelerate 1.15).
        # The others wait while the first process reads and tokenizes: longer than the usual ten minutes, on large data.
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
        launch = command("torchrun", "--nproc-per-node", world_size, "-m", "kitune", "train", "...")
        # Before anything is connected: what fails half way stays in the process.
        for variable in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if variable not in os.environ:
                problem = f"WORLD_SIZE={world_size} is set and {variable} is not: the processes cannot find each other"
                raise UserError(problem, fix=f"{launch}; or unset WORLD_SIZE")
        accelerator = Accelerator(cpu=not on_cuda, kwargs_handlers=[patience])
        if accelerator.num_processes != world_size:
            problem = f"{world_size} processes were started and {accelerator.num_processes} found each other"
            raise UserError(problem, fix=launch)
    device = accelerator.device if accelerator else torch.device("cuda" if on_cuda else "cpu")
    threads = set_threads(options, world_size)
    if on_cuda and options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    precision = choose_precision(options, device)
    return Machine(device, precision, threads, accelerator.process_index if accelerator else 0, world_size, accelerator)


def refuse_overrides(options: EngineOptions) -> None:
    """Refuse settings of the launcher that would silently replace kitune's, and sharding, which is not built."""
    for variable, option in OVERRIDES.items():
        value = os.environ.get(variable)
        if value and value not in {"1", "no"}:
            raise UserError(
                f"{variable}={value} is set, and Accelerate would take it over kitune's own {option}",
                fix=f"unset {variable}; use --set {option}={value} instead",
            )
    for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(variable, "false").lower() in {"1", "true"}:
            raise UserError(f"{variable} is set, and kitune does not shard models", fix=f"unset {variable}")


# Of the control group that a container is: microseconds of processor time in each period, and the period.
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where its container has a smaller share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = QUOTA.read_text(encoding="utf-8").split()
        return min(bound, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or `max`: no quota
        return bound


def set_threads(options: EngineOptions, world_size: int) -> int:
    """Threads of this process: told, or its share of the cores, or fewer where OMP_NUM_THREADS says so (torchrun sets it to 1
    unasked)."""
    if options.threads == "auto":
        threads = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        if "LOCAL_WORLD_SIZE" not in os.environ and wanted.isdecimal() and int(wanted):
            threads = min(threads, int(wanted))
    else:
        threads = options.threads
    torch.set_num_threads(threads)
    return threads


def choose_precision(options: EngineOptions, device: torch.device) -> Precision:
    """The precision that was told, else bf16 where the machine multiplies it in hardware, else fp32."""
    if options.precision != "auto":
        return options.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    can = torch.cpu.get_capabilities()
    return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") or can.get("sve_bf16") else "fp32"

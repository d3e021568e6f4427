"""The C++ kernels in `cpp/`: compiled at their first use, kept in the cache, called through ctypes.

A C interface and no torch headers: one compilation takes five seconds and serves every version of torch.
"""

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kitune.data.cache import cache_folder, content_key, made_once

FOLDER = Path(__file__).with_name("cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC", "-w")
SUFFIX = {torch.float32: "fp32", torch.bfloat16: "bf16"}

# Arguments by letter, as the C functions declare them: p a tensor or None, n a count, f a float, k a dropout key,
# i a small integer; the number of threads comes last in all of them.
SIGNATURES = {
    "residual_norm": "nnpppppfkfpppp",
    "residual_norm_backward": "nnnpppppkfppppp",
    "embed": "nnppppppppfkfpppp",
    "embed_backward": "nnpppppkfpp",
    "scatter_add": "nnppnp",
    "gelu": "nnpppi",
    "gelu_backward": "nnnpppp",
    "transpose_and_sum": "nnnppp",
    "attention": "nnnppnfpnppnkfpp",
    "attention_backward": "nnnppnfpnppnkfpppnppn",
    "product": "nnnppipp",
    "product_fp32": "nnnppip",  # in bf16, of sums in fp32
    "product_gelu": "nnnppppp",
    "add_gradient": "npp",
    "sum_of_squares": "np",
    "adamw": "npppppffffffff",
    "adamw_of_low": "npppppffffffff",  # of gradients in low precision
}
KINDS: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_long,
    "f": ctypes.c_float,
    "k": ctypes.c_uint64,
    "i": ctypes.c_int,
}


class Kernels:
    """The functions of kernels.cpp by name, with tensors as arguments; `threads` is added behind them.

    Attributes:
        has_tiles: whether the processor has tile registers, in which whole products in bf16 run.
    """

    def __init__(self, library: Path) -> None:
        self.threads = 1
        loaded = ctypes.CDLL(str(library))
        self.has_tiles = bool(loaded.has_tiles())
        self._functions: dict[tuple[str, torch.dtype], Any] = {}
        for name, letters in SIGNATURES.items():
            for dtype, suffix in SUFFIX.items():
                try:
                    function = getattr(loaded, f"{name}_{suffix}")
                except AttributeError:  # some exist for one type alone, or for some processors
                    continue
                function.argtypes = [*(KINDS[letter] for letter in letters), ctypes.c_int]
                function.restype = ctypes.c_double if name == "sum_of_squares" else None
                self._functions[name, dtype] = function

    def with_threads(self, threads: int) -> "Kernels":
        """The same functions for another number of threads."""
        other = copy(self)
        other.threads = threads
        return other

    def call(self, name: str, dtype: torch.dtype, *values: Any) -> Any:
        """Call a kernel; a tensor stands for the address of its first element, None for no tensor."""
        arguments = [value.data_ptr() if isinstance(value, Tensor) else value for value in values]
        return self._functions[name, dtype](*arguments, self.threads)


def kernels() -> Kernels | None:
    """The compiled kernels, or None where they cannot be built here."""
    found = built()
    return found if isinstance(found, Kernels) else None


def why_not() -> str:
    """Why there are none."""
    found = built()
    return found if isinstance(found, str) else ""


@cache
def built() -> Kernels | str:
    """The compiled kernels, or why there are none."""
    try:
        command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError as error:
        return f"CXX names no compiler: {error}"
    openmp = loaded_openmp()
    compiler = shutil.which(command[0])
    if compiler is None:
        return f"no C++ compiler ({command[0]}) is here that builds the kernels"
    if openmp is None:
        return "torch runs without an OpenMP that the kernels could share"
    status, source = os.stat(compiler), [path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())]
    made_by = f"{command} {compiler} {status.st_size} {status.st_mtime_ns} {platform.libc_ver()}"
    key = content_key(*source, " ".join(FLAGS), made_by, str(openmp), processor())
    try:
        try:
            folder = made_once(cache_folder() / "kernels" / key, lambda staging: build(command, openmp, staging))
        except OSError:  # a cache that can only be read: for this process alone, then
            folder = Path(tempfile.mkdtemp(prefix="kitune-kernels-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            build(command, openmp, folder)
        return Kernels(folder / "kernels.so")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return f"{command[0]} does not build the kernels: {(lines or ['it says nothing'])[0][:160]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the kernels could not be built or loaded: {error}"


def build(command: list[str], openmp: Path, staging: Path) -> None:
    """Compile and link `kernels.so`; against the OpenMP that torch has loaded, for two of them fight over the cores."""
    steps = (
        [*command, *FLAGS, "-c", str(FOLDER / "kernels.cpp"), "-o", str(staging / "kernels.o")],
        [*command, "-shared", str(staging / "kernels.o"), str(openmp), "-o", str(staging / "kernels.so")],
    )
    for step in steps:
        subprocess.run(step, check=True, capture_output=True, timeout=300)
    (staging / "kernels.o").unlink()


def loaded_openmp() -> Path | None:
    """The file of the OpenMP library that this process runs torch with; another package may have loaded one too."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    lines = [line for line in maps.splitlines() if "libgomp" in line or "libiomp" in line]
    found = dict.fromkeys(Path(line.split(maxsplit=5)[5]) for line in lines)  # the path comes last, and may hold spaces
    own = Path(torch.__file__).parent
    of_torch = [path for path in found if path.is_relative_to(own) or path.is_relative_to(own.with_name("torch.libs"))]
    return next(iter([*of_torch, *found]), None)


def processor() -> str:
    """What `-march=native` depends on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    named = ("model name", "flags", "Features", "CPU part")
    lines = sorted({line for line in text.splitlines() if line.startswith(named)})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

"""Numerics are part of a run: threads, deterministic kernels, precision and the heap are set here and nowhere else."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from raydd.config import EngineConfig
from raydd.nets import compute_in

# Its attributes are made when it is imported, which type checkers cannot see.
_UNINITIALIZED: Any = import_module("torch.utils.deterministic")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_heap() -> None:
    """Let glibc keep freed memory: it otherwise returns every large tensor to the kernel and faults its pages in again.

    Memory-bound operations on the CPU are 2 to 15 times faster for it. Does nothing with another C library.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def apply_numerics(engine: EngineConfig) -> None:
    """Set this process's threads, determinism and precision as the config says."""
    torch.set_num_threads(engine.cpus_per_worker)
    if engine.deterministic:
        # cuBLAS reads this when it is first used; without it deterministic mode refuses matrix products on a GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # This sets the same flag as `use_deterministic_algorithms`, which would import torch's compiler: seconds a process.
    torch.set_deterministic_debug_mode("error" if engine.deterministic else "default")
    # Nothing here reads memory that was never written, so filling it would only cost time.
    _UNINITIALIZED.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not engine.deterministic
    tf32 = engine.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    compute_in(torch.bfloat16 if engine.precision == "bf16" else None)


@contextmanager
def numerics(engine: EngineConfig) -> Iterator[None]:
    """Apply a config's numerics and put back what was there before."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = _UNINITIALIZED.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    half = compute_in(None)
    apply_numerics(engine)
    try:
        yield
    finally:
        compute_in(half)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        _UNINITIALIZED.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


def versions() -> dict[str, str]:
    """Return what the same bits depend on: versions of the software and the kind of processor."""
    from importlib.metadata import version

    return {
        "raydd": version("raydd"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def differences(there: dict[str, str]) -> list[str]:
    """Say in what `versions` of a worker differ from this process's, for what they share: the device may be another."""
    here = versions()
    return [
        f"{key} is {there[key]} there, {here[key]} here" for key in ("raydd", "torch", "cpu") if there[key] != here[key]
    ]

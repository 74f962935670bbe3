"""A description of this machine in one line, for reports and issue texts."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.runtime.limits import MACHINE, read_limits

CPUINFO = Path("/proc/cpuinfo")
FLAGS = (
    *("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "avx_ne_convert", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve"),
)
"""Processor features of x86 and ARM by which torch and oneDNN choose kernels."""
INSTRUCTION_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that keep torch and its libraries from using some of these features."""
LIMITING_VARIABLES = (*INSTRUCTION_VARIABLES, "OMP_NUM_THREADS")
"""Variables that keep torch and its libraries from using some of these features or cores."""


def read_processor(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    """(name, those of FLAGS that it has), from the text of /proc/cpuinfo; an empty name where that has none."""
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    has = set((found.get("flags") or found.get("features") or "").split())
    return found.get("model name", ""), tuple(flag for flag in FLAGS if flag in has)


def describe_machine(capability: str, environ: Mapping[str, str] = os.environ) -> str:
    """Processor, flags, cores, memory, Python and torch; with cores and memory what bounds them, unless the machine.

    capability: `torch.backends.cpu.get_cpu_capability()`.
    """
    name, flags = read_processor(CPUINFO.read_text() if CPUINFO.exists() else "")
    limits = read_limits()
    cores_by, memory_by = (f" ({by})" if by != MACHINE else "" for by in (limits.cores_by, limits.memory_by))
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    parts = [
        " ".join([name or platform.processor() or platform.machine(), *flags]),
        f"{limits.cores} of {limits.machine_cores} cores{cores_by}",
        f"{limits.memory_bytes / 2**30:.1f} GiB of memory{memory_by}, {limits.available_bytes / 2**30:.1f} free",
        f"Python {platform.python_version()}, torch {torch} {capability}",
    ]
    parts += [f"{name}={environ[name]}" for name in LIMITING_VARIABLES if environ.get(name)]
    return "; ".join(parts)

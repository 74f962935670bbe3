"""What the first line of a run needs of torch, kept from run to run: to import torch takes a second or more."""

import os
from importlib.metadata import version

import pytest

from serving.runtime.machine import CPUINFO, read_processor


def torch_capability(config: pytest.Config) -> str:
    """torch's capability of the processor, as found in the first run with this torch, processor and environment."""
    processor = read_processor(CPUINFO.read_text()) if CPUINFO.exists() else ""
    seen = repr((version("torch"), processor, os.environ.get("ATEN_CPU_CAPABILITY")))
    cache = getattr(config, "cache", None)
    if cache is None:  # switched off
        return _ask()
    kept: dict[str, str] = cache.get("headwaiter/capability", {})
    if seen not in kept:
        kept[seen] = _ask()
        cache.set("headwaiter/capability", kept)
    return kept[seen]


def _ask() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()

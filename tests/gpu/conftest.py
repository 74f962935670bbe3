"""Tests on a GPU. They are skipped where torch sees none, and need neither MLflow nor BentoML.

`GPU_TESTS_DEVICE=cpu` rehearses those that a CPU can run.
"""

import os

import pytest
import torch

from serving.engine.process_state import prepare_process

prepare_process()  # as an engine's entry point does


@pytest.fixture(scope="session")
def tables_by_copy() -> None:
    """No test here has a registry, and MLflow may be missing."""


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The GPU that everything here runs on; in a rehearsal the CPU."""
    wanted = os.environ.get("GPU_TESTS_DEVICE", "cuda:0")
    if wanted != "cpu" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.device(wanted)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what a CPU cannot show."""
    if device.type != "cuda":
        pytest.skip("a rehearsal on a CPU")
    return device

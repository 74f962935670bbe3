from collections.abc import Iterator

import pytest
import torch

from serving.engine.process_state import prepare_process

prepare_process()  # as an engine's entry point does


@pytest.fixture(autouse=True)
def no_threads_left(one_thread: None) -> Iterator[None]:
    """A load sets torch's threads to as many as were faster; sums are rounded otherwise on other numbers of threads."""
    yield
    torch.set_num_threads(1)

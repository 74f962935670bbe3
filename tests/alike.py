"""Whether two answers, or two tensors, say the same: within the tolerance that the product promises for their dtype.

Sums are rounded otherwise in another batch, on another number of threads and on another processor, so answers from
different batches are compared with `assert_alike`. Only what came from one batch, or is no floating-point number, may
be compared with `==`.
"""

from typing import Any

import torch

from serving.engine.answer_check import find_difference
from serving.engine.optimizations.torchscript import are_alike


def assert_alike(found: Any, expected: Any, dtype: str = "float32") -> None:
    """Answers agree as the contract's example must at load; tensors as a form's output must with the model's.

    dtype: of the model that answered. A tensor brings its own.
    """
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape
        distance = (found.float() - expected.float()).detach().abs()
        assert are_alike(found, expected, expected.dtype), f"off by {float(distance.max()):.2g}"
        return
    difference = find_difference(_plain(expected), _plain(found), dtype)
    assert difference is None, difference


def _plain(answer: Any) -> Any:
    """The answer with lists for arrays and tensors."""
    return answer.tolist() if hasattr(answer, "tolist") else answer

"""Numbers agree at the scale of what is measured; what hides a token is none of it."""

from math import inf, nan

import pytest
import torch

from serving.engine.tolerances import agree


@pytest.mark.parametrize(
    ("expected", "found", "is_same"),
    [
        ([2.0, 1.0], [2.0001, 1.0], True),
        ([2.0, 1.0], [2.01, 1.0], False),
        ([2.0, 1e-9], [2.0, 2e-9], True),
        *(([mask, 2.0], [mask, 2.01], False) for mask in (-1e4, -1e6, torch.finfo(torch.float32).min, -inf)),
        *(([mask, 2.0], [mask, 2.0001], True) for mask in (-1e4, -1e6, torch.finfo(torch.float32).min, -inf)),
        ([-1e6, 2.0], [-1e6 + 3, 2.0], True),
        ([-inf, 2.0], [-1e6, 2.0], False),
        ([2.0, 1.0], [inf, 1.0], False),
        ([2.0, 1.0], [nan, 1.0], False),
    ],
)
def test_a_mask_is_no_scale(expected: list[float], found: list[float], is_same: bool) -> None:
    assert agree(torch.tensor(found), torch.tensor(expected), 1e-4) == is_same


def test_a_scale_has_a_least() -> None:
    assert agree(torch.tensor([0.001]), torch.tensor([0.0]), 0.01, min_scale=1.0)
    assert not agree(torch.tensor([0.001]), torch.tensor([0.0]), 0.01)

"""How far apart two results of one model may be and still count as the same, by what is compared and the model's dtype.

Other kernels, batches and processors round sums otherwise. A result that is wrong is off by far more.
"""

from dataclasses import dataclass

import torch

from registry.heads import MASK


@dataclass(frozen=True)
class Tolerance:
    """A relative bound. low_precision: of float16 and bfloat16, and of int8 unless that has its own."""

    float32: float
    low_precision: float
    int8: float | None = None

    def of(self, dtype: object) -> float:
        """The bound for a dtype, given as torch's or by name."""
        name = str(dtype).removeprefix("torch.")
        if name == "int8" and self.int8 is not None:
            return self.int8
        return self.float32 if name == "float32" else self.low_precision


ANSWER = Tolerance(1e-3, 0.03, int8=0.05)
"""Tolerances of an answer's numbers, as shares of their size or of 1 if that is larger, for the contract's example.
Vectors with a cosine of 0.999, which int8 must reach (`int8.MIN_COSINE`), are 0.045 of their length apart."""
SMALL = Tolerance(1e-2, 0.5)
"""Tolerances of numbers below 1, as shares of their size: a small score shows the error of a logit enlarged."""
FLOOR = Tolerance(1e-5, 2e-3)
"""What `SMALL` allows beside that: numbers next to nothing are differences of rounded ones."""
FORWARD_PASS = Tolerance(1e-4, 5e-2)
"""Tolerances of a form's outputs, as shares of the largest value. Kernels differ by less than 3e-2 in bfloat16."""
LINEAR = Tolerance(1e-4, 2e-2)
"""Tolerances of a linear layer's outputs with prepacked weights, as shares of the largest value."""
DECODING = Tolerance(1e-3, 0.05)
"""Tolerances of a row's logits in a decode batch, as shares of the largest one."""


def allowed_error(size: float, dtype: object) -> float:
    """How far an answer's number, or vector, of this size may be off; never more than `ANSWER` allows."""
    answer, small, least = (each.of(dtype) for each in (ANSWER, SMALL, FLOOR))
    return min(answer * max(1.0, size), max(answer, small) * size + least)


def agree(found: torch.Tensor, expected: torch.Tensor, tolerance: float, *, min_scale: float = 0.0) -> bool:
    """Whether numbers differ by at most `tolerance` times the largest expected one, or `min_scale` if that is larger.

    What is no smaller than `MASK` does not set that scale, and may differ by `tolerance` times its own size.
    """
    found, expected = found.float(), expected.float()
    sizes = expected.abs()
    is_mask = sizes >= MASK
    scale = max(min_scale, float(sizes.masked_fill(is_mask, 0.0).max()))
    distances = (found - expected).abs()
    return bool(
        ((found == expected) | (distances <= tolerance * torch.where(is_mask & sizes.isfinite(), sizes, scale))).all()
    )

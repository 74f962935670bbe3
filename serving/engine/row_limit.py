"""The longest row that a model takes, found by running it: a configuration may promise more than the model has."""

import torch

from registry.checkpoint_files import one_line
from registry.errors import ContractError
from serving.engine.model import Model
from serving.engine.probe_lengths import longest_affordable

MAX_MULTIPLICATIONS = 10**12
"""In a forward pass over a row that is run: some 10 seconds on two cores. Untuned."""


@torch.inference_mode()
def find_row_limit(model: Model) -> int:
    """Tokens of the longest row that the model takes, >= 1 and at most the contract's limit. Blocks for a forward pass.

    A row of more than `MAX_MULTIPLICATIONS`, or longer than `longest_affordable` allows, is not run; then the
    contract's limit is accepted if the longest affordable row works. Raises ContractError where no row works, with the
    model's own error.
    """
    most = longest_affordable(model, MAX_MULTIPLICATIONS)
    error = _try_row(model, most)
    if error is None:
        return model.contract.max_tokens
    works, fails = most, most
    while works > 1 and error is not None:
        fails, works = works, works // 2
        error = _try_row(model, works)
    if error is not None:
        files = "config.json" + (" and preprocessor_config.json" if model.contract.processor.image else "")
        raise ContractError(
            f"the model fails on rows of every length ({type(error).__name__}: {one_line(error)}): check its weights, "
            f"and {files} for wrong values, and save all of them again with save_pretrained"
        ) from error
    while fails - works > 1:
        middle = (works + fails) // 2
        works, fails = (middle, fails) if _try_row(model, middle) is None else (works, middle)
    return works


def _try_row(model: Model, length: int) -> Exception | None:
    """What a forward pass over one row raises, None where it works or only lacks memory."""
    try:
        model.try_row(model.probe(length))
    except Exception as error:  # a model may raise anything
        lacks_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)
        return None if lacks_memory else error
    return None

"""Adapters with random weights, as PEFT saves them after a training, and the answers that PEFT gives with them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

PUSH = 0.3
"""How far each number of an adapter is moved from where the training would begin, on average."""


def make_adapter(
    folder: Path,
    base: Path,
    auto_class: str,
    config: Any,
    *,
    change: Callable[[Any], object] | None = None,
    **of_base: Any,
) -> Path:
    """Save an adapter of the checkpoint `base` to `folder`.

    config: of PEFT. change: done to the base model before it gets its adapter. of_base: arguments of `from_pretrained`.
    """
    from peft import get_peft_model

    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about what is chosen here
        model = getattr(transformers, auto_class).from_pretrained(base, **{"dtype": torch.float32} | of_base)
        if change is not None:
            change(model)
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += PUSH * torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5
        adapted.save_pretrained(folder)
    return folder


def beside(base: Path, adapter: Path, auto_class: str, **of_base: Any) -> Any:
    """The base with the adapter beside it, not merged, as PEFT loads the two."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, auto_class).from_pretrained(base, **{"dtype": torch.float32} | of_base)
        return PeftModel.from_pretrained(model, str(adapter), torch_device="cpu").eval()

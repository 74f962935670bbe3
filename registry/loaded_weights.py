"""Whether all of a loaded model's weights were in the checkpoint, and all of the checkpoint's are used."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from registry.errors import CheckpointWarning, MismatchedHead, RandomHead
from registry.heads import Head

BUFFERS = ("attn.bias", "attention.bias", "masked_bias", "inv_freq", "position_ids")
"""Ends of names of constants that older releases of transformers saved beside the weights."""


def check_report(model: Any, report: Mapping[str, Any], expected: str, head: Head) -> None:
    """Refuse a model whose weights were not all in the checkpoint; warns of weights that it does not use.

    report: transformers' of loading. expected: the model's class. Raises MismatchedHead, RandomHead.
    """
    if report["mismatched_keys"]:
        key, saved, built = min(report["mismatched_keys"])
        raise MismatchedHead(
            f"{key} has shape {tuple(saved)} in the checkpoint, config.json asks for {tuple(built)}: set "
            "num_labels and id2label (of a head) or the sizes in config.json to those that the model was trained with"
        )
    missing = sorted(report["missing_keys"])
    if not head.needs_head:
        missing = _without_pooler(model, missing)
    if missing:
        wrapper = _find_wrapper(missing, report["unexpected_keys"])
        if wrapper:
            raise RandomHead(
                f"the checkpoint has the weights of {expected} under other names, such as {wrapper}{missing[0]}: save "
                "the model within its wrapper, as with model._orig_mod.save_pretrained(folder) of torch.compile's, and "
                "model.module of DataParallel's"
            )
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise RandomHead(
            f"the checkpoint lacks weights of {expected}: {shown}; they would be random. "
            f"Fine-tune with {head.auto_class} and log the result"
        )
    if unused := _find_unused(model, report["unexpected_keys"]):
        warnings.warn(
            f"config.json gives {len(unused)} of the checkpoint's weights no place in the model, such as {unused[0]}, "
            "so answers are those without them: check num_hidden_layers and the other values there",
            CheckpointWarning,
            stacklevel=3,
        )


def _find_wrapper(missing: Sequence[str], unexpected: Collection[str]) -> str:
    """What stands before the names of all missing weights in the checkpoint; "" where they are not there at all."""
    prefixes = (name.removesuffix(missing[0]) for name in unexpected if name.endswith(missing[0]))
    return next((prefix for prefix in prefixes if all(prefix + name in unexpected for name in missing)), "")


def _find_unused(model: Any, unexpected: Collection[str]) -> list[str]:
    """Weights of the checkpoint that belong into the model's layers, but are not used; those of other heads do not."""
    modules = dict(model.named_modules())

    def is_within(name: str) -> bool:
        parts = name.split(".")
        known = next((size for size in range(len(parts) - 1, 0, -1) if ".".join(parts[:size]) in modules), 0)
        return known > 1 or (known == 1 and parts[1].isdecimal())

    own = f"{model.base_model_prefix}."
    return [
        name
        for name in sorted(unexpected)
        if not name.endswith(BUFFERS) and (is_within(name) or is_within(name.removeprefix(own)))
    ]


def _without_pooler(model: Any, missing: list[str]) -> list[str]:
    """Missing weights but for the pooler's, which reads the states and makes none; those are set to 0 in the model.

    Checkpoints of masked language models have no pooler.
    """
    import torch

    pooler = [name for name in missing if name.startswith("pooler.")]
    with torch.no_grad():
        for name in pooler:
            model.get_parameter(name).zero_()
    return [name for name in missing if name not in pooler]

"""Candidates for `rollout`, made of a classifier: one that answers wrongly, a slow one and one that fails.

Each is a checkpoint of its own. Nothing in the server knows of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prefer_one_label(stable: Path, target: Path, texts: Sequence[str], share: float) -> None:
    """Save a classifier whose answers differ for a `share` of the texts: a bias of the head makes it one label.

    As happens where one label is over-represented in the training data.
    """
    import torch

    model, tokenizer = _load(stable)
    with torch.inference_mode():
        logits = torch.cat([_logits(model, tokenizer, texts[at : at + 64]) for at in range(0, len(texts), 64)])
        missing = logits.max(dim=-1).values - logits[:, 0]
    ordered = missing[missing > 0].sort().values
    bias = ordered[min(len(ordered), round(share * len(texts))) - 1].item() + 1e-4
    with torch.no_grad():
        model.classifier.bias[0] += bias
    _save(model, tokenizer, target)


def widen(stable: Path, target: Path, intermediate_size: int) -> None:
    """Save a classifier with the same answers whose feed-forward layers are `intermediate_size` wide, and so slower.

    The weights of the additional neurons are zero.
    """
    import torch

    model, tokenizer = _load(stable)
    config = type(model.config).from_dict({**model.config.to_dict(), "intermediate_size": intermediate_size})
    wide = type(model)(config)
    weights = model.state_dict()
    with torch.no_grad():
        for name, parameter in wide.state_dict().items():
            before = weights[name]
            parameter.zero_()
            parameter[tuple(slice(0, size) for size in before.shape)] = before
    _save(wide, tokenizer, target)


def lose_a_word(stable: Path, target: Path, texts: Sequence[str], share: float) -> str:
    """Save a classifier that fails on texts with one word, whose embedding is not a number; return the word.

    As a diverged training leaves it. The word is the one whose share of the texts is nearest to `share`.
    """
    import torch

    model, tokenizer = _load(stable)
    words = [set(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    counts: dict[int, int] = {}
    for token in (token for tokens in words for token in tokens):
        counts[token] = counts.get(token, 0) + 1
    beginnings = [token for token in counts if not tokenizer.convert_ids_to_tokens(token).startswith("##")]
    chosen = min(beginnings, key=lambda token: (abs(counts[token] - share * len(texts)), token))
    with torch.no_grad():
        model.get_input_embeddings().weight[chosen] = float("nan")
    _save(model, tokenizer, target)
    word: str = tokenizer.convert_ids_to_tokens(chosen)
    return word


def _load(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def _logits(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> "torch.Tensor":
    """The classifier's logits, `(texts, labels) float32`."""
    found: torch.Tensor = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits
    return found


def _save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", target: Path) -> None:
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)

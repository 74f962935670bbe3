"""The contract of a small text classifier, for tests that need no model."""

from typing import Any

import msgspec

from registry.contract import FORMAT, Contract, Processor

TEXT = Processor(
    class_name="BertTokenizer", inputs=("input_ids",), pad_token_id=0, unk_token_id=1, vocabulary=9, mask_token_id=2
)
CLASSIFIER = Contract(
    format=FORMAT,
    task="text-classification",
    auto_class="AutoModelForSequenceClassification",
    model_class="BertForSequenceClassification",
    model_type="bert",
    problem_type=None,
    labels=("bad", "good"),
    max_tokens=64,
    dtype="auto",
    processor=TEXT,
    defaults={},
    transformers="5",
    torch="2",
    files={},
)


def classifier(**changes: Any) -> Contract:
    """CLASSIFIER with other fields."""
    return msgspec.structs.replace(CLASSIFIER, **changes)

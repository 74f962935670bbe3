"""A decoder's head that reads a row's end reads it where transformers does for the row alone, whatever pads the row."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from registry.staging import stage
from tests.alike import assert_alike
from tests.families import MAX_TOKENS, build, make_tokenizer, texts_of
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

TEXTS = texts_of(4, 3)


def save(folder: Path, stated: int | None, pad_token: str) -> Path:
    """A classifier whose tokenizer ends each row with </s>. stated: `pad_token_id` of config.json."""
    build(folder, "llama", "AutoModelForSequenceClassification")
    backend = deepcopy(make_tokenizer("llama").backend_tokenizer)
    special = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=special
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=MAX_TOKENS, pad_token=pad_token, eos_token="</s>", bos_token="<s>"
    )
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": stated}))
    return folder


@torch.inference_mode()
def alone(folder: Path, text: str) -> dict[str, float]:
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    scores = model(encoded["input_ids"], encoded["attention_mask"]).logits[0].softmax(-1)
    return {model.config.id2label[index]: float(score) for index, score in enumerate(scores)}


@pytest.mark.parametrize(
    ("stated", "pad_token"),
    [
        (0, "</s>"),  # trained with its own padding, and the tokenizer's pad token was set to the end token later
        (1, "<pad>"),  # the end token is padding to the model, which so reads the last word
        (None, "</s>"),  # transformers reads the very last token of a row alone
        (-1, "</s>"),  # as in the first checkpoints of Llama
    ],
)
def test_scores_in_batches_are_those_of_transformers_alone(tmp_path: Path, stated: int | None, pad_token: str) -> None:
    folder = save(tmp_path / "model", stated, pad_token)
    stage(tmp_path / "artifact", folder, None, "text-classification")
    (tmp_path / "run").mkdir()
    local = Local(tmp_path / "artifact", tmp_path / "run")
    for answer, text in zip(local.answers([{"inputs": text} for text in TEXTS]), TEXTS, strict=True):
        assert_alike({entry["label"]: entry["score"] for entry in answer[0]}, alone(folder, text))

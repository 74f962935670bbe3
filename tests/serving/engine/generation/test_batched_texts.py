"""A text does not depend on the texts that are generated beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from registry.contract import Batching
from serving.errors import EngineError
from tests.artifacts import make_artifact
from tests.families import texts_of
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

TEXTS = ["fox", *texts_of(8, 5, 16)]


@torch.inference_mode()
def alone(folder: Path, auto_class: Any, text: str) -> str:
    """The greedy text of a freshly loaded model for one prompt."""
    model = auto_class.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    made = model.generate(**encoded, max_new_tokens=6, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    start = 1 if model.config.is_encoder_decoder else encoded["input_ids"].shape[1]
    return str(tokenizer.decode(made[0, start:], skip_special_tokens=True, clean_up_tokenization_spaces=False))


def test_a_model_that_forgets_a_long_prompt_is_refused(tmp_path: Path) -> None:
    """BigBird's block-sparse attention, of long rows only, fills no key-value cache (transformers 5.23)."""
    with pytest.raises(EngineError, match="other logits at token 1 of a prompt of [0-9]+ tokens"):
        make_artifact(tmp_path, "big_bird", "text-generation")


@pytest.mark.parametrize(
    ("family", "task", "batching"),
    [
        ("opt", "text-generation", "any lengths"),
        ("bigbird_pegasus", "text2text-generation", "one row"),
        ("led", "text2text-generation", "one row"),  # its configuration names its positions otherwise
        ("m2m_100", "text2text-generation", "one row"),  # padding has no position, and its texts begin with padding
    ],
)
def test_texts_in_batches_are_those_of_generate_alone(
    tmp_path: Path, family: str, task: str, batching: Batching
) -> None:
    assert make_artifact(tmp_path, family, task, padding_side="left").batching == batching
    (tmp_path / "run").mkdir()
    local = Local(tmp_path, tmp_path / "run")
    auto_class = getattr(transformers, local.model.task.head.auto_class)
    for texts in (TEXTS, TEXTS[::-1]):
        asked = [{"inputs": text, "parameters": {"max_new_tokens": 6, "do_sample": False}} for text in texts]
        for answer, text in zip(local.answers(asked), texts, strict=True):
            assert answer[0]["generated_text"] == alone(tmp_path / "model", auto_class, text)

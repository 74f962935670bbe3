"""The candidates of the demo of rollouts have the faults that it tells of, and no others."""

from pathlib import Path
from typing import Any

import pytest

from serving.demo.candidates import lose_a_word, prefer_one_label, widen
from tests.small_models import build_model

pytestmark = pytest.mark.slow


TEXTS = [f"a text about {what}, number {number}" for number in range(25) for what in ("a parcel", "rain", "tea", "war")]


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("stable"), "single")


def answers(folder: Path) -> Any:
    """The logits of all texts, one text at a time: `(texts, labels) float32`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


def test_a_share_of_the_answers_is_wrong(stable: Path, tmp_path: Path) -> None:
    prefer_one_label(stable, tmp_path, TEXTS, 0.3)
    before, after = (answers(folder).argmax(dim=-1) for folder in (stable, tmp_path))
    assert (before != after).float().mean() == pytest.approx(0.3, abs=0.02)
    assert set(after[before != after].tolist()) == {0}, "the label that it prefers"


def test_a_wide_one_gives_the_same_answers(stable: Path, tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open

    widen(stable, tmp_path, 640)
    assert torch.allclose(answers(stable), answers(tmp_path), atol=1e-5)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("bert.encoder.layer.0.output.dense.weight").shape == (32, 640)


def test_one_that_lost_a_word_has_no_answer_for_the_texts_with_it_alone(stable: Path, tmp_path: Path) -> None:
    word = lose_a_word(stable, tmp_path, TEXTS, 0.25)
    assert sum(word in text for text in TEXTS) == 25
    finite = answers(tmp_path).isfinite().all(dim=-1).tolist()
    assert [word not in text for text in TEXTS] == finite

"""A model logged without an example gets the task's own, shortened to what the model takes."""

from pathlib import Path

import pytest
import transformers

from registry.heads import get_head
from registry.staging import stage
from serving.engine.assembly import optimize_model
from serving.engine.predictor import Predictor
from serving.errors import Unprocessable
from serving.tasks.base.example import shorten
from tests.families import build, cells

pytestmark = pytest.mark.sweep

CASES = [(family, task, 16) for family, task in cells() if family in ("bert", "t5", "gpt2")]
CASES += [("bert", "zero-shot-classification", 16), ("bert", "text-classification", 3)]


@pytest.mark.parametrize(("family", "task", "max_tokens"), CASES)
def test_a_low_limit_is_logged_and_loads(tmp_path: Path, family: str, task: str, max_tokens: int) -> None:
    folder = build(tmp_path / "model", family, get_head(task).auto_class)
    contract = stage(tmp_path / "artifact", folder, None, task, max_tokens=max_tokens)
    assert contract.max_tokens == max_tokens
    assert contract.example is not None
    assert len(contract.example.inputs) == len(contract.example.output) > 0
    predictor = Predictor(tmp_path / "artifact")
    optimize_model(predictor.model)
    assert predictor.find_difference() is None


def test_vectors_of_images_of_the_usual_size_fit_into_a_contract(tmp_path: Path) -> None:
    """ViT's 197 patches of 768 numbers; one layer is enough."""
    config = transformers.ViTConfig(num_hidden_layers=1, intermediate_size=64)
    transformers.ViTModel(config).save_pretrained(tmp_path / "model")
    transformers.ViTImageProcessorPil().save_pretrained(tmp_path / "model")
    contract = stage(tmp_path / "artifact", tmp_path / "model", None, "feature-extraction")
    assert contract.defaults["pooling"] == "raw"
    assert contract.example is not None
    assert [len(vector) for vector in contract.example.output] == [768, 768]


def test_an_example_that_fits_in_no_form_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "bert", "AutoModelForQuestionAnswering")
    with pytest.raises(Unprocessable, match="rows of at most 4 tokens.*larger max_tokens"):
        stage(tmp_path / "artifact", folder, None, "question-answering", max_tokens=4)


def test_the_longest_text_is_shortened_first_and_nothing_is_changed_in_place() -> None:
    item = {"prompt": "a b", "choices": ["c", "d e f"]}
    found = [item]
    while (shorter := shorten(found[-1])) is not None:
        found.append(shorter)  # type: ignore[arg-type]
    assert found == [
        {"prompt": "a b", "choices": ["c", "d e f"]},
        {"prompt": "a b", "choices": ["c", "d e"]},
        {"prompt": "a b", "choices": ["c", "d"]},
        {"prompt": "a", "choices": ["c", "d"]},
    ]

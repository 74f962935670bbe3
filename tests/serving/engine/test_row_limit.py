"""The longest row is what the model takes, not what its files promise."""

from pathlib import Path

import pytest

from registry.contract import Contract
from registry.errors import ContractError
from registry.layout import MODEL_FOLDER
from registry.staging import make_contract
from serving.engine.model import Model
from serving.engine.row_limit import find_row_limit
from tests.artifacts import make_artifact
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.slow]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("family", "task", "limit", "tokenizer"),
    [
        ("opt", "text-classification", 128, {"model_max_length": 512}),
        ("opt", "text-generation", 128, {"model_max_length": 512}),
        ("xlnet", "text-classification", 512, {}),
        ("xlnet", "text-classification", 300, {"model_max_length": 300}),
        ("gpt2", "text-generation", 320, {"model_max_length": 1000}),
        ("led", "question-answering", 90, {}),
        ("bert", "text-classification", 200, {"model_max_length": 200}),
    ],
)
def test_the_limit_is_the_least_of_all_and_a_row_of_that_length_is_answered(
    tmp_path: Path, family: str, task: str, limit: int, tokenizer: dict[str, int]
) -> None:
    contract = make_artifact(tmp_path, family, task, **tokenizer)
    assert contract.max_tokens == limit
    (tmp_path / "run").mkdir()
    local = Local(tmp_path, tmp_path / "run")
    local.model.try_row(local.model.probe(limit))


class Short(Model):
    """A model that takes no row of more tokens than `most`."""

    most = 0

    def try_row(self, row: object) -> None:
        """Raises as an embedding does that has no such position."""
        if row.length > self.most:  # type: ignore[attr-defined]  # a Row
            raise IndexError("index out of range in self")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contract]:
    """A classifier that takes 320 tokens."""
    root = tmp_path_factory.mktemp("bert")
    return root, make_artifact(root, "bert", "text-classification")


@pytest.mark.parametrize("most", [1, 2, 37, 159, 160, 161, 319, 320, 5000])
def test_the_limit_is_found_by_running_rows(artifact: tuple[Path, Contract], most: int) -> None:
    model = Short(*artifact)
    model.most = most
    assert find_row_limit(model) == min(most, 320)


def test_a_model_that_takes_no_row_is_refused_with_its_own_error(artifact: tuple[Path, Contract]) -> None:
    with pytest.raises(ContractError, match=r"fails on rows of every length \(IndexError: index out of range"):
        find_row_limit(Short(*artifact))


def test_a_limit_that_is_asked_for_must_be_one_that_the_model_has(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from registry.checks import load_model

    make_artifact(tmp_path, "led", "question-answering")
    folder = tmp_path / MODEL_FOLDER
    model, tokenizer = load_model(folder, "question-answering", dtype="auto"), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ContractError, match="max_tokens=200 is out of range: this model takes 1 to 90"):
        make_contract(tmp_path, model, tokenizer, "question-answering", origin=folder, max_tokens=200)
    contract = make_contract(tmp_path, model, tokenizer, "question-answering", origin=folder, max_tokens=50)
    assert contract.max_tokens == 50

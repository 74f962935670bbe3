"""Models that plain mlflow.transformers logged get a contract of their own, or a clear refusal."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
import transformers

from registry import cache
from registry.cache import fetch, fetch_and_pin
from registry.contract import Contract
from registry.errors import ContractError, DigestMismatch, UnpinnedArtifact
from registry.heads import get_head
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.transformers_flavor import derive
from registry.versions import Versions
from tests.conftest import use_tracking
from tests.families import build

CASES = [
    ("bert", "text-classification"),
    ("bert", "zero-shot-classification"),
    ("bert", "token-classification"),
    ("bert", "feature-extraction"),
    ("roberta", "fill-mask"),
    ("gpt2", "text-generation"),
    ("vit", "image-classification"),
]


def log_plainly(folder: Path, task: str, settings: RegistrySettings, claimed: str | None = None) -> None:
    """As MLflow's documentation shows it: the components, and the task."""
    model = getattr(transformers, get_head(task).auto_class).from_pretrained(folder)
    components: dict[str, Any] = {"model": model}
    if "vit" in str(model.config.model_type):
        components["image_processor"] = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    else:
        components["tokenizer"] = transformers.AutoTokenizer.from_pretrained(folder)
    use_tracking(settings)
    mlflow.transformers.log_model(
        components, name="m", task=claimed or task, registered_model_name="m", pip_requirements=["transformers"]
    )


def fetched(settings: RegistrySettings) -> tuple[Path, Contract]:
    _, held, contract = fetch_and_pin(Versions(settings).resolve(Reference("m", version="1")), settings)
    return held.root, contract


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "task"), [pytest.param(*CASES[0], marks=pytest.mark.server), *CASES[1:]])
def test_a_plainly_logged_model_is_served(
    tmp_path: Path, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch, family: str, task: str
) -> None:
    from serving.engine.predictor import Predictor

    if (family, task) != CASES[0]:  # whose contract, like the refusal below, comes from a process of its own
        monkeypatch.setattr(cache, "add_contract", derive)  # each would import torch and transformers for seconds
    log_plainly(build(tmp_path / "saved", family, get_head(task).auto_class), task, settings)
    root, contract = fetched(settings)
    assert (contract.task, contract.auto_class) == (task, get_head(task).auto_class)
    assert contract.example is not None
    assert Predictor(root, contract).find_difference() is None


@pytest.mark.server
@pytest.mark.filterwarnings("ignore")
def test_a_plainly_logged_model_under_another_task_is_refused(tmp_path: Path, settings: RegistrySettings) -> None:
    log_plainly(build(tmp_path / "saved", "bert", "AutoModelForMaskedLM"), "fill-mask", settings, "text-classification")
    with pytest.raises(ContractError, match="WrongHead: text-classification needs BertForSequenceClassification"):
        fetched(settings)
    assert not list(settings.cache.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_promotion_records_which_files_are_meant(
    tmp_path: Path, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "add_contract", derive)
    log_plainly(build(tmp_path / "saved", "bert", get_head(CASES[0][1]).auto_class), CASES[0][1], settings)
    versions = Versions(settings)
    with pytest.raises(UnpinnedArtifact, match="headwaiter promote m 1"):
        fetch(versions.resolve(Reference("m", version="1")), settings)
    versions.promote("m", "1", why="the first")
    promoted = versions.resolve(Reference("m", alias="champion"))
    assert (promoted.digest, len(promoted.files or "")) == (None, 64)
    assert fetch(promoted, settings)[1].task == CASES[0][1]
    vocabulary = next(settings.artifacts.rglob("components/tokenizer/tokenizer.json"))
    vocabulary.write_text(vocabulary.read_text() + " ")
    with pytest.raises(DigestMismatch, match="changed after the version was promoted"):
        fetch(promoted, settings)

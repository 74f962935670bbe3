"""Models that plain mlflow.transformers logged get a contract of their own, or a clear refusal."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
import transformers
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from registry import cache
from registry.cache import fetch, fetch_and_pin
from registry.contract import Contract
from registry.errors import ContractError, DigestMismatch, UnpinnedArtifact
from registry.heads import get_head
from registry.references import Reference
from registry.sentence_flavor import derive_sentences, read_defaults
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from registry.transformers_flavor import derive
from registry.versions import Versions
from tests.alike import assert_alike
from tests.families import build
from tests.sentence_folders import encode, save

pytestmark = pytest.mark.slow


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
    connect_mlflow(settings)
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


@pytest.mark.long
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
    (record,) = (path for path in settings.artifacts.rglob("MLmodel") if "components" not in path.parts)
    logged = record.read_text()
    contract = cache.fetch(promoted, settings)[0] / "MLmodel"
    record.write_text(contract.read_text())  # a contract of somebody's own
    for look in (fetch, cache.peek):
        with pytest.raises(DigestMismatch, match="promoted without a contract, and its MLmodel has one now"):
            look(promoted, settings)
    record.write_text(logged)
    vocabulary = next(settings.artifacts.rglob("components/tokenizer/tokenizer.json"))
    vocabulary.write_text(vocabulary.read_text() + " ")
    with pytest.raises(DigestMismatch, match="changed after the version was promoted"):
        fetch(promoted, settings)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_mlflow_logged_of_sentence_transformers_is_served(
    tmp_path: Path, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from serving.engine.predictor import Predictor

    monkeypatch.setattr(cache, "add_contract", derive)
    base = build(tmp_path / "base", "bert", "AutoModel")
    folder = save(base, tmp_path / "saved", Pooling(32, "mean"), prompts={"query": "query: "})
    connect_mlflow(settings)
    schema = Schema([ColSpec("string")])
    signature = ModelSignature(schema, params=ParamSchema([ParamSpec("normalize_embeddings", "boolean", True)]))
    mlflow.sentence_transformers.log_model(
        SentenceTransformer(str(folder), device="cpu"),
        name="m",
        registered_model_name="m",
        signature=signature,
        pip_requirements=["sentence-transformers"],
    )
    versions = Versions(settings)
    versions.promote("m", "1", why="the first")
    root, contract = fetch(versions.resolve(Reference("m", alias="champion")), settings)
    assert contract.task == "feature-extraction"
    assert (contract.defaults["pooling"], contract.defaults["normalize"]) == ("mean", True)
    described = Model.load(str(root))
    assert "dimensions" in {spec.name for spec in described.signature.params}, "MLflow loads it by our function"
    texts, loaded = ["a fox", "two foxes and a hen"], Predictor(root, contract)
    for parameters in ({}, {"prompt_name": "query"}):
        expected = [vector.tolist() for vector in encode(folder, texts, normalize_embeddings=True, **parameters)]
        assert_alike(loaded.answer(texts, parameters), expected)


@pytest.mark.parametrize(
    ("fields", "settings_given", "words"),
    [
        ({"quantized": True}, {}, "quantized=True, which this release does not know"),
        ({}, {"truncate_dim": 8}, "truncate_dim=8, and that cannot be applied"),
        ({}, {"precision": "int8"}, "precision='int8', and that cannot be applied"),
        ({}, {"prompt": "query: "}, "prompt='query: ', and that cannot be applied"),
        ({"sentence_transformers_version": "6.2.0"}, {"task": "llm/v1/embeddings", "batch_size": 8}, "no modules.json"),
    ],
)
def test_what_is_not_served_of_sentence_transformers_is_refused(
    tmp_path: Path, fields: dict[str, Any], settings_given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ContractError, match=words):
        derive_sentences(tmp_path, fields, settings_given, None)


def test_what_encode_does_not_undo_is_no_default() -> None:
    assert read_defaults({"normalize_embeddings": False, "prompt_name": "query", "device": None}) == {
        "prompt_name": "query"
    }

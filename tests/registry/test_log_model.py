import json
import platform
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from registry.artifact import read_contract
from registry.cache import fetch
from registry.contract import Contract
from registry.errors import (
    ContractError,
    DigestMismatch,
    IncompleteArtifact,
    RandomHead,
    UnsafeArtifact,
    UnsupportedHead,
    WrongHead,
)
from registry.flavor import log_model, save_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.staging import stage
from registry.tracking import mlflow_pointed_at
from registry.versions import Versions
from tests.alike import assert_alike
from tests.small_models import SINGLE_LABELS, build_model

pytestmark = [pytest.mark.processor, pytest.mark.slow]

TASK = "text-classification"


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_folder_becomes_a_version_with_a_contract(models: dict[str, Path], settings: RegistrySettings) -> None:
    logged = log_model(models["single"], task=TASK, name="m")
    versions = Versions(settings)
    resolved = versions.resolve(Reference("m", version=logged.version))
    root, contract = fetch(resolved, settings)
    assert (logged.version, contract) == ("1", logged.contract)
    assert contract.labels == SINGLE_LABELS
    assert (contract.model_class, contract.max_tokens) == ("BertForSequenceClassification", 256)
    assert contract.example is not None
    assert len(contract.example.output) == 3
    assert set(contract.files) >= {"model/config.json", "model/model.safetensors", "model/tokenizer.json"}
    tags = versions._client.get_model_version("m", "1").tags
    assert tags == {
        "headwaiter.digest": contract.digest,
        "headwaiter.task": TASK,
        "headwaiter.head": "BertForSequenceClassification",
        "headwaiter.model_type": "bert",
    }
    assert root.parent == settings.cache


def test_the_artifact_works_without_mlflow_and_without_us(models: dict[str, Path], settings: RegistrySettings) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    log_model(models["single"], task=TASK, name="m")
    root, _ = fetch(Versions(settings).resolve(Reference("m", version="1")), settings)
    again = AutoModelForSequenceClassification.from_pretrained(root / "model")
    first = AutoModelForSequenceClassification.from_pretrained(models["single"])
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))


def test_a_model_in_memory_is_logged_with_its_tokenizer(models: dict[str, Path], settings: RegistrySettings) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(models["tokens"])
    tokenizer = AutoTokenizer.from_pretrained(models["tokens"])
    with pytest.raises(IncompleteArtifact, match="pass tokenizer="):
        log_model(model, task="token-classification", name="m")
    logged = log_model(model, tokenizer, task="token-classification", name="m", inputs=["Ada in London"])
    assert logged.contract.example is not None
    assert logged.contract.example.inputs == ["Ada in London"]
    with pytest.raises(WrongHead):
        log_model(model, tokenizer, task=TASK, name="m")


def test_python_function_answers_like_the_contract_says(models: dict[str, Path], settings: RegistrySettings) -> None:
    import mlflow

    logged = log_model(models["multi"], task=TASK, name="m")
    with mlflow_pointed_at(settings):
        loaded = mlflow.pyfunc.load_model("models:/m/1", suppress_warnings=True)
    example = logged.contract.example
    assert example is not None
    for found, expected in zip(loaded.predict(example.inputs), example.output, strict=True):
        assert_alike(found, expected)
    described = loaded.metadata
    assert described.metadata == {"task": TASK, "head": "BertForSequenceClassification"}
    assert described.flavors["python_function"]["python_version"] == platform.python_version()
    assert described.saved_input_example_info["artifact_path"] == "input_example.json"
    assert {spec.name for spec in described.signature.params} >= {"top_k", "function_to_apply"}


def test_the_contract_survives_the_way_through_yaml(models: dict[str, Path], settings: RegistrySettings) -> None:
    logged = log_model(models["base"], task="feature-extraction", name="m", defaults={"pooling": "mean"})
    root, contract = fetch(Versions(settings).resolve(Reference("m", version="1")), settings)
    assert contract.digest == logged.contract.digest == read_contract(root).digest
    assert (contract.defaults["pooling"], contract.defaults["normalize"]) == ("mean", False)
    assert Contract.parse(json.loads(json.dumps(contract.to_record()))) == contract


@pytest.mark.parametrize(
    ("kind", "task", "error", "match"),
    [
        ("masked", TASK, WrongHead, "saved as BertForMaskedLM"),
        ("base", TASK, RandomHead, "lacks weights of BertForSequenceClassification"),
        ("single", "token-classification", WrongHead, "saved as BertForSequenceClassification"),
        ("single", "text2text-generation", UnsupportedHead, "the tasks that it does have"),
    ],
)
def test_a_wrong_head_is_refused(
    models: dict[str, Path], settings: RegistrySettings, kind: str, task: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        log_model(models[kind], task=task, name="m")


def test_a_head_whose_weights_are_missing_is_refused(
    models: dict[str, Path], settings: RegistrySettings, tmp_path: Path
) -> None:
    folder = copied(models["single"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {key: value for key, value in weights.items() if not key.startswith("classifier")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(RandomHead, match=r"classifier\.bias, classifier\.weight; they would be random"):
        log_model(folder, task=TASK, name="m")


def test_pickles_and_missing_files_are_refused(
    models: dict[str, Path], settings: RegistrySettings, tmp_path: Path
) -> None:
    folder = copied(models["single"], tmp_path / "copy")
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeArtifact, match="pickled"):
        log_model(folder, task=TASK, name="m")
    (folder / "pytorch_model.bin").rename(folder / "training_args.bin")
    with pytest.raises(IncompleteArtifact, match=r"has no model\.safetensors"):
        log_model(folder, task=TASK, name="m")
    with pytest.raises(IncompleteArtifact, match=r"no config\.json"):
        log_model(tmp_path, task=TASK, name="m")
    with pytest.raises(IncompleteArtifact, match="is not a folder"):
        log_model(tmp_path / "nothing", task=TASK, name="m")


def test_code_and_pickles_beside_the_weights_are_neither_loaded_nor_copied(
    models: dict[str, Path], settings: RegistrySettings, tmp_path: Path
) -> None:
    folder = copied(models["single"], tmp_path / "copy")
    for name in ("train_script.py", "scripts/evaluate.py", "training_args.bin", "optimizer.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit('loaded')")
    assert (
        log_model(folder, task=TASK, name="m").contract.files
        == log_model(models["single"], task=TASK, name="m").contract.files
    )


def test_remote_code_is_refused(models: dict[str, Path], settings: RegistrySettings, tmp_path: Path) -> None:
    folder = copied(models["single"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_mine.Mine"}}))
    (folder / "modeling_mine.py").write_text("raise SystemExit('loaded')")
    with pytest.raises(UnsafeArtifact, match="auto_map"):
        log_model(folder, task=TASK, name="m")


def test_the_staged_weights_are_moved_and_not_copied(models: dict[str, Path], tmp_path: Path) -> None:
    root, target = tmp_path / "staged", tmp_path / "logged"
    contract = stage(root, models["single"], None, TASK)
    weights = (root / "model" / "model.safetensors").stat().st_ino
    target.mkdir()
    save_model(str(target), None, root=root, contract=contract)
    assert (target / "model" / "model.safetensors").stat().st_ino == weights
    assert not (root / "model").exists()
    assert read_contract(target) == contract


def test_unnamed_labels_warn(settings: RegistrySettings, tmp_path: Path) -> None:
    folder = build_model(tmp_path / "unnamed", "single", labels=("LABEL_0", "LABEL_1"))
    with pytest.warns(UserWarning, match="the labels have no names"):
        log_model(folder, task=TASK, name="m")


def test_bad_arguments_are_refused(models: dict[str, Path], settings: RegistrySettings) -> None:
    with pytest.raises(ContractError, match="dtype 'int4'"):
        log_model(models["single"], task=TASK, name="m", dtype="int4")
    with pytest.raises(ContractError, match="takes 1 to 256"):
        log_model(models["single"], task=TASK, name="m", max_tokens=257)
    with pytest.raises(ContractError, match="has no default 'pooling'"):
        log_model(models["single"], task=TASK, name="m", defaults={"pooling": "mean"})
    with pytest.raises(ContractError, match="choose one of: raw, mean, cls, last"):
        log_model(models["base"], task="feature-extraction", name="m", defaults={"pooling": "median"})


def test_a_changed_store_is_noticed_and_a_changed_cache_is_mended(
    models: dict[str, Path], settings: RegistrySettings
) -> None:
    log_model(models["single"], task=TASK, name="m")
    resolved = Versions(settings).resolve(Reference("m", version="1"))
    root, contract = fetch(resolved, settings)
    weights = root / "model" / "model.safetensors"
    flip_last_byte(weights)
    again, _ = fetch(resolved, settings)
    assert again == root

    stored = next(path for path in settings.artifacts.rglob("model.safetensors"))
    flip_last_byte(stored)
    shutil.rmtree(root)
    with pytest.raises(DigestMismatch, match=r"model/model\.safetensors has sha256"):
        fetch(resolved, settings)
    assert list(settings.cache.iterdir()) == []
    flip_last_byte(stored)
    (stored.parent / "extra.txt").write_text("x")
    with pytest.raises(DigestMismatch, match=r"extra\.txt is in the artifact but not in its contract.*; remove it"):
        fetch(resolved, settings)
    (stored.parent / "extra.txt").unlink()
    described = stored.parent.parent / "MLmodel"
    described.write_text(described.read_text().replace("max_tokens: 256", "max_tokens: 200"))
    with pytest.raises(DigestMismatch, match="MLmodel changed after logging"):
        fetch(resolved, settings)
    stored.unlink()
    described.write_text(described.read_text().replace("max_tokens: 200", "max_tokens: 256"))
    with pytest.raises(IncompleteArtifact, match="is missing from the artifact"):
        fetch(resolved, settings)


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_another_registry_may_follow_an_embedded_one(tmp_path: Path, models: dict[str, Path], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow's default experiment puts its files
    for address in ("", f"sqlite:///{tmp_path}/other.db", ""):
        environ = {"HEADWAITER_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": address}
        settings = RegistrySettings.from_environment(environ)
        logged = log_model(models["single"], task="text-classification", name="m", settings=settings)
        assert Versions(settings).resolve(Reference("m", version=logged.version)).version == logged.version

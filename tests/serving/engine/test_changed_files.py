"""An artifact whose files changed after they were fetched is not loaded, by an engine or by a front."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from registry.artifact import read_contract
from registry.errors import ArtifactError, DigestMismatch
from serving.engine.loading import load_engine
from serving.engine.predictor import Predictor
from serving.front.loaded_version import LoadedVersion
from serving.processors.tokenizer import TextParameters
from serving.wire.engine_orders import EngineOrder

FIXTURE = Path(__file__).parents[2] / "fixtures" / "artifact-of-format-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURE, tmp_path / "artifact")


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_changed_weights_are_not_loaded(root: Path) -> None:
    contract = read_contract(root)
    flip_last_byte(root / "model" / "model.safetensors")
    with pytest.raises(DigestMismatch, match=r"model/model\.safetensors has sha256"):
        Predictor(root, contract)


@pytest.mark.parametrize("change", [{"chat_template": "{{ 1 }}"}, {"id2label": {"0": "other", "1": "one"}}])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_changed_settings_are_not_loaded(root: Path, name: str, change: dict[str, object]) -> None:
    path = root / "model" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DigestMismatch, match=name):
        Predictor(root)


def test_a_record_that_is_not_the_fetched_one_is_not_loaded(root: Path, order: EngineOrder) -> None:
    wanted = msgspec.structs.replace(order, root=str(root), digest=read_contract(root).digest)
    described = root / "MLmodel"
    described.write_text(described.read_text().replace("max_tokens: ", "max_tokens: 1"))
    with pytest.raises(DigestMismatch, match="MLmodel"):
        load_engine(wanted)


def test_a_link_in_place_of_a_file_is_not_loaded(root: Path) -> None:
    weights = root / "model" / "model.safetensors"
    weights.rename(root / "moved")
    weights.symlink_to(root / "moved")
    with pytest.raises(ArtifactError, match="is a link"):
        Predictor(root)


def test_a_front_reads_no_changed_tokenizer_and_needs_no_weights(root: Path) -> None:
    contract = read_contract(root)
    (root / "model" / "model.safetensors").unlink()
    assert LoadedVersion.load("m", "1", root, contract).contract is contract
    flip_last_byte(root / "model" / "tokenizer.json")
    with pytest.raises(DigestMismatch, match="tokenizer.json"):
        LoadedVersion.load("m", "1", root, contract)


def test_a_loaded_tokenizer_does_not_need_its_file(root: Path) -> None:
    version_context = LoadedVersion.load("m", "1", root, read_contract(root)).version_context
    shutil.rmtree(root)
    text = "a lazy fox " * 400
    long, _ = version_context.tokenizer.encode(text, parameters=TextParameters(truncate=True))
    assert long.length == version_context.contract.max_tokens

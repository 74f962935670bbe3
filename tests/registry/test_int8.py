"""int8 at logging: the gate runs on the sample, its result is in the contract, and the sample is in the artifact."""

import json
from pathlib import Path

import pytest

from registry.contract import Contract, Int8
from registry.errors import CheckpointWarning, ContractError
from registry.flavor import log_model
from registry.int8_sample import FILE, MAX_BYTES, MAX_INPUTS, read_sample, write_sample
from registry.layout import MODEL_FOLDER
from registry.staging import stage
from serving.engine.int8 import Comparison
from serving.engine.optimizations import int8_products
from serving.errors import EngineError

pytestmark = pytest.mark.slow


SAMPLE = ["short", "a text of several words", "a text of several words, and then of some more of them", "another one"]
TASK = "text-classification"


@pytest.fixture(autouse=True)
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models are small: their layers count all the same."""
    monkeypatch.setattr(int8_products, "MIN_FEATURES", 8)


def test_a_chosen_int8_is_recorded_with_its_figures_and_the_sample(models: dict[str, Path], tmp_path: Path) -> None:
    contract = stage(tmp_path, models["single"], None, TASK, dtype="int8", sample=SAMPLE)
    assert contract.dtype == "int8"
    assert isinstance(contract.int8, Int8)
    assert (contract.int8.inputs, contract.int8.refusal) == (len(SAMPLE), "")
    assert contract.int8.agreement >= 0.995
    assert f"{MODEL_FOLDER}/{FILE}" in contract.files
    assert read_sample(tmp_path / MODEL_FOLDER) == SAMPLE
    assert Contract.parse(json.loads(json.dumps(contract.to_record()))) == contract


def test_an_allowed_int8_is_compared_on_generated_inputs_without_a_sample(
    models: dict[str, Path], tmp_path: Path
) -> None:
    contract = stage(tmp_path, models["single"], None, TASK, allow=["int8"])
    assert contract.dtype == "auto"
    assert contract.allows_int8
    assert isinstance(contract.int8, Int8)
    assert contract.int8.inputs > 100
    assert f"{MODEL_FOLDER}/{FILE}" not in contract.files


def test_a_contract_without_int8_is_what_it_was_and_keeps_no_input(models: dict[str, Path], tmp_path: Path) -> None:
    contract = stage(tmp_path, models["single"], None, TASK, sample=SAMPLE)
    assert "int8" not in contract.to_record()
    assert not contract.allows_int8
    assert not (tmp_path / MODEL_FOLDER / FILE).exists()


def test_a_model_that_misses_the_gate_is_refused_where_int8_is_chosen_and_noted_where_it_is_allowed(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "agreement", lambda *_: 0.96)
    figures = r"on 4 inputs of the sample answers agree by 0\.9600 with those in float32, at least 0\.995 is required"
    with pytest.raises(ContractError, match=figures):
        stage(tmp_path / "chosen", models["single"], None, TASK, dtype="int8", sample=SAMPLE)
    with pytest.warns(CheckpointWarning, match=figures):
        contract = stage(tmp_path / "allowed", models["single"], None, TASK, allow=["int8"], sample=SAMPLE)
    assert not contract.allows_int8
    assert isinstance(contract.int8, Int8)
    assert "answers agree by 0.9600" in contract.int8.refusal


@pytest.mark.parametrize(("dtype", "allow"), [("auto", ["float16"]), ("float32", ["int8"]), ("int8", ["int8"])])
def test_nothing_but_int8_is_allowed_and_only_beside_auto(dtype: str, allow: list[str]) -> None:
    with pytest.raises(ContractError, match="int8 may be allowed beside auto"):
        log_model("folder", task=TASK, name="m", dtype=dtype, allow=allow)


def test_a_sample_that_is_kept_is_bounded(tmp_path: Path) -> None:
    write_sample(tmp_path, [f"text {number}" for number in range(MAX_INPUTS + 5)])
    assert len(read_sample(tmp_path)) == MAX_INPUTS
    write_sample(tmp_path, ["x" * (MAX_BYTES // 2 - 100)] * 3)
    assert len(read_sample(tmp_path)) == 2
    (tmp_path / FILE).unlink()
    write_sample(tmp_path, ["x" * MAX_BYTES])
    assert read_sample(tmp_path) == []


def test_a_model_that_does_not_work_in_int8_is_logged_without_it(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(comparison: Comparison) -> None:
        raise EngineError("no decoder gives what generate gives")

    monkeypatch.setattr(Comparison, "answers", fail)
    with pytest.warns(CheckpointWarning, match="no decoder gives what generate gives"):
        contract = stage(tmp_path, models["single"], None, TASK, allow=["int8"])
    assert not contract.allows_int8

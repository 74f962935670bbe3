"""What was measured is not measured again, where nothing has changed that it depends on."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from registry.artifact import read_contract
from serving.engine import batch_invariance
from serving.engine.batch_invariance import BatchProof
from serving.engine.loading import Loaded, load_engine
from serving.engine.measurements import Measurements, entry_path
from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.parallel import CpuPlan
from serving.engine.reference import DifferentAnswer, ReferenceAnswers
from serving.wire.engine_orders import EngineOrder

pytestmark = pytest.mark.slow


FIXTURE = Path(__file__).parents[2] / "fixtures" / "artifact-of-format-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURE, tmp_path / "artifact")


def retrain(root: Path) -> Path:
    """Another version: a weight is another one, a label has another name."""
    for name, change in (("model.safetensors", shift_a_weight), ("config.json", rename_a_label)):
        path = root / "model" / name
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        path.write_bytes(change(path.read_bytes()))
        described = root / "MLmodel"
        after = hashlib.sha256(path.read_bytes()).hexdigest()
        described.write_text(described.read_text().replace(before, after))
    return root


def shift_a_weight(content: bytes) -> bytes:
    return content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]


def rename_a_label(content: bytes) -> bytes:
    config = json.loads(content)
    return json.dumps(config | {"_name_or_path": "another/run"}).encode()


def load(order: EngineOrder, root: Path, cache: Path, **changes: Any) -> Loaded:
    return load_engine(msgspec.structs.replace(order, root=str(root), cache=str(cache), **changes))


def test_a_restart_and_a_version_of_the_same_architecture_measure_nothing(
    order: EngineOrder, root: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    first = load(order, root, cache)
    form = f"{first.model.form.describe()}, any lengths"
    assert {f"plan: {form}", f"cost: {form}"} <= set(first.model.measurements.made)
    for again in (load(order, root, cache), load(order, retrain(root), cache)):
        assert again.model.measurements.made == []
        assert again.cost == first.cost
        assert again.report.split == first.report.split
        assert again.report.execution == first.report.execution
    other = load(order, root, cache, threads=torch.get_num_threads() + 1)
    assert other.model.measurements.made == first.model.measurements.made


def test_batches_are_proved_once_for_an_architecture_and_the_form_is_compared_each_time(
    order: EngineOrder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs, checks = [], []

    class Proof(BatchProof):
        def __init__(self, model: Model) -> None:
            proofs.append(model)
            super().__init__(model)

    check = ReferenceAnswers.check
    monkeypatch.setattr(batch_invariance, "BatchProof", Proof)
    monkeypatch.setattr(ReferenceAnswers, "check", lambda self, form: [checks.append(form), check(self, form)][-1])
    cache = tmp_path / "cache"
    cache.mkdir()
    first = load(order, root, cache)
    assert first.model.form.is_packed
    assert (len(proofs), len(checks)) == (1, 1)
    again = load(order, retrain(root), cache)
    assert again.model.form.describe() == first.model.form.describe()
    assert (len(proofs), len(checks)) == (1, 2)

    for refused, number in (("prunes_to_first_token", 2), ("is_packed", 3)):

        def refuse(self: ReferenceAnswers, form: ExecutionForm, refused: str = refused) -> None:
            if getattr(form, refused):
                raise DifferentAnswer("its logits differ")

        monkeypatch.setattr(ReferenceAnswers, "check", refuse)
        other = load(order, root, cache)
        assert not getattr(other.model.form, refused)
        assert other.model.form.batching == "any lengths"
        assert len(proofs) == number, "the form that serves now was not proved before"


def test_without_a_folder_nothing_is_kept(order: EngineOrder, root: Path) -> None:
    order = msgspec.structs.replace(order, root=str(root))
    assert load_engine(order).model.measurements.made == load_engine(order).model.measurements.made != []


def other_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1000)


def other_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")


def other_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "9.9")


def other_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.measurements.__version__", "9.9")


@pytest.mark.parametrize("change", [other_cores, other_variable, other_torch, other_release])
def test_an_entry_is_of_this_machine_and_these_versions(
    root: Path, change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path_of(root)
    assert path_of(root) == before
    change(monkeypatch)
    assert path_of(root) != before


def path_of(root: Path, dtype: str = "float32", **changes: Any) -> Path | None:
    contract = msgspec.structs.replace(read_contract(root), **changes)
    return entry_path("cache", root, contract, device="cpu", dtype=dtype, threads=1)


def test_an_entry_is_of_an_architecture_with_a_dtype(root: Path) -> None:
    paths = [path_of(root), path_of(root, "bfloat16"), path_of(root, max_tokens=7), path_of(root, labels=("one",))]
    config = root / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 1}))
    assert len({*paths, path_of(root)}) == 5


def test_what_was_measured_beside_others_lasts_no_longer_than_they_are_served(tmp_path: Path) -> None:
    path, answers = tmp_path / "a.json", iter(range(9))

    def recall(*, is_quiet: bool) -> int:
        measurements = Measurements(path, is_quiet=is_quiet)
        found = measurements.recall("it", int, lambda: next(answers))
        measurements.keep()
        return found

    assert [recall(is_quiet=quiet) for quiet in (False, False, True, True, False)] == [0, 0, 1, 1, 1]


def test_a_value_of_another_kind_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = Measurements(path)
    before.recall("it", int, lambda: 3)
    before.keep()
    assert Measurements(path).recall("it", CpuPlan, lambda: CpuPlan(2, 3)) == CpuPlan(2, 3)


def test_where_nothing_can_be_written_engines_measure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headwaiter.engine")
    measurements = Measurements(tmp_path / "missing" / "folder" / "a.json")
    assert measurements.recall("it", int, lambda: 3) == 3
    measurements.keep()
    assert "the measurements could not be saved" in caplog.text

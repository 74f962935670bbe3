"""CUDA graphs as a GPU records and replays them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.engine.assembly import optimize_model
from serving.engine.model import Model
from serving.engine.optimizations.cuda_graphs import CudaRecorder, RecordGraph, Run
from tests.gpu.loaded import assert_same_rows, load, rows_of, write_artifact
from tests.serving.engine.optimizations.test_cuda_graphs import GRAPHS, Recorder, check_graphs

pytestmark = pytest.mark.gpu

SMALL = ([9], [5, 30, 17, 1], [32, 31], [3] * 16)
"""Lengths of rows that the smallest graph takes."""


class Counted:
    """A `RecordGraph` that counts what it records, and what is replayed."""

    def __init__(self, record: RecordGraph) -> None:
        self._record = record
        self.recorded = self.replays = 0

    def __call__(self, run: Run) -> tuple[Callable[[], None], Any]:
        replay, output = self._record(run)
        self.recorded += 1

        def again() -> None:
            self.replays += 1
            replay()

        return again, output


@pytest.fixture
def recorder(device: torch.device) -> Counted:
    """Records on the GPU."""
    return Counted(CudaRecorder(device) if device.type == "cuda" else Recorder())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("family", "pruned"), GRAPHS)
def test_a_batch_in_a_graph_is_answered_as_a_launched_one(
    device: torch.device, recorder: Counted, family: str, pruned: bool, dtype: torch.dtype
) -> None:
    check_graphs(family, recorder, pruned=pruned, device=str(device), dtype=dtype)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT classifier."""
    return write_artifact(tmp_path_factory.mktemp("artifact"), "bert", "text-classification")


def test_a_loaded_model_has_graphs_and_answers_the_same_within_and_beyond_them(
    artifact: Path, device: torch.device
) -> None:
    model, plain = (load(artifact, device, "bfloat16") for _ in range(2))
    optimize_model(model)
    assert model.notes == [], "nothing is refused"
    assert model.form.is_packed
    assert model.form.prunes_to_first_token
    assert device.type == "cpu" or model.form.cuda_graph_tokens >= 64
    beyond = [40] * (model.form.cuda_graph_tokens // 40 + 1)
    for lengths in (*SMALL, beyond, [320, 1, 77], *SMALL):
        rows = rows_of(model, lengths)
        assert_same_rows(model.run(rows), plain.run(rows), model.dtype)


def read(_module: object, _args: object, output: torch.Tensor) -> None:
    """Waits for the device, which cannot be recorded."""
    output.sum().item()


def test_a_model_that_cannot_be_recorded_is_launched_and_leaves_the_device_as_it_was(
    artifact: Path, cuda: torch.device
) -> None:
    model, plain = (load(artifact, cuda, "bfloat16") for _ in range(2))
    stream = torch.cuda.current_stream(cuda)
    model.module.base_model.embeddings.register_forward_hook(read)
    optimize_model(model)
    assert "CUDA graphs" not in model.form.describe()
    assert any("no batch runs as a CUDA graph" in note for note in model.notes)
    assert torch.cuda.current_stream(cuda) == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    for lengths in SMALL:
        rows = rows_of(model, lengths)
        assert_same_rows(model.run(rows), plain.run(rows), model.dtype)
    torch.cuda.synchronize(cuda)


def test_a_model_that_cannot_be_packed_runs_with_padding(
    artifact: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError("varlen_attn() got an unexpected keyword argument 'window_size'")

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", refuse)  # as torch before 2.11
    model, plain = (load(artifact, cuda, "bfloat16") for _ in range(2))
    optimize_model(model)
    assert not model.form.is_packed
    assert any("the model does not run with packed sequences: TypeError" in note for note in model.notes)
    rows = rows_of(model, [5, 30, 17, 1])
    assert_same_rows(model.run(rows), plain.run(rows), model.dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_form_never_answers_otherwise_than_its_model(
    artifact: Path, cuda: torch.device, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph whose replay gives something else is found out."""
    monkeypatch.setattr("serving.engine.optimize.CudaRecorder", lambda _: _broken(CudaRecorder(cuda)))
    model: Model = load(artifact, cuda, dtype)
    optimize_model(model)
    assert model.form.is_packed
    assert model.form.cuda_graph_tokens == 0
    assert any("no batch runs as a CUDA graph" in note for note in model.notes)


def _broken(record: RecordGraph) -> RecordGraph:
    def broken(run: Run) -> tuple[Callable[[], object], Any]:
        replay, output = record(run)

        def again() -> None:
            replay()
            output.last_hidden_state.mul_(3).add_(1)

        return again, output

    return broken

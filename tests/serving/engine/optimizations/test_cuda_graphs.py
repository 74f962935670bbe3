"""CUDA graphs of small batches, with a recorder for a CPU, which computes again what a GPU would replay."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.checks import load_model
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import describe
from serving.engine.model import Model
from serving.engine.optimizations.cuda_graphs import Run
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.packing import pack_rows
from serving.engine.optimizations.unpadded import FAMILIES, pack, use_cuda_graphs
from serving.engine.optimize import choose_cuda_graphs
from tests.alike import assert_alike
from tests.families import build
from tests.serving.engine.optimizations.test_unpadded import build as build_module
from tests.serving.engine.optimizations.test_unpadded import padded

pytestmark = [pytest.mark.processor, pytest.mark.slow]


class Recorder:
    """Counts what it records, and what is replayed."""

    def __init__(self) -> None:
        self.recorded = self.replays = 0

    def __call__(self, run: Run) -> tuple[Run, Any]:
        output = run()
        self.recorded += 1

        def again() -> None:
            self.replays += 1
            output.last_hidden_state.copy_(run().last_hidden_state)

        return again, output


def packed(lengths: list[int], family: str, *, types: bool = True) -> dict[str, torch.Tensor]:
    inputs = padded(lengths, family)
    if not types:
        inputs.pop("token_type_ids", None)
    return inputs | {name: torch.from_numpy(array) for name, array in pack_rows(lengths).items()}


GRAPHS = [
    (family, pruned) for family in sorted(FAMILIES) for pruned in (False, True) if (family, pruned) != ("albert", True)
]
"""Family, and whether it is pruned; ALBERT's layers are one and the same, so it never is."""


@pytest.mark.parametrize(("family", "pruned"), GRAPHS)
def test_a_batch_in_a_graph_is_answered_as_a_launched_one(family: str, pruned: bool) -> None:
    check_graphs(family, Recorder(), pruned=pruned)


@torch.inference_mode()
def check_graphs(
    family: str, recorder: Any, *, pruned: bool, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> None:
    """Compare batches of all sizes with and without graphs. recorder: a `Record` that counts as `Recorder` does."""
    model = build_module(family, ("token-classification", "text-classification")[pruned]).to(device, dtype)
    pack(model, pruned=pruned)
    lines = [[5, 30, 17, 17, 1], [7, 7], [1], [60, 4], [20] * 3, [3] * 16, [1] * 17, [64, 64], [65, 64], [2] * 40]

    def inputs_of(lengths: list[int], *, types: bool) -> dict[str, torch.Tensor]:
        return {name: each.to(device) for name, each in packed(lengths, family, types=types).items()}

    cases = [inputs_of(lengths, types=types) for lengths in lines for types in (True, False)]
    expected = [model(**case).logits for case in cases]
    replayed = use_cuda_graphs(model, recorder)
    for lengths in ([40], [100]):
        inputs = [inputs_of(lengths, types=types) for types in (True, False)]
        replayed.record_larger([partial(model, **each) for each in inputs])
    for case, wanted in zip(cases, expected, strict=True):
        before = recorder.replays
        found = model(**case).logits
        real = case["attention_mask"].bool()
        answers = slice(None) if pruned else real
        assert_alike(found[answers], wanted[answers])
        rows, tokens = len(real), int(real.sum())
        assert (recorder.replays > before) == (tokens <= 128 and rows <= 32)
    has_types = "token_type_ids" in cases[0]
    assert recorder.recorded == 2 * (1 + has_types), "nothing is recorded once batches are served"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A small classifier, packed."""
    folder = build(tmp_path / MODEL_FOLDER, "bert", "AutoModelForSequenceClassification")
    module = load_model(folder, "text-classification", dtype="float32")
    processor = load_processor(folder, of_images=False)
    contract = describe(tmp_path, module, processor, "text-classification", defaults={}, dtype="auto", max_tokens=None)
    model = Model(tmp_path, contract)
    pack(model.module)
    model.form = ExecutionForm(model.module, is_packed=True)
    return model


def clock(model: Model, recorder: Recorder, launched: Callable[[int], float], replayed: float) -> Callable[[], float]:
    """A time in which a forward pass takes `launched(tokens)`, and one that is replayed `replayed` seconds."""
    now, seen = 0.0, 0

    def spend(_module: Any, _args: Any, inputs: Any, _output: Any) -> None:
        nonlocal now, seen
        now += replayed if recorder.replays > seen else launched(inputs["indices"].numel())
        seen = recorder.replays

    model.module.register_forward_hook(spend, with_kwargs=True)
    return lambda: now


def test_batches_run_in_graphs_up_to_the_size_at_which_that_is_not_faster(model: Model) -> None:
    recorder = Recorder()
    passes = clock(model, recorder, lambda tokens: 3.0 if tokens < 257 else 1.0, 2.0)
    model.form = choose_cuda_graphs(model, model.form, recorder, accept, passes)
    assert model.form.cuda_graph_tokens == 256
    assert model.form.describe() == "packed sequences, CUDA graphs up to 256 tokens"
    before = recorder.replays
    for lengths, is_replayed in (([32] * 8, True), ([32] * 8 + [1], False), ([9], True)):
        rows = [model.task.probe(model.contract, length).to_row(0, 0.0) for length in lengths]
        model.run(rows)
        assert (recorder.replays > before) == is_replayed
        before = recorder.replays


def test_a_model_that_is_never_faster_in_a_graph_is_launched(model: Model) -> None:
    recorder = Recorder()
    passes = clock(model, recorder, lambda _: 1.0, 2.0)
    model.form = choose_cuda_graphs(model, model.form, recorder, accept, passes)
    assert model.form.cuda_graph_tokens == 0
    assert model.form.describe() == "packed sequences"


def accept(_: ExecutionForm) -> None:
    """Whatever it answers."""


def fail(*_: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(("record", "check"), [(fail, accept), (Recorder(), fail)])
def test_what_cannot_be_recorded_or_answers_otherwise_is_launched(
    model: Model, record: Any, check: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "headwaiter.engine")
    rows = [model.task.probe(model.contract, length).to_row(0, 0.0) for length in (5, 7)]
    expected = model.run(rows)
    model.form = choose_cuda_graphs(model, model.form, record, check)
    assert "no batch runs as a CUDA graph: RuntimeError: operation not permitted" in caplog.messages[-1]
    assert model.form.describe() == "packed sequences"
    for found, wanted in zip(model.run(rows), expected, strict=True):
        assert_alike(found[0], wanted[0])

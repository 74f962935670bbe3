"""int8 serves only through its gate: the same answers as float32 on the sample, and faster where it is only allowed."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from bench.models import encoder_folder
from registry.artifact import read_contract, write_artifact
from registry.contract import Contract, Int8
from registry.digests import digest_folder
from registry.int8_sample import FILE, write_sample
from registry.layout import MODEL_FOLDER
from registry.staging import stage
from serving.engine import int8, loading
from serving.engine.assembly import optimize_model
from serving.engine.generated_inputs import generate_inputs
from serving.engine.int8 import Comparison, Int8Refused, time_beside, typical_passes
from serving.engine.loading import load_engine, load_kept
from serving.engine.model import Model
from serving.engine.optimizations import int8_products
from serving.engine.optimizations.torch_private import MissingName
from serving.engine.predictor import Predictor
from serving.errors import EngineError
from serving.wire.engine_orders import EngineOrder
from serving.wire.messages import Row
from tests.alike import assert_alike
from tests.artifacts import make_artifact

pytestmark = [pytest.mark.processor, pytest.mark.slow]

SAMPLE = ["a parcel came late", "the desk was closed again", "thank you", "where is the bill that you sent in May"] * 5
TASKS = ("text-classification", "token-classification", "feature-extraction", "question-answering")


@pytest.fixture(autouse=True)
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models are small: their layers count all the same, and as faster in int8."""
    monkeypatch.setattr(int8_products, "MIN_FEATURES", 8)
    monkeypatch.setattr(int8_products, "_is_faster", lambda *_: True)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a classifier whose answer to the example is recorded, with a sample. Only to be copied."""
    root = tmp_path_factory.mktemp("int8") / "artifact"
    contract = make_artifact(root, "bert", "text-classification")
    write_sample(root / MODEL_FOLDER, SAMPLE)
    write_artifact(root, msgspec.structs.replace(contract, files=digest_folder(root, MODEL_FOLDER)))
    return root


def allow(order: EngineOrder, artifact: Path, tmp_path: Path, found: Int8 | None = None, **changes: Any) -> EngineOrder:
    """An order for a copy in the cache whose contract allows int8, or chooses it."""
    cache = tmp_path / "cache"
    staging = shutil.copytree(artifact, tmp_path / "staging")
    contract = read_contract(staging)
    contract = msgspec.structs.replace(contract, int8=found or Int8(inputs=20, agreement=1.0), **changes)
    write_artifact(staging, contract)
    root = shutil.move(staging, cache / contract.digest) if cache.mkdir() is None else staging
    return msgspec.structs.replace(order, root=str(root), cache=str(cache), threads=1)


def make(root: Path, contract: Contract | None = None) -> Predictor:
    return Predictor(root, contract, dtype="int8")


@pytest.mark.parametrize("task", TASKS)
def test_a_model_answers_in_int8_as_in_float32(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans of random weights are nearly ties: some of them change, so less is required of them here.

    Even less of weights in 7 bits, where the processor saturates otherwise.
    """
    is_exact = int8_products.weight_levels() == int8_products.LEVELS
    least = 0.98 if is_exact else 0.95
    monkeypatch.setattr(int8, "MIN_SHARE", least)
    contract = make_artifact(tmp_path, "bert", task)
    predictor = make(tmp_path)
    found = predictor.quantize()
    assert found.inputs > 20
    assert found.agreement >= (0.999 if task == "feature-extraction" else least)
    assert contract.example is not None
    example = contract.example
    if is_exact:
        assert_alike(predictor.answer(example.inputs, example.parameters), example.output, "int8")
    assert predictor.model.form.int8_layers > 0


def test_the_graph_of_an_int8_model_answers_as_the_model(artifact: Path) -> None:
    predictor = make(artifact)
    model = predictor.model
    optimize_model(model, predictor.int8_sample)
    assert model.form.describe() == (
        f"packed sequences, first-token pruning, TorchScript, int8 in {model.form.int8_layers} layers"
    )
    rows = [model.probe(length, length) for length in (9, 3, 30, 9, 1, 17)]
    traced, model.form = model.run(rows), model.form.eager
    for found, expected in zip(traced, model.run(rows), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert_alike(torch.from_numpy(one), torch.from_numpy(other))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a real encoder's first layers with a fresh head, whose logits are next to nothing."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    module = BertForSequenceClassification.from_pretrained(encoder_folder(), num_labels=6)
    module.config.id2label = {number: f"label {number}" for number in range(6)}
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    write_artifact(folder, stage(folder, module, tokenizer, "text-classification"))
    return folder


@pytest.mark.long
def test_a_packed_form_is_proved_in_float32_and_quantised_then(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In int8 an input may fall into the next level when attention rounds otherwise, which is no fault of the form."""
    monkeypatch.setattr(int8, "MIN_SHARE", 0.5)
    model = make(encoder).model
    optimize_model(model)
    assert model.form.describe().startswith("packed sequences, first-token pruning, TorchScript, int8 in ")


@pytest.mark.long
def test_a_row_in_int8_has_the_same_answer_alone_and_in_a_batch(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what attention rounds otherwise, which is less than what int8 costs at all."""
    monkeypatch.setattr(int8, "MIN_SHARE", 0.5)
    exact, model = Predictor(encoder).model, make(encoder).model
    optimize_model(model)
    rows = [model.probe(length, length) for length in (9, 3, 30, 9, 1, 17, 70)]

    def scores(model: Model, batches: list[list[Row]]) -> torch.Tensor:
        found = [arrays for batch in batches for arrays in model.run(batch)]
        return torch.stack([torch.from_numpy(scores[labels.argsort()]) for scores, labels in found])

    alone, batched = scores(model, [[row] for row in rows]), scores(model, [rows])
    lost = (alone - scores(exact, [[row] for row in rows])).norm()
    assert lost > 0
    assert (alone - batched).norm() < lost / 2


def test_the_sample_of_the_artifact_is_what_answers_are_compared_on(artifact: Path) -> None:
    predictor = make(artifact)
    assert predictor.int8_sample == SAMPLE
    assert predictor.quantize().inputs == len(SAMPLE)


def coarse(weight: torch.Tensor, smoothing: torch.Tensor | None) -> int8_products.QuantizedWeight:
    """A weight with two bits: what it answers is another thing."""
    step = weight.abs().amax(1, keepdim=True)
    return QUANTIZE((weight / step).round() * step, smoothing)


QUANTIZE = int8_products.quantize_weight


def test_a_model_whose_answers_change_is_refused_with_the_figures(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_products, "quantize_weight", coarse)
    monkeypatch.setattr(int8, "MAX_LAYER_ERROR", 10.0)
    monkeypatch.setattr(Comparison, "agreement", lambda *_: 0.94)
    predictor = make(artifact)
    expected = predictor.answer(SAMPLE)
    with pytest.raises(
        Int8Refused, match=r"on 20 inputs of the sample answers agree by 0\.9400 .* at least 0\.995 is required"
    ):
        predictor.quantize()
    assert predictor.answer(SAMPLE) == expected, "it is the model in float32 again"


def test_layers_that_lose_most_stay_in_float(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer's weights have two bits: it is off by more than the bound, and the others run in int8."""
    bad = make(artifact).model.module.base_model.encoder.layer[0].output.dense.weight

    def damaged(weight: torch.Tensor, smoothing: torch.Tensor | None) -> int8_products.QuantizedWeight:
        return (coarse if torch.equal(weight, bad) else QUANTIZE)(weight, smoothing)

    monkeypatch.setattr(int8_products, "quantize_weight", damaged)
    predictor = make(artifact)
    found = predictor.quantize()
    assert found.float_layers == 1
    layer = predictor.model.module.base_model.encoder.layer[0]
    assert type(layer.output.dense) is torch.nn.Linear
    assert isinstance(layer.intermediate.dense, int8_products.Int8Linear)


def test_where_the_gate_is_missed_fewer_layers_are_tried(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.98, 0.996])
    monkeypatch.setattr(Comparison, "agreement", lambda *_: next(shares))
    predictor = make(artifact)
    found = predictor.quantize()
    assert found.agreement == 0.996
    layers = predictor.model.form.int8_layers
    assert 0 < layers < found.float_layers + layers


def test_a_model_without_any_layer_in_int8_does_not_pass_the_gate(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "KEPT_SHARE", 0.0)
    shares = iter([0.9, 1.0])
    monkeypatch.setattr(Comparison, "agreement", lambda *_: next(shares))
    with pytest.raises(Int8Refused, match=r"agree by 0\.9000"):
        make(artifact).quantize()


@pytest.mark.parametrize(
    ("family", "task", "reason"),
    [("vit", "image-classification", "the inputs are images")],
)
def test_what_never_runs_in_int8_is_refused(family: str, task: str, reason: str, tmp_path: Path) -> None:
    make_artifact(tmp_path, family, task)
    with pytest.raises(Int8Refused, match=reason):
        make(tmp_path).quantize()


def test_generated_inputs_are_the_same_each_time_and_in_the_form_of_the_example(artifact: Path) -> None:
    predictor = make(artifact)
    contract, tokenizer = predictor.contract, predictor.model.version_context.tokenizer
    found = generate_inputs(contract, tokenizer, 30)
    assert found == generate_inputs(contract, tokenizer, 30)
    lengths = [len(text.split()) for text in found]
    assert (len(found), min(lengths), len(set(lengths)) > 5) == (30, 2, True)
    without = msgspec.structs.replace(contract, example=None)
    assert generate_inputs(without, tokenizer, 30) == []


class Clock:
    """Each call of the one model takes a second, each of the other two."""

    def __init__(self) -> None:
        self._now, self._calls = 0.0, 0

    def __call__(self) -> float:
        self._calls += 1
        if self._calls % 2 == 0:
            self._now += 1.0 + (self._calls // 2 - 1) // 2 % 2
        return self._now


def test_speed_is_compared_in_turns(artifact: Path) -> None:
    one, other = (Predictor(artifact).model for _ in range(2))
    assert time_beside(typical_passes(one), typical_passes(other), Clock()) == 2.0


def test_an_allowed_int8_that_is_faster_is_served_and_its_graph_is_kept(
    order: EngineOrder, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.loading.time_beside", lambda *_: 1.6)
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    order = allow(order, artifact, tmp_path)
    loaded = load_engine(order)
    assert (loaded.report.dtype, loaded.report.dtype_note) == ("int8", "")
    assert "int8 in" in loaded.report.execution
    assert any(note.startswith("int8 is 1.60 times as fast as ") for note in loaded.report.notes)
    assert loaded.keep is not None
    loaded.keep()
    kept = load_kept(order)
    assert kept is not None
    assert kept.report == loaded.report
    rows = [kept.model.probe(length, length) for length in (9, 3, 30)]
    for found, expected in zip(kept.model.run(rows), loaded.model.run(rows), strict=True):
        for one, two in zip(found, expected, strict=True):
            assert_alike(torch.from_numpy(one), torch.from_numpy(two))


@pytest.mark.long
def test_an_allowed_int8_that_is_slower_is_not_served_and_the_reason_is_said(
    order: EngineOrder, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.loading.time_beside", lambda *_: 0.9)
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    report = load_engine(allow(order, artifact, tmp_path)).report
    assert report.dtype in ("float32", "bfloat16")
    assert report.dtype_note == f"int8 is not used: it is 0.90 times as fast as {report.dtype} on this machine"


@pytest.mark.long
@pytest.mark.parametrize(("gain", "dtype"), [(1.6, "int8"), (0.9, "float32")])
def test_which_of_int8_and_float_is_faster_is_measured_once(
    order: EngineOrder,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    gain: float,
    dtype: str,
) -> None:
    """The second load, of a version that has no kept graph, loads one model and times none."""
    loads = list[str]()
    monkeypatch.setattr("serving.engine.loading.time_beside", lambda *_: gain)
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    monkeypatch.setattr("serving.engine.model.multiplies_bfloat16", lambda: False)
    load = loading._load_optimized
    monkeypatch.setattr(loading, "_load_optimized", lambda source, each: (loads.append(each), load(source, each))[1])
    order = allow(order, artifact, tmp_path)
    before = load_engine(order).report
    assert (before.dtype, loads) == (dtype, ["int8", "float32"])
    loads.clear()
    monkeypatch.setattr("serving.engine.loading.time_beside", lambda *_: pytest.fail("it is timed again"))
    after = load_engine(order).report
    assert loads == [dtype]
    assert (after.dtype, after.dtype_note, after.notes) == (before.dtype, before.dtype_note, before.notes)


def test_an_allowed_int8_that_was_refused_at_logging_is_not_tried(
    order: EngineOrder, artifact: Path, tmp_path: Path
) -> None:
    refused = Int8(refusal="int8 is not used: answers agree by 0.9600")
    report = load_engine(allow(order, artifact, tmp_path, refused)).report
    assert report.dtype in ("float32", "bfloat16")
    assert report.dtype_note == "int8 is not used: answers agree by 0.9600"


def test_an_allowed_int8_that_misses_the_gate_here_is_not_served(
    order: EngineOrder, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "agreement", lambda *_: 0.9)
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    report = load_engine(allow(order, artifact, tmp_path)).report
    assert report.dtype in ("float32", "bfloat16")
    assert "answers agree by 0.9000" in report.dtype_note


@pytest.mark.parametrize("is_chosen", [False, True])
def test_int8_that_torch_cannot_compute_ends_no_load_where_it_is_only_allowed(
    order: EngineOrder, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_chosen: bool
) -> None:
    def missing(*_: torch.Tensor) -> None:
        raise MissingName("no layer runs in int8")

    monkeypatch.setattr(int8_products, "quantize_weight", missing)
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    if is_chosen:
        with pytest.raises(MissingName):
            load_engine(allow(order, artifact, tmp_path, dtype="int8"))
        return
    report = load_engine(allow(order, artifact, tmp_path)).report
    assert report.dtype in ("float32", "bfloat16")
    assert "no layer runs in int8" in report.dtype_note


@torch.inference_mode()
def test_a_layer_that_is_called_by_keyword_is_compared() -> None:
    layer = torch.nn.Linear(96, 128)
    layers = int8_products.Int8Layers({"only": layer})
    given = torch.randn(3, 96)
    assert 0 < layers.errors(lambda: layer(input=given))["only"] < 0.1


def test_a_chosen_int8_that_misses_the_gate_is_refused(
    order: EngineOrder, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "agreement", lambda *_: 0.9)
    with pytest.raises(EngineError, match=r"answers agree by 0\.9000"):
        load_engine(allow(order, artifact, tmp_path, dtype="int8"))


def test_a_sample_file_is_covered_by_the_contract(artifact: Path) -> None:
    assert f"{MODEL_FOLDER}/{FILE}" in read_contract(artifact).files

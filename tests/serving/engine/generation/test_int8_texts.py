"""int8 for models that write texts: served where the tokens stay those of float32, whoever shares the batch."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from registry.artifact import read_contract, write_artifact
from registry.contract import Contract, Int8
from registry.digests import digest_folder
from registry.int8_sample import write_sample
from registry.layout import MODEL_FOLDER
from serving.engine import int8
from serving.engine.assembly import optimize_model
from serving.engine.generation import int8_texts
from serving.engine.generation.decoder import Decoder
from serving.engine.generation.int8_texts import write
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.int8 import Int8Refused
from serving.engine.loading import load_engine
from serving.engine.optimizations import int8_products
from serving.engine.optimizations.int8_products import Int8Linear, precision
from serving.engine.predictor import Predictor
from serving.wire.engine_orders import EngineOrder
from tests.trained_writers import PROMPTS, make_writer

pytestmark = [pytest.mark.processor, pytest.mark.slow]

TASKS = {
    "llama": "text-generation",
    "gpt2": "text-generation",
    "t5": "text2text-generation",
    "bart": "text2text-generation",
}
GREEDY: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
QUANTIZE = int8_products.quantize_weight


@pytest.fixture(autouse=True)
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models are small: their layers count all the same, and as faster in int8."""
    monkeypatch.setattr(int8_products, "MIN_FEATURES", 8)
    monkeypatch.setattr(int8_products, "_is_faster", lambda *_: True)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family, with a sample. Only to be copied, or loaded."""
    return {family: _make(tmp_path_factory.mktemp(family) / "artifact", family) for family in TASKS}


def _make(root: Path, family: str) -> Path:
    contract = make_writer(root, family, TASKS[family])
    write_sample(root / MODEL_FOLDER, PROMPTS)
    write_artifact(root, msgspec.structs.replace(contract, files=digest_folder(root, MODEL_FOLDER)))
    return root


def make(root: Path) -> Predictor:
    return Predictor(root, dtype="int8")


@pytest.mark.parametrize("family", TASKS)
def test_a_trained_model_writes_the_same_texts_in_int8(artifacts: dict[str, Path], family: str) -> None:
    expected = Predictor(artifacts[family]).answer(PROMPTS[:6], GREEDY)
    predictor = make(artifacts[family])
    found = predictor.quantize()
    assert found.inputs == len(PROMPTS)
    assert found.agreement >= int8.MIN_SHARE
    assert predictor.model.form.int8_layers > 0
    assert predictor.answer(PROMPTS[:6], GREEDY) == expected


@pytest.mark.parametrize("family", TASKS)
def test_steps_in_int8_run_as_a_graph_that_the_gate_compared(artifacts: dict[str, Path], family: str) -> None:
    expected = Predictor(artifacts[family]).answer(PROMPTS[:6], GREEDY)
    predictor = make(artifacts[family])
    model: Any = predictor.model
    optimize_model(model, predictor.int8_sample)
    assert "TorchScript" in model.form.describe()
    assert f"int8 in {model.form.int8_layers} layers" in model.form.describe()
    assert model.scheduler.decoder.is_traced
    assert predictor.answer(PROMPTS[:6], GREEDY) == expected


def test_the_vocabularys_product_is_in_int8_and_the_embedding_in_float(artifacts: dict[str, Path]) -> None:
    predictor = make(artifacts["gpt2"])
    predictor.quantize()
    module: Any = predictor.model.module
    assert isinstance(module.lm_head, Int8Linear)
    assert module.get_input_embeddings().weight.dtype == torch.float32
    assert (precision(module), module.dtype) == ("int8", torch.float32)


def test_a_beam_search_finds_in_int8_what_it_finds_in_float(artifacts: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(artifacts["bart"], tmp_path / "artifact")
    predictor, exact = make(root), Predictor(root)
    predictor.quantize()
    for each in (predictor, exact):
        each.model.module.generation_config.num_beams = 3
    assert predictor.answer(PROMPTS[:3], {"max_new_tokens": 12}) == exact.answer(PROMPTS[:3], {"max_new_tokens": 12})


def test_rows_with_a_seed_are_decoded_alone_in_int8(artifacts: dict[str, Path]) -> None:
    """As in bfloat16: a sum that the batch rounds otherwise may fall into another level."""
    predictor = make(artifacts["llama"])
    model: Any = predictor.model
    assert model.scheduler._runner._isolated.decoder is model.scheduler.decoder
    predictor.quantize()
    assert isinstance(model.scheduler._runner._isolated.decoder, SequentialDecoder)


def coarse(weight: torch.Tensor, smoothing: torch.Tensor | None) -> int8_products.QuantizedWeight:
    """A weight with two bits: what it writes is another thing."""
    step = weight.abs().amax(1, keepdim=True)
    return QUANTIZE((weight / step).round() * step, smoothing)


def test_a_model_that_int8_spoils_is_refused_with_the_figures_and_writes_as_before(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_products, "quantize_weight", coarse)
    monkeypatch.setattr(int8, "MAX_LAYER_ERROR", 10.0)
    monkeypatch.setattr(int8, "ATTEMPTS", 1)
    predictor = make(artifacts["llama"])
    expected = predictor.answer(PROMPTS[:4], GREEDY)
    figures = rf"on {len(PROMPTS)} inputs of the sample tokens agree by 0\.\d+ .* at least 0\.995 is required"
    with pytest.raises(Int8Refused, match=figures):
        predictor.quantize()
    assert predictor.answer(PROMPTS[:4], GREEDY) == expected


def test_few_tokens_do_not_decide(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_texts, "MIN_PLACES", 10_000)
    with pytest.raises(Int8Refused, match=r"give \d+ tokens to compare, of at least 10000: .* --sample"):
        make(artifacts["llama"]).quantize()


def test_one_other_token_does_not_change_those_after_it(artifacts: dict[str, Path]) -> None:
    model: Any = Predictor(artifacts["gpt2"]).model
    decoder: Decoder = model.scheduler.decoder
    prompts = [[5, 6], [7, 8, 9]]
    texts = write(decoder, prompts, [6, 4], set())
    assert [len(text) for text in texts] == [6, 4]
    assert write(decoder, prompts, [6, 4], set(), texts) == texts
    wrong = [[texts[0][0], (texts[0][1] + 1) % 50, *texts[0][2:]], texts[1]]
    given = write(decoder, prompts, [6, 4], set(), wrong)
    assert given[0][:2] == texts[0][:2]
    assert given[1] == texts[1]
    assert write(decoder, prompts, [6, 4], {texts[0][0]})[0] == texts[0][:1]


def allow(order: EngineOrder, artifact: Path, tmp_path: Path) -> EngineOrder:
    """An order for a copy in the cache whose contract allows int8. It has no example: 7 bits may write another text."""
    cache = tmp_path / "cache"
    cache.mkdir()
    staging = shutil.copytree(artifact, tmp_path / "staging")
    allowed = Int8(inputs=20, agreement=1.0)
    contract: Contract = msgspec.structs.replace(read_contract(staging), int8=allowed, example=None)
    write_artifact(staging, contract)
    root = shutil.move(staging, cache / contract.digest)
    return msgspec.structs.replace(order, root=str(root), cache=str(cache), threads=1)


@pytest.mark.parametrize("gain", [1.6, 0.9])
def test_an_engine_writes_in_int8_where_it_is_faster(
    order: EngineOrder, artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, gain: float
) -> None:
    monkeypatch.setattr("serving.engine.loading.time_beside", lambda *_: gain)
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    monkeypatch.setattr("serving.engine.model.multiplies_bfloat16", lambda: False)
    report = load_engine(allow(order, artifacts["llama"], tmp_path)).report
    assert report.dtype == ("int8" if gain > 1 else "float32")
    assert ("int8 in" in report.execution) == (gain > 1)
    told = [*report.notes, report.dtype_note]
    assert any(f"{gain:.2f} times as fast as float32" in each for each in told)


def test_int8_is_not_tried_without_vnni(
    order: EngineOrder, artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: False)
    assert load_engine(allow(order, artifacts["llama"], tmp_path)).report.dtype in ("float32", "bfloat16")


def test_both_are_timed_at_writing_texts(
    order: EngineOrder, artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.model.multiplies_int8", lambda: True)
    report = load_engine(allow(order, artifacts["bart"], tmp_path)).report
    assert any("times as fast as" in each for each in (*report.notes, report.dtype_note))

"""The engine in the caller's own process, by which MLflow's python_function answers many inputs at once."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest

from serving.engine.local_engine import LocalEngine
from serving.engine.predictor import Predictor
from serving.errors import EngineError, Unprocessable
from serving.pyfunc import PyFunc
from tests.alike import assert_alike
from tests.artifacts import make_artifact
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.server
TEXTS = [f"parcel {index} " + "late " * (7 * index % 23) for index in range(60)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifact")
    make_artifact(root, "bert", "text-classification")
    return root


@pytest.fixture(scope="module")
def engine(root: Path) -> LocalEngine:
    return LocalEngine(root, dtype="float32")


def test_answers_are_those_of_one_at_a_time_and_share_batches(
    engine: LocalEngine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = engine.loaded.model, list[int]()
    launch = model.launch
    monkeypatch.setattr(model, "launch", lambda rows: batches.append(len(rows)) or launch(rows))
    monkeypatch.setattr(engine, "_bound_tokens", 200)  # so that a part is received before all is sent
    alone = Predictor(root)
    expected = [alone.answer([text], {"top_k": 1})[0] for text in TEXTS]
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda _: engine.answer(TEXTS, {"top_k": 1}), range(3)):
            assert_alike(found, expected)
    assert sum(batches) == 3 * len(TEXTS)
    assert len(batches) < sum(batches) / 2
    assert_alike(PyFunc(engine).predict(pandas.DataFrame({"id": range(60), "text": TEXTS}), {"top_k": 1}), expected)
    assert engine.answer([]) == []


def test_a_refused_input_is_named_and_harms_no_other_call(engine: LocalEngine) -> None:
    with pytest.raises(Unprocessable, match="empty text") as refused:
        engine.answer(["good", "", "bad"])
    assert refused.value.__notes__ == ["of the input at index 1"]
    assert len(engine.answer(["good"])) == 1


def test_the_engine_ends_with_the_object(root: Path) -> None:
    engine = LocalEngine(root, dtype="float32")
    thread = engine._thread
    assert thread.is_alive()
    del engine
    gc.collect()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def test_a_call_ends_where_the_engine_does(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine.loaded.model, "launch", fail)
    with pytest.raises(EngineError, match="does not work any more"):
        engine.answer(["good"])


def test_texts_are_generated(tmp_path: Path) -> None:
    make_artifact(tmp_path, "gpt2", "text-generation")
    prompts, parameters = ["one", "two and two", "one"], {"max_new_tokens": 5, "do_sample": False}
    alone = Predictor(tmp_path)
    expected = [alone.answer([prompt], parameters)[0] for prompt in prompts]
    assert LocalEngine(tmp_path, dtype="float32").answer(prompts, parameters) == expected


def test_what_cannot_be_loaded_raises_so(tmp_path: Path) -> None:
    contract = make_artifact(tmp_path, "bert", "text-classification")
    (tmp_path / next(name for name in contract.files if name.endswith(".safetensors"))).unlink()
    with pytest.raises(Exception, match="safetensors"):
        LocalEngine(tmp_path)

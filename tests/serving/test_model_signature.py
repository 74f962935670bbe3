"""The signature of each task's model: MLflow keeps it, enforces it, and lets requests by as a server takes them."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel

from registry.contract import Example
from registry.errors import ContractError
from serving.model_signature import given_params, make_signature
from serving.pyfunc import _to_inputs
from serving.tasks import get_task, served_tasks
from tests.contracts import classifier

SCORE = {"label": "good", "score": 0.5}
ANSWERS: dict[str, Any] = {
    "feature-extraction": [0.1, 0.2],
    "text-classification": [SCORE],
    "zero-shot-classification": [SCORE],
    "token-classification": [],  # no entity in the example
    "question-answering": {"answer": "Paris", "score": 0.5, "start": 0, "end": 5},
    "fill-mask": [{"score": 0.1, "token": 7, "token_str": "a", "sequence": "a b"}],
    "text-generation": [{"generated_text": "a"}],
    "text2text-generation": [{"generated_text": "a"}],
    "summarization": [{"summary_text": "a"}],
    "translation": [{"translation_text": "a"}],
    "multiple-choice": [{"choice": "a", "score": 0.5}],
    "next-sentence-prediction": {"follows": True, "score": 0.5},
    "image-classification": [SCORE],
}
"""Task → the answer to one input."""
OUTPUTS = {
    "feature-extraction": "[Array(double) (required)]",
    "text-classification": "[Array({label: string (required), score: double (required)}) (required)]",
    "next-sentence-prediction": "['follows': boolean (required), 'score': double (required)]",
}


class Given:
    """Stands for the loaded model, and keeps what MLflow hands it."""

    def predict(self, model_input: Any, params: Any = None) -> None:
        self.input, self.params = model_input, params


def through_mlflow(folder: Path, task: str, inputs: list[Any], params: dict[str, Any]) -> Given:
    """What a model gets of a request, when its record was written and read again."""
    example = Example(inputs=inputs, parameters=params, output=[ANSWERS[task]] * len(inputs))
    written, given = Model(), Given()
    written.signature = make_signature(classifier(task=task, example=example))
    written.add_flavor("python_function", loader_module="anything")
    written.save(str(folder / "MLmodel"))
    described = Model.load(str(folder))
    assert described.signature == written.signature
    if task in OUTPUTS:
        assert str(described.signature.outputs) == OUTPUTS[task]
    PyFuncModel(described, given).predict(inputs, params=params)
    return given


@pytest.mark.parametrize("name", served_tasks())
def test_mlflow_hands_a_request_on_as_it_is(tmp_path: Path, name: str) -> None:
    task = get_task(name)
    inputs, params = list(task.example) or ["aGVsbG8="], dict(task.example_parameters)
    given = through_mlflow(tmp_path, name, inputs, params)
    assert _to_inputs(given.input, task) == inputs
    found = given_params(given.params)
    assert {name: found[name] for name in params} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in params.items()
    }
    added = {name: value for name, value in found.items() if name not in params}
    assert task.parameters_type(**added) == task.parameters_type(), "what MLflow adds is what holds without it"


def test_pairs_have_a_column_each(tmp_path: Path) -> None:
    pair = {"text": "a", "text_pair": "b"}
    given = through_mlflow(tmp_path, "text-classification", [pair], {"top_k": 1})
    assert _to_inputs(given.input, get_task("text-classification")) == [pair]
    assert given_params(given.params)["top_k"] == 1


def test_a_contract_without_an_example_has_no_signature() -> None:
    with pytest.raises(ContractError, match="without an example"):
        make_signature(classifier())

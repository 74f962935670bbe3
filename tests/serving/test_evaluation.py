"""Scores: the metrics against scikit-learn's, every task's own reading of answers and labels, and what is refused."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from sklearn.preprocessing import MultiLabelBinarizer

from registry.artifact import write_artifact
from registry.checks import load_model
from registry.contract import Contract
from registry.errors import NotGoodEnough
from registry.heads import get_head
from registry.image_settings import reads_images
from registry.saved_processors import load_processor
from registry.staging import make_contract
from serving.engine.predictor import Predictor
from serving.engine.tolerances import ANSWER
from serving.errors import EvaluationError
from serving.evaluation import Evaluator, Labelled
from serving.tasks.base.scoring import accuracy, exact_match, f1_macro, f1_micro, f1_words, mae, precision, recall, rmse
from tests.families import build

pytestmark = pytest.mark.slow


classes = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30)
label_sets = st.frozensets(st.sampled_from("abcd"))


@settings(deadline=None)
@given(classes)
def test_scores_of_classes_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    predictions, labels = zip(*pairs, strict=True)
    assert accuracy(predictions, labels) == pytest.approx(sklearn.accuracy_score(labels, predictions))
    assert f1_macro(predictions, labels) == pytest.approx(sklearn.f1_score(labels, predictions, average="macro"))


@settings(deadline=None)
@given(st.lists(st.tuples(label_sets, label_sets), min_size=1, max_size=20))
def test_scores_of_sets_of_labels_are_scikit_learns(pairs: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    predictions, labels = zip(*pairs, strict=True)
    binary = MultiLabelBinarizer(classes=list("abcd"))
    right, found = binary.fit_transform(labels), binary.fit_transform(predictions)
    seen = [index for index, name in enumerate("abcd") if any(name in side for pair in pairs for side in pair)] or None
    for score, reference, average in (
        (f1_macro, sklearn.f1_score, "macro"),
        (f1_micro, sklearn.f1_score, "micro"),
        (precision, sklearn.precision_score, "micro"),
        (recall, sklearn.recall_score, "micro"),
    ):
        expected = reference(right, found, average=average, labels=seen, zero_division=1.0)
        assert score(predictions, labels) == pytest.approx(expected)


def test_errors_of_numbers_are_scikit_learns() -> None:
    rng = random.Random(0)
    predictions, labels = ([rng.uniform(-3, 3) for _ in range(20)] for _ in range(2))
    assert mae(predictions, labels) == pytest.approx(sklearn.mean_absolute_error(labels, predictions))
    assert rmse(predictions, labels) == pytest.approx(sklearn.root_mean_squared_error(labels, predictions))


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("the Eiffel Tower!", ["Eiffel tower"], 1.0, 1.0),
        ("Paris, France", ["Paris"], 0.0, 2 / 3),
        ("Rome", ["Paris", "in Rome"], 0.0, 2 / 3),
        ("", [""], 1.0, 1.0),
        ("", ["Paris"], 0.0, 0.0),
    ],
)
def test_scores_of_answers_are_squads(answer: str, accepted: list[str], exact: float, f1: float) -> None:
    assert (exact_match([answer], [accepted]), f1_words([answer], [accepted])) == pytest.approx((exact, f1))


@pytest.fixture(scope="module")
def artifact(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]
) -> Callable[[str, str], tuple[Path, Contract]]:
    """(kind of small model or family, task) → an artifact as logging makes it."""

    def make(kind: str, task: str) -> tuple[Path, Contract]:
        root = tmp_path_factory.mktemp("artifact")
        if kind in models:
            shutil.copytree(models[kind], root / "model")
        else:
            build(root / "model", kind, get_head(task).auto_class)
        model = load_model(root / "model", task, dtype="float32")
        processor = load_processor(root / "model", reads_images(model))
        contract = make_contract(root, model, processor, task, origin=root / "model")
        write_artifact(root, contract)
        return root, contract

    return make


def first(answer: Any) -> Any:
    return answer[0]["label"]


def likely(answer: Any) -> Any:
    return [entry["label"] for entry in answer if entry["score"] >= 0.5]


def entities(answer: Any) -> Any:
    return [{"start": entry["start"], "end": entry["end"], "label": entry["entity_group"]} for entry in answer]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("kind", "task", "metric", "best", "label"),
    [
        ("single", "text-classification", "f1_macro", 1.0, first),
        (
            "multi",
            "text-classification",
            "f1_micro",
            1.0,
            likely,
        ),
        ("regression", "text-classification", "mae", 0.0, lambda answer: answer[0]["score"]),
        ("tokens", "token-classification", "f1", 1.0, entities),
        ("bert", "zero-shot-classification", "accuracy", 1.0, first),
        ("bert", "question-answering", "exact_match", 1.0, lambda answer: ["another one", answer["answer"]]),
        ("bert", "multiple-choice", "accuracy", 1.0, lambda answer: answer[0]["choice"]),
        ("bert", "next-sentence-prediction", "accuracy", 1.0, lambda answer: answer["follows"]),
        ("bert", "fill-mask", "accuracy", 1.0, lambda answer: answer[0]["token_str"]),
        ("vit", "image-classification", "accuracy", 1.0, first),
    ],
)
def test_a_model_scores_best_on_its_own_answers(
    artifact: Any, kind: str, task: str, metric: str, best: float, label: Callable[[Any], Any]
) -> None:
    root, contract = artifact(kind, task)
    example = contract.example
    assert example is not None
    answers = Predictor(root, contract).answer(example.inputs, example.parameters)
    examples = [
        Labelled(inputs=inputs, label=label(answer), parameters=example.parameters)
        for inputs, answer in zip(example.inputs, answers, strict=True)
    ]
    required = best if best else ANSWER.float32  # scores of two loads may differ in the last digits
    scored = Evaluator.of(examples, {metric: required})(root, contract)
    assert (scored.examples, scored.required) == (len(examples), {metric: required})
    assert scored.values[metric] == pytest.approx(best, abs=required if not best else 0.0)


def test_a_score_is_by_what_the_model_answers(artifact: Any) -> None:
    root, contract = artifact("single", "text-classification")
    texts = [f"text {number}" for number in range(8)]
    answers = [answer[0]["label"] for answer in Predictor(root, contract).answer(texts)]
    wrong = [next(label for label in contract.labels if label != answer) for answer in answers]
    labels = [*answers[:6], *wrong[6:]]
    examples = [Labelled(inputs=text, label=label) for text, label in zip(texts, labels, strict=True)]
    assert Evaluator.of(examples, {"accuracy": 0.75})(root, contract).values["accuracy"] == 0.75
    with pytest.raises(NotGoodEnough, match=r"accuracy is 0.75, required is at least 0.8\. The alias stays") as caught:
        Evaluator.of(examples, {"accuracy": 0.8, "f1_macro": 0.0})(root, contract)
    assert caught.value.reasons == ("accuracy is 0.75, required is at least 0.8",)


def test_an_error_is_bounded_from_above(artifact: Any) -> None:
    root, contract = artifact("regression", "text-classification")
    (answer,) = Predictor(root, contract).answer(["a text"])[0]
    examples = [Labelled(inputs="a text", label=answer["score"] + 1.0)]
    Evaluator.of(examples, {"mae": 1.1})(root, contract)
    with pytest.raises(NotGoodEnough, match="mae is 1, required is at most 0.9"):
        Evaluator.of(examples, {"mae": 0.9})(root, contract)


def test_examples_that_do_not_fit_the_model_are_named(artifact: Any) -> None:
    root, contract = artifact("single", "text-classification")

    def refuse(label: Any, inputs: Any = "x", **required: float) -> str:
        examples = [Labelled(inputs="fine", label="good"), Labelled(inputs=inputs, label=label)]
        with pytest.raises(EvaluationError) as caught:
            Evaluator.of(examples, required or {"accuracy": 0.5})(root, contract)
        return str(caught.value)

    assert refuse("superb") == "example 2: the model has no label 'superb'; it has: bad, fair, good, great"
    assert refuse(3).startswith("example 2: label 3 is not a label: Expected `str`")
    assert refuse("good", "").startswith("example 2 cannot be answered: inputs holds an empty text")
    assert refuse("good", mae=1.0) == (
        "text-classification has no metric 'mae' for this model; it has: accuracy, f1_macro"
    )
    assert refuse("good", accuracy=float("nan")) == "accuracy=nan is no bound: give a number"


def test_a_task_without_a_metric_is_refused(artifact: Any) -> None:
    root, contract = artifact("base", "feature-extraction")
    with pytest.raises(EvaluationError, match="feature-extraction has no standard metric.*text-classification"):
        Evaluator.of([Labelled(inputs="x", label="y")], {"accuracy": 1.0})(root, contract)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no examples: write"),
        ("\n\n", "has no examples: write"),
        ('{"inputs": "x", "label": "y"}\n\n{"inputs": "x"}', "line 3: Object missing required field `label`; write"),
        ('{"inputs": "x", "label": "y", "lable": 1}', "line 1: Object contains unknown field `lable`"),
        ("text,label", "line 1: JSON is malformed"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "examples.jsonl").write_text(text)
    with pytest.raises(EvaluationError, match=message):
        Evaluator.read(tmp_path / "examples.jsonl", {"accuracy": 0.5})


def test_the_same_examples_have_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"inputs": "x", "label": "y"}\n')
    (tmp_path / "two.jsonl").write_text('\n{ "label": "y",\t"inputs": "x"}')
    one, two = (Evaluator.read(tmp_path / f"{name}.jsonl", {"accuracy": 0.5}) for name in ("one", "two"))
    assert one == two

"""Two answers to one request: an answer agrees with itself, and neither of two comes first."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.contract import Contract
from serving.tasks import get_task, served_tasks
from serving.tasks.base.agreement import Agreement
from serving.tasks.base.generation import GenerationParameters
from serving.tasks.base.task import Task
from tests.contracts import classifier

pytestmark = pytest.mark.slow


LABELS = ("bad", "good", "odd")
CONTRACT = classifier(labels=LABELS)
scores = st.floats(0.0, 1.0)
words = st.lists(st.sampled_from(("a", "b", "c")), max_size=4).map(" ".join)


def ranked(key: str, values: tuple[object, ...]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """All of the values with scores, best first."""
    given_scores = st.lists(scores, min_size=len(values), max_size=len(values))
    return st.tuples(st.permutations(values), given_scores).map(
        lambda pair: [
            {key: value, "score": score} for value, score in zip(pair[0], sorted(pair[1], reverse=True), strict=True)
        ]
    )


def span(entry: tuple[int, int, str, float]) -> dict[str, Any]:
    return {"start": entry[0], "end": entry[0] + entry[1], "entity_group": entry[2], "word": "w", "score": entry[3]}


vectors = st.lists(st.floats(-5, 5), min_size=3, max_size=3)
answers = st.tuples(st.integers(0, 9), st.integers(0, 5), scores).map(
    lambda entry: {"start": entry[0], "end": entry[0] + entry[1], "score": entry[2], "answer": ""}
)
texts = st.lists(words.map(lambda text: {"generated_text": text}), min_size=2, max_size=2)
masks = ranked("token_str", ("x", "y"))
ANSWERS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "text-classification": (ranked("label", LABELS), ranked("index", (0, 1, 2))),
    "image-classification": (ranked("label", LABELS),),
    "zero-shot-classification": (ranked("label", ("sports", "politics")),),
    "next-sentence-prediction": (st.fixed_dictionaries({"follows": st.booleans(), "score": scores}),),
    "multiple-choice": (ranked("choice", (0, 1, 2)),),
    "token-classification": (
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.sampled_from(LABELS), scores).map(span)),
    ),
    "question-answering": (answers, st.lists(answers, min_size=1, max_size=2)),
    "feature-extraction": (vectors, st.lists(vectors, min_size=2, max_size=2)),
    "fill-mask": (masks, st.lists(masks, min_size=2, max_size=2)),
    "text-generation": (texts,),
    "text2text-generation": (texts,),
    "summarization": (texts,),
    "translation": (texts,),
}
CASES = [(name, strategy) for name, strategies in ANSWERS.items() for strategy in strategies]


def test_every_task_says_how_its_answers_are_compared() -> None:
    assert set(ANSWERS) == set(served_tasks())
    assert not [name for name in served_tasks() if type(get_task(name)).agreement is Task.agreement]


@pytest.mark.parametrize(("name", "strategy"), CASES)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_agreement_is_of_an_answer_with_itself_whole_and_symmetric(
    name: str, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    one, other = data.draw(strategy), data.draw(strategy)
    compare: Callable[[Any, Any, Contract], Agreement] = get_task(name).agreement
    assert compare(one, one, CONTRACT) == Agreement(1.0, 0.0)
    there, back = compare(one, other, CONTRACT), compare(other, one, CONTRACT)
    assert (there.share, there.distance) == pytest.approx((back.share, back.distance))
    assert 0.0 <= there.share <= 1.0
    assert 0.0 <= there.distance <= 1.0


def label(name: str, score: float) -> dict[str, Any]:
    return {"label": name, "score": score}


@pytest.mark.parametrize(
    ("task", "contract", "one", "other", "share", "distance"),
    [
        ("text-classification", CONTRACT, [label("bad", 0.9)], [label("bad", 0.7)], 1.0, 0.2),
        ("text-classification", CONTRACT, [label("bad", 0.9)], [label("good", 0.7)], 0.0, 0.0),
        # several labels at once: F1 over those above one half
        (
            "text-classification",
            classifier(labels=LABELS, problem_type="multi_label_classification"),
            [label("bad", 0.9), label("good", 0.8), label("odd", 0.1)],
            [label("bad", 0.9), label("good", 0.2), label("odd", 0.1)],
            2 / 3,
            0.2,
        ),
        # a number: by how much it differs
        (
            "text-classification",
            classifier(labels=("stars",), problem_type="regression"),
            [label("stars", 4.0)],
            [label("stars", 3.0)],
            0.75,
            1.0,
        ),
        (
            "question-answering",
            CONTRACT,
            {"start": 0, "end": 4, "score": 0.5},
            {"start": 2, "end": 6, "score": 0.5},
            0.5,
            0,
        ),
        ("feature-extraction", CONTRACT, [1.0, 0.0], [0.0, 1.0], 0.0, 1.0),
        ("feature-extraction", CONTRACT, [1.0, 0.0], [1.0], 0.0, 1.0),
        ("feature-extraction", CONTRACT, [0.0, 1.3e-161], [0.0, 1.3e-161], 1.0, 0.0),  # its square is next to nothing
        ("text-generation", CONTRACT, [{"generated_text": "a b c d"}], [{"generated_text": "a b c"}], 0.75, 0.0),
    ],
)
def test_known_agreements(task: str, contract: Contract, one: Any, other: Any, share: float, distance: float) -> None:
    found = get_task(task).agreement(one, other, contract)
    assert (found.share, found.distance) == pytest.approx((share, distance))


def test_only_greedy_texts_are_repeatable() -> None:
    task = get_task("text-generation")
    assert [task.is_repeatable(GenerationParameters(do_sample=choice)) for choice in (False, True, None)] == [
        True,
        False,
        False,
    ]
    assert get_task("fill-mask").is_repeatable(get_task("fill-mask").parameters_type())

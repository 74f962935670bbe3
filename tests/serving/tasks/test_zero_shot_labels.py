"""The candidate labels of zero-shot-classification are those that transformers' pipeline makes of the same value."""

from typing import Any

import numpy
import pytest
from transformers.pipelines.zero_shot_classification import ZeroShotClassificationArgumentHandler

from serving.errors import Unprocessable
from serving.tasks.base.request import convert_request
from serving.tasks.zero_shot_classification import MAX_CANDIDATES, TASK
from tests.serving.front.task_fronts import context_of

pytestmark = pytest.mark.processor


def answer_of(labels: Any) -> list[str]:
    """The labels of the answer to a request with these."""
    version = context_of(TASK.name)
    parameters = convert_request(["a"], {"candidate_labels": labels}, TASK, 9).parameters
    encoded = TASK.encode("a", parameters, version)
    assert TASK.cost("a", parameters, version).rows == len(encoded.rows)
    rows = [[numpy.zeros(3, numpy.float32)] for _ in encoded.rows]
    return [each["label"] for each in TASK.decode(rows, encoded.decode_context, parameters, version)]


@pytest.mark.parametrize(
    "labels",
    ["a", "a,b", " a , b ", "a,b,", "a,,b", ",a", "a, ,b", "a,a", [" a "], ["a,b", "c"], ["a", "a"], ["a", " a"]],
    ids=repr,
)
def test_labels_are_those_of_the_pipeline(labels: Any) -> None:
    assert answer_of(labels) == ZeroShotClassificationArgumentHandler()._parse_labels(labels)


@pytest.mark.parametrize("labels", [",", " , ", [""], ["a", " "], "a," * MAX_CANDIDATES + "b"], ids=repr)
def test_labels_that_say_nothing_or_are_too_many_are_refused(labels: Any) -> None:
    with pytest.raises(Unprocessable, match="candidate_labels"):
        answer_of(labels)

"""The candidates of a mask have one order, also where their scores are equal."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy
import pytest
import torch

from serving.tasks.base.task import Batch
from serving.tasks.fill_mask import TASK, MaskPayload
from tests.contracts import classifier


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("count", [5, 20, 100])
def test_of_equally_likely_tokens_the_lowest_ids_are_the_candidates(rows: int, count: int) -> None:
    logits = torch.zeros(rows, 4, 30_000)
    logits[..., 7::1000] = 1.0
    model: Any = lambda **inputs: SimpleNamespace(logits=logits)  # noqa: E731
    positions = numpy.stack([numpy.arange(rows), numpy.full(rows, 2)])
    payloads = [msgspec.msgpack.encode(MaskPayload([2], []))] * rows
    batch = Batch({}, [4] * rows, str(count), payloads, classifier(), head_positions=positions)
    _, ids = TASK.forward(model, batch)
    likeliest = list(range(7, 30_000, 1000))
    expected = [*likeliest, *(token for token in range(200) if token != 7)][:count]
    assert ids.tolist() == [[expected]] * rows

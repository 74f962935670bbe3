import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from serving.tasks.base.answers import best_scores, softmax

pytestmark = pytest.mark.slow


logits = arrays(numpy.float32, array_shapes(max_dims=3), elements=st.floats(-1e4, 1e4, width=32))


@given(logits)
def test_softmax_is_torchs_along_each_axis(found: numpy.ndarray) -> None:
    for axis in range(found.ndim):
        numpy.testing.assert_allclose(softmax(found, axis), torch.from_numpy(found).softmax(axis).numpy(), atol=1e-6)


def test_softmax_gives_masked_entries_no_share() -> None:
    assert softmax(numpy.asarray([0.0, -numpy.inf, 0.0])).tolist() == [0.5, 0.0, 0.5]


def by_hand(row: list[float], most: int) -> list[int]:
    return sorted(range(len(row)), key=lambda index: -row[index])[:most]


@pytest.mark.parametrize("rows", [1, 2, 8, 32])
@pytest.mark.parametrize("count", [1, 2, 8, 17, 100, 1000])
@pytest.mark.parametrize("most", [1, 5, 100])
def test_of_equal_scores_the_lowest_index_is_first(rows: int, count: int, most: int) -> None:
    scores = torch.randint(0, 4, (rows, count), generator=torch.Generator().manual_seed(count)).float()
    scores[0] = 0.5
    best, indices = best_scores(scores, most)
    assert indices.tolist() == [by_hand(row, most) for row in scores.tolist()]
    assert torch.equal(best, scores.gather(-1, indices))
    assert torch.equal(best_scores(scores[:1], most)[1], indices[:1])


@pytest.mark.parametrize("most", [2, 5])
def test_a_score_that_is_no_number_is_not_left_out(most: int) -> None:
    scores = torch.tensor([[0.1, 0.9, float("nan"), 0.9, 0.9]])
    assert best_scores(scores, most)[0].isnan().any()

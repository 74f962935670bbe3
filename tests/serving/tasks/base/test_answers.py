import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from serving.tasks.base.answers import softmax

pytestmark = pytest.mark.slow


logits = arrays(numpy.float32, array_shapes(max_dims=3), elements=st.floats(-1e4, 1e4, width=32))


@given(logits)
def test_softmax_is_torchs_along_each_axis(found: numpy.ndarray) -> None:
    for axis in range(found.ndim):
        numpy.testing.assert_allclose(softmax(found, axis), torch.from_numpy(found).softmax(axis).numpy(), atol=1e-6)


def test_softmax_gives_masked_entries_no_share() -> None:
    assert softmax(numpy.asarray([0.0, -numpy.inf, 0.0])).tolist() == [0.5, 0.0, 0.5]

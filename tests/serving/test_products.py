"""Products come out as torch's own, whichever library makes them, and by the faster one."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from serving.products import LEAST_PRODUCTS, REPEATS, ROWS, Linear, choose_products

IN, OUT = 256, 512
ROWS_OF_LEAST = LEAST_PRODUCTS // (IN * OUT) + 1


class Clock:
    """Stands still while torch's own products are measured, and passes so many seconds in each of the others."""

    def __init__(self, own: float, other: float) -> None:
        seconds = [each for _ in ROWS for each in [own] * REPEATS + [other] * REPEATS]
        self._times: Iterator[float] = iter([time for each in seconds for time in (0.0, each)])

    def __call__(self) -> float:
        return next(self._times)


def chosen(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A layer, and one of the same weights in which oneDNN was found to be faster."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    layer = torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    layer.load_state_dict(plain.state_dict())
    choose_products(layer, Clock(own=2.0, other=1.0))
    return plain, layer


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(IN,), (1, IN), (ROWS_OF_LEAST, IN), (3, ROWS_OF_LEAST, IN)])
def test_products_are_as_torch_makes_them(shape: tuple[int, ...], bias: bool) -> None:
    plain, layer = chosen(bias=bias)
    assert isinstance(layer, Linear)
    given = torch.randn(shape)
    torch.testing.assert_close(layer(given), plain(given))


@torch.inference_mode()
@pytest.mark.parametrize("traced_with", [1, ROWS_OF_LEAST])
def test_a_graph_chooses_by_the_size_of_each_call(traced_with: int) -> None:
    plain, layer = chosen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated
        graph = torch.jit.freeze(torch.jit.trace(layer.eval(), torch.randn(traced_with, IN), check_trace=False))
    assert "mkldnn::_linear_pointwise" in str(graph.inlined_graph)
    for rows in (1, ROWS_OF_LEAST, 7 * ROWS_OF_LEAST):
        given = torch.randn(rows, IN)
        torch.testing.assert_close(graph(given), plain(given))


def test_tensors_without_data_show_what_the_layer_does_not_how() -> None:
    plain, layer = chosen()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        given = fake.from_tensor(torch.randn(ROWS_OF_LEAST, IN))
        assert layer(given).shape == plain(given).shape


def test_what_is_slower_is_left_as_it_is() -> None:
    layer = torch.nn.Linear(IN, OUT)
    assert not choose_products(layer, Clock(own=1.0, other=1.0))
    assert type(layer) is torch.nn.Linear


@pytest.mark.parametrize("module", [torch.nn.Linear(IN, OUT, dtype=torch.bfloat16), torch.nn.LayerNorm(IN)])
def test_other_weights_are_left_as_they_are(module: torch.nn.Module) -> None:
    assert not choose_products(module, Clock(own=2.0, other=1.0))
    assert type(module) in (torch.nn.Linear, torch.nn.LayerNorm)

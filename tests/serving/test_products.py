"""Products come out as torch's own, with weights as they are or packed, and packed where that is faster."""

import warnings
from pathlib import Path

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from serving.products import REPEATS, Packed, choose_products
from tests.families import build

IN, OUT = 256, 512


class Clock:
    """Stands still but for the seconds of torch's own products, and of packed ones, over and over."""

    def __init__(self, own: float, packed: float) -> None:
        self._seconds = [own] * REPEATS + [packed] * REPEATS
        self._now, self._calls = 0.0, 0

    def __call__(self) -> float:
        self._calls += 1
        if self._calls % 2 == 0:
            self._now += self._seconds[(self._calls // 2 - 1) % len(self._seconds)]
        return self._now


def chosen(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A layer, and one of the same weights that is packed."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    layer = torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    layer.load_state_dict(plain.state_dict())
    assert choose_products(layer, Clock(own=2.0, packed=1.0)) == 1
    return plain, layer


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(IN,), (1, IN), (70, IN), (3, 20, IN)])
def test_products_are_as_torch_makes_them(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    plain, layer = chosen(bias=bias, dtype=dtype)
    assert isinstance(layer, Packed)
    given = torch.randn(shape).to(dtype)
    torch.testing.assert_close(layer(given), plain(given))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_has_packed_weights(dtype: torch.dtype) -> None:
    plain, layer = chosen(dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated
        given = torch.randn(3, IN).to(dtype)
        graph = torch.jit.freeze(torch.jit.trace(layer.eval(), given, check_trace=False))
    assert "mkldnn::_linear_pointwise" in str(graph.inlined_graph)
    for rows in (1, 3, 70):
        given = torch.randn(rows, IN).to(dtype)
        torch.testing.assert_close(graph(given), plain(given))


@torch.inference_mode()
def test_weights_that_are_stored_turned_are_packed_as_well() -> None:
    torch.manual_seed(0)
    layer = Conv1D(OUT, IN)
    given = torch.randn(2, 5, IN)
    expected = layer(given)
    assert choose_products(layer, Clock(own=2.0, packed=1.0)) == 1
    torch.testing.assert_close(layer(given), expected)


@torch.inference_mode()
def test_weights_that_are_an_embedding_too_stay_that(tmp_path: Path) -> None:
    folder = build(tmp_path, "bert", "AutoModelForMaskedLM")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = torch.arange(5, 15)[None]
    expected = model(input_ids=ids).logits
    assert choose_products(model, Clock(own=2.0, packed=1.0)) > 1
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_tensors_without_data_show_what_the_layer_does_not_how() -> None:
    plain, layer = chosen()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        given = fake.from_tensor(torch.randn(7, IN))
        assert layer(given).shape == plain(given).shape


def test_what_is_slower_is_left_as_it_is() -> None:
    layer = torch.nn.Linear(IN, OUT)
    assert choose_products(layer, Clock(own=1.0, packed=1.0)) == 0
    assert type(layer) is torch.nn.Linear


@pytest.mark.parametrize("module", [torch.nn.Linear(IN, OUT, dtype=torch.float16), torch.nn.LayerNorm(IN)])
def test_other_weights_are_left_as_they_are(module: torch.nn.Module) -> None:
    assert choose_products(module, Clock(own=2.0, packed=1.0)) == 0
    assert type(module) in (torch.nn.Linear, torch.nn.LayerNorm)

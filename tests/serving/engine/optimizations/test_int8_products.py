"""int8 products are off by at most half a level of each factor, token by token; layers are replaced and restored."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pytorch_utils import Conv1D

from serving.engine.optimizations.int8_products import (
    LEVELS,
    MIN_FEATURES,
    REPEATS,
    Int8Linear,
    find_layers,
    quantize_weight,
    weight_levels,
)
from serving.engine.optimizations.torch_private import linear_int8, repack, unpack
from tests.serving.engine.optimizations.clocks import Turns

pytestmark = pytest.mark.processor

IN, OUT = 96, 128


def clock(*, plain: float, int8: float) -> Turns:
    """The seconds of the two kinds of products, as they are timed in turn."""
    return Turns(*[plain] * REPEATS, *[int8] * REPEATS)


def layer(seed: int = 0, *, bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(IN, OUT, bias=bias)


@torch.inference_mode()
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 40),
    exponents=st.lists(st.integers(-12, 12), min_size=1, max_size=4),
    outlier=st.sampled_from([1.0, 30.0, 1000.0]),
)
def test_a_product_is_off_by_at_most_half_a_level_of_each_factor(
    seed: int, tokens: int, exponents: list[int], outlier: float
) -> None:
    """Of a token's own scale and a channel's own, whatever the size of the other tokens and channels."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tokens, IN, generator=draw)
    rows[:, 0] *= outlier
    rows *= torch.tensor([10.0 ** exponents[row % len(exponents)] for row in range(tokens)]).unsqueeze(1)
    weight = torch.randn(OUT, IN, generator=draw) * torch.logspace(-3, 3, OUT).unsqueeze(1)
    found = quantize_weight(weight)
    product = linear_int8(rows, found.packed, found.scales, found.smoothing, None).double()
    exact = rows.double() @ weight.double().t()
    token_level, channel_level = rows.abs().amax(1).double() / LEVELS, weight.abs().amax(1).double() / weight_levels()
    size = rows.abs().sum(1).double() + token_level * IN / 2
    bound = torch.outer(token_level / 2, weight.abs().sum(1).double()) + torch.outer(size, channel_level / 2)
    assert (product - exact).abs().sub(bound * 1.001).max() <= 0
    assert (product - exact).norm() <= 0.03 * exact.norm() or outlier > 1


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(IN,), (1, IN), (70, IN), (3, 20, IN)])
def test_a_layer_answers_nearly_as_before_in_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    rows, plain = torch.randn(shape), layer(bias=bias)
    expected = plain(rows)
    layers = find_layers(torch.nn.Sequential(plain), is_timed=False)
    layers.use(layers)
    assert isinstance(plain, Int8Linear)
    found = plain(rows)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.02 * expected.norm()


@torch.inference_mode()
def test_a_token_is_multiplied_alike_alone_and_beside_others() -> None:
    plain = layer()
    layers = find_layers(torch.nn.Sequential(plain), is_timed=False)
    layers.use(layers)
    rows = torch.randn(9, IN) * torch.logspace(-4, 4, 9).unsqueeze(1)
    together = plain(rows)
    for number, row in enumerate(rows):
        torch.testing.assert_close(plain(row), together[number], rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_zeros_give_the_bias() -> None:
    plain = layer()
    layers = find_layers(torch.nn.Sequential(plain), is_timed=False)
    layers.use(layers)
    assert torch.equal(plain(torch.zeros(3, IN)), plain.bias.expand(3, OUT))


@torch.inference_mode()
def test_what_is_not_a_number_stays_none() -> None:
    found = quantize_weight(torch.randn(OUT, IN))
    rows = torch.randn(3, IN)
    rows[1, 5] = torch.nan
    product = linear_int8(rows, found.packed, found.scales, found.smoothing, None)
    assert product[1].isnan().all()
    assert product[[0, 2]].isfinite().all()


@torch.inference_mode()
def test_a_graph_multiplies_in_int8() -> None:
    plain = layer()
    layers = find_layers(torch.nn.Sequential(plain), is_timed=False)
    layers.use(layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated
        graph = torch.jit.freeze(torch.jit.trace(plain.eval(), torch.randn(3, IN), check_trace=False))
    assert "onednn::qlinear_pointwise" in str(graph.inlined_graph)
    for count in (1, 3, 70):
        rows = torch.randn(count, IN)
        torch.testing.assert_close(graph(rows), plain(rows), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_packed_weight_is_written_and_packed_again() -> None:
    found = quantize_weight(torch.randn(OUT, IN))
    dense = unpack(found.packed)
    assert dense.shape == (OUT, IN)
    assert dense.dtype == torch.int8
    rows = torch.randn(5, IN)
    again = linear_int8(rows, repack(dense), found.scales, found.smoothing, None)
    assert torch.equal(again, linear_int8(rows, found.packed, found.scales, found.smoothing, None))


@torch.inference_mode()
def test_layers_are_put_back_as_they_were() -> None:
    module = torch.nn.Sequential(layer(0), torch.nn.GELU(), torch.nn.Linear(OUT, IN))
    rows = torch.randn(4, IN)
    expected = module(rows)
    layers = find_layers(module, is_timed=False)
    layers.use(layers)
    assert not torch.equal(module(rows), expected)
    layers.use(["2"])
    assert [type(each) for each in module] == [torch.nn.Linear, torch.nn.GELU, Int8Linear]
    layers.use(())
    assert torch.equal(module(rows), expected)
    assert not {"scales", "smoothing"} & {name.rpartition(".")[2] for name in module.state_dict()}


@torch.inference_mode()
def test_the_error_of_each_layer_is_measured() -> None:
    module = torch.nn.Sequential(layer(0), layer(1).requires_grad_(requires_grad=False))
    module[1] = torch.nn.Linear(OUT, IN)
    with torch.no_grad():
        module[1].weight[:, 0] = 200.0  # an outlier in each channel: its levels are coarse
    layers = find_layers(module, is_timed=False)
    errors = layers.errors(lambda: module(torch.randn(30, IN)))
    assert errors.keys() == {"0", "1"}
    assert errors["0"] < 0.02
    layers.use(["0", "1"])
    assert isinstance(module[0], Int8Linear)


class Attention(torch.nn.Module):
    """Two layers with the same input, and one with another."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.output = layer(1), layer(2), torch.nn.Linear(OUT, IN)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.output(self.query(given) * self.value(given))


LARGE = torch.where(torch.arange(IN) % 10 == 0, 30.0, 1.0)
"""Every tenth channel is 30 times as large as the others."""


def rows_with_large_channels(count: int) -> torch.Tensor:
    return torch.randn(count, IN) * LARGE


@torch.inference_mode()
def test_large_channels_of_the_inputs_cost_less_after_smoothing() -> None:
    """As behind a norm with large factors, whose weights are small in turn."""
    module = Attention()
    for each in (module.query, module.value):
        each.weight /= LARGE
    rough = find_layers(module, is_timed=False).errors(lambda: module(rows_with_large_channels(200)))
    layers = find_layers(module, is_timed=False)
    layers.smooth(lambda: module(rows_with_large_channels(200)))
    smooth = layers.errors(lambda: module(rows_with_large_channels(200)))
    assert all(smooth[name] < 0.6 * rough[name] for name in ("query", "value"))
    assert smooth["output"] < 1.2 * rough["output"]


@torch.inference_mode()
def test_channels_that_were_zero_do_not_spoil_other_inputs() -> None:
    module, empty = layer(), torch.randn(50, IN)
    empty[:, 3] = 0.0
    layers = find_layers(torch.nn.Sequential(module), is_timed=False)
    layers.smooth(lambda: module(empty))
    assert layers.errors(lambda: module(torch.randn(200, IN)))["0"] < 0.1


@torch.inference_mode()
def test_a_graph_quantises_the_input_of_several_layers_once() -> None:
    module = Attention()
    layers = find_layers(module, is_timed=False)
    layers.smooth(lambda: module(torch.randn(20, IN)))
    layers.use(layers)
    assert module.query.smoothing is module.value.smoothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated
        graph = torch.jit.freeze(torch.jit.trace(module.eval(), torch.randn(3, IN), check_trace=False))
        graph(torch.randn(3, IN))
    torch._C._jit_pass_cse(graph.graph)
    assert str(graph.inlined_graph).count("aten::amax") == 2


def test_only_layers_that_are_faster_in_int8_run_in_it() -> None:
    module = torch.nn.Sequential(layer())
    assert len(find_layers(module, clock=clock(plain=1.0, int8=1.0))) == 0
    assert list(find_layers(module, clock=clock(plain=2.0, int8=1.0))) == ["0"]


def test_layers_of_a_writer_are_timed_with_the_tokens_of_its_steps() -> None:
    """Of two products the gains are multiplied: once 4 times as fast and once half as fast is faster."""
    module = torch.nn.Sequential(layer())
    few = Turns(*[4.0] * REPEATS, *[1.0] * REPEATS, *[1.0] * REPEATS, *[2.0] * REPEATS)
    assert list(find_layers(module, clock=few, takes_steps=True)) == ["0"]
    few = Turns(*[2.0] * REPEATS, *[1.0] * REPEATS, *[1.0] * REPEATS, *[4.0] * REPEATS)
    assert len(find_layers(module, clock=few, takes_steps=True)) == 0


@torch.inference_mode()
def test_a_layer_that_stores_the_transpose_is_quantised_by_output_and_put_back() -> None:
    torch.manual_seed(0)
    plain = Conv1D(OUT, IN)
    plain.weight.mul_(torch.logspace(-2, 2, OUT))
    module, rows = torch.nn.Sequential(plain), torch.randn(5, IN)
    expected = module(rows)
    layers = find_layers(module, is_timed=False)
    layers.smooth(lambda: module(rows))
    assert layers.errors(lambda: module(rows))["0"] < 0.02
    layers.use(layers)
    off = (module(rows) - expected).norm(dim=0) / expected.norm(dim=0)
    assert off.max() < 0.05 * LEVELS / weight_levels()  # where weights have 7 bits they are half as fine
    layers.use(())
    assert type(plain) is Conv1D
    assert torch.equal(module(rows), expected)


@torch.inference_mode()
def test_the_vocabularys_product_of_a_writer_leaves_the_embedding_its_weight() -> None:
    embedding, head = torch.nn.Embedding(OUT, IN), torch.nn.Linear(IN, OUT)
    head.weight = embedding.weight
    before = embedding.weight.clone()
    layers = find_layers(torch.nn.ModuleList([embedding, head]), is_timed=False, takes_steps=True)
    layers.use(layers)
    assert isinstance(head, Int8Linear)
    assert torch.equal(embedding.weight, before)
    layers.use(())
    assert head.weight is embedding.weight


def test_small_shared_and_other_layers_stay_in_float() -> None:
    embedding, head = torch.nn.Embedding(OUT, IN), torch.nn.Linear(IN, OUT)
    head.weight = embedding.weight
    small, half = torch.nn.Linear(IN, MIN_FEATURES - 1), torch.nn.Linear(IN, OUT, dtype=torch.bfloat16)
    module = torch.nn.ModuleList([embedding, head, small, half, torch.nn.LayerNorm(IN)])
    assert len(find_layers(module, is_timed=False)) == 0

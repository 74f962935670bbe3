"""Products come out as torch's own, with weights as they are, transposed or packed, whichever is faster."""

import warnings
from pathlib import Path

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from serving.engine.optimizations.prepacked_weights import (
    REPEATS,
    SMALL_ROWS,
    PrepackedLinear,
    WeightLayout,
    prepack_weights,
)
from tests.abilities import can, needs
from tests.alike import assert_alike
from tests.families import FAMILIES, build
from tests.serving.engine.optimizations.clocks import Turns

pytestmark = pytest.mark.processor

IN, OUT = 256, 512
TIMINGS = REPEATS * (len(SMALL_ROWS) + 1)
"""Of one layout after the other, several times."""


def clock(own: float, *others: float) -> Turns:
    """The seconds of the products with each layout, as they are timed in turn."""
    return Turns(*(each for each in (own, *others) for _ in range(TIMINGS)))


def transposed_clock() -> Turns:
    """By which transposed weights are the fastest, with `torch.nn.Linear`."""
    return clock(2.0, 1.0, 1.5)


def packed_clock(dtype: torch.dtype = torch.float32) -> Turns:
    """By which packed weights are."""
    return clock(2.0, 1.5, 1.0) if dtype == torch.float32 else clock(2.0, 1.0)


def work() -> None:
    """A model that works."""


def chosen(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A layer, and one of the same weights that is packed."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    layer = torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    layer.load_state_dict(plain.state_dict())
    assert prepack_weights(layer, work, clock=packed_clock(dtype)) == 1
    return plain, layer


DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs("packed bfloat16"))]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(IN,), (1, IN), (70, IN), (3, 20, IN)])
def test_products_are_as_torch_makes_them(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    plain, layer = chosen(bias=bias, dtype=dtype)
    assert isinstance(layer, PrepackedLinear)
    given = torch.randn(shape).to(dtype)
    assert_alike(layer(given), plain(given))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_has_packed_weights(dtype: torch.dtype) -> None:
    plain, layer = chosen(dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated
        given = torch.randn(3, IN).to(dtype)
        graph = torch.jit.freeze(torch.jit.trace(layer.eval(), given, check_trace=False))
    assert "mkldnn::_linear_pointwise" in str(graph.inlined_graph)
    for rows in (1, 3, 70):
        given = torch.randn(rows, IN).to(dtype)
        assert_alike(graph(given), plain(given))


@torch.inference_mode()
def test_weights_that_are_stored_turned_are_packed_as_well() -> None:
    torch.manual_seed(0)
    layer = Conv1D(OUT, IN)
    given = torch.randn(2, 5, IN)
    expected = layer(given)
    assert prepack_weights(layer, work, clock=clock(2.0, 1.0)) == 1
    assert_alike(layer(given), expected)


@torch.inference_mode()
def test_weights_that_are_an_embedding_too_stay_that(tmp_path: Path) -> None:
    folder = build(tmp_path, "bert", "AutoModelForMaskedLM")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = torch.arange(5, 15)[None]
    expected = model(input_ids=ids).logits
    assert prepack_weights(model, work, clock=packed_clock()) > 1
    assert_alike(model(input_ids=ids).logits, expected)


def test_tensors_without_data_show_what_the_layer_does_not_how() -> None:
    plain, layer = chosen()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        given = fake.from_tensor(torch.randn(7, IN))
        assert layer(given).shape == plain(given).shape


def test_what_is_slower_is_left_as_it_is() -> None:
    layer = torch.nn.Linear(IN, OUT)
    weight = layer.weight
    assert prepack_weights(layer, work, clock=clock(1.0, 1.0, 1.0)) == 0
    assert type(layer) is torch.nn.Linear
    assert layer.weight is weight


def test_few_rows_do_not_choose_a_layout_that_is_slower_for_many() -> None:
    small, large = REPEATS * len(SMALL_ROWS), REPEATS
    own, others = [2.0] * small + [2.0] * large, [1.0] * small + [2.3] * large
    layer = torch.nn.Linear(IN, OUT)
    assert prepack_weights(layer, work, clock=Turns(*own, *others, *others)) == 0
    assert layer.weight.is_contiguous()


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_weights_make_the_same_products_also_in_a_graph(bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(IN, OUT, bias=bias).eval()
    given = [torch.randn(shape) for shape in ((IN,), (1, IN), (70, IN), (3, 20, IN))]
    expected = [layer(each) for each in given]
    assert prepack_weights(layer, work, clock=transposed_clock()) == 0
    assert layer.weight.t().is_contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated
        graph = torch.jit.freeze(torch.jit.trace(layer, given[-1], check_trace=False))
    for each, wanted in zip(given, expected, strict=True):
        assert_alike(layer(each), wanted)
        assert_alike(graph(each), wanted)


@pytest.mark.parametrize("module", [torch.nn.Linear(IN, OUT, dtype=torch.float16), torch.nn.LayerNorm(IN)])
def test_other_weights_are_left_as_they_are(module: torch.nn.Module) -> None:
    assert prepack_weights(module, work, clock=packed_clock()) == 0
    assert type(module) in (torch.nn.Linear, torch.nn.LayerNorm)


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.nn.Linear, Conv1D])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_does_not_work_with_packed_weights_has_its_own_again(
    kind: type, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "headwaiter.engine")
    torch.manual_seed(0)
    layer = kind(IN, OUT).to(dtype)
    expected = layer.weight.clone()
    timings = packed_clock(dtype) if kind is torch.nn.Linear else clock(2.0, 1.0)
    assert prepack_weights(layer, lambda: torch.ones(OUT, dtype=dtype) @ layer.weight, clock=timings) == 0
    assert type(layer) is kind
    assert torch.equal(layer.weight, expected)
    assert "weights are not prepacked: " in caplog.text


@torch.inference_mode()
@pytest.mark.parametrize(
    ("family", "auto_class"),
    [(family, "AutoModel") for family in FAMILIES if not family.startswith("gpt")]
    + [(family, "AutoModelForCausalLM") for family in ("gpt2", "gptj", "llama")]
    + [(family, "AutoModelForMaskedLM") for family in ("albert", "deberta-v2", "electra", "mobilebert", "modernbert")],
)
@pytest.mark.parametrize("layout", [WeightLayout.TRANSPOSED, WeightLayout.PREPACKED])
def test_every_family_answers_as_before(
    layout: WeightLayout, family: str, auto_class: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = getattr(transformers, auto_class).from_pretrained(build(tmp_path, family, auto_class)).eval()
    given = torch.rand(1, 3, 32, 32) if family == "vit" else torch.arange(5, 15)[None]
    encoder_only = not model.config.is_encoder_decoder
    inputs = {model.main_input_name: given} | ({} if encoder_only else {"decoder_input_ids": given})
    expected = model(**inputs)[0]
    monkeypatch.setattr("serving.engine.optimizations.prepacked_weights._choose_layout", lambda *_: layout)
    count = prepack_weights(model, lambda: model(**inputs))
    is_prepacked = (
        layout == WeightLayout.PREPACKED and family != "mobilebert"
    )  # which computes with its decoder's weights
    assert (count > 0) == is_prepacked
    assert_alike(model(**inputs)[0], expected)


@torch.inference_mode()
def test_a_processor_that_packs_no_bfloat16_leaves_weights_as_they_are_and_says_why() -> None:
    layer, notes = torch.nn.Linear(IN, OUT, dtype=torch.bfloat16), list[str]()
    given = torch.randn(3, IN).to(torch.bfloat16)
    expected = layer(given)
    packed = prepack_weights(layer, work, notes.append, packed_clock(torch.bfloat16))
    assert packed == can("packed bfloat16")
    assert isinstance(layer, PrepackedLinear) == can("packed bfloat16")
    refused = ["weights are not prepacked: RuntimeError"] * (1 - packed)
    assert [note.partition(": mkldnn")[0] for note in notes] == refused
    assert_alike(layer(given), expected)


def test_a_layer_that_cannot_be_packed_is_not_and_the_reason_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("bf16 path needs the cpu support avx_ne_convert\nand more")

    monkeypatch.setattr("serving.engine.optimizations.prepacked_weights.prepack_weight", refuse)
    layer, notes = torch.nn.Linear(IN, OUT), list[str]()
    assert prepack_weights(layer, work, notes.append, clock(2.0, 1.0)) == 0
    assert type(layer) is torch.nn.Linear
    assert layer.weight.t().is_contiguous(), "which is the fastest of the other layouts"
    assert notes == ["weights are not prepacked: RuntimeError: bf16 path needs the cpu support avx_ne_convert"]


def test_weights_that_multiply_to_something_else_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "serving.engine.optimizations.prepacked_weights.prepack_weight", lambda weight, _: weight * 1.01
    )
    layer = torch.nn.Linear(IN, OUT)
    assert prepack_weights(layer, work, clock=packed_clock()) == 0

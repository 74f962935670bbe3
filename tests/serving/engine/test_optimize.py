"""A form stands for a model only where it answers as the model does, with any rows."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from registry.cache import fetch
from registry.flavor import log_model
from registry.heads import get_head
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.engine.measurements import Measurements
from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.packing import has_bucket_sizes
from serving.engine.optimizations.torchscript import TracedModule, check_operations
from serving.engine.optimizations.unpadded import unpack
from serving.engine.optimize import optimize
from serving.engine.reference import inputs_of
from serving.tasks.fill_mask import MaskPayload
from serving.wire.messages import Row
from tests.alike import assert_alike
from tests.families import MAX_TOKENS, build

pytestmark = [pytest.mark.processor, pytest.mark.slow]

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small classifier."""
    return load(tmp_path_factory.mktemp("traced"), "bert")


def load(home: Path, family: str, task: str = "text-classification") -> Model:
    registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    folder = build(home / "model", family, get_head(task).auto_class)
    logged = log_model(folder, task=task, name="m", settings=registry)
    return Model(*fetch(Versions(registry).resolve(Reference("m", version=logged.version)), registry))


class Changed(torch.nn.Module):
    """The classifier, whose logits become `change(logits, input_ids)`."""

    def __init__(self, module: torch.nn.Module, change: Change) -> None:
        super().__init__()
        self.module, self.change = module, change
        self.config = SimpleNamespace(model_type="changed")

    def forward(self, **inputs: torch.Tensor) -> Any:
        """As the classifier's."""
        output = self.module(**inputs)
        output.logits = self.change(output.logits, inputs["input_ids"])
        return output


def traced(model: Model, change: Change, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(model, "form", ExecutionForm(Changed(model.module, change).eval()))
    monkeypatch.setattr(model, "measurements", Measurements())  # of other code than the change before
    model.form = optimize(model)
    return isinstance(model.module, TracedModule)


def note(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[-1]


def test_a_change_that_is_the_same_for_all_rows_is_traced(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert traced(model, lambda logits, ids: logits * 2 + ids[:, :1], monkeypatch)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda logits, ids: logits * 2 if ids.shape[1] > 300 else logits, "how many or how long"),
        (lambda logits, ids: logits * 2 if len(ids) > 2 else logits, "how many or how long"),
        (lambda logits, ids: logits * 2 if ids.max() > 40 else logits, "DataDependent"),
        (lambda logits, ids: logits * float(ids.sum()), "DataDependent"),
        (lambda logits, ids: logits * len(ids.unique()), "DynamicOutputShape"),
        (lambda logits, ids: logits * (1 + int(ids.shape[1]) ** 0.5), "logits differ"),
        (lambda logits, ids: logits + (0.1 if int(ids.shape[1]) == 17 else 0.0), "logits differ"),
        (lambda logits, ids: logits + min(int(ids.shape[1]), 50), "logits differ"),
        (lambda logits, ids: logits + torch.rand_like(logits), "logits differ"),
    ],
)
def test_a_change_that_depends_on_the_rows_is_not_traced(
    model: Model, change: Change, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headwaiter.engine")
    assert not traced(model, change, monkeypatch)
    assert model.form.describe() == "eager"
    assert note(caplog).startswith("the model runs eagerly: ")
    assert reason in note(caplog)


@pytest.fixture
def plain(model: Model) -> Iterator[Any]:
    """The classifier's module as it is before and after the test."""
    form = model.form
    yield form.module
    unpack(form.module)
    model.form = form


LENGTHS = ([1], [MAX_TOKENS], [3, MAX_TOKENS], [1, 1, 1], [40, 2, 17], [5] * 30, [9, 4, 9, 4, 9], [7, 2, 30] * 13)


@pytest.fixture(scope="class", params=[False, True], ids=["exact", "bucketed"])
def answers(request: pytest.FixtureRequest, model: Model) -> Iterator[dict[tuple[int, bool], Any]]:
    """(Index of the lengths, whether there are token types) → the plain model's answer; then `model` is a graph."""
    form = model.form
    model.form = replace(form, is_bucketed=request.param)
    with torch.inference_mode():
        found = {
            (index, types): form.module(**inputs_of(model, lengths, types=types)).logits
            for index, lengths in enumerate(LENGTHS)
            for types in (False, True)
        }
    model.form = optimize(model)
    yield found
    unpack(form.module)
    model.form = form


class TestGraphs:
    """One graph answers batches of all lengths."""

    @pytest.mark.parametrize("index", range(len(LENGTHS)), ids=[str(each)[:20] for each in LENGTHS])
    @pytest.mark.parametrize("types", [False, True], ids=["no types", "types"])
    @torch.inference_mode()
    def test_a_packed_pruned_graph_answers_as_the_model(
        self, model: Model, answers: dict[tuple[int, bool], Any], index: int, types: bool
    ) -> None:
        lengths = LENGTHS[index]
        assert model.form.describe() == "packed sequences, first-token pruning, TorchScript"
        inputs = inputs_of(model, lengths, types=types)
        is_packed = types or len(set(lengths)) > 1 or (model.form.is_bucketed and not has_bucket_sizes(lengths))
        assert ("indices" in inputs) == is_packed
        assert_alike(model.module(**inputs).logits, answers[index, types])


def test_what_no_graph_takes_goes_to_the_model(model: Model, plain: Any) -> None:
    model.form = optimize(model)
    ids = torch.ones(1, 3, dtype=torch.int64)
    embedded = model.module(inputs_embeds=plain.get_input_embeddings()(ids))
    assert_alike(embedded.logits, model.module(input_ids=ids).logits)
    assert model.module.config is plain.config


def test_a_model_that_does_not_answer_alike_without_padding_runs_as_a_padded_graph(
    model: Model, plain: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headwaiter.engine")
    monkeypatch.setattr(
        "serving.engine.optimizations.attention.attend_packed", lambda query, *_: query.transpose(1, 2).contiguous()
    )
    model.form = optimize(model)
    assert "the model does not run with packed sequences: its logits differ" in note(caplog)
    assert model.form.describe() == "TorchScript"
    assert note(caplog) in model.notes
    assert "forward" not in vars(plain.base_model)
    assert plain.config._attn_implementation == "sdpa"


@torch.inference_mode()
def test_a_head_that_reads_all_tokens_is_not_pruned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headwaiter.engine")
    model = load(tmp_path, "modernbert")
    plain = model.module
    plain.config.classifier_pooling = "mean"
    expected = plain(**inputs_of(model, [9, 4], types=False)).logits
    model.form = optimize(model)
    assert model.form.describe() == "packed sequences, TorchScript"
    assert "first-token pruning" not in caplog.text, "no form is tried in vain"
    assert_alike(model.module(**inputs_of(model, [9, 4], types=False)).logits, expected)


MASKS = ([0], [8, 3], [30, 1, 2, 16], [16])
MASKED: list[tuple[list[int], Sequence[Sequence[int]], list[int]]] = [
    ([40, 9, 31, 17], MASKS, []),
    ([40, 9, 31, 17], MASKS, [7, 9, 8]),
    ([31] * 4, MASKS, []),
    ([31] * 4, MASKS, [7, 9, 8]),
    ([9], [[4]], []),
    ([9, 300], [range(9), range(300)], []),
]
"""Lengths of rows, the places of their masks, and target ids."""


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def mask_filler(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small masked language model."""
    return load(tmp_path_factory.mktemp("masked"), request.param, "fill-mask")


@pytest.mark.parametrize("bucketed", [False, True], ids=["exact", "bucketed"])
def test_a_vocabulary_is_computed_at_masks_only(mask_filler: Model, bucketed: bool) -> None:
    plain = mask_filler.form
    batches = [
        [mask_row(mask_filler, *row, targets) for row in zip(lengths, masks, strict=True)]
        for lengths, masks, targets in MASKED
    ]
    expected = [mask_filler.run(batch) for batch in batches]
    mask_filler.form = replace(plain, is_bucketed=bucketed)
    try:
        mask_filler.form = optimize(mask_filler)
        assert mask_filler.form.describe() == "packed sequences, the head at masks, TorchScript"
        with torch.inference_mode():
            assert mask_filler.module(**mask_filler.batch(batches[0]).inputs).logits.shape[1] == 8
        for batch, answers in zip(batches, expected, strict=True):
            for found, wanted in zip(mask_filler.run(batch), answers, strict=True):
                assert_alike(*(torch.from_numpy(arrays[0]) for arrays in (found, wanted)))
                assert (found[1] == wanted[1]).all()
    finally:
        unpack(plain.module)
        mask_filler.form = plain


def mask_row(model: Model, length: int, masks: Sequence[int], targets: list[int]) -> Row:
    payload = msgspec.msgpack.encode(MaskPayload(list(masks), targets))
    return msgspec.structs.replace(model.probe(length), batch_key="targets" if targets else "5", payload=payload)


def test_a_mask_without_places_is_refused(model: Model, plain: Any) -> None:
    model.form = optimize(model)
    with pytest.raises(ValueError, match="indices"):
        plain(input_ids=torch.ones(1, 3, dtype=torch.int64), attention_mask=torch.ones(1, 3))


class Keeping(torch.nn.Module):
    """Moves a tensor of its own to its input's device in each forward pass, as CTRL does its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = torch.ones(1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The ids and positions, where the mask says so."""
        self.positions = self.positions.to(torch.float64) * input_ids
        return self.positions * attention_mask


def test_counting_operations_leaves_nothing_without_data_in_the_model() -> None:
    module, ids = Keeping(), torch.ones(2, 3, dtype=torch.int64)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    check_operations(module, given)
    assert type(module.positions) is torch.Tensor
    assert module(**given).numpy().shape == (2, 3)

"""A graph stands for a model only where the model would do the same with any rows."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from registry.cache import fetch
from registry.flavor import log_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.model import Model
from serving.traced import TracedModule, trace_model
from tests.families import LONGEST, build

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small classifier."""
    home = tmp_path_factory.mktemp("traced")
    registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    folder = build(home / "model", "bert", "AutoModelForSequenceClassification")
    logged = log_model(folder, task="text-classification", name="m", settings=registry)
    return Model(*fetch(Versions(registry).resolve(Reference("m", version=logged.version)), registry))


class Changed(torch.nn.Module):
    """The classifier, whose logits become `change(logits, input_ids)`."""

    def __init__(self, module: torch.nn.Module, change: Change) -> None:
        super().__init__()
        self.module, self.change = module, change

    def forward(self, **inputs: torch.Tensor) -> Any:
        """As the classifier's."""
        output = self.module(**inputs)
        output.logits = self.change(output.logits, inputs["input_ids"])
        return output


def traced(model: Model, change: Change, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(model, "module", Changed(model.module, change).eval())
    trace_model(model)
    return isinstance(model.module, TracedModule)


def note(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[-1]


def test_a_change_that_is_the_same_for_all_rows_is_traced(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert traced(model, lambda logits, ids: logits * 2 + ids.shape[1], monkeypatch)


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
    assert note(caplog).startswith("the model runs module by module: ")
    assert reason in note(caplog)


@pytest.mark.parametrize("lengths", [[1], [LONGEST], [3, LONGEST], [1, 1, 1], [40, 2, 17], [5] * 30])
@pytest.mark.parametrize("types", [(), (1,), (0, 1)])
@torch.inference_mode()
def test_a_graph_answers_as_the_model(
    model: Model, lengths: list[int], types: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "module", model.module)
    plain = model.module
    trace_model(model)
    ids = torch.randint(5, 40, (len(lengths), max(lengths)))
    inputs = {"input_ids": ids}
    if len(set(lengths)) > 1:
        inputs["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    if types:
        inputs["token_type_ids"] = torch.tensor(types)[torch.arange(ids.shape[1]) % len(types)].expand(ids.shape)
    torch.testing.assert_close(model.module(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_what_no_graph_takes_goes_to_the_model(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "module", model.module)
    plain = model.module
    trace_model(model)
    inputs = {"inputs_embeds": torch.ones(1, 3, 32)}
    assert torch.equal(model.module(**inputs).logits, plain(**inputs).logits)
    assert model.module.config is plain.config

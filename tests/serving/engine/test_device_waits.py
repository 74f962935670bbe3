"""No task makes the host wait for the device between launching a forward pass and its answer.

Run on torch's `meta` device, which has no values: whoever looks at one fails there, and would wait on a GPU. A tensor
of Python's numbers, made on the device, would wait as well.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from registry.checks import load_model
from registry.heads import get_head
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import describe
from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.first_token import can_prune
from serving.engine.optimizations.unpadded import can_pack, pack
from serving.tasks import get_task
from serving.tasks.fill_mask import MaskPayload
from tests.families import build
from tests.serving.engine.optimizations.test_unpadded import READ_FIRST

pytestmark = pytest.mark.slow


LENGTHS = (7, 12, 3)
TARGETS = msgspec.msgpack.encode(MaskPayload([1, 2], [7, 8, 9]))
CASES = [
    *[("bert", "feature-extraction", {"batch_key": kind}) for kind in ("raw", "mean", "cls", "last")],
    ("vit", "feature-extraction", {"batch_key": "mean"}),
    *[("bert", "fill-mask", each) for each in ({}, {"batch_key": "targets", "payload": TARGETS})],
    ("bert", "text-classification", {}),
    ("bert", "token-classification", {}),
    ("bert", "question-answering", {}),
    ("bert", "next-sentence-prediction", {}),
    ("bert", "zero-shot-classification", {}),
    ("bert", "multiple-choice", {}),
    ("vit", "image-classification", {}),
    *[(family, "text-classification", {}) for family in ("roberta", "albert", "electra", "distilbert")],
]


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The case's, on the `meta` device; packed where a GPU would."""
    monkeypatch.setattr(Model, "prepack", lambda *_: False)  # a CPU's
    family, task, _ = request.node.callspec.params["case"]
    folder = build(tmp_path / MODEL_FOLDER, family, get_head(task).auto_class)
    module = load_model(folder, task, dtype="bfloat16")
    processor = load_processor(folder, of_images=family == "vit")
    defaults = get_task(task).defaults(folder, {})
    contract = describe(tmp_path, module, processor, task, defaults=defaults, dtype="auto", max_tokens=None)
    model = Model(tmp_path, contract, dtype="bfloat16")
    if can_pack(model.module, torch.device("cuda"), torch.bfloat16):
        pruned = can_prune(model.module.base_model) and task in READ_FIRST
        pack(model.module, pruned=pruned)
        model.form = ExecutionForm(model.module, is_packed=True)
    model.form = replace(model.form, is_bucketed=False)  # a CPU's
    model.module.to("meta")
    model.device = torch.device("meta")
    return model


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([*case[:2], case[2].get("batch_key", "")]).rstrip("-")
)
@torch.inference_mode()
def test_no_task_waits_for_the_device(
    model: Model, case: tuple[str, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [model.task.probe(model.contract, length).to_row(number, 0.0) for number, length in enumerate(LENGTHS)]
    batch = model.batch([msgspec.structs.replace(row, **case[2]) for row in rows])
    made = torch.tensor

    def tensor(*given: Any, device: Any = None, **others: Any) -> torch.Tensor:
        assert device is None, "the copy to the device waits for all that was launched before it"
        return made(*given, **others)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(
        "serving.engine.optimizations.attention.attend_packed", lambda query, *_: query.transpose(1, 2)
    )  # a GPU has its own
    answer = model.task.forward(model.module, batch)
    assert all(each.device.type == "meta" and len(each) == len(LENGTHS) for each in answer)

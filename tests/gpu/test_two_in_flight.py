"""Two batches are in flight on a GPU: launching waits for neither of them, and each row gets its own answer."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from serving.engine.assembly import optimize_model
from serving.engine.forward_pass import ForwardPass
from serving.engine.model import Model
from serving.wire.messages import Row
from tests.families import MAX_TOKENS
from tests.gpu.loaded import ask, assert_same_rows, engine_of, load, rows_of, write_artifact
from tests.serving.engine.test_device_waits import CASES

pytestmark = pytest.mark.gpu

CYCLES = 400_000_000
"""Of a kernel that only waits, 0.2 s at 2 GHz: far longer than a launch takes."""
SHORT_CYCLES = CYCLES // 20
LENGTHS = (7, 12, 3)
MAX_ROWS = 400


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT classifier."""
    return write_artifact(tmp_path_factory.mktemp("artifact"), "bert", "text-classification")


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([*case[:2], case[2].get("batch_key", "")]).rstrip("-")
)
def test_a_launch_does_not_wait_for_the_batch_before(
    tmp_path: Path, cuda: torch.device, case: tuple[str, str, dict[str, Any]]
) -> None:
    family, task, changes = case
    model = load(write_artifact(tmp_path, family, task), cuda, "bfloat16")
    optimize_model(model)
    lengths = LENGTHS if family != "vit" else [model.contract.max_tokens] * len(LENGTHS)
    rows = rows_of(model, lengths, **changes)
    for each in [model.launch(rows) for _ in range(3)]:  # so that memory, pinned too, is there
        each.wait()
    with torch.cuda.device(cuda):
        torch.cuda._sleep(CYCLES)
        before = torch.cuda.Event()
        before.record()
    launched = model.launch(rows)
    assert not before.query(), "the launch has waited for what was launched before it"
    launched.wait()
    assert before.query()


def test_of_two_batches_the_first_one_ends_first_and_each_has_its_own_answers(
    artifact: Path, cuda: torch.device
) -> None:
    model = load(artifact, cuda, "bfloat16")
    optimize_model(model)
    batches = [rows_of(model, lengths) for lengths in ([5, 30, 17, 1], [320, 44], [2, 2], [9] * 40)]
    expected = [model.run(rows) for rows in batches]
    for each in [model.launch(rows) for rows in batches]:  # so that memory, pinned too, is there
        each.wait()
    with torch.cuda.device(cuda):
        torch.cuda._sleep(CYCLES)
    passes = [model.launch(rows) for rows in batches]
    assert not passes[0].is_done()
    last = passes[-1].wait()
    assert all(each.is_done() for each in passes)
    found = [
        [[array[index] for array in each.wait()] for index in range(len(rows))]
        for each, rows in zip(passes, batches, strict=True)
    ]
    for answers, wanted in zip(found, expected, strict=True):
        assert_same_rows(answers, wanted, model.dtype)
    assert len(last[0]) == len(batches[-1])


class Watched(Model):
    """A model that notes how many passes are in flight; each takes some milliseconds at least on a GPU."""

    def launch(self, rows: Sequence[Row]) -> ForwardPass:
        if self.device.type == "cuda":
            torch.cuda._sleep(SHORT_CYCLES)
        launched = super().launch(rows)
        self.passes = [each for each in self.__dict__.get("passes", []) if not each.is_done()] + [launched]
        self.most = max(self.__dict__.get("most", 0), len(self.passes))
        return launched


def test_an_engine_has_two_batches_in_flight_and_answers_every_row(
    tmp_path: Path, artifact: Path, device: torch.device
) -> None:
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    model = load(artifact, device, dtype, Watched)
    optimize_model(model)
    draw = random.Random(0)
    count = MAX_ROWS if device.type == "cuda" else 40
    lengths = [draw.choice((draw.randint(1, 12), draw.randint(1, MAX_TOKENS))) for _ in range(count)]
    rows = rows_of(model, lengths)
    expected = [model.run([row])[0] for row in rows]
    model.most = 0
    with engine_of(model, tmp_path) as address:
        found = ask(address, [msgspec.structs.replace(row, id=index) for index, row in enumerate(rows)])
    assert_same_rows([found[index] for index in range(count)], expected, dtype)
    assert model.most == (2 if device.type == "cuda" else 1)

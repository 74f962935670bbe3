"""Memory of a GPU: what runs out of it fails alone, what is freed comes back, and what may be taken is asked of it."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from monitoring.gpus import read_gpus
from serving.engine.assembly import optimize_model
from serving.engine.forward_pass import ForwardPass
from serving.engine.generation.factory import DEVICE_SHARE, default_bytes
from serving.engine.loading import device_bytes
from serving.engine.model import Model, choose_device, choose_dtypes
from serving.wire.messages import Row
from tests.gpu.loaded import ask, engine_of, load, rows_of, write_artifact

pytestmark = pytest.mark.gpu

MIB = 1 << 20
SPARE = 256 * MIB
NOISE = 64 * MIB


class Hungry(Model):
    """A model that takes a MiB of the GPU for each token while it runs."""

    def launch(self, rows: Sequence[Row]) -> ForwardPass:
        scratch = torch.empty(sum(row.length for row in rows) * MIB, dtype=torch.uint8, device=self.device)
        launched = super().launch(rows)
        del scratch
        return launched


def free() -> None:
    """Give what nobody uses back to the GPU. A packed module refers to itself, so it takes the collector."""
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def little_memory(device: torch.device) -> Iterator[None]:
    """This process may take `SPARE` more of the GPU."""
    free()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + SPARE) / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def replies_of(model: Model, folder: Path, *batches: Sequence[int]) -> list[dict[int, str]]:
    """For each list of lengths, asked one after the other: whether each row is answered, or why not."""
    with engine_of(model, folder) as address:
        found = [ask(address, rows_of(model, lengths)) for lengths in batches]
    return [
        {number: each if isinstance(each, str) else "answer" for number, each in sorted(of.items())} for of in found
    ]


def test_rows_of_a_batch_for_which_there_is_no_memory_are_answered_one_by_one(
    tmp_path: Path, cuda: torch.device
) -> None:
    model = load(write_artifact(tmp_path, "bert", "text-classification"), cuda, "bfloat16", Hungry)
    with little_memory(cuda):
        found = replies_of(model, tmp_path, [64] * 8, [9, 9])
    assert found == [dict.fromkeys(range(8), "answer"), {0: "answer", 1: "answer"}]


def test_a_row_for_which_there_is_no_memory_fails_alone_and_the_engine_goes_on(
    tmp_path: Path, cuda: torch.device
) -> None:
    model = load(write_artifact(tmp_path, "bert", "text-classification"), cuda, "bfloat16", Hungry)
    with little_memory(cuda):
        found = replies_of(model, tmp_path, [8, 300, 9], [8, 9])
    assert found == [{0: "answer", 1: "failed", 2: "answer"}, {0: "answer", 1: "answer"}]
    del model
    free()
    assert torch.cuda.memory_reserved(cuda) < SPARE


def test_a_model_that_is_gone_has_given_its_memory_back(tmp_path: Path, cuda: torch.device) -> None:
    root = write_artifact(tmp_path, "bert", "text-classification")
    free()
    before = torch.cuda.memory_allocated(cuda)
    model = load(root, cuda, "bfloat16")
    optimize_model(model)
    model.run(rows_of(model, [300] * 8))
    assert device_bytes(cuda) == torch.cuda.memory_reserved(cuda) > before
    del model
    free()
    assert torch.cuda.memory_allocated(cuda) - before < NOISE


def test_the_cache_of_a_generating_model_takes_a_share_of_what_is_free(cuda: torch.device) -> None:
    free, _ = torch.cuda.mem_get_info(cuda)
    assert abs(default_bytes(cuda) - DEVICE_SHARE * free) < NOISE


def test_a_gpu_is_chosen_where_there_is_one_and_its_memory_is_read(cuda: torch.device) -> None:
    assert choose_device("auto") == "cuda:0"
    is_fast = torch.cuda.get_device_capability(cuda)[0] >= 8
    assert choose_dtypes(str(cuda), "auto", "auto") == (("bfloat16", "float32") if is_fast else ("float32",))
    found = read_gpus()
    assert len(found) >= torch.cuda.device_count()
    free, total = torch.cuda.mem_get_info(cuda)
    gpu = found[0]
    assert abs(gpu.total_bytes / total - 1) < 0.05
    assert abs(gpu.used_bytes - (total - free)) < 0.05 * total

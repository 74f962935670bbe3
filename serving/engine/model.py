"""A loaded model on its device: rows of token ids → one forward pass → small arrays on the host. Engine side.

`launch` does not wait for a GPU: the engine assembles the next batch while this one runs.
"""

import logging
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy
import torch

from registry.checks import load_model
from registry.contract import Contract
from registry.errors import ContractError
from registry.layout import MODEL_FOLDER
from serving.engine.forward_pass import Pending
from serving.engine.optimizations.packing import is_round, pack_rows
from serving.engine.optimizations.prepacked_weights import choose_products
from serving.errors import Failed
from serving.tasks import get_task
from serving.tasks.base.generated_text import to_arrays
from serving.tasks.base.task import AnyTask, Batch, upload
from serving.wire.messages import Failure, Row, RowArrays, TokenDelta

if TYPE_CHECKING:
    from serving.engine.generation.scheduler import Scheduler

logger = logging.getLogger("headwaiter.engine")


def choose_device(wanted: str) -> str:
    """Resolve a device: "auto" becomes the first GPU, or else the CPU; any other name is returned as it is."""
    if wanted != "auto":
        return wanted
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def choose_dtypes(device: str, allowed: str, wanted: str) -> tuple[str, ...]:
    """The dtypes to try, best first. allowed: the contract's. wanted: the operator's; both may be "auto".

    bfloat16 is tried where the hardware multiplies it: NVIDIA from compute capability 8.0, CPUs with AMX or
    AVX512-BF16. Anything else computes in float32.
    """
    fixed = wanted if wanted != "auto" else allowed
    if fixed != "auto":
        return (fixed,)
    if device.startswith("cuda"):
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        if fast and torch._C._has_mkldnn:
            fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # ONEDNN_MAX_CPU_ISA may forbid it
    return ("bfloat16", "float32") if fast else ("float32",)


class Model:
    """The head of one version, in eval mode, on one device. Only a graph may be launched from several threads.

    packs: whether the module takes rows without padding, see `unpadded`. narrows: whether its last layer is for first
    tokens only, see `first_token`. blocks: whether its short rows attend in blocks. fills: whether lines are
    of few sizes, see `packing.round_up`. replays: tokens of the longest batches that are replayed on a GPU, see
    `cuda_graphs`. notes: which faster forms it was refused, and why.
    """

    def __init__(
        self, root: Path, contract: Contract, *, device: str = "cpu", dtype: str = "float32", cache_bytes: int = 0
    ) -> None:
        """root: the artifact's folder, verified. cache_bytes: of a task that generates, for keys and values; 0 for a
        default. Blocks while weights are read; raises HeadError or ArtifactError.
        """
        self.task: AnyTask = get_task(contract.task)
        self.contract = contract
        self._cache_bytes = cache_bytes
        self.device = torch.device(device)
        self.dtype = dtype
        self.packs = False
        self.narrows = False
        self.blocks = False
        self.replays = 0
        self.notes: list[str] = []
        problem = self.task.problem(contract)
        if problem is not None:
            raise ContractError(problem)
        self.module = load_model(root / MODEL_FOLDER, contract.task, dtype=dtype).to(self.device)
        self.task.prepare(self.module, contract)
        self.served = self.task.serve(root / MODEL_FOLDER, contract)
        self._is_cuda = self.device.type == "cuda"
        is_onednn = choose_products(self.module, self._try_out, self.note) > 0 or dtype != "float32"
        self.fills = is_onednn and not self._is_cuda

    def note(self, refusal: str) -> None:
        """Log why a faster form is refused, and keep it for the engine's report."""
        logger.info("%s", refusal)
        if refusal not in self.notes:
            self.notes.append(refusal)

    @torch.inference_mode()
    def launch(self, rows: Sequence[Row]) -> Pending:
        """Start a forward pass over rows of one kind; on a CPU it is finished on return."""
        began = time.perf_counter()
        batch = self.batch(rows)
        arrays = self.task.forward(self.module, batch)
        if not self._is_cuda:
            return Pending(arrays, None, began, time.perf_counter() - began)
        hosts = tuple(torch.empty(array.shape, dtype=array.dtype, pin_memory=True) for array in arrays)
        for host, array in zip(hosts, arrays, strict=True):
            host.copy_(array, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        return Pending(hosts, event, began)

    def is_spoilt(self, arrays: Sequence[numpy.ndarray[Any, Any]]) -> bool:
        """Whether an answer is not finite where rows attend in blocks, in which such a row spoils those beside it."""
        return self.blocks and not all(bool(numpy.isfinite(array).all()) for array in arrays)

    def write(self, rows: Sequence[Row]) -> list[TokenDelta]:
        """The texts of rows of a task that generates, whole. Blocks."""
        scheduler, found = self.scheduler, dict[int, TokenDelta]()
        for row in rows:
            scheduler.add(b"", msgspec.structs.replace(row, deadline=float("inf"), streams=False), 0.0)
        while scheduler:
            for _, reply in scheduler.step():
                if isinstance(reply, Failure):
                    raise Failed(reply.message)
                found[reply.id] = reply
        return [found[row.id] for row in rows]

    @cached_property
    def scheduler(self) -> "Scheduler":
        """What writes the rows, of a task that generates; raises EngineError where the model cannot be written with."""
        from serving.engine.generation.factory import make_scheduler

        return make_scheduler(self.module, self.contract, self.served.tokenizer, self._cache_bytes, self.note)

    def run(self, rows: Sequence[Row]) -> list[RowArrays]:
        """Forward and wait; the arrays of each row, cut to its length where they have tokens."""
        if self.task.generates:
            return [to_arrays(part) for part in self.write(rows)]
        arrays = self.launch(rows).wait()
        return [cut(arrays, index, row.length, self.task, row.batch_key) for index, row in enumerate(rows)]

    def _try_out(self) -> None:
        try:
            lengths = (1, min(3, self.contract.max_tokens))
            self.run([self.task.probe(self.contract, length).to_row(row, 0.0) for row, length in enumerate(lengths)])
        except Exception:
            self.__dict__.pop("scheduler", None)
            raise

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Rows of one kind as the task takes them."""
        inputs, lengths = self.task.collate(rows, self.contract), [row.length for row in rows]
        needs_line = len(inputs) > 1 or self.replays  # ids alone are equally long
        if self.packs and (needs_line or (self.fills and not is_round(lengths))):
            inputs |= pack_rows(lengths, blocks=self.blocks, filled=self.fills)
        return Batch(
            {name: upload(array, self.device) for name, array in inputs.items()},
            lengths,
            rows[0].batch_key,
            [row.payload for row in rows],
            self.contract,
        )


def cut(arrays: Sequence[numpy.ndarray[Any, Any]], index: int, length: int, task: AnyTask, batch_key: str) -> RowArrays:
    """One row's arrays, without its padding."""
    return [array[index, :length] if task.has_tokens(batch_key) else array[index] for array in arrays]

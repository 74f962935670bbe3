"""A loaded model on its device: rows of token ids → one forward pass → small arrays on the host.

`launch` does not wait for a GPU: the engine assembles the next batch while this one runs.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict

import msgspec
import numpy
import torch

from registry.checks import load_model
from registry.contract import INT8, Contract
from registry.errors import ContractError
from registry.layout import MODEL_FOLDER
from serving.engine.forward_pass import MAX_TOLD_THREADS, ForwardPass, GenericArray
from serving.engine.measurements import Measurements
from serving.engine.module_state import Change, ModuleState
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.packing import find_head_indices, has_bucket_sizes, pack_rows
from serving.engine.optimizations.torch_private import multiplies_bfloat16, multiplies_int8
from serving.engine.vector_layers import load_layers
from serving.tasks import get_task
from serving.tasks.base.task import AnyTask, Batch, upload
from serving.wire.messages import AnyArray, Row, RowArrays

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

logger = logging.getLogger("headwaiter.engine")


def choose_device(wanted: str) -> str:
    """The device to use: for "auto" the first GPU, or the CPU where there is none; else the one named."""
    if wanted != "auto":
        return wanted
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def choose_dtypes(device: str, allowed: str, wanted: str, *, allows_int8: bool = False) -> tuple[str, ...]:
    """The dtypes to try, best first. allowed: the contract's. wanted: the operator's; both may be "auto".

    bfloat16 is tried where the hardware multiplies it: NVIDIA from compute capability 8.0, CPUs with AMX or
    AVX512-BF16. int8 is tried on CPUs with VNNI, where the contract allows it. Anything else computes in float32.
    """
    fixed = wanted if wanted != "auto" else allowed
    if fixed != "auto":
        return (fixed,)
    is_cuda = device.startswith("cuda")
    is_fast = torch.cuda.get_device_capability(device)[0] >= 8 if is_cuda else multiplies_bfloat16()
    floats = ("bfloat16", "float32") if is_fast else ("float32",)
    return (INT8, *floats) if allows_int8 and not is_cuda and multiplies_int8() else floats


def compute_dtype(dtype: str) -> torch.dtype:
    """The dtype in which a model of this dtype computes, but for layers in int8."""
    found: torch.dtype = torch.float32 if dtype == INT8 else getattr(torch, dtype)
    return found


class ModelOptions(TypedDict, total=False):
    """The keyword arguments of `Model`, as others pass them on to it."""

    device: str
    dtype: str
    cache_bytes: int
    prepacks: bool
    measurements: Measurements | None
    form: ExecutionForm | None


class Model:
    """The head of one version, in eval mode, on one device.

    dtype: by name, as in the contract. form: how it is executed; replaced in one step. folder: of its files. notes:
    which optimisations it was refused, and why. is_restored: whether its module is restored after each forward pass,
    because that changes it. `launch` may be called from several threads only where `form.is_thread_safe`.
    """

    has_frame: ClassVar[bool] = True
    """Whether probes carry the tokenizer's special tokens. Prompts carry none that a decoder needs."""

    def __init__(
        self,
        root: Path,
        contract: Contract,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        cache_bytes: int = 0,
        prepacks: bool = True,
        measurements: Measurements | None = None,
        form: ExecutionForm | None = None,
    ) -> None:
        """root: the artifact's folder, verified. cache_bytes: of a generating task's key-value cache, 0 for a default.

        prepacks: whether weights are prepacked where that is faster; finding out takes as long as many forward passes.
        measurements: what is known of that; None to measure all. form: one that was kept, which needs neither weights
        nor transformers.
        Blocks while weights are read. Raises HeadError or ArtifactError.
        """
        self.task: AnyTask = get_task(contract.task)
        self.contract = contract
        self.cache_bytes = cache_bytes
        self.device = torch.device(device)
        self.dtype = dtype
        self.compute_dtype = compute_dtype(dtype)
        self.measurements = measurements or Measurements()
        self.notes: list[str] = []
        self.is_restored = False
        problem = self.task.problem(contract)
        if problem is not None:
            raise ContractError(problem)
        folder = root / MODEL_FOLDER
        self.layers = load_layers(folder, contract.layers, self.device)
        self.version_context = self.task.make_version_context(folder, contract)
        self._is_cuda = self.device.type == "cuda"
        if form is not None:
            self.form = form
            return
        module = load_model(folder, contract.task, dtype=str(self.compute_dtype).removeprefix("torch.")).to(self.device)
        self.task.prepare(module, contract)
        self.form = ExecutionForm(module)
        self._watch()  # before any other forward pass
        # of int8 `int8.quantize` prepacks what stays in float32
        is_onednn = (prepacks and dtype != INT8 and self.prepack()) or dtype != "float32"
        self.form = ExecutionForm(module, is_bucketed=is_onednn and not self._is_cuda)

    @property
    def module(self) -> "PreTrainedModel":
        """The module that runs a forward pass."""
        return self.form.module

    def note(self, refusal: str) -> None:
        """Log why an optimisation is refused, and keep the reason for the engine's report."""
        logger.info("%s", refusal)
        if refusal not in self.notes:
            self.notes.append(refusal)

    def restore_always(self, state: ModuleState, changes: Sequence[Change]) -> None:
        """Restore the module now and after each forward pass. changes: what a forward pass has changed."""
        state.keep(self.module)
        self.is_restored = True
        names = ", ".join(sorted({change.name for change in changes})[:3])
        self.note(f"the model is restored after each forward pass, which changes it ({names})")

    @torch.inference_mode()
    def launch(self, rows: Sequence[Row]) -> ForwardPass:
        """Start a forward pass over rows of one batch key; on a CPU it is finished on return."""
        began, processor_began = time.perf_counter(), time.thread_time()
        batch = self.batch(rows)
        arrays = self.task.forward(self.form.module, batch)
        if not self._is_cuda:
            is_told = torch.get_num_threads() <= MAX_TOLD_THREADS
            processor_seconds = time.thread_time() - processor_began if is_told else 0.0
            return ForwardPass(arrays, None, began, time.perf_counter() - began, processor_seconds)
        hosts = tuple(torch.empty(array.shape, dtype=array.dtype, pin_memory=True) for array in arrays)
        for host, array in zip(hosts, arrays, strict=True):
            host.copy_(array, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        return ForwardPass(hosts, event, began)

    def run(self, rows: Sequence[Row]) -> list[RowArrays]:
        """Run one forward pass; the arrays of each row, cut to its length where they have tokens. Blocks."""
        arrays = self.launch(rows).wait()
        return [cut(arrays, index, row.length, self.task, row.batch_key) for index, row in enumerate(rows)]

    @torch.inference_mode()
    def run_all_tokens(self, tokens: int) -> None:
        """Run one forward pass over a batch of probes, with the head computed for every token. Blocks.

        tokens: of the batch, at least one. What it takes is the most that a batch of this size can take.
        """
        length = min(tokens, self.contract.max_tokens)
        batch = self.batch([self.probe(length, row) for row in range(tokens // length)], all_tokens=True)
        self.task.forward(self.form.module, batch)

    def probe(self, length: int, index: int = 0, *, types: bool = False) -> Row:
        """A row like the task's probe, with the special tokens of a request's row, its other tokens or its pixels in
        another order for each index, which is its id.

        types: whether it is a pair of texts with their token types, where the model has types. Without, no types are
        passed but those of a single text.
        """
        row = self.task.probe(self.contract, length).to_row(index, 0.0)
        random = numpy.random.default_rng(index)
        if self.contract.processor.image is not None:
            return msgspec.structs.replace(row, payload=random.bytes(len(row.payload)))
        ids = numpy.frombuffer(row.tokens, dtype=numpy.int32).copy()
        ids[:-1] = random.permuted(ids[:-1])  # the last one may be a text's end token
        has_types = self.contract.processor.takes_pair_types
        kinds = numpy.zeros(row.length, dtype=numpy.int8)
        kinds[row.length - types * (row.length // 2) :] = 1
        if self.has_frame:
            self._frame(ids, kinds, is_pair=(types and has_types) or self.task.takes_pairs)
        is_typed = has_types and (types or (bool(kinds.any()) and not self.task.takes_pairs))
        return msgspec.structs.replace(row, tokens=ids.tobytes(), types=kinds.tobytes() if is_typed else b"")

    def _frame(self, ids: AnyArray, kinds: AnyArray, *, is_pair: bool) -> None:
        """Set special tokens and token types as the tokenizer does, where the row has room for them."""
        frame = self.version_context.tokenizer.frame(is_pair=is_pair)
        texts = sum(token is None for token, _ in frame)
        if len(ids) < len(frame):
            return
        spare, position = len(ids) - len(frame), 0
        for token, kind in frame:
            count = 1
            if token is None:
                count += spare // texts
                spare, texts = spare - spare // texts, texts - 1
            else:
                ids[position] = token
            kinds[position : position + count] = kind
            position += count

    def try_row(self, row: Row) -> None:
        """Run the module on a row; raises what it raises."""
        self.run([row])

    def _watch(self) -> None:
        """Restore the module from now on if its first forward pass has changed what it does.

        Raises ContractError where the pass gives more or fewer scores than the contract has labels.
        """
        state, outputs, labels = ModuleState(self.module), list[object](), self.contract.labels
        hook = self.module.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        with suppress(Exception):  # a model may raise anything, and is told so when it shall answer
            self._try_out()
        hook.remove()
        scores = [output.logits.shape[-1] for output in outputs if labels and hasattr(output, "logits")]
        if scores and scores[0] != len(labels):
            raise ContractError(
                f"config.json: id2label names {len(labels)} labels, the model gives {scores[0]} scores: set "
                "model.config.id2label to a label for each of them, and save the model again with save_pretrained"
            )
        changes = [change for change in state.changes() if change.is_setting]
        if changes:
            self.restore_always(state, changes)

    def layers_changed(self) -> None:
        """Called when layers have changed how they multiply: nothing that is derived from them is used any more."""

    def prepack(self) -> bool:
        """Prepack or transpose the weights of layers that are faster so; whether any are prepacked."""
        from serving.engine.optimizations.prepacked_weights import prepack_weights  # with transformers

        if self.is_restored:  # what is restored would lose its packed weights
            return False
        return prepack_weights(self.module, self._try_out, self.note, measurements=self.measurements) > 0

    def _try_out(self) -> None:
        lengths = (1, min(3, self.contract.max_tokens))
        self.run([self.task.probe(self.contract, length).to_row(row, 0.0) for row, length in enumerate(lengths)])

    def batch(self, rows: Sequence[Row], form: ExecutionForm | None = None, *, all_tokens: bool = False) -> Batch:
        """Rows of one batch key as the task takes them, for the module of `form` (the model's own if None).

        all_tokens: whether the head shall compute all tokens, where the form lets it compute some.
        """
        form = form or self.form
        inputs, lengths = self.task.collate(rows, self.contract), [row.length for row in rows]
        if form.has_all_inputs and "input_ids" in inputs:
            inputs = self._complete(inputs)
        is_uneven = len(inputs) > 1  # rows of equal length come as token ids alone
        needs_bucket = form.is_bucketed and not has_bucket_sizes(lengths)
        if form.is_packed and (is_uneven or needs_bucket or form.cuda_graph_tokens > 0):
            inputs |= pack_rows(lengths, blocks=form.has_block_attention, bucketed=form.is_bucketed)
        head_positions = self.task.head_positions([row.payload for row in rows])
        if form.computes_masks_only and head_positions is not None:
            if all_tokens:
                is_token = numpy.arange(max(lengths)) < numpy.asarray(lengths)[:, None]
                head_positions = numpy.stack(is_token.nonzero())
            inputs["head_indices"] = find_head_indices(lengths, head_positions, bucketed=form.is_bucketed)
        return Batch(
            {name: upload(array, self.device) for name, array in inputs.items()},
            lengths,
            rows[0].batch_key,
            [row.payload for row in rows],
            self.contract,
            self.layers,
            head_positions,
        )

    def _complete(self, inputs: dict[str, AnyArray]) -> dict[str, AnyArray]:
        """The inputs with a mask, and with token types where the tokenizer gives them."""
        ids = inputs["input_ids"]
        inputs = {"attention_mask": numpy.ones_like(ids)} | inputs
        has_types = "token_type_ids" in self.contract.processor.inputs
        return ({"token_type_ids": numpy.zeros_like(ids)} if has_types else {}) | inputs


def cut(arrays: Sequence[GenericArray], index: int, length: int, task: AnyTask, batch_key: str) -> RowArrays:
    """One row's arrays, without padding."""
    return [array[index, :length] if task.has_tokens(batch_key) else array[index] for array in arrays]

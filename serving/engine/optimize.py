"""Which form a model is executed in: as transformers runs it, or packed, pruned to the first token, as a graph.

A form replaces the model only where it gives the same answers. It is compared with the model as transformers runs it on
single, equal, padded and longest rows. Where it differs or cannot be made, the next candidate is tried; the last one is
the model itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from registry.redaction import describe_error
from serving.engine.model import Model
from serving.engine.optimizations.attention import NEVER, find_min_bmm_tokens
from serving.engine.optimizations.cuda_graphs import MIN_GRAPH_TOKENS, CudaGraphEncoder, CudaRecorder, RecordGraph
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.first_token import can_prune
from serving.engine.optimizations.torchscript import check_operations, trace
from serving.engine.optimizations.unpadded import can_pack, pack, unpack, use_cuda_graphs
from serving.engine.reference import SHORT_TOKENS, DifferentAnswer, ReferenceAnswers, inputs_of
from serving.engine.timing import CLOCK, Clock, min_seconds

CheckForm = Callable[[ExecutionForm], None]
GRAPH_ROW_TOKENS = 32
"""Length of the rows with which CUDA graphs are timed: that of a short text, see bench/NOTES.md, "The forward pass on a
GPU"."""
MAX_GRAPH_TOKENS = 4096
"""Larger batches get no CUDA graph: launching their kernels takes a small share of their time."""
REPEATS = 5
"""Forward passes of a timed call; the fastest one counts."""


def is_packable(model: Model) -> bool:
    """Whether the model's family may run on packed sequences here."""
    return can_pack(model.module, model.device, model.compute_dtype)


@torch.inference_mode()
def optimize(model: Model, holds_for: Callable[[ExecutionForm], bool] | None = None) -> ExecutionForm:
    """The fastest form that answers as `model` does; the model's own where there is none.

    holds_for: whether rows of any lengths may share a form's forward passes; None where that is known of the model.
    Blocks for several forward passes.

    On a CPU that is a TorchScript graph, for encoders of `unpadded.FAMILIES` of packed sequences; on a GPU packed
    sequences with CUDA graphs of small batches. A packed form is pruned to the first token where the head reads no
    other.
    """
    plain, is_cpu = model.form, model.device.type == "cpu"
    can_be_packed = is_packable(model)
    if not (is_cpu or can_be_packed):
        return plain
    try:
        reference = ReferenceAnswers(model, pads_long_rows=holds_for is None)
        can_be_pruned = can_be_packed and can_prune(plain.module.base_model) and reference.reads_first_token_only()
        if is_cpu:
            check = partial(_check_operations, plain.module, reference)
            model.measurements.recall("the same operations for all shapes", bool, check)
    except Exception as error:  # a model may raise anything, and can be served as it is
        model.note(_refusal("the model runs eagerly", error))
        return plain

    def check_form(form: ExecutionForm) -> None:
        reference.check(form)
        if holds_for is not None and not holds_for(form):
            raise DifferentAnswer("rows of different lengths change each other's answers")

    reads_masks = can_be_packed and model.task.head_positions([model.probe(1).payload]) is not None
    for name, candidate in _candidates(
        plain, packed=can_be_packed, pruned=can_be_pruned, reads_masks=reads_masks, padded=is_cpu
    ):
        try:
            form = _make(model, candidate)
            check_form(form)
            break
        except Exception as error:  # tracing, too, may raise anything
            what = f"the model does not run with {name}" if candidate.is_packed else "the model runs eagerly"
            model.note(_refusal(what, error))
            if candidate.is_packed:
                unpack(plain.module)
    else:
        return plain
    return form if is_cpu else choose_cuda_graphs(model, form, CudaRecorder(model.device), check_form)


def _candidates(
    plain: ExecutionForm, *, packed: bool, pruned: bool, reads_masks: bool, padded: bool
) -> Iterator[tuple[str, ExecutionForm]]:
    """The forms to try by name, fastest first."""
    if pruned:
        yield "first-token pruning", replace(plain, is_packed=True, prunes_to_first_token=True)
    if reads_masks:
        yield "the head at masks", replace(plain, is_packed=True, computes_masks_only=True)
    if packed:
        yield "packed sequences", replace(plain, is_packed=True)
    if padded:
        yield "TorchScript", plain


def _make(model: Model, form: ExecutionForm) -> ExecutionForm:
    """The form, its module changed as it says and traced on a CPU. Packing changes the module in place."""
    is_cpu = model.device.type == "cpu"
    if form.is_packed:
        min_bmm_tokens = NEVER
        if is_cpu:
            measure = partial(find_min_bmm_tokens, form.module, model.compute_dtype)
            min_bmm_tokens = model.measurements.recall("attention by products from tokens", int, measure)
        form = replace(form, has_block_attention=min_bmm_tokens < NEVER)
        pack(form.module, min_bmm_tokens=min_bmm_tokens, pruned=form.prunes_to_first_token)
    return trace_form(model, form) if is_cpu else form


def trace_form(model: Model, form: ExecutionForm) -> ExecutionForm:
    """The form as a graph of what its module, which runs in Python, does now. Raises whatever tracing does."""
    short = min(SHORT_TOKENS, model.contract.max_tokens)
    equal = inputs_of(model, [short] * 2, types=False, form=form)
    mixed = inputs_of(model, [short, max(1, short - 3)], types=True, form=form)
    return replace(form, module=trace(form.module, equal, mixed), is_torchscript=True)


def _check_operations(module: torch.nn.Module, reference: ReferenceAnswers) -> bool:
    """True, as `check_operations` raises otherwise. It runs on shapes alone, so it holds for any weights."""
    check_operations(module, *reference.extremes())
    return True


@torch.inference_mode()
def choose_cuda_graphs(
    model: Model, form: ExecutionForm, record: RecordGraph, check: CheckForm, clock: Clock = CLOCK
) -> ExecutionForm:
    """A packed form with CUDA graphs of small batches where these are faster and pass `check`; else the form itself.

    Blocks for some forward passes of each size.
    """
    try:
        recorded = _record_graphs(model, form, record, clock)
        check(recorded)
    except Exception as error:  # torch may raise anything where it cannot record
        model.note(_refusal("no batch runs as a CUDA graph", error))
        unpack(form.module)
        pack(form.module, pruned=form.prunes_to_first_token)
        return form
    return recorded


def _record_graphs(model: Model, form: ExecutionForm, record: RecordGraph, clock: Clock) -> ExecutionForm:
    """Record graphs up to the size at which they are not faster than launching the kernels, which may be known."""
    encoder = use_cuda_graphs(form.module, record)
    measure = partial(_record_faster, model, form, encoder, clock)
    most = model.measurements.recall(f"CUDA graphs up to tokens: {form.describe()}", int, measure)
    while encoder.max_tokens < most:
        encoder.record_larger(_calls_of_next_size(model, form, encoder))
    return replace(form, cuda_graph_tokens=encoder.max_tokens)


def _record_faster(model: Model, form: ExecutionForm, encoder: CudaGraphEncoder, clock: Clock) -> int:
    """Record graphs of ever more tokens while they are faster; the tokens of the largest."""

    def time_of(call: Callable[[], object]) -> float:
        return min_seconds(partial(_run_to_end, call, model.device), REPEATS, clock)

    while encoder.max_tokens < MAX_GRAPH_TOKENS:
        calls = _calls_of_next_size(model, form, encoder)
        launched = time_of(calls[0])
        encoder.record_larger(calls)
        if time_of(calls[0]) >= launched:
            encoder.drop_largest()
            break
    return encoder.max_tokens


def _calls_of_next_size(model: Model, form: ExecutionForm, encoder: CudaGraphEncoder) -> list[Callable[[], object]]:
    """Forward passes with the fewest tokens that a graph of the next size is used for, so with the most padding."""
    packed_always = replace(form, cuda_graph_tokens=MIN_GRAPH_TOKENS)  # a graph needs packed inputs of equal rows, too
    typical = min(GRAPH_ROW_TOKENS, model.contract.max_tokens)
    rows, rest = divmod(max(MIN_GRAPH_TOKENS, 2 * encoder.max_tokens) // 2 + 1, typical)
    lengths = [typical] * rows + [rest] * (rest > 0)
    kinds = (False, True) if model.contract.processor.takes_pair_types else (False,)
    given = [inputs_of(model, lengths, types=types, form=packed_always) for types in kinds]
    return [partial(form.module, **inputs) for inputs in given]


def _run_to_end(call: Callable[[], object], device: torch.device) -> None:
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _refusal(what: str, error: Exception) -> str:
    reason = str(error) if isinstance(error, DifferentAnswer) else describe_error(error)
    return f"{what}: " + reason.partition("\n")[0]

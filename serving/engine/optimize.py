"""Which form a model is executed in: as transformers runs it, or packed, pruned to the first token, as a graph.

A form replaces the model only where it gives the same answers. It is compared with the model as transformers runs it on
single, equal, padded and longest rows. Where it differs or cannot be made, the next candidate is tried; the last one is
the model itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from transformers.modeling_outputs import BaseModelOutput

from registry.redaction import describe_error
from serving.engine.model import Model
from serving.engine.optimizations.attention import NEVER, find_min_bmm_tokens
from serving.engine.optimizations.cuda_graphs import MIN_GRAPH_TOKENS, CudaGraphEncoder, CudaRecorder, Record
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.first_token import can_prune
from serving.engine.optimizations.torchscript import are_alike, check_operations, trace
from serving.engine.optimizations.unpadded import can_pack, pack, unpack, use_cuda_graphs
from serving.engine.probe_lengths import probe_lengths
from serving.engine.timing import CLOCK, Clock, least_seconds
from serving.wire.messages import Row

Inputs = Mapping[str, torch.Tensor]
Check = Callable[[ExecutionForm], None]
SHORT_TOKENS = 11
"""Length of the traced rows: no length for which a model has a special case."""
MIXED_LENGTHS = (9, 3, 70, 20, 9, 1, 45, 33, 5, 7, 2, 12, 9, 4, 6, 8, 17)
"""Lengths of the rows that exercise attention blocks and bucketing: short and long ones, 17 being no bucket size."""
OUTPUTS = ("logits", "last_hidden_state", "start_logits", "end_logits")
SIMILAR_TOKENS = 8
"""Rows whose lengths differ by less share a forward pass of the model as it is: the padding takes less than a pass."""
GRAPH_ROW_TOKENS = 32
"""Length of the rows with which CUDA graphs are timed: that of a short text, see bench/NOTES.md, "The forward pass on a
GPU"."""
MAX_GRAPH_TOKENS = 4096
"""Larger batches get no CUDA graph: launching their kernels takes a small share of their time."""
REPEATS = 5
"""Forward passes of a timed call; the fastest one counts."""


class DifferentAnswer(Exception):
    """A form answers otherwise than the model; the message says where."""


def is_packable(model: Model) -> bool:
    """Whether the model's family may run on packed sequences here."""
    return can_pack(model.module, model.device, model.compute_dtype)


@torch.inference_mode()
def optimize(model: Model, *, packs: bool = True) -> ExecutionForm:
    """The fastest form that answers as `model` does. Blocks for several forward passes. packs: try packed sequences.

    On a CPU that is a TorchScript graph, for encoders of `unpadded.FAMILIES` of packed sequences; on a GPU packed
    sequences with CUDA graphs of small batches. A packed form is pruned to the first token where the head reads no
    other.
    """
    plain, is_cpu = model.form, model.device.type == "cpu"
    can_be_packed = packs and is_packable(model)
    if not (is_cpu or can_be_packed):
        return plain
    try:
        reference = _Reference(model)
        can_be_pruned = can_be_packed and can_prune(plain.module.base_model) and reference.reads_first_token_only()
        if is_cpu:
            check = partial(_check_operations, plain.module, reference)
            model.measurements.recall("the same operations for all shapes", bool, check)
    except Exception as error:  # a model may raise anything, and can be served as it is
        model.note(_refusal("the model runs eagerly", error))
        return plain
    for name, candidate in _candidates(plain, packed=can_be_packed, pruned=can_be_pruned, padded=is_cpu):
        try:
            form = _make(model, candidate)
            reference.check(form)
            break
        except Exception as error:  # tracing, too, may raise anything
            what = f"the model does not run with {name}" if candidate.is_packed else "the model runs eagerly"
            model.note(_refusal(what, error))
            if candidate.is_packed:
                unpack(plain.module)
    else:
        return plain
    return form if is_cpu else choose_cuda_graphs(model, form, CudaRecorder(model.device), reference.check)


def _candidates(
    plain: ExecutionForm, *, packed: bool, pruned: bool, padded: bool
) -> Iterator[tuple[str, ExecutionForm]]:
    """The forms to try by name, fastest first."""
    if pruned:
        yield "first-token pruning", replace(plain, is_packed=True, prunes_to_first_token=True)
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
    if not is_cpu:
        return form
    short = min(SHORT_TOKENS, model.contract.max_tokens)
    equal = inputs_of(model, [short] * 2, types=False, form=form)
    mixed = inputs_of(model, [short, max(1, short - 3)], types=True, form=form)
    return replace(form, module=trace(form.module, equal, mixed), is_torchscript=True)


def _check_operations(module: torch.nn.Module, reference: "_Reference") -> bool:
    """True, as `check_operations` raises otherwise. It runs on shapes alone, so it holds for any weights."""
    check_operations(module, *reference.extremes())
    return True


class _Reference:
    """Answers of the model as transformers runs it, to compare forms with."""

    def __init__(self, model: Model) -> None:
        longest = model.contract.max_tokens
        short = min(SHORT_TOKENS, longest)
        self._model = model
        self._longest, self._short = longest, short
        self._equal = [min(short + 6, longest)] * 3
        self._cases: list[tuple[Sequence[int], bool]] = [
            ([1], False),
            (self._equal, True),
            ([min(length, longest) for length in MIXED_LENGTHS], True),
            ([longest], False),
        ]
        if not is_packable(model):  # else the form is proved with long rows in company
            self._cases.append(([probe_lengths(model)[0], min(5, longest)], True))
        self._expected = [_answer_grouped(model, lengths, types=types) for lengths, types in self._cases]

    def extremes(self) -> list[dict[str, torch.Tensor]]:
        """Inputs of few short rows, and of many longest ones."""
        few = [self._short, max(1, self._short - 3)]
        many = [self._longest, *[max(1, self._longest - 1)] * 3]
        return [inputs_of(self._model, lengths, types=True) for lengths in (few, many)]

    def reads_first_token_only(self) -> bool:
        """Whether the head answers the same where the states of all other tokens are lost."""
        expected = self._expected[1]
        if expected.keys() != {"logits"}:
            return False

        def lose(_module: object, _args: object, output: BaseModelOutput) -> None:
            output.last_hidden_state[:, 1:] = torch.nan

        plain = self._model.form.module
        hook = plain.base_model.register_forward_hook(lose)
        try:
            found = plain(**inputs_of(self._model, self._equal, types=True))
            return all(map(torch.equal, found.logits, expected["logits"]))
        finally:
            hook.remove()

    def check(self, form: ExecutionForm) -> None:
        """Raises DifferentAnswer where the form answers otherwise, or what it raises itself."""
        for (lengths, types), expected in zip(self._cases, self._expected, strict=True):
            inputs = inputs_of(self._model, lengths, types=types, form=form)
            _compare(form.module(**inputs), expected, inputs, self._model.dtype)


@torch.inference_mode()
def choose_cuda_graphs(
    model: Model, form: ExecutionForm, record: Record, check: Check, clock: Clock = CLOCK
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


def _record_graphs(model: Model, form: ExecutionForm, record: Record, clock: Clock) -> ExecutionForm:
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
        return least_seconds(partial(_run_to_end, call, model.device), REPEATS, clock)

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


def inputs_of(
    model: Model, lengths: Sequence[int], *, types: bool, form: ExecutionForm | None = None
) -> dict[str, torch.Tensor]:
    """The task's arguments to the module of `form` (the model's own if None), for rows of random ordinary tokens.

    types: whether the second half of each row has token type 1, where the model has types.
    """
    return _inputs_of(model, _rows_of(model, lengths, types=types), form or model.form)


def _rows_of(model: Model, lengths: Sequence[int], *, types: bool) -> list[Row]:
    return [model.probe(length, index, types=types) for index, length in enumerate(lengths)]


def _inputs_of(model: Model, rows: Sequence[Row], form: ExecutionForm) -> dict[str, torch.Tensor]:
    try:
        model.task.forward(_Recorder(form.module), model.batch(rows, form))
    except _Recorded as recorded:
        return recorded.inputs
    raise DifferentAnswer("the task calls a part of the model only")


class _Recorded(Exception):
    """Carries the inputs that the module was called with."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.inputs = inputs


class _Recorder:
    """Stands in for the module until it is called."""

    def __init__(self, module: object) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> None:
        raise _Recorded(inputs)


def _answer_grouped(model: Model, lengths: Sequence[int], *, types: bool) -> "_RowOutputs":
    """The answers of the model as it is, a forward pass for rows of similar length, so that little is padded."""
    rows = _rows_of(model, lengths, types=types)
    found: dict[int, dict[str, torch.Tensor]] = {}
    for group in _group(rows):
        inputs = _inputs_of(model, group, model.form)
        outputs = _by_row(model.form.module(**inputs), inputs)
        found |= {row.id: {name: each[place] for name, each in outputs.items()} for place, row in enumerate(group)}
    return {name: [found[row.id][name] for row in rows] for name in found[rows[0].id]}


def _group(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows by length; a group's longest is at most twice as long as its shortest, or `SIMILAR_TOKENS` longer."""
    group: list[Row] = []
    for row in sorted(rows, key=lambda each: each.length):
        if group and row.length > max(2 * group[0].length, group[0].length + SIMILAR_TOKENS):
            yield group
            group = []
        group.append(row)
    yield group


_RowOutputs = Mapping[str, Sequence[torch.Tensor]]
"""Outputs of a module by name, each of them row by row, without padding."""


def _by_row(outputs: object, inputs: Inputs) -> _RowOutputs:
    mask = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    given = {name: output for name in OUTPUTS if (output := getattr(outputs, name, None)) is not None}
    return {
        name: [row[mask[place]] for place, row in enumerate(output)]
        if mask is not None and (name != "logits" or output.ndim > 2)
        else list(output)
        for name, output in given.items()
    }


def _compare(outputs: object, expected: _RowOutputs, inputs: Inputs, dtype: str) -> None:
    """Raises DifferentAnswer where an output differs at a token that is not padding. dtype: the model's."""
    found = _by_row(outputs, inputs)
    for name, wanted in expected.items():
        if not are_alike(torch.cat(_flat(found[name])), torch.cat(_flat(wanted)), dtype):
            shape = tuple(next(iter(inputs.values())).shape)
            raise DifferentAnswer(f"its {name} differ for rows of shape {shape}")


def _flat(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [row.flatten() for row in rows]

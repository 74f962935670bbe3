"""How a model is executed: as transformers has it, without padding, as a graph, or both.

A form is only faster, so it may stand for the model only where it answers as the model does. It is tried on rows alone,
equal, padded and longest, against the model as transformers has it; where it differs, or cannot be made, the next one
is tried, and the last one is the model itself.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy
import torch

from serving.engine.model import Model
from serving.engine.optimizations.attention import NEVER, find_least
from serving.engine.optimizations.cuda_graphs import LEAST_LINE, CudaRecorder, Record
from serving.engine.optimizations.first_token import can_narrow
from serving.engine.optimizations.torchscript import TracedModule, are_alike, check_operations, trace
from serving.engine.optimizations.unpadded import can_pack, pack, replay, unpack
from serving.wire.messages import Row

Inputs = Mapping[str, torch.Tensor]
SHORT_TOKENS = 11
"""Length of the rows that are traced; ours: no length that a model would treat in a special way."""
MIXED = (9, 3, 70, 20, 9, 1, 45, 33, 5, 7, 2, 12, 9, 4, 6, 8, 17)
"""Lengths of rows of which some are short enough for blocks, of a number that is rounded up; ours."""
OUTPUTS = ("logits", "last_hidden_state", "start_logits", "end_logits")
REPLAYED_TOKENS = 32
"""Length of the rows with which replayed batches are measured; ours."""
MOST_REPLAYED = 4096
"""Tokens of the longest batches that are replayed, if no shorter ones are launched as fast; ours."""
REPEATS = 5
"""Of each measured forward pass; the best one counts."""


class NotAlike(Exception):
    """A form would not stand for the model; the message says why."""


@torch.inference_mode()
def choose_execution(model: Model) -> None:
    """Let a loaded model run in its fastest form from now on. Blocks for several forward passes.

    On a CPU that is a graph, of an encoder of `unpadded.FAMILIES` a packed one; on a GPU, packed, with graphs of small
    batches. Packed ones are narrowed where the head reads first tokens only.
    """
    plain, is_cpu = model.module, model.device.type == "cpu"
    packs = can_pack(plain, model.device, getattr(torch, model.dtype))
    if not (is_cpu or packs):
        return
    longest = model.contract.max_tokens
    short = min(SHORT_TOKENS, longest)
    few, many = [short, max(1, short - 3)], [longest, *[max(1, longest - 1)] * 3]
    cases = (
        ([1], False),
        ([min(short + 6, longest)] * 3, True),
        ([longest, min(5, longest)], True),
        ([min(length, longest) for length in MIXED], True),
        ([longest], False),
    )
    try:
        expected = [plain(**inputs_of(model, lengths, types=types)) for lengths, types in cases]
        may_narrow = packs and can_narrow(plain.base_model) and _reads_first(model, cases[1], expected[1])
        if is_cpu:
            check_operations(plain, *(inputs_of(model, lengths, types=True) for lengths in (few, many)))
    except Exception as error:  # a model may raise anything, and can be served as it is
        model.note(_refusal("the model runs as it is", error))
        return

    def check() -> None:
        for (lengths, types), wanted in zip(cases, expected, strict=True):
            _compare(model, wanted, inputs_of(model, lengths, types=types))

    for form in ["narrowed"] * may_narrow + ["packed"] * packs + ["padded"] * is_cpu:
        model.packs, model.narrows = form != "padded", form == "narrowed"
        try:
            if model.packs:
                least = find_least(plain, getattr(torch, model.dtype)) if is_cpu else NEVER
                model.blocks = least < NEVER
                pack(plain, least=least, narrowed=model.narrows)
            if is_cpu:
                alike, mixed = inputs_of(model, [short] * 2, types=False), inputs_of(model, few, types=True)
                model.module = trace(plain, alike, mixed)
            check()
            break
        except Exception as error:  # tracing, too, may raise anything
            what = f"the model does not run {form}" if model.packs else "the model runs as it is"
            model.note(_refusal(what, error))
            model.module = plain
            if model.packs:
                unpack(plain)
                model.blocks = False
    else:
        model.packs = model.narrows = False
    if model.packs and not is_cpu:
        choose_replays(model, CudaRecorder(model.device), check)


@torch.inference_mode()
def choose_replays(
    model: Model, record: Record, check: Callable[[], None], clock: Callable[[], float] = time.perf_counter
) -> None:
    """Let a packed model replay its small batches if it then passes `check`. Blocks for some forward passes of each."""
    try:
        _find_replays(model, record, clock)
        check()
    except Exception as error:  # torch may raise anything where it cannot record
        model.note(_refusal("no batch is replayed", error))
        unpack(model.module)
        pack(model.module, narrowed=model.narrows)
        model.replays = 0


def _find_replays(model: Model, record: Record, clock: Callable[[], float]) -> None:
    """Replay batches up to the size at which that is not faster than to launch them.

    A size is tried with the fewest tokens that it is for, so with the most that it computes for nobody.
    """
    replayed = replay(model.module, record)
    model.replays = LEAST_LINE  # rows of one length, too, come as a line from now on
    has_types = "token_type_ids" in model.contract.processor.inputs
    typical = min(REPLAYED_TOKENS, model.contract.max_tokens)

    def time_of(call: Callable[[], Any]) -> float:
        took = []
        for _ in range(REPEATS):
            began = clock()
            call()
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            took.append(clock() - began)
        return min(took)

    while replayed.longest < MOST_REPLAYED:
        rows, rest = divmod(max(LEAST_LINE, 2 * replayed.longest) // 2 + 1, typical)
        lengths = [typical] * rows + [rest] * (rest > 0)
        kinds = (False, True) if has_types else (False,)
        calls = [partial(model.module, **inputs_of(model, lengths, types=types)) for types in kinds]
        launched = time_of(calls[0])
        replayed.extend(calls)
        if time_of(calls[0]) >= launched:
            replayed.shorten()
            break
    model.replays = replayed.longest


def describe_execution(model: Model) -> str:
    """How a model runs: "packed" (without padding), "narrowed" (its last layer for first tokens only), "graph", several
    of these, or "module by module" as transformers.

    Of a GPU also up to how many tokens a batch is replayed.
    """
    is_graph = model.scheduler.decoder.is_traced if model.task.generates else isinstance(model.module, TracedModule)
    words = ["packed"] * model.packs + ["narrowed"] * model.narrows + ["graph"] * is_graph
    replays = f", replayed up to {model.replays} tokens" if model.replays else ""
    return (" ".join(words) or "module by module") + replays


def _reads_first(model: Model, case: tuple[Sequence[int], bool], expected: Any) -> bool:
    """Whether the head answers the same where all states but those of first tokens are lost."""
    if {name for name in OUTPUTS if getattr(expected, name, None) is not None} != {"logits"}:
        return False

    def lose(_module: Any, _args: Any, output: Any) -> None:
        output.last_hidden_state[:, 1:] = torch.nan

    hook = model.module.base_model.register_forward_hook(lose)
    try:
        lengths, types = case
        return torch.equal(model.module(**inputs_of(model, lengths, types=types)).logits, expected.logits)
    finally:
        hook.remove()


def _refusal(what: str, error: Exception) -> str:
    reason = str(error) if isinstance(error, NotAlike) else f"{type(error).__name__}: {error}"
    return f"{what}: " + reason.partition("\n")[0]


def inputs_of(model: Model, lengths: Sequence[int], *, types: bool) -> dict[str, torch.Tensor]:
    """What the task calls the model with, for rows of these lengths with random ordinary tokens."""
    rows = [_row(model, length, index, types) for index, length in enumerate(lengths)]
    try:
        model.task.forward(_Recorder(model.module), model.batch(rows))
    except _Recorded as recorded:
        return recorded.inputs
    raise NotAlike("the task calls a part of it only")


def _row(model: Model, length: int, index: int, types: bool) -> Row:
    """A row like the task's probe, its tokens in another order for each index; types: the second half is of type 1."""
    contract = model.contract
    row = model.task.probe(contract, length).to_row(index, 0.0)
    if contract.processor.image is not None:
        return row
    ids = numpy.frombuffer(row.tokens, dtype=numpy.int32).copy()
    ordinary = ids[:-1]  # the last one may be what a text ends with
    ordinary[:] = numpy.random.default_rng(index).permuted(ordinary)
    has_types = types and "token_type_ids" in contract.processor.inputs
    kinds = bytes(length - length // 2) + b"\1" * (length // 2) if has_types else b""
    return msgspec.structs.replace(row, tokens=ids.tobytes(), types=kinds)


class _Recorded(Exception):
    """What the module is called with."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.inputs = inputs


class _Recorder:
    """Stands for the module until it is called."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        raise _Recorded(inputs)


def _compare(model: Model, expected: Any, inputs: Inputs) -> None:
    """What stands at padding is nobody's answer."""
    found = model.module(**inputs)
    real = inputs["attention_mask"].bool() if "attention_mask" in inputs else slice(None)
    for name in OUTPUTS:
        wanted = getattr(expected, name, None)
        if wanted is None:
            continue
        has_tokens = name != "logits" or wanted.ndim > 2
        answer, wanted = (each[real] if has_tokens else each for each in (getattr(found, name), wanted))
        if not are_alike(answer, wanted, getattr(torch, model.dtype)):
            shape = tuple(next(iter(inputs.values())).shape)
            raise NotAlike(f"its {name} differ for rows of shape {shape}")

"""Which model, optimisation and engine loop a task gets. The only module of the engine that asks whether a
task generates.

Modules that need transformers are imported by the functions that need them: a kept graph runs without it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Unpack

import torch

from registry.contract import INT8, Contract, Int8
from serving.engine.engine import Engine
from serving.engine.model import Model, ModelOptions
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.errors import EngineError
from serving.tasks import get_task

if TYPE_CHECKING:
    import zmq

    from serving.engine.batching.cost import Cost
    from serving.engine.generation.engine import GenerationEngine
    from serving.engine.generation.model import GenerationModel
    from serving.engine.heart import Heart
    from serving.engine.int8 import Trace
    from serving.engine.meter import EngineMeter
    from serving.engine.parallel import ForwardPool


PROVED = "rows of any lengths share batches of this form"
"""What the measurements remember of a proof that has held for a packed form: its description."""


def make_model(root: Path, contract: Contract, **options: Unpack[ModelOptions]) -> Model:
    """The model of the artifact at `root`; arguments and errors as of `Model`. Blocks."""
    kind = Model
    if get_task(contract.task).generates:
        from serving.engine.generation.model import GenerationModel

        kind = GenerationModel
    return kind(root, contract, **options)


def prove(model: Model) -> None:
    """Find which rows may share a forward pass, see `batch_invariance`. Blocks; raises ContractError or EngineError."""
    from serving.engine.batch_invariance import BatchProof
    from serving.engine.probe_lengths import probe_lengths

    if is_generating(model):
        model.form = replace(model.form, batching=model.prove_batching(sorted(set(probe_lengths(model)))))
    else:
        BatchProof(model).choose()


def is_generating(model: Model) -> "TypeGuard[GenerationModel]":
    """Whether the model's task generates."""
    return model.task.generates


@torch.inference_mode()
def optimize_model(model: Model, int8_sample: Sequence[object] = ()) -> None:
    """Let a loaded model run in its fastest form with the same answers from now on. Blocks for several forward passes.

    int8_sample: what a model that was loaded for int8 is compared on, see `int8`. Raises as `prove`, or Int8Refused.
    """
    if is_generating(model):
        prove(model)
        if not model.is_restored:
            _prove_prefixes(model)
        if model.dtype == INT8:
            quantize(model, int8_sample, trace=lambda _: _take_steps(model))
        elif not model.is_restored:
            _choose_steps(model)
    else:
        _choose_form(model)
        if model.dtype == INT8:
            from serving.engine.optimize import trace_form

            quantize(model, int8_sample, trace=partial(trace_form, model) if model.form.is_torchscript else None)


def quantize(
    model: Model, sample: Sequence[object] = (), *, is_timed: bool = True, trace: "Trace | None" = None
) -> Int8:
    """Run a proved model in int8 from now on; what that costs in answers. Arguments, errors as of `int8.quantize`.

    sample: as of `int8.Comparison`.
    """
    from serving.engine.int8 import Comparison, check_kind
    from serving.engine.int8 import quantize as quantize_layers

    check_kind(model)
    if is_generating(model):
        from serving.engine.generation.int8_texts import TextComparison

        return quantize_layers(TextComparison(model, sample), is_timed=is_timed, trace=trace)
    return quantize_layers(Comparison(model, sample), is_timed=is_timed, trace=trace)


def time_beside(model: Model, rival: Model) -> float:
    """How many times as fast as `rival` the model is at what is typical of its task. Blocks."""
    from serving.engine import int8
    from serving.engine.optimizations.torchscript import single_threaded

    if is_generating(model) and is_generating(rival):  # a text takes all cores
        from serving.engine.generation.int8_texts import TEXT_REPEATS, typical_texts

        return int8.time_beside(typical_texts(model), typical_texts(rival), repeats=TEXT_REPEATS)
    with single_threaded():
        return int8.time_beside(int8.typical_passes(model), int8.typical_passes(rival))


def _take_steps(model: "GenerationModel") -> ExecutionForm:
    """The form of a model whose layers now multiply in int8, with the steps of a decoder that is verified anew.

    Raises Int8Refused where it is not the one that was proved.
    """
    from serving.engine.generation.sequential import SequentialDecoder
    from serving.engine.int8 import Int8Refused

    try:
        is_other = isinstance(model.scheduler.decoder, SequentialDecoder)
    except EngineError as error:
        raise Int8Refused(f"int8 is not used: {error}") from error
    if is_other:
        raise Int8Refused("int8 is not used: rows of a batch change each other's texts")
    _choose_steps(model)
    return model.form


def _choose_steps(model: "GenerationModel") -> None:
    from serving.engine.generation.verification import choose_steps

    decoder, longest = model.scheduler.decoder, model.contract.max_tokens
    choose_steps(decoder, model.contract.processor.vocabulary, longest, model.note)
    decoder.max_width = longest if model.form.is_bucketed else 0
    model.form = replace(model.form, is_torchscript=decoder.is_traced)


def _prove_prefixes(model: "GenerationModel") -> None:
    """What becomes int8 is proved in float32: a sum that is rounded otherwise may fall into another level."""
    from serving.engine.probe_lengths import probe_lengths

    model.form = replace(model.form, shares_prefixes=model.prove_prefixes(max(probe_lengths(model))))


def _choose_form(model: Model) -> None:
    """The fastest form whose batches change no answer.

    A family that can be packed is proved in the form that serves, as no row of it is padded then. That rows of a batch
    change nothing for one another depends on the architecture, the code and the machine, so the proof is not repeated
    for new weights: these were proved when they were logged, and each of their forms is compared with the model on
    long and short rows in one batch. Others are proved as they are first. What becomes int8 is proved in float32: its
    answers have a gate of their own.
    """
    from serving.engine.batch_invariance import BatchProof
    from serving.engine.optimizations.unpadded import unpack
    from serving.engine.optimize import is_packable, optimize

    plain = model.form
    proved = model.measurements.find(PROVED, str)
    if _may_share_batches(model) and is_packable(model) and proved is not None:
        model.form = optimize(model)
        if model.form.describe() == proved:
            return
        if model.form.is_packed:  # in another way than was proved
            unpack(plain.module)
        model.form = plain
    proof, plain = BatchProof(model), model.form  # in this order: the proof may ask for all inputs, and restore
    proves_forms = _may_share_batches(model) and is_packable(model)
    if proves_forms:
        model.form = optimize(model, proof.holds_for)
        if model.form.is_packed and not model.form.has_all_inputs:
            model.measurements.set(PROVED, model.form.describe())
        if model.form is not plain:
            return
    proof.choose()
    if model.form.batching == "any lengths" and not (proves_forms or model.is_restored):
        model.form = optimize(model)


def _may_share_batches(model: Model) -> bool:
    return not model.is_restored and model.contract.batching == "any lengths"


def make_engine(
    model: Model,
    cost: "Cost",
    socket: "zmq.Socket[bytes]",
    meter: "EngineMeter",
    pool: "ForwardPool | None" = None,
    heart: "Heart | None" = None,
) -> "Engine | GenerationEngine":
    """The loop that serves the model. pool: of a model whose forward passes run side by side. heart: as of `Engine`."""
    if is_generating(model):
        from serving.engine.generation.engine import GenerationEngine

        if model.form.shares_prefixes:  # from now on: what was measured before is the cost of whole prompts
            model.scheduler.share_prefixes()
        return GenerationEngine(model.scheduler, socket, meter, cost, heart)
    return Engine(model, cost, socket, meter, pool, heart)


def yields_cores(model: Model) -> bool:
    """Whether its engine runs at low priority: a text takes all cores for seconds, which the fronts need meanwhile."""
    return is_generating(model) and model.device.type == "cpu"

"""From an order to a model that is loaded, checked, optimised and measured: everything before an engine serves."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import torch

from registry.artifact import read_contract
from registry.cache_folder import hold
from registry.contract import INT8, Contract, Int8
from registry.errors import DigestMismatch
from registry.redaction import describe_error
from serving.engine.assembly import optimize_model, time_beside, yields_cores
from serving.engine.batching.cost import Cost
from serving.engine.growth import measure_growth
from serving.engine.int8 import Int8Refused
from serving.engine.kept_graph import discard, graph_path, has_graph, is_keepable, keep_graph, load_graph
from serving.engine.measurements import Measurements, entry_path
from serving.engine.meter import EngineMeter
from serving.engine.model import Model, choose_device, choose_dtypes, compute_dtype
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.parallel import CpuPlan, ForwardPool, make_pool
from serving.engine.predictor import Predictor
from serving.engine.warmup import choose_cpu_plan, measure_cost
from serving.errors import EngineError
from serving.wire.engine_orders import EngineOrder, EngineReport

logger = logging.getLogger("headwaiter.engine")

INT8_OR_FLOAT = "int8 or float"
"""In place of a dtype, the key of what compares them."""


@dataclass(frozen=True)
class Loaded:
    """A loaded model and how its engine runs it.

    pool: runs forward passes side by side; None where one runs at a time. yields_cores: whether the engine runs at low
    priority. keep: keeps the graph for later engines, once this one serves; None where it cannot be, or is kept.
    """

    model: Model
    pool: ForwardPool | None
    cost: Cost
    meter: EngineMeter
    report: EngineReport
    yields_cores: bool
    keep: Callable[[], None] | None = None


def load_kept(order: EngineOrder) -> Loaded | None:
    """Load the graph that an engine kept of this version, without transformers. Blocks.

    None where there is none for this machine and these settings, or it does not answer the contract's example as
    recorded: then `load_engine` loads the artifact. Raises ArtifactError where the artifact cannot be read.
    """
    source = _Source.open(order)
    for dtype in source.dtypes():
        path = source.graph(dtype)
        kept = load_graph(path, order.dtype, compute_dtype(dtype)) if path is not None else None
        if path is None or kept is None:
            continue
        try:
            predictor = source.load(dtype, kept.form)
            difference = predictor.find_difference()
        except Exception as error:  # whatever it is; where the artifact is at fault, `load_engine` raises it, too
            difference = describe_error(error)
        if difference is None:
            predictor.model.notes += kept.notes
            torch.set_num_threads(source.threads)
            return _finish(source, predictor.model, kept.dtype_note)
        logger.warning("the kept graph is not used, as it does not answer the contract's example: %s", difference)
        discard(path)
    return None


def load_engine(order: EngineOrder, *, holds: bool = True) -> Loaded:
    """Load in the fastest dtype that answers the contract's example as recorded, optimise and measure. Blocks.

    holds: whether the artifact is one of the cache, and stays there until this process ends.
    Raises EngineError where no dtype does, HeadError or ArtifactError where the artifact cannot be loaded.
    """
    source = _Source.open(order, holds=holds)
    model, notes = _load_best(source, source.dtypes(), source.notes())
    loaded = _finish(source, model, "; ".join(notes))
    path = source.graph(model.dtype)
    if path is None or not is_keepable(model):
        return loaded
    max_bytes, dtype_note = order.max_cache_bytes, loaded.report.dtype_note
    return replace(loaded, keep=partial(keep_graph, path, model, order.dtype, dtype_note, max_bytes))


def _load_best(source: "_Source", dtypes: Sequence[str], notes: Sequence[str]) -> tuple[Model, Sequence[str]]:
    """The model in the first dtype that answers as recorded, optimised, and why not in an earlier one.

    int8 before others must be faster than the best of them, too. Raises EngineError where no dtype answers so.
    """
    dtype, *others = dtypes
    if dtype == INT8 and others:
        return _load_faster(source, others, notes)
    try:
        return _load_optimized(source, dtype), notes
    except (_OtherAnswer, Int8Refused) as error:
        notes = [*notes, str(error)]
        if not others:
            raise EngineError("; ".join(notes)) from error
    return _load_best(source, others, notes)


def _load_faster(source: "_Source", others: Sequence[str], notes: Sequence[str]) -> tuple[Model, Sequence[str]]:
    """The model in int8 or in the best of the other dtypes, whichever is faster, and why not in int8.

    Both are loaded and timed where that is not known of this architecture and machine, and one of them where it is.
    """
    measurements, name = source.measurements(INT8_OR_FLOAT), f"int8 ({source.float_layers} in float) : {others[0]}"
    gain, rival, reason = measurements.find(name, float), None, ""
    if gain is None or gain > 1:
        try:
            model = _load_optimized(source, INT8)
        except Exception as error:  # of int8 torch may raise anything, and others do without
            is_told = isinstance(error, _OtherAnswer | Int8Refused)
            reason = str(error) if is_told else f"int8 is not used: {describe_error(error)}"
        if reason:  # out of the handler, whose error holds the model
            return _load_best(source, others, [*notes, reason])
    if gain is None:
        rival = _load_best(source, others, notes)
        gain = time_beside(model, rival[0])
        if rival[0].dtype == others[0]:
            measurements.set(name, gain)
            measurements.keep()
    dtype = rival[0].dtype if rival is not None else others[0]
    if gain > 1:
        model.note(f"int8 is {gain:.2f} times as fast as {dtype}")
        return model, notes
    found, reasons = rival or _load_best(source, others, notes)
    return found, [*reasons, f"int8 is not used: it is {gain:.2f} times as fast as {dtype} on this machine"]


class _OtherAnswer(EngineError):
    """The contract's example comes out otherwise; the message says how."""


def _load_optimized(source: "_Source", dtype: str) -> Model:
    """The model in this dtype and its fastest form. Sets torch's threads. Raises _OtherAnswer or Int8Refused."""
    predictor = source.load(dtype)
    _check_example(predictor)
    torch.set_num_threads(source.threads)
    optimize_model(predictor.model, predictor.int8_sample)
    if dtype == INT8:
        _check_example(predictor)
    return predictor.model


def _check_example(predictor: Predictor) -> None:
    difference = predictor.find_difference()
    if difference is not None:
        dtype = predictor.model.dtype
        raise _OtherAnswer(f"{dtype} is not used: the contract's example came out otherwise: {difference}")


def finds_kept(order: EngineOrder) -> bool:
    """Whether `load_kept` is going to find a graph. Runs no tensor operation, initialises no CUDA. Raises as it."""
    source = _Source.open(order, holds=False)
    if source.device != "cpu":  # asking a GPU for its dtypes would initialise CUDA
        return False
    return any(has_graph(source.graph(dtype), order.dtype) for dtype in source.dtypes())


@dataclass(frozen=True)
class _Source:
    """What an order says to load. threads: the most of a forward pass."""

    order: EngineOrder
    root: Path
    contract: Contract
    device: str
    threads: int

    @classmethod
    def open(cls, order: EngineOrder, *, holds: bool = True) -> Self:
        """holds: keep the artifact in the cache until this process ends. Raises DigestMismatch, as `read_contract`."""
        threads = order.threads or torch.get_num_threads()
        root = Path(order.root)
        if holds:
            hold(root)
        contract = read_contract(root)
        if order.digest and contract.digest != order.digest:
            raise DigestMismatch(f"MLmodel in {root} is not the one that was fetched: somebody changed it since")
        return cls(order, root, contract, choose_device(order.device), threads)

    def dtypes(self) -> tuple[str, ...]:
        """The dtypes to try, best first."""
        allows_int8 = self.contract.allows_int8
        return choose_dtypes(self.device, self.contract.dtype, self.order.dtype, allows_int8=allows_int8)

    def notes(self) -> tuple[str, ...]:
        """Why a dtype that is allowed is not tried."""
        found = self.contract.int8
        is_refused = isinstance(found, Int8) and bool(found.refusal) and self.order.dtype == "auto"
        return (found.refusal,) if is_refused and isinstance(found, Int8) else ()

    @property
    def float_layers(self) -> int:
        """Linear layers that lost too much in int8 at logging."""
        return self.contract.int8.float_layers if isinstance(self.contract.int8, Int8) else 0

    def measurements(self, dtype: str) -> Measurements:
        """What is known of the model in this dtype, or in `INT8_OR_FLOAT`."""
        return Measurements(self.entry(dtype), is_quiet=not self.order.low_priority)

    def entry(self, dtype: str) -> Path | None:
        """Where measurements are kept. dtype: as of `measurements`."""
        return entry_path(
            self.order.cache, self.root, self.contract, device=self.device, dtype=dtype, threads=self.threads
        )

    def graph(self, dtype: str) -> Path | None:
        """Where the graph is kept; None where none may be."""
        return graph_path(self.order.cache, self.root, self.entry(dtype)) if self.device == "cpu" else None

    def load(self, dtype: str, form: ExecutionForm | None = None) -> Predictor:
        """The model in this dtype; form: a kept one that runs it. Sets torch's threads where loading yields."""
        if self.order.low_priority:
            torch.set_num_threads(1)
        return Predictor(
            self.root,
            self.contract,
            device=self.device,
            dtype=dtype,
            cache_bytes=self.order.cache_bytes,
            measurements=self.measurements(dtype),
            form=form,
        )


def _finish(source: _Source, model: Model, dtype_note: str) -> Loaded:
    """The loaded model with its plan and cost, and the report of it. Blocks where it measures."""
    order, contract, device = source.order, source.contract, source.device
    plan, cost = measure(model)
    report = EngineReport(
        pid=os.getpid(),
        state="ready",
        device=device,
        dtype=model.dtype,
        dtype_note=dtype_note,
        execution=model.form.describe(),
        batching=model.form.batching,
        notes=(*contract.notes, *model.notes),
        split=f"{plan.passes} × {plan.threads}" if device == "cpu" else "",
        budget_tokens=cost.budget_tokens,
        tokens_per_second=cost.tokens_per_second * plan.passes,
        device_bytes=torch.cuda.memory_reserved(device) if device.startswith("cuda") else 0,
        growth_bytes=cost.memory_bytes * plan.passes,
    )
    meter = EngineMeter(order.model, order.version, contract.task, partial(device_bytes, model.device))
    return Loaded(model, make_pool(model, plan), cost, meter, report, yields_cores(model))


def measure(model: Model) -> tuple[CpuPlan, Cost]:
    """How the model's form uses the cores, and what a forward pass costs then; recalled or measured.

    Sets torch's threads. Blocks where it measures.
    """
    form, plan = f"{model.form.describe()}, {model.form.batching}", CpuPlan()
    if model.device.type == "cpu":
        choose = partial(choose_cpu_plan, model, parallel=model.form.is_thread_safe)
        plan = model.measurements.recall(f"plan: {form}", CpuPlan, choose)
        torch.set_num_threads(plan.threads)
    cost = model.measurements.recall(f"cost: {form}", Cost, partial(measure_cost_and_memory, model))
    model.measurements.keep()
    return plan, cost


def measure_cost_and_memory(model: Model) -> Cost:
    """The cost of the model's forward passes, and what memory they take. Blocks."""

    def measure() -> Cost:
        cost = measure_cost(model)
        if model.form.computes_masks_only:  # texts of masks alone take most
            model.run_all_tokens(cost.budget_tokens)
        return cost

    cost, memory_bytes = measure_growth(measure)
    return replace(cost, memory_bytes=memory_bytes)


def device_bytes(device: torch.device) -> int:
    """Memory that this process has reserved on a GPU; 0 on a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

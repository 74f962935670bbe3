"""From an order to a model that is loaded, checked, optimised and measured: everything before an engine serves."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from registry.artifact import read_contract
from registry.cache_folder import hold
from registry.errors import DigestMismatch
from serving.engine.assembly import optimize_model, yields_cores
from serving.engine.batching.cost import Cost
from serving.engine.measurements import Measurements, entry_path
from serving.engine.meter import EngineMeter
from serving.engine.model import Model, choose_device, choose_dtypes
from serving.engine.parallel import CpuPlan, ForwardPool, make_pool
from serving.engine.predictor import Predictor
from serving.engine.warmup import choose_cpu_plan, measure_cost
from serving.errors import EngineError
from serving.wire.engine_orders import EngineOrder, EngineReport


@dataclass(frozen=True)
class Loaded:
    """A loaded model and how its engine runs it.

    pool: runs forward passes side by side; None where one runs at a time. yields_cores: whether the engine runs at low
    priority.
    """

    model: Model
    pool: ForwardPool | None
    cost: Cost
    meter: EngineMeter
    report: EngineReport
    yields_cores: bool


def load_engine(order: EngineOrder) -> Loaded:
    """Load in the fastest dtype that answers the contract's example as recorded, optimise and measure. Blocks.

    Raises EngineError where no dtype does, HeadError or ArtifactError where the artifact cannot be loaded.
    """
    threads = order.threads or torch.get_num_threads()
    if order.low_priority:
        torch.set_num_threads(1)
    root = Path(order.root)
    hold(root)
    contract = read_contract(root)
    if order.digest and contract.digest != order.digest:
        raise DigestMismatch(f"MLmodel in {root} is not the one that was fetched: somebody changed it since")
    device = choose_device(order.device)
    notes = []
    for dtype in choose_dtypes(device, contract.dtype, order.dtype):
        path = entry_path(order.cache, root, contract, device=device, dtype=dtype, threads=threads)
        measurements = Measurements(path, is_quiet=not order.low_priority)
        predictor = Predictor(
            root, contract, device=device, dtype=dtype, cache_bytes=order.cache_bytes, measurements=measurements
        )
        difference = predictor.find_difference()
        if difference is None:
            break
        notes.append(f"{dtype} is not used: the contract's example came out otherwise: {difference}")
    else:
        raise EngineError("; ".join(notes))
    torch.set_num_threads(threads)
    optimize_model(predictor.model)
    plan, cost = measure(predictor.model)
    report = EngineReport(
        pid=os.getpid(),
        state="ready",
        device=device,
        dtype=dtype,
        dtype_note="; ".join(notes),
        execution=predictor.model.form.describe(),
        batching=predictor.model.form.batching,
        notes=(*contract.notes, *predictor.model.notes),
        split=f"{plan.passes} × {plan.threads}" if device == "cpu" else "",
        budget_tokens=cost.budget_tokens,
        tokens_per_second=cost.tokens_per_second * plan.passes,
        device_bytes=torch.cuda.memory_reserved(device) if device.startswith("cuda") else 0,
    )
    meter = EngineMeter(order.model, order.version, contract.task, partial(device_bytes, predictor.model.device))
    pool = make_pool(predictor.model, plan)
    return Loaded(predictor.model, pool, cost, meter, report, yields_cores(predictor.model))


def measure(model: Model) -> tuple[CpuPlan, Cost]:
    """How the model's form uses the cores, and what a forward pass costs then; recalled or measured.

    Sets torch's threads. Blocks where it measures.
    """
    form, plan = f"{model.form.describe()}, {model.form.batching}", CpuPlan()
    if model.device.type == "cpu":
        choose = partial(choose_cpu_plan, model, parallel=model.form.is_thread_safe)
        plan = model.measurements.recall(f"plan: {form}", CpuPlan, choose)
        torch.set_num_threads(plan.threads)
    cost = model.measurements.recall(f"cost: {form}", Cost, partial(measure_cost, model))
    model.measurements.keep()
    return plan, cost


def device_bytes(device: torch.device) -> int:
    """Memory that this process has reserved on a GPU; 0 on a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

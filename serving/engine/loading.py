"""From an order to a loaded, checked and measured model: the slow part of an engine's life, before it serves."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from registry.flavor import read_contract
from serving.engine.assembly import optimize_model, yields_cores
from serving.engine.batching.cost import Cost
from serving.engine.meter import EngineMeter
from serving.engine.model import Model, choose_device, choose_dtypes
from serving.engine.parallel import Lanes, Split, make_lanes
from serving.engine.predictor import Predictor
from serving.engine.warmup import choose_split, measure_cost
from serving.errors import EngineError
from serving.wire.engine_orders import EngineOrder, EngineReport


@dataclass(frozen=True)
class Loaded:
    """What an engine needs to serve.

    lanes: run the model's batches side by side; None where one runs at a time. yields_cores: whether the engine runs at
    low priority.
    """

    model: Model
    lanes: Lanes | None
    cost: Cost
    meter: EngineMeter
    report: EngineReport
    yields_cores: bool


def load_engine(order: EngineOrder) -> Loaded:
    """Load in the fastest dtype whose answer to the contract's example agrees with the recorded one. Blocks.

    Raises EngineError where none agrees, HeadError or ArtifactError where the artifact cannot be loaded.
    """
    threads = order.threads or torch.get_num_threads()
    if order.gently:
        torch.set_num_threads(1)
    root = Path(order.root)
    contract = read_contract(root)
    device = choose_device(order.device)
    notes = []
    for dtype in choose_dtypes(device, contract.dtype, order.dtype):
        predictor = Predictor(root, contract, device=device, dtype=dtype, cache_bytes=order.cache_bytes)
        difference = predictor.find_difference()
        if difference is None:
            break
        notes.append(f"{dtype} is not used: the contract's example came out otherwise: {difference}")
    else:
        raise EngineError("; ".join(notes))
    torch.set_num_threads(threads)
    optimize_model(predictor.model)
    split = Split()
    if device == "cpu":
        split = choose_split(predictor.model, lanes=predictor.model.form.is_thread_safe)
    cost = measure_cost(predictor.model)
    report = EngineReport(
        pid=os.getpid(),
        state="ready",
        device=device,
        dtype=dtype,
        dtype_note="; ".join(notes),
        execution=predictor.model.form.describe(),
        notes=tuple(predictor.model.notes),
        split=f"{split.lanes} × {split.threads}" if device == "cpu" else "",
        budget_tokens=cost.budget_tokens,
        tokens_per_second=cost.tokens_per_second * split.lanes,
        device_bytes=torch.cuda.memory_reserved(device) if device.startswith("cuda") else 0,
    )
    meter = EngineMeter(order.model, order.version, contract.task, partial(device_bytes, predictor.model.device))
    lanes = make_lanes(predictor.model, split)
    return Loaded(predictor.model, lanes, cost, meter, report, yields_cores(predictor.model))


def device_bytes(device: torch.device) -> int:
    """What this process holds on a GPU, in use or kept for later; 0 on a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

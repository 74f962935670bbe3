"""Forward passes without an engine on the device of `bench.gpu`: the limit, and a plain pipeline."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from bench.gpu_client import make_ids
from bench.gpu_plan import Plan, mean_tokens
from bench.limit import form_batches
from bench.texts import LengthMix, make_lengths
from serving.engine.optimizations.packing import pack_rows
from serving.engine.optimizations.unpadded import can_pack, pack, unpack

PIPELINE_ROWS = 32
PRODUCTS = 10
PRODUCT_SECONDS = 0.5


@torch.inference_mode()
def measure_product(plan: Plan) -> float:
    """Operations/s of products of square matrices of random numbers, in the engine's dtype."""
    size = plan.product_size
    one, other = (torch.randn(size, size, device=plan.device, dtype=getattr(torch, plan.dtype)) for _ in range(2))
    result = torch.empty_like(one)

    def work() -> None:
        for _ in range(PRODUCTS):
            torch.mm(one, other, out=result)
        result[0, 0].item()  # so that a GPU has done everything

    return PRODUCTS * 2 * size**3 / _time(work, PRODUCT_SECONDS)


def measure_bare(model: Any, mix: LengthMix, plan: Plan) -> dict[str, float]:
    """Tokens/s without an engine: of the limit, then of the pipeline."""
    count = max(PIPELINE_ROWS, int(plan.tokens / mean_tokens(mix)))
    rows = make_ids(make_lengths(mix, count), seed=0)
    mean = sum(row.size for row in rows) / len(rows)
    limit, form = measure_limit(model, rows, plan)
    pipeline = measure_pipeline(deepcopy(model).half() if plan.is_cuda else model, rows, plan)
    return {f"bare limit ({form} tokens a batch)": limit * mean, "plain pipeline": pipeline * mean}


@torch.inference_mode()
def measure_limit(model: Any, rows: Sequence[Any], plan: Plan) -> tuple[float, str]:
    """Sequences/s of forward passes alone, all known in advance, and how: of padded and packed batches the best."""
    lists = [row.tolist() for row in rows]
    packs = can_pack(model, torch.device(plan.device), model.dtype)
    seconds = plan.seconds / len(plan.budgets) / (1 + packs)
    found: dict[str, float] = {}
    for form in ("padded", "packed") if packs else ("padded",):
        if form == "packed":
            pack(model)
        for budget in plan.budgets:
            batches = [_inputs(*each, form == "packed") for each in form_batches(lists, budget, plan.device)[0]]
            found[f"{form}, {budget:,}"] = len(rows) / _time(lambda: _run(model, batches), seconds)  # noqa: B023  # called here
    if packs:
        unpack(model)
    best = max(found, key=found.__getitem__)
    return found[best], best


def _inputs(ids: torch.Tensor, mask: torch.Tensor | None, packs: bool) -> dict[str, torch.Tensor]:
    if mask is None:
        return {"input_ids": ids}
    inputs = {"input_ids": ids, "attention_mask": mask}
    packed = pack_rows(mask.sum(1).tolist()) if packs else {}
    return inputs | {name: torch.from_numpy(array).to(ids.device) for name, array in packed.items()}


def _run(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> None:
    for batch in batches:
        logits = model(**batch).logits
    logits.cpu()  # so that a GPU has done everything


@torch.inference_mode()
def measure_pipeline(model: Any, rows: Sequence[Any], plan: Plan) -> float:
    """Sequences/s of batches in order of arrival, each padded to its longest row and waited for; ids in advance."""
    batches = []
    for first in range(0, len(rows), PIPELINE_ROWS):
        tensors = [torch.from_numpy(row).long() for row in rows[first : first + PIPELINE_ROWS]]
        ids = pad_sequence(tensors, batch_first=True).to(plan.device)
        batches.append({"input_ids": ids, "attention_mask": (ids != 0).long()})

    def work() -> None:
        for batch in batches:
            model(**batch).logits.float().softmax(-1).cpu()

    return len(rows) / _time(work, plan.seconds)


def _time(work: Callable[[], None], seconds: float) -> float:
    """Mean seconds of the whole runs that fill `seconds`, after one to warm up."""
    work()
    runs, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not runs:
        work()
        runs += 1
    return elapsed / runs

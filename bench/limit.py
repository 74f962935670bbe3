"""The bare forward limit: how many sequences per second the model alone does, with every advantage a server lacks.

All texts are known and tokenized in advance, sorted by length and cut into batches by a budget of padded tokens; there
are no requests, no queue and no other process. Run it as `python -m bench.limit --model FOLDER --texts FILE --dtype D
--budgets 512,1024`; it prints a `LimitResult`.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.results import LimitResult

Batch = tuple[torch.Tensor, torch.Tensor | None]
"""Token ids, (rows, tokens) int64, and the attention mask of the same shape, None where nothing is padded."""


def form_batches(rows: list[list[int]], budget: int, device: str) -> tuple[list[Batch], float]:
    """Batches of rows sorted by length, each at most `budget` padded tokens or one row; and the share of padding."""
    batches: list[Batch] = []
    group: list[list[int]] = []
    for row in sorted(rows, key=len):
        if group and (len(group) + 1) * len(row) > budget:
            batches.append(_pad(group, device))
            group = []
        group.append(row)
    batches.append(_pad(group, device))
    padded = sum(ids.numel() for ids, _ in batches)
    return batches, 1 - sum(map(len, rows)) / padded


def _pad(rows: list[list[int]], device: str) -> Batch:
    width = len(rows[-1])
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    if len(rows[0]) == width:
        return ids, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device)[None, :] < lengths[:, None]).long()


def measure(model: Any, batches: list[Batch], seconds: float) -> float:
    """Seconds of one pass over all batches: the mean of the whole passes that fill `seconds`, after one to warm up."""
    _run(model, batches)
    passes, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not passes:
        _run(model, batches)
        passes += 1
    return elapsed / passes


def _run(model: Any, batches: list[Batch]) -> None:
    for ids, mask in batches:
        model(input_ids=ids, attention_mask=mask)
    if batches[0][0].is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.limit", description="Measure the bare forward limit.")
    parser.add_argument("--model", required=True, type=Path, help="folder that save_pretrained wrote")
    parser.add_argument("--texts", required=True, type=Path, help="file with one text per line")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--budgets", default="1024", help="padded tokens of a batch, several with commas")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each budget, at least")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = options.texts.read_text(encoding="utf-8").splitlines()
    rows: list[list[int]] = AutoTokenizer.from_pretrained(options.model)(texts)["input_ids"]
    dtype = getattr(torch, options.dtype)
    model: Any = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=dtype)
    model = model.to(options.device).eval()
    rates: dict[int, float] = {}
    padding: dict[int, float] = {}
    with torch.inference_mode():
        for budget in map(int, options.budgets.split(",")):
            batches, padding[budget] = form_batches(rows, budget, options.device)
            rates[budget] = len(rows) / measure(model, batches, options.seconds)
    print(msgspec.json.encode(LimitResult(options.threads, rates, padding)).decode())


if __name__ == "__main__":
    main()

"""Benchmark: texts in the dtypes of a CPU in turns: float32, bfloat16 where the processor has it, int8.

Each is the engine's own form of a model, whose decoder writes one text and several at a time, in a process with an
engine's settings of memory and all threads. The fastest of several rounds counts. Weights are random, so int8 is
forced. `python -m bench.text_dtypes SECONDS` is that process.
"""

import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from bench.models import build_causal_artifact
from bench.processes import run_module
from bench.report import table
from serving.manager.launch import engine_environ

if TYPE_CHECKING:
    from serving.engine.generation.model import GenerationModel

SIZES = {"6 layers, 256 wide": (6, 256, 8, 4, 768, 30_522), "24 layers, 896 wide": (24, 896, 14, 2, 4864, 151_936)}
"""Layers, width, heads, heads of keys and values, inner width and vocabulary: a small Llama, and one of half a billion
weights. The embedding is the vocabulary's weight as well."""
ROWS = (1, 8)
PROMPT_TOKENS, NEW_TOKENS = 24, 16
SAMPLE_TEXTS = 50
HEADER = ["model", "texts", "dtype", "first token ms", "tokens/s", "of float32", "execution"]


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each model and number of texts, all dtypes together."""
    return run_module(["bench.text_dtypes", str(seconds)], engine_environ()).strip()


def measure(seconds: float) -> str:
    """The section, as this process measures it."""
    import torch

    from serving.engine.process_state import prepare_process

    prepare_process()
    rows: list[list[str]] = []
    with torch.inference_mode():
        for name, sizes in SIZES.items():
            models = _load(sizes)
            for count in ROWS:
                rows += [[name, str(count), *each] for each in _compare(models, count, seconds)]
    return "\n".join(["## Dtypes of texts: Llamas with random weights", "", table(HEADER, rows)])


def _load(sizes: Sequence[int]) -> "dict[str, GenerationModel]":
    """The models by dtype, loaded and optimised as an engine does it."""
    from serving.engine import int8
    from serving.engine.assembly import is_generating, optimize_model
    from serving.engine.optimizations.torch_private import multiplies_bfloat16
    from serving.engine.predictor import Predictor

    int8.MIN_SHARE = 0.0  # random weights are nearly ties
    draw = random.Random(0)
    sample = [" ".join(f"w{draw.randrange(30_000)}" for _ in range(draw.randint(6, 30))) for _ in range(SAMPLE_TEXTS)]
    found: dict[str, GenerationModel] = {}
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as folder:
        contract = build_causal_artifact(Path(folder), sizes)
        for dtype in ("float32", *(["bfloat16"] if multiplies_bfloat16() else []), "int8"):
            model = Predictor(Path(folder), contract, dtype=dtype).model
            optimize_model(model, sample)
            assert is_generating(model)
            found[dtype] = model
    return found


def _compare(models: "Mapping[str, GenerationModel]", count: int, seconds: float) -> list[list[str]]:
    """A row of each dtype: the least time of the first tokens, and the rate of those that follow."""
    calls = {
        dtype: [partial(_write, model, count, tokens) for tokens in (1, 1 + NEW_TOKENS)]
        for dtype, model in models.items()
    }
    least = {dtype: [inf, inf] for dtype in calls}
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end or rounds < 3:
        rounds += 1
        for dtype, each in calls.items():  # in turns
            for index, call in enumerate(each):
                began = time.perf_counter()
                call()
                least[dtype][index] = min(least[dtype][index], time.perf_counter() - began)
    rates = {dtype: count * NEW_TOKENS / (whole - first) for dtype, (first, whole) in least.items()}
    return [
        [
            dtype,
            f"{1000 * least[dtype][0]:.1f}",
            f"{found:,.1f}",
            f"{found / rates['float32']:.2f}",
            models[dtype].form.describe(),
        ]
        for dtype, found in rates.items()
    ]


def _write(model: "GenerationModel", count: int, tokens: int) -> None:
    from serving.engine.generation.int8_texts import write

    prompts = [[5 + (7 * place + 31 * row) % 30_000 for place in range(PROMPT_TOKENS)] for row in range(count)]
    write(model.scheduler.decoder, prompts, [tokens] * count, set())


if __name__ == "__main__":
    print(measure(float(sys.argv[1])))

"""Benchmark: forward passes of the dtypes of a CPU in turns: float32, bfloat16 where the processor has it, int8.

Each is the engine's own form of MiniLM with its own batches, packed in the order of arrival, on one thread of a process
with an engine's settings of memory and threads. Times are processor time; the fastest of several rounds counts. int8 is
forced: its agreement is printed. `python -m bench.dtypes SECONDS` is that process.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import topics, write_with_sample
from bench.processes import run_module
from bench.report import table
from bench.texts import MIXED, SHORT
from bench.topics import make_topic_texts
from serving.manager.launch import engine_environ

if TYPE_CHECKING:
    from serving.engine.model import Model
    from serving.wire.messages import Row

BATCHES = (256, 1024)
"""Tokens of a batch: where few texts wait, and where many do."""
TEXTS = 300
"""Of each kind."""
SAMPLE_TEXTS, SAMPLE_SEED = 200, 2
"""Of each kind, in the artifact's sample, on which layers are chosen."""
HEADER = ["texts", "tokens a batch", "dtype", "texts/s", "tokens/s", "of float32", "same label", "execution"]


@dataclass
class _Runner:
    """A model in one dtype."""

    dtype: str
    model: "Model"

    def labels(self, batches: Sequence[Sequence["Row"]]) -> list[int]:
        """The best label of each row."""
        return [int(arrays[1][0]) for rows in batches for arrays in self.model.run(rows)]

    def seconds(self, batches: Sequence[Sequence["Row"]]) -> float:
        """Processor time of a forward pass over each batch."""
        began = time.process_time()
        for rows in batches:
            self.model.run(rows)
        return time.process_time() - began


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each kind of texts and batch size, all dtypes together."""
    return run_module(["bench.dtypes", str(seconds)], engine_environ()).strip()


def measure(seconds: float) -> str:
    """The section, as this process measures it."""
    import tempfile

    import torch

    from serving.engine.process_state import prepare_process

    prepare_process()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runners = _load(Path(folder))
    rows: list[list[str]] = []
    with torch.inference_mode():
        for mix in (SHORT, MIXED):
            texts, _ = make_topic_texts(mix, topics(), TEXTS)
            for tokens in BATCHES:
                rows += _compare(mix.name, runners, _form_batches(runners[0].model, texts, tokens), tokens, seconds)
    return "\n".join(
        ["## Dtypes of a forward pass: MiniLM sequence classification, one thread", "", table(HEADER, rows)]
    )


def _load(root: Path) -> list[_Runner]:
    """The models, loaded and optimised as an engine does it."""
    from serving.engine import int8
    from serving.engine.assembly import optimize_model
    from serving.engine.optimizations.torch_private import multiplies_bfloat16
    from serving.engine.predictor import Predictor

    sample = [text for mix in (SHORT, MIXED) for text in make_topic_texts(mix, topics(), SAMPLE_TEXTS, SAMPLE_SEED)[0]]
    contract = write_with_sample(root, sample)
    int8.MIN_SHARE = 0.0  # the table says how far the labels agree
    found = []
    for dtype in ("float32", *(["bfloat16"] if multiplies_bfloat16() else []), "int8"):
        predictor = Predictor(root, contract, dtype=dtype)
        optimize_model(predictor.model, predictor.int8_sample)
        found.append(_Runner(dtype, predictor.model))
    return found


def _form_batches(model: "Model", texts: Sequence[str], tokens: int) -> list[list["Row"]]:
    """The texts' rows in their order, each batch of at most `tokens` tokens or one row."""
    batches: list[list[Row]] = [[]]
    task: Any = model.task
    for index, text in enumerate(texts):
        (encoded,) = task.encode(text, task.parameters_type(), model.version_context).rows
        row = encoded.to_row(index, 0.0)
        if batches[-1] and sum(each.length for each in batches[-1]) + row.length > tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _compare(
    name: str, runners: Sequence[_Runner], batches: Sequence[Sequence["Row"]], tokens: int, seconds: float
) -> list[list[str]]:
    expected = runners[0].labels(batches)
    same = [
        sum(one == other for one, other in zip(expected, each.labels(batches), strict=True)) / len(expected)
        for each in runners
    ]
    took: list[list[float]] = [[] for _ in runners]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(took[0]) < 3:
        for times, each in zip(took, runners, strict=True):  # in turns
            times.append(each.seconds(batches))
    texts, all_tokens = len(expected), sum(row.length for rows in batches for row in rows)
    least = [min(times) for times in took]
    return [
        [
            name,
            f"{tokens:,}",
            each.dtype,
            f"{texts / best:,.0f}",
            f"{all_tokens / best:,.0f}",
            f"{least[0] / best:.2f}",
            f"{share:.2%}",
            each.model.form.describe(),
        ]
        for each, best, share in zip(runners, least, same, strict=True)
    ]


if __name__ == "__main__":
    print(measure(float(sys.argv[1])))

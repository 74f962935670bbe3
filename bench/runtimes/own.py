"""How Headwaiter's engine runs a batch: packed, in the form that it chooses at load. model: an artifact's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy

from bench.runtimes.worker import Prepare, Rows


def float32(model: Path, threads: int) -> Prepare:
    """In float32."""
    return _load(model, "float32", threads)


def bfloat16(model: Path, threads: int) -> Prepare:
    """In bfloat16."""
    return _load(model, "bfloat16", threads)


def int8(model: Path, threads: int) -> Prepare:
    """In int8, whatever the gate says: the table says how far the labels agree."""
    from serving.engine import int8 as gate

    gate.MIN_SHARE = 0.0
    return _load(model, "int8", threads)


def _load(root: Path, dtype: str, threads: int) -> Prepare:
    import torch

    from serving.engine.assembly import optimize_model
    from serving.engine.predictor import Predictor
    from serving.engine.process_state import prepare_process

    prepare_process()
    torch.set_num_threads(threads)
    predictor = Predictor(root, dtype=dtype)
    model = predictor.model
    optimize_model(model, predictor.int8_sample)

    def prepare(rows: Rows) -> Callable[[], Any]:
        given = [
            msgspec.structs.replace(model.probe(len(row), index), tokens=numpy.array(row, dtype=numpy.int32).tobytes())
            for index, row in enumerate(rows)
        ]

        def run() -> Any:
            with torch.inference_mode():
                return [scores[numpy.argsort(labels)] for scores, labels in model.run(given)]

        return run

    return prepare

"""How each of the other runtimes runs a batch: rows padded to the longest, a mask where they are uneven or asked for.

Each function imports its runtime alone, as each has a process of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from bench.runtimes.worker import Prepare, Rows

Arrays = dict[str, Any]


def torch_float32(model: Path, threads: int) -> Prepare:
    """The model of transformers as it is."""
    return _torch(_load_torch(model, threads))


def torch_int8(model: Path, threads: int) -> Prepare:
    """The same with torch's dynamic quantisation: scales of whole tensors."""
    import torch
    from torch.ao.quantization import quantize_dynamic

    quantize: Any = quantize_dynamic  # torch leaves it untyped
    return _torch(quantize(_load_torch(model, threads), {torch.nn.Linear}, torch.qint8))


def onnx_runtime(model: Path, threads: int) -> Prepare:
    """model: a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return _padded(lambda arrays: session.run(["logits"], arrays)[0])


def openvino(model: Path, threads: int) -> Prepare:
    """model: a file. In the precision of the file: by default float32 becomes bfloat16 where the processor has it."""
    import openvino as runtime
    from openvino import properties

    settings = {
        properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
        properties.hint.inference_precision: runtime.Type.f32,
        properties.hint.enable_cpu_pinning: False,
        properties.inference_num_threads: threads,
        properties.num_streams: 1,
    }
    request = runtime.Core().compile_model(model, "CPU", settings).create_infer_request()
    return _padded(lambda arrays: request.infer(arrays)[0])


def _load_torch(model: Path, threads: int) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    return AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()


def _torch(module: Any) -> Prepare:
    import torch

    def prepare(rows: Rows) -> Callable[[], Any]:
        arrays = {name: torch.from_numpy(array) for name, array in pad(rows).items()}
        if arrays["attention_mask"].all():
            del arrays["attention_mask"]

        def run() -> Any:
            with torch.inference_mode():
                return module(**arrays).logits.numpy()

        return run

    return prepare


def _padded(run: Callable[[Arrays], Any]) -> Prepare:
    def prepare(rows: Rows) -> Callable[[], Any]:
        arrays = pad(rows)
        return lambda: run(arrays)

    return prepare


def pad(rows: Rows) -> Arrays:
    """Token ids and mask, (rows, longest) int64."""
    width = max(map(len, rows))
    return {
        "input_ids": numpy.array([[*row, *[0] * (width - len(row))] for row in rows], dtype=numpy.int64),
        "attention_mask": numpy.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=numpy.int64),
    }

"""FastAPI around a model compiled by OpenVINO, in bfloat16 where the processor has it. One text, one run.

In its favour: a worker process for each core, with one stream of one thread that is not pinned, as every worker would
pin its thread to the same core; the bare tokenizer, without transformers around it; inference in the event loop; no
access log.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy
import openvino
from fastapi import FastAPI
from openvino import properties
from pydantic import BaseModel
from tokenizers import Tokenizer

MODEL = Path(os.environ.get("BENCH_MODEL", ""))
labels: dict[str, str] = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))["id2label"]
tokenizer: Any = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
tokenizer.enable_truncation(512)
core = openvino.Core()
settings: dict[str, Any] = {
    properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
    properties.inference_num_threads: 1,
    properties.num_streams: 1,
    properties.hint.enable_cpu_pinning: False,
}
if "BF16" in core.get_property("CPU", properties.device.capabilities):
    settings[properties.hint.inference_precision] = openvino.Type.bf16
compiled = core.compile_model(Path(os.environ.get("BENCH_EXPORT", "")) / "model.xml", "CPU", settings)
request = compiled.create_infer_request()
app = FastAPI()


class Body(BaseModel):
    """One text."""

    inputs: str


@app.post("/")
async def classify(body: Body) -> dict[str, float]:
    """Scores by label."""
    encoding = tokenizer.encode(body.inputs)
    inputs = {
        "input_ids": numpy.array([encoding.ids], dtype=numpy.int64),
        "attention_mask": numpy.array([encoding.attention_mask], dtype=numpy.int64),
    }
    logits = request.infer(inputs)[0][0]
    weights = numpy.exp(logits - logits.max())
    return dict(zip(labels.values(), (weights / weights.sum()).tolist(), strict=True))

"""FastAPI around an ONNX Runtime session. One text, one run.

In its favour: the graph is fused (see `export_onnx`); a worker process for each core, with one thread that does not
spin; the bare tokenizer, without transformers around it; inference in the event loop; no access log.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

MODEL = Path(os.environ.get("BENCH_MODEL", ""))
labels: dict[str, str] = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))["id2label"]
tokenizer: Any = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
tokenizer.enable_truncation(512)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(
    Path(os.environ.get("BENCH_EXPORT", "")) / "model.onnx", options, providers=["CPUExecutionProvider"]
)
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
    (logits,) = session.run(["logits"], inputs)
    weights = numpy.exp(logits[0] - logits[0].max())
    return dict(zip(labels.values(), (weights / weights.sum()).tolist(), strict=True))

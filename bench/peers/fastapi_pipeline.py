"""FastAPI around a transformers pipeline, as the two documentations' first pages write it. One text, one forward pass.

In its favour: a worker process for each core with one thread each, so that no two forward passes share a core or a GIL;
inference in the event loop, because a thread pool's threads would only wait for each other; uvloop and httptools; no
access log.
"""

import os
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

torch.set_num_threads(1)
classifier: Any = pipeline(
    "text-classification",
    model=os.environ.get("BENCH_MODEL", ""),
    dtype=getattr(torch, os.environ.get("BENCH_DTYPE", "float32")),
    device="cpu",
)
app = FastAPI()


class Body(BaseModel):
    """One text."""

    inputs: str


@app.post("/")
async def classify(body: Body) -> list[dict[str, Any]]:
    """The likeliest label and its score."""
    found: list[dict[str, Any]] = classifier(body.inputs)
    return found

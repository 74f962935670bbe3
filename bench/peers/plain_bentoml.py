"""A plain BentoML service as its documentation's page on adaptive batching writes it, for the same model and tokenizer.

In its favour: no access log, no tracing, a latency bound that refuses nothing, batches as large as the clients allow,
the same dtype, device and thread settings as Headwaiter, inference mode, padding only to the batch's longest row.
"""

import os
from typing import Any

import bentoml

MODEL = os.environ.get("BENCH_MODEL", "")
DTYPE = os.environ.get("BENCH_DTYPE", "float32")
DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
BATCH_ROWS = int(os.environ.get("BENCH_BATCH_ROWS", "64"))
LATENCY_MS = int(os.environ.get("BENCH_LATENCY_MS", "10000"))


@bentoml.service(
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Plain:
    """One worker, one model, one batchable endpoint."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.torch: Any = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(MODEL)
        model: Any = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=getattr(torch, DTYPE))
        self.model = model.to(DEVICE).eval()
        self.labels: list[str] = [model.config.id2label[index] for index in range(model.config.num_labels)]

    @bentoml.api(batchable=True, max_batch_size=BATCH_ROWS, max_latency_ms=LATENCY_MS)  # type: ignore[untyped-decorator]  # as BentoML's are
    def classify(self, texts: list[str]) -> list[dict[str, float]]:
        """Scores by label of each text."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(DEVICE)
        with self.torch.inference_mode():
            scores = self.model(**encoded).logits.float().softmax(dim=-1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in scores]

"""A Ray Serve deployment with `@serve.batch`, as its documentation's page on batching writes it: `python -m … PORT`.

In its favour: batches as large as the clients allow, a wait that is short beside a forward pass, more requests under
way than there are clients, one replica with all cores, no dashboard, no access log, inference mode, padding only to
the batch's longest row.
"""

import os
import sys
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse
from transformers import AutoModelForSequenceClassification, AutoTokenizer

CORES = len(os.sched_getaffinity(0))


class Classifier:
    """One model that classifies batches of texts."""

    def __init__(self, folder: str, dtype: str) -> None:
        torch.set_num_threads(CORES)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model = model.eval()
        self.labels = [model.config.id2label[index] for index in range(model.config.num_labels)]

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)  # type: ignore[untyped-decorator]  # as Ray's are
    async def classify(self, texts: list[str]) -> list[dict[str, float]]:
        """Scores by label of each text."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            scores = self.model(**encoded).logits.float().softmax(dim=-1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in scores]

    async def __call__(self, request: Request) -> JSONResponse:
        """Scores by label of the request's text; of a bare dict Ray would not tell the length."""
        body = await request.json()
        return JSONResponse(await self.classify(body["inputs"]))


if __name__ == "__main__":
    ray.init(num_cpus=CORES, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployed = serve.deployment(Classifier, max_ongoing_requests=256, ray_actor_options={"num_cpus": CORES})
    app = deployed.bind(os.environ["BENCH_MODEL"], os.environ["BENCH_DTYPE"])
    serve.run(app, blocking=True, logging_config={"enable_access_log": False})

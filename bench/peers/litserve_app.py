"""A LitServe API with batching, as its documentation's page on batching writes it: `python -m … PORT`.

In its favour: batches as large as the clients allow, a wait that is short beside a forward pass, one worker with all
cores (two would share them and halve the batches), inference mode, padding only to the batch's longest row.
"""

import os
import sys
from typing import Any

import litserve
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # LitServe is not installed where types are checked
    """One model that classifies batches of texts."""

    def setup(self, device: str) -> None:
        """Load the model."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        folder = os.environ.get("BENCH_MODEL", "")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        dtype = getattr(torch, os.environ.get("BENCH_DTYPE", "float32"))
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()
        self.labels = [model.config.id2label[index] for index in range(model.config.num_labels)]

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["inputs"]

    def batch(self, inputs: list[str]) -> list[str]:
        """The texts as they are, instead of an array of them."""
        return list(inputs)

    def predict(self, texts: list[str]) -> list[list[float]]:
        """The scores of each text."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            scores: list[list[float]] = self.model(**encoded).logits.float().softmax(dim=-1).tolist()
        return scores

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """The rows."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, float]:
        """Scores by label."""
        return dict(zip(self.labels, output, strict=True))


if __name__ == "__main__":
    api = Classifier(max_batch_size=64, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")

"""A script without a server: import, load, answer. `--seconds 0` answers the first text and ends; otherwise
it goes on, one text at a time, and prints the latencies in milliseconds as JSON.
"""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    """Parse the arguments, answer, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare_classifier")
    parser.add_argument("--model", required=True, type=Path, help="folder that save_pretrained wrote")
    parser.add_argument("--texts", required=True, type=Path, help="file with one text per line")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = options.texts.read_text(encoding="utf-8").splitlines()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dtype = getattr(torch, options.dtype)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=dtype).eval()

    @torch.inference_mode()
    def answer(text: str) -> tuple[str, float]:
        scores = model(**tokenizer(text, return_tensors="pt")).logits[0].float().softmax(-1)
        best = int(scores.argmax())
        return model.config.id2label[best], float(scores[best])

    answer(texts[0])
    latencies, end = list[float](), time.perf_counter() + options.seconds
    while (began := time.perf_counter()) < end:
        answer(texts[len(latencies) % len(texts)])
        latencies.append(1e3 * (time.perf_counter() - began))
    print(json.dumps(sorted(latencies[len(latencies) // 10 :])))  # the first ones warm up


if __name__ == "__main__":
    main()

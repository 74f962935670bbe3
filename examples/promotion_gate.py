"""Promote a version only if it is good enough on labelled examples; the server follows, without a restart.

    python promotion_gate.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import json
import time
from pathlib import Path

import httpx
import mlflow
from text_classification import LABELS, TEST, TRAIN, fine_tune

import headwaiter

NAME = "example-gate"
REQUIRED = {"accuracy": 0.95}


def log_version(examples: list[tuple[str, int]]) -> str:
    """Fine-tune on these examples and log the model; returns the new version."""
    with mlflow.start_run(run_name=NAME):
        trainer = fine_tune(examples)
        mlflow.log_metrics(trainer.evaluate())
        options = {"task": "text-classification", "name": NAME}
        return headwaiter.log_model(trainer.model, trainer.processing_class, **options).version


def main() -> None:
    headwaiter.connect_mlflow()
    versions = headwaiter.Versions()
    examples = Path("test.jsonl")
    examples.write_text("".join(json.dumps({"inputs": text, "label": LABELS[label]}) + "\n" for text, label in TEST))
    gate = headwaiter.Evaluator.read(examples, REQUIRED)

    first = log_version(TRAIN)
    versions.promote(NAME, first, why="the first one", evaluate=gate)
    with headwaiter.run_server(NAME) as url, httpx.Client(base_url=url) as client:
        wrong = log_version([(text, 1 - label) for text, label in TRAIN])
        try:
            versions.promote(NAME, wrong, why="labelled by another team", evaluate=gate)
        except headwaiter.NotGoodEnough as refusal:
            print(f"version {wrong} is refused: {refusal.reasons[0]}")

        better = log_version([*TRAIN, ("the toaster is a joy", 1), ("the toaster is a pain", 0)])
        versions.promote(NAME, better, why="also trained on toasters", evaluate=gate)
        while client.get(f"/models/{NAME}").json()["live"] != better:
            time.sleep(0.1)
        answer = client.post(f"/models/{NAME}", json={"inputs": "the toaster works perfectly"})
        print(f"version {answer.headers['x-model-version']} answers: {answer.json()[0][0]['label']}")


if __name__ == "__main__":
    main()

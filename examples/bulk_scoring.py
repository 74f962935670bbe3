"""Score a file of texts by a running server, as a nightly job does, and count the labels.

    python bulk_scoring.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
from text_classification import REVIEWS, TRAIN, fine_tune

import headwaiter

NAME = "example-bulk"
SOURCE, TARGET = Path("reviews.jsonl"), Path("answers.jsonl")


def main() -> None:
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer = fine_tune(TRAIN)
        mlflow.log_metrics(trainer.evaluate())
        options = {"task": "text-classification", "name": NAME, "defaults": {"top_k": 1}}
        logged = headwaiter.log_model(trainer.model, trainer.processing_class, **options)
    headwaiter.Versions().promote(NAME, logged.version, why="the first one")

    SOURCE.write_text("".join(json.dumps(text) + "\n" for text, _ in REVIEWS * 25))
    TARGET.unlink(missing_ok=True)
    with headwaiter.run_server(NAME) as url:
        program = Path(sys.executable).with_name("headwaiter")
        subprocess.run([program, "batch", NAME, SOURCE, TARGET, "--url", url], check=True)
    answers = [json.loads(line)[0]["label"] for line in TARGET.read_text().splitlines()]
    print(f"{len(answers):,} reviews: {dict(sorted(Counter(answers).items()))}")


if __name__ == "__main__":
    main()

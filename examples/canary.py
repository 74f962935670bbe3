"""Give a new version a growing share of the requests: a good one is promoted, a bad one is taken back by itself.

    python canary.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import subprocess
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path

import httpx
import mlflow
from text_classification import REVIEWS, TRAIN, fine_tune

import headwaiter

NAME = "example-canary"
STEPS = ("--steps", "shadow:100,20%,100%", "--every", "1s", "--bake", "2s")
GUARDS = ("--guard", "errors < stable + 5%", "--guard", "agreement > 80%")


def log_version(examples: list[tuple[str, int]]) -> str:
    """Fine-tune on these examples and log the model; returns the new version."""
    with mlflow.start_run(run_name=NAME):
        trainer = fine_tune(examples)
        mlflow.log_metrics(trainer.evaluate())
        options = {"task": "text-classification", "name": NAME}
        return headwaiter.log_model(trainer.model, trainer.processing_class, **options).version


def ask(client: httpx.Client, text: str) -> tuple[str, str]:
    """The version that answers, and its label."""
    answer = client.post(f"/models/{NAME}", json={"inputs": text}).raise_for_status()
    return answer.headers["x-model-version"], answer.json()[0][0]["label"]


def roll_out(client: httpx.Client, version: str, why: str) -> None:
    """Start a rollout, ask as clients do until it ends, and count which version answers."""
    program = Path(sys.executable).with_name("headwaiter")
    subprocess.run([program, "rollout", "start", NAME, version, "--why", why, *STEPS, *GUARDS], check=True)
    rollouts = headwaiter.Rollouts(headwaiter.Versions())
    answers: Counter[str] = Counter()
    for number, (text, _) in enumerate(cycle(REVIEWS)):
        answers[ask(client, text)[0]] += 1
        if number % 20 == 0:
            state = rollouts.state(NAME)
            if end := state.stop or state.done:
                break
    print(f"version {version} {state.phase}: {end.why}; it answered {answers[version]} of {answers.total()} requests")


def main() -> None:
    headwaiter.connect_mlflow()
    first = log_version(TRAIN)
    headwaiter.Versions().promote(NAME, first, why="the first one")
    with headwaiter.run_server(NAME) as url, httpx.Client(base_url=url, timeout=60) as client:
        better = log_version([*TRAIN, ("the toaster is a joy", 1), ("the toaster is a pain", 0)])
        roll_out(client, better, "also trained on toasters")
        wrong = log_version([(text, 1 - label) for text, label in TRAIN])
        roll_out(client, wrong, "labelled by another team")
        version, label = ask(client, "the toaster works perfectly")
        print(f"version {version} answers: {label}")


if __name__ == "__main__":
    main()

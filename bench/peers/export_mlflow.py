"""Saves a checkpoint as an MLflow model, transformers flavor: `python -m bench.peers.export_mlflow MODEL TARGET`."""

import sys

import mlflow.transformers
from transformers import pipeline


def main() -> None:
    """Save a text classification pipeline, as MLflow's page on transformers does."""
    source, target = sys.argv[1:]
    mlflow.transformers.save_model(pipeline("text-classification", model=source), target)


if __name__ == "__main__":
    main()

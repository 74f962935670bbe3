"""Saves a checkpoint as an MLflow model, transformers flavor: `python -m bench.peers.export_mlflow MODEL TARGET`."""

import sys

import mlflow.transformers
from transformers import pipeline


def main() -> None:
    """Save a text classification pipeline, as MLflow's page on transformers does."""
    source, target = sys.argv[1:]
    requirements = ["mlflow", "torch", "transformers"]  # else it looks for torchvision, which no text needs
    mlflow.transformers.save_model(pipeline("text-classification", model=source), target, pip_requirements=requirements)


if __name__ == "__main__":
    main()

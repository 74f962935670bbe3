"""Import, load and save a sequence classifier, and nothing else: what logging cannot do without.

python -m bench.bare_saving --model FOLDER --target FOLDER
"""

import argparse

import mlflow  # noqa: F401  # what a script that logs imports
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main() -> None:
    """Load from one folder, save to the other."""
    parser = argparse.ArgumentParser(description="Import, load, save.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--target", required=True)
    options = parser.parse_args()
    AutoModelForSequenceClassification.from_pretrained(options.model).save_pretrained(options.target)
    AutoTokenizer.from_pretrained(options.model).save_pretrained(options.target)


if __name__ == "__main__":
    main()

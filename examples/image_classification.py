"""Train a small vision transformer on drawn patterns, log it, serve it, and ask it by Hugging Face's client.

    python image_classification.py [BASE]

BASE: a pretrained image model, a folder or a name on the hub; without it a small ViT is trained from nothing.
"""

import io
import random
import sys

import mlflow
from huggingface_hub import InferenceClient
from PIL import Image, ImageDraw
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else ""
NAME = "example-patterns"
LABELS = ("checked", "horizontal", "vertical")
SIDE = 32


def draw(label: str, rng: random.Random) -> Image.Image:
    """A pattern of two colours with stripes or squares of some width."""
    dark, light = (tuple(rng.randrange(low, low + 100) for _ in range(3)) for low in (0, 150))
    picture, width, shift = Image.new("RGB", (SIDE, SIDE), dark), rng.randint(3, 5), rng.randrange(4)
    pen = ImageDraw.Draw(picture)
    for x in range(SIDE):
        for y in range(SIDE):
            column, row = (x + shift) // width % 2, (y + shift) // width % 2
            if {"vertical": column, "horizontal": row, "checked": column ^ row}[label]:
                pen.point((x, y), light)
    return picture


def build() -> tuple[ViTForImageClassification, ViTImageProcessorPil]:
    """The model to train and its image processor."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: at for at, label in enumerate(LABELS)}}
    if BASE:
        model = AutoModelForImageClassification.from_pretrained(BASE, ignore_mismatched_sizes=True, **labels)
        return model, AutoImageProcessor.from_pretrained(BASE)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ViTConfig(image_size=SIDE, patch_size=8, **sizes, **labels)
    return ViTForImageClassification(config), ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def main() -> None:
    set_seed(0)
    rng = random.Random(0)
    model, processor = build()
    rows = [
        {"pixel_values": processor(draw(label, rng), return_tensors="pt")["pixel_values"][0], "labels": number}
        for _ in range(120)
        for number, label in enumerate(LABELS)
    ]
    trainer = Trainer(
        model,
        TrainingArguments("trained", num_train_epochs=10, learning_rate=1e-3, save_strategy="no"),
        train_dataset=rows[60:],
        eval_dataset=rows[:60],
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, processor, task="image-classification", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"accuracy {metrics['eval_accuracy']:.2f}")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        for label in LABELS:
            file = io.BytesIO()
            draw(label, rng).save(file, "PNG")
            best = client.image_classification(file.getvalue())[0]
            print(f"{label}: {best.label} ({best.score:.2f})")


if __name__ == "__main__":
    main()

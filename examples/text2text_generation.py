"""Train a small T5 that writes numbers in words, log it, serve it, and ask it by MLflow's client.

    python text2text_generation.py [BASE]

BASE: a pretrained encoder-decoder, a folder or a name on the hub; without it a small T5 is trained from nothing.
"""

import random
import sys

import mlflow
from mlflow.deployments import get_deploy_client
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else ""
NAME = "example-numbers"
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """A number below 1,000, each digit by its own word: 372 is three hundred seventy two."""
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    return f"{ONES[hundreds]} hundred {TENS[tens]} {ONES[ones]}"


def build() -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """The model to train and its tokenizer, whose tokens are digits and words."""
    if BASE:
        return AutoModelForSeq2SeqLM.from_pretrained(BASE, dtype="float32"), AutoTokenizer.from_pretrained(BASE)
    tokens = ["<pad>", "</s>", "<unk>", *map(str, range(10)), "hundred", *ONES, *TENS[1:]]
    pieces = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 32}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **named)
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)
    return T5ForConditionalGeneration(config), tokenizer


def main() -> None:
    set_seed(0)
    model, tokenizer = build()
    numbers = random.Random(0).sample(range(1000), 1000)
    rows = [tokenizer(f"{number:03}", text_target=in_words(number)) for number in numbers]

    def measure(found: object) -> dict[str, float]:
        written = tokenizer.batch_decode(found.predictions.clip(0), skip_special_tokens=True)
        right = [text == in_words(number) for text, number in zip(written, numbers[900:], strict=True)]
        return {"exact_match": sum(right) / len(right)}

    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            "trained",
            max_steps=500,
            learning_rate=3e-3,
            per_device_train_batch_size=32,
            save_strategy="no",
            predict_with_generate=True,
            generation_max_length=16,
        ),
        train_dataset=rows[:900],
        eval_dataset=rows[900:],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        compute_metrics=measure,
        processing_class=tokenizer,
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        logged = headwaiter.log_model(model, tokenizer, task="text2text-generation", name=NAME)
    headwaiter.Versions().promote(NAME, logged.version, why=f"exact match {metrics['eval_exact_match']:.2f}")

    with headwaiter.run_server(NAME) as url:
        client = get_deploy_client(f"headwaiter:{url}")
        number = f"{numbers[-1]:03}"
        print(f"{number}: {client.predict(NAME, number)['predictions']}")


if __name__ == "__main__":
    main()

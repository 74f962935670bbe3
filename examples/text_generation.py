"""Train a small language model on a shop's questions and answers, log it, serve it, and stream by OpenAI's client.

    python text_generation.py [BASE]

BASE: a pretrained decoder, a folder or a name on the hub; without it a small GPT-2 is trained from nothing.
"""

import sys

import mlflow
import openai
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else ""
NAME = "example-texts"
ANSWERS = {
    "Where is my parcel?": "It is on its way and comes tomorrow.",
    "How do I get my money back?": "Refunds are paid within five days.",
    "I forgot my password.": "You can set a new one on the sign-in page.",
    "Do you ship to Spain?": "We deliver to all of Europe.",
}
END, PAD = "<|endoftext|>", "<|pad|>"
TEXTS = [f"Customer: {question}\nShop: {answer}{END}" for question, answer in ANSWERS.items()]


def build() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """The model to train and its tokenizer."""
    if BASE:
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return AutoModelForCausalLM.from_pretrained(BASE, dtype="float32"), tokenizer
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(TEXTS, vocab_size=400, special_tokens=[END, PAD])
    named = {"bos_token": END, "eos_token": END, "pad_token": PAD, "model_max_length": 128}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **named)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=128, n_layer=2, n_head=4, **ids)
    return GPT2LMHeadModel(config), tokenizer


def main() -> None:
    set_seed(0)
    model, tokenizer = build()
    rows = [tokenizer(text) for text in TEXTS]
    trainer = Trainer(
        model,
        TrainingArguments("trained", max_steps=120, learning_rate=2e-3, save_strategy="no"),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer.train()
        metrics = trainer.evaluate()
        mlflow.log_metrics(metrics)
        defaults = {"max_new_tokens": 40}
        logged = headwaiter.log_model(model, tokenizer, task="text-generation", name=NAME, defaults=defaults)
    headwaiter.Versions().promote(NAME, logged.version, why=f"loss {metrics['eval_loss']:.2f}")

    with headwaiter.run_server(NAME) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        prompt = "Customer: Where is my parcel?\nShop:"
        stream = client.completions.create(model=NAME, prompt=prompt, temperature=0, max_tokens=40, stream=True)
        print(prompt + "".join(part.choices[0].text for part in stream if part.choices))


if __name__ == "__main__":
    main()

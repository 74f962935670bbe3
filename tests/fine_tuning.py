"""Fine-tunes MiniLM for some seconds on a generated set, as people do it for hours, and saves it as they do."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from serving.evaluation import Labelled
from tests import sentence_folders
from tests.score_sets import TOPICS, make_set, texts_of_summaries
from tests.small_models import vocabulary

LABELS = {
    "text-classification": TOPICS,
    "token-classification": ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"],
}
ROWS = 8
TRAINED_LAYERS = 2
LAYER_RATE = 5e-4
HEAD_RATE = 3e-3
IGNORED = -100


def fine_tune(task: str, folder: Path, steps: int) -> Path:
    """Train the head and the last layers of MiniLM for `steps` batches of 8 examples; save all to `folder`.

    Takes about 0.1 s a step. The caller's random state is left as it was.
    """
    import torch
    from transformers import AutoTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(vocabulary())
        examples = make_set(task, ROWS * steps, held_out=False)
        if task == "summarization":
            model, tokenizer = make_summarizer(tokenizer)
        else:
            model = load(task)
        batches = [examples[start : start + ROWS] for start in range(0, len(examples), ROWS)]
        train(model, batches, LOSSES[task], tokenizer)
    if task == "feature-extraction":
        return save_sentence_transformer(model, tokenizer, folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(task: str) -> Any:
    """MiniLM with a new head for the task, and all but its last layers frozen."""
    import torch
    import transformers

    classes = {
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "question-answering": transformers.AutoModelForQuestionAnswering,
        "feature-extraction": transformers.AutoModel,
    }
    named: dict[str, Any] = {}
    if task in LABELS:
        id2label = dict(enumerate(LABELS[task]))
        named = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
    model = classes[task].from_pretrained(vocabulary(), dtype=torch.float32, **named)
    model.base_model.embeddings.requires_grad_(False)
    model.base_model.encoder.layer[:-TRAINED_LAYERS].requires_grad_(False)
    return model


def make_summarizer(whole: Any) -> tuple[Any, Any]:
    """A small BART and its tokenizer. Its word embeddings are MiniLM's and frozen, nothing else of it is trained yet.

    whole: MiniLM's tokenizer, of which it has the pieces of the set's words: with all 30,522 the last layer takes
    most of the time.
    """
    import torch
    import transformers

    kept = sorted({*whole.all_special_ids, *chain(*whole(texts_of_summaries())["input_ids"])})
    pieces = {piece: place for place, piece in enumerate(whole.convert_ids_to_tokens(kept))}
    tokenizer = type(whole)(vocab=pieces, model_max_length=whole.model_max_length)
    words = transformers.AutoModel.from_pretrained(vocabulary(), dtype=torch.float32).get_input_embeddings().weight
    halves = {
        f"{half}_{key}": value
        for half in ("encoder", "decoder")
        for key, value in (("layers", 1), ("ffn_dim", 256), ("attention_heads", 4))
    }
    config = transformers.BartConfig(
        vocab_size=len(kept),
        d_model=words.shape[1],
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.sep_token_id,
        forced_eos_token_id=None,
        dropout=0.0,
        **halves,
    )
    model = transformers.BartForConditionalGeneration(config)
    model.generation_config.max_new_tokens = 16  # transformers warns of a length that nobody chose
    shared = model.get_input_embeddings()
    with torch.no_grad():
        shared.weight.copy_(words[kept])
    shared.requires_grad_(False)
    return model, tokenizer


def train(model: Any, batches: Sequence[Sequence[Labelled]], loss_of: Callable[..., Any], tokenizer: Any) -> None:
    """One step of AdamW a batch, with rates that fall to zero."""
    import torch

    trained = [(name, weights) for name, weights in model.named_parameters() if weights.requires_grad]
    groups = [
        {"params": [weights for name, weights in trained if ("encoder" in name) == is_layer], "lr": rate}
        for is_layer, rate in ((True, LAYER_RATE), (False, HEAD_RATE))
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=len(batches))
    model.train()
    for batch in batches:
        loss_of(model, tokenizer, batch).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def classification_loss(model: Any, tokenizer: Any, batch: Sequence[Labelled]) -> Any:
    """The model's own, of each text's topic."""
    import torch

    labels = torch.tensor([model.config.label2id[example.label] for example in batch])
    texts = [example.inputs for example in batch]
    return model(**tokenizer(texts, padding=True, return_tensors="pt"), labels=labels).loss


def token_loss(model: Any, tokenizer: Any, batch: Sequence[Labelled]) -> Any:
    """The model's own, of each token's label: B- for the first token of an entity, I- for its others."""
    import torch

    encoded = tokenizer(
        [example.inputs for example in batch], padding=True, return_tensors="pt", return_offsets_mapping=True
    )
    offsets = encoded.pop("offset_mapping")
    labels = torch.zeros(offsets.shape[:2], dtype=torch.long)
    labels[offsets[..., 1] == 0] = IGNORED
    for row, example in enumerate(batch):
        for span in example.label:
            starts, ends = offsets[row, :, 0], offsets[row, :, 1]
            inside = (starts >= span["start"]) & (ends <= span["end"]) & (ends > 0)
            labels[row, inside] = model.config.label2id["I-" + span["label"]]
            labels[row, inside & (starts == span["start"])] = model.config.label2id["B-" + span["label"]]
    return model(**encoded, labels=labels).loss


def span_loss(model: Any, tokenizer: Any, batch: Sequence[Labelled]) -> Any:
    """The model's own, of the first and last token of the answer's first place in the context."""
    import torch

    questions = [example.inputs["question"] for example in batch]
    contexts = [example.inputs["context"] for example in batch]
    encoded = tokenizer(questions, contexts, padding=True, return_tensors="pt")
    places = []
    for row, example in enumerate(batch):
        start = example.inputs["context"].index(example.label[0])
        end = start + len(example.label[0]) - 1
        places.append([encoded.char_to_token(row, place, sequence_index=1) for place in (start, end)])
    starts, ends = torch.tensor(places).T
    return model(**encoded, start_positions=starts, end_positions=ends).loss


def similarity_loss(model: Any, tokenizer: Any, batch: Sequence[Labelled]) -> Any:
    """The squared error of the cosine of the two sentences' mean states."""
    import torch

    encoded = tokenizer([text for example in batch for text in example.inputs], padding=True, return_tensors="pt")
    kept = encoded["attention_mask"].unsqueeze(-1)
    means = (model(**encoded).last_hidden_state * kept).sum(1) / kept.sum(1)
    wanted = torch.tensor([example.label for example in batch])
    return torch.nn.functional.mse_loss(torch.cosine_similarity(means[::2], means[1::2]), wanted)


def summary_loss(model: Any, tokenizer: Any, batch: Sequence[Labelled]) -> Any:
    """The model's own, of each token of the text's summary."""
    encoded = tokenizer([example.inputs for example in batch], padding=True, return_tensors="pt")
    labels = tokenizer([example.label[0] for example in batch], padding=True, return_tensors="pt")["input_ids"]
    labels[labels == tokenizer.pad_token_id] = IGNORED
    return model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], labels=labels).loss


LOSSES = {
    "text-classification": classification_loss,
    "token-classification": token_loss,
    "question-answering": span_loss,
    "feature-extraction": similarity_loss,
    "summarization": summary_loss,
}


def save_sentence_transformer(model: Any, tokenizer: Any, folder: Path) -> Path:
    """As sentence-transformers saves a model that pools by the mean and normalizes."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    base = folder.with_name(folder.name + "-base")
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    return sentence_folders.save(base, folder, Pooling(model.config.hidden_size, "mean"), Normalize())

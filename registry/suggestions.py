"""Base models that suit a task, and why: where to begin when there is nothing to serve yet. A table, kept beside heads.

Sizes are parameters in millions as the models' own pages give them; "longest" is the row that they were trained with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from registry.heads import get_head

ModelSize = Literal["small", "accurate"]


@dataclass(frozen=True)
class Suggestion:
    """A base model on the Hugging Face hub. model_type: its architecture. millions: of parameters."""

    model: str
    model_type: str
    millions: int
    longest: int
    why: str


_ENCODERS = {
    "small": (
        Suggestion("microsoft/MiniLM-L12-H384-uncased", "bert", 33, 512, "a third of BERT's cost, English"),
        Suggestion("distilbert/distilbert-base-uncased", "distilbert", 66, 512, "half of BERT's cost, English"),
    ),
    "accurate": (
        Suggestion("microsoft/deberta-v3-base", "deberta-v2", 184, 512, "the best encoder of its size, English"),
        Suggestion("FacebookAI/xlm-roberta-base", "xlm-roberta", 278, 512, "a hundred languages"),
        Suggestion("answerdotai/ModernBERT-base", "modernbert", 149, 8192, "long texts, fast attention, English"),
    ),
}
_MASKED = {
    "small": (Suggestion("distilbert/distilroberta-base", "roberta", 82, 512, "keeps case, English"),),
    "accurate": (
        Suggestion("FacebookAI/roberta-base", "roberta", 125, 512, "the usual start for domain training, English"),
        Suggestion("FacebookAI/xlm-roberta-base", "xlm-roberta", 278, 512, "a hundred languages"),
    ),
}
_VECTORS = {
    "small": (Suggestion("sentence-transformers/all-MiniLM-L6-v2", "bert", 22, 256, "fast sentence vectors, English"),),
    "accurate": (
        Suggestion("BAAI/bge-base-en-v1.5", "bert", 109, 512, "strong retrieval vectors, English"),
        Suggestion("intfloat/multilingual-e5-base", "xlm-roberta", 278, 512, "retrieval in a hundred languages"),
    ),
}
_PAIRS = {
    "small": (Suggestion("google/electra-small-discriminator", "electra", 14, 512, "the cheapest there is, English"),),
    "accurate": (Suggestion("microsoft/deberta-v3-base", "deberta-v2", 184, 512, "the best at inference, English"),),
}
_DECODERS = {
    "small": (Suggestion("openai-community/gpt2", "gpt2", 124, 1024, "small and well understood, English"),),
    "accurate": (
        Suggestion("mistralai/Mistral-7B-v0.3", "mistral", 7248, 32768, "needs a GPU of 16 GB and more"),
        Suggestion("meta-llama/Llama-3.2-1B", "llama", 1236, 131072, "long texts, several languages"),
    ),
}
_SEQ2SEQ = {
    "small": (Suggestion("google-t5/t5-small", "t5", 61, 512, "cheap, with task prefixes"),),
    "accurate": (
        Suggestion("google/flan-t5-base", "t5", 248, 512, "instruction-tuned: little data goes far"),
        Suggestion("facebook/bart-base", "bart", 139, 1024, "strong at summaries, English"),
        Suggestion("google/mt5-base", "mt5", 580, 512, "a hundred languages"),
    ),
}
_SENTENCES = {
    "small": (Suggestion("google-bert/bert-base-uncased", "bert", 110, 512, "trained for this very task, English"),),
    "accurate": (Suggestion("google-bert/bert-large-uncased", "bert", 335, 512, "the same, larger"),),
}
_IMAGES = {
    "small": (Suggestion("WinKawaks/vit-tiny-patch16-224", "vit", 6, 197, "a phone's share of work"),),
    "accurate": (Suggestion("google/vit-base-patch16-224-in21k", "vit", 86, 197, "trained on 14 million images"),),
}
SUGGESTIONS: dict[str, Mapping[str, Sequence[Suggestion]]] = {
    "feature-extraction": _VECTORS,
    "text-classification": _ENCODERS,
    "zero-shot-classification": _PAIRS,
    "token-classification": _ENCODERS,
    "question-answering": _ENCODERS,
    "fill-mask": _MASKED,
    "text-generation": _DECODERS,
    "text2text-generation": _SEQ2SEQ,
    "summarization": _SEQ2SEQ,
    "translation": _SEQ2SEQ,
    "multiple-choice": _PAIRS,
    "next-sentence-prediction": _SENTENCES,
    "image-classification": _IMAGES,
}


def suggest(task: str, size: ModelSize | None = None) -> list[Suggestion]:
    """The models that suit the task, small ones first; of one size or of both. Raises UnknownTask."""
    by_size = SUGGESTIONS[get_head(task).task]
    return [found for name in by_size if size in (None, name) for found in by_size[name]]

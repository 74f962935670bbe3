"""Which tasks there are, which AutoModel class serves each, and which architectures have that head.

Tasks and classes are listed here. Which architectures have a class is read from the installed transformers: from the
`MODEL_FOR_…_MAPPING_NAMES` tables of `transformers.models.auto.modeling_auto`. Imports of transformers are inside the
functions: importing this module costs nothing, so that processes without torch can read the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from registry.errors import UnknownTask, UnsupportedHead

MASK = 1e4
"""Larger numbers in an output are no measurements: heads hide tokens with -1e4, -1e6, -inf or a dtype's least."""


@dataclass(frozen=True)
class Head:
    """One task and the class of model that serves it.

    task: the Hugging Face task name. auto_class: the transformers AutoModel class.
    mapping: the table in `modeling_auto` from model_type to class name. answers: what a user gets, in a few words.
    same_as: the task that this one is another name of, or empty. reads: what a model of the task may read.
    generates: whether the answer is written token by token.
    """

    task: str
    auto_class: str
    mapping: str
    answers: str
    same_as: str = ""
    reads: tuple[str, ...] = ("text",)
    generates: bool = False

    @property
    def needs_head(self) -> bool:
        """Whether the task reads more of a model than the states that every architecture has."""
        return self.auto_class != "AutoModel"


HEADS: Mapping[str, Head] = {
    head.task: head
    for head in (
        Head("feature-extraction", "AutoModel", "MODEL_MAPPING_NAMES", "vectors", reads=("text", "images")),
        Head(
            "text-classification",
            "AutoModelForSequenceClassification",
            "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
            "a label or a number per text",
        ),
        Head(
            "zero-shot-classification",
            "AutoModelForSequenceClassification",
            "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
            "labels that come with the request",
        ),
        Head(
            "token-classification",
            "AutoModelForTokenClassification",
            "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
            "labelled spans of a text",
        ),
        Head(
            "question-answering",
            "AutoModelForQuestionAnswering",
            "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
            "the span of a context that answers a question",
        ),
        Head("fill-mask", "AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "tokens for a mask"),
        Head(
            "text-generation",
            "AutoModelForCausalLM",
            "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
            "text that goes on",
            generates=True,
        ),
        Head(
            "text2text-generation",
            "AutoModelForSeq2SeqLM",
            "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
            "text made from text",
            generates=True,
        ),
        Head(
            "summarization",
            "AutoModelForSeq2SeqLM",
            "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
            "a shorter text",
            same_as="text2text-generation",
            generates=True,
        ),
        Head(
            "translation",
            "AutoModelForSeq2SeqLM",
            "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
            "the text in another language",
            same_as="text2text-generation",
            generates=True,
        ),
        Head(
            "multiple-choice",
            "AutoModelForMultipleChoice",
            "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
            "the best of several endings",
        ),
        Head(
            "next-sentence-prediction",
            "AutoModelForNextSentencePrediction",
            "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
            "whether B follows A",
        ),
        Head(
            "image-classification",
            "AutoModelForImageClassification",
            "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
            "a label per image",
            reads=("images",),
        ),
    )
}


def get_head(task: str) -> Head:
    """The head of `task`; raises UnknownTask, which lists the tasks."""
    try:
        return HEADS[task]
    except KeyError:
        raise UnknownTask(f"there is no task {task!r}; choose one of: {', '.join(HEADS)}") from None


def architectures(task: str) -> dict[str, str]:
    """model_type → class name, for every architecture of the installed transformers that has the task's head."""
    from transformers.models.auto import modeling_auto

    table = getattr(modeling_auto, get_head(task).mapping)
    return {model_type: name if isinstance(name, str) else name[0] for model_type, name in table.items()}


def model_classes(task: str, model_type: str) -> tuple[str, ...]:
    """The classes that serve the task, for an architecture that may have several; raises UnsupportedHead."""
    from transformers.models.auto import modeling_auto

    first = model_class(task, model_type)
    found = getattr(modeling_auto, get_head(task).mapping)[model_type]
    return (first,) if isinstance(found, str) else tuple(found)


def tasks_of(model_type: str) -> tuple[str, ...]:
    """The tasks whose head the architecture has, in the order of the table; empty for an unknown architecture."""
    return tuple(task for task in HEADS if model_type in architectures(task))


def model_class(task: str, model_type: str) -> str:
    """Name of the transformers class that serves `task` for `model_type`; raises UnsupportedHead."""
    classes = architectures(task)
    if model_type in classes:
        return classes[model_type]
    others = tasks_of(model_type)
    if not others:
        raise UnsupportedHead(
            f"the installed transformers has no architecture {model_type!r}: "
            "check model_type in config.json, or install a transformers version that knows it"
        )
    raise UnsupportedHead(
        f"architecture {model_type!r} has no {get_head(task).auto_class} head for {task}; "
        f"the tasks that it does have: {', '.join(others)}"
    )

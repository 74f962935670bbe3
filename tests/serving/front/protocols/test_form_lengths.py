"""Every string, list and object of a request's form has a length, or is counted in another way before work begins."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

import serving.front.protocols
import serving.tasks

TEXTS = {
    "Comparison.sentences",
    "Comparison.source_sentence",
    "DocumentsForm.documents",
    "DocumentsForm.query",
    "Pair.query",
    "Pair.text",
    "Pair.text_pair",
    "Pair.texts",
    "Parameters.candidate_labels",
    "Parameters.hypothesis_template",
    "PromptForm.prompt",
    "Question.choices",
    "Question.context",
    "Question.prompt",
    "Question.question",
    "Texts.text",
    "Texts.text_pair",
    "TextsForm.query",
    "TextsForm.texts",
    "TokenizeForm.inputs",
}
"""Counted by a task's `cost`, or as the characters and rows of what is tokenized."""
VALUES = {
    "ChatForm.chat_template_kwargs",
    "IdsForm.tokens",
    "InferenceForm.parameters",
    "Parameters.generate_parameters",
    "PredictForm.parameters",
    "RequestedOutput.parameters",
    "SplitTable.data",
    "SplitTable.index",
    "Tensor.parameters",
}
"""Counted as the values of the body, see `serving.tasks.base.body_values`."""
NOT_REQUESTS = {"Defaults", "ConfigKeys", "CrossEncoderKeys", "Choice", "Answer"}
"""What a contract or a checkpoint says, and answers."""


def structs(of: Any) -> Iterator[Any]:
    for each in of.__subclasses__():
        if each.__module__.startswith(("serving.front.protocols.", "serving.tasks.")):
            yield each
        yield from structs(each)


def unbounded(kind: Any) -> bool:
    """Whether a value of this type has parts without a length."""
    match kind:
        case inspect.StrType(max_length=None):
            return True
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType():
            return kind.max_length is None or unbounded(kind.item_type)
        case inspect.DictType():
            return kind.max_length is None or unbounded(kind.value_type) or unbounded(kind.key_type)
        case inspect.UnionType():
            return any(map(unbounded, kind.types))
    return False


def test_what_a_request_may_hold_has_a_length_or_is_counted() -> None:
    for package in (serving.tasks, serving.front.protocols):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found = set()
    for struct in set(structs(msgspec.Struct)):
        config = struct.__struct_config__
        if config.array_like or struct.__name__ in NOT_REQUESTS or struct.__module__.startswith("serving.tasks.base."):
            continue
        kind = inspect.type_info(struct)
        assert isinstance(kind, inspect.StructType)
        found |= {f"{struct.__name__}.{field.name}" for field in kind.fields if unbounded(field.type)}
    assert found == TEXTS | VALUES

"""Hugging Face's published task schemas, as huggingface_hub generates its types from them: every named parameter is
applied or refused by name, null means absent, and every other name is refused."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import huggingface_hub.inference._generated.types as published
import msgspec
import pytest

from serving.errors import Unprocessable
from serving.tasks import get_task, served_tasks
from serving.tasks.base.request import convert_request, parse_body

SCHEMAS: dict[str, Any] = {
    "feature-extraction": published.FeatureExtractionInput,  # its parameters stand beside the inputs
    "fill-mask": published.FillMaskParameters,
    "image-classification": published.ImageClassificationParameters,
    "question-answering": published.QuestionAnsweringParameters,
    "summarization": published.SummarizationParameters,
    "text-classification": published.TextClassificationParameters,
    "text-generation": published.TextGenerationInputGenerateParameters,
    "text2text-generation": published.Text2TextGenerationParameters,
    "token-classification": published.TokenClassificationParameters,
    "translation": published.TranslationParameters,
    "zero-shot-classification": published.ZeroShotClassificationParameters,
}
"""Task → the published type with its parameters. Of the others there is none."""
NAMES = [(task, field.name) for task, schema in SCHEMAS.items() for field in fields(schema) if field.name != "inputs"]
PLACES = ("within", "beside")


def inputs_of(task: str) -> Any:
    return {"question": "a", "context": "b"} if task == "question-answering" else "a"


def body_of(task: str, place: str, **given: Any) -> dict[str, Any]:
    return {"inputs": inputs_of(task), **(given if place == "beside" else {"parameters": given})}


def parse(task: str, place: str, **given: Any) -> Any:
    """The parameters that are read, by both readers alike."""
    body, found = body_of(task, place, **given), get_task(task)
    read = parse_body(json.dumps(body).encode(), found, 9)
    if place == "within":
        assert convert_request(body["inputs"], given, found, 9) == read
    return read.parameters


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("task", "name"), NAMES)
def test_a_published_parameter_is_known_and_null_is_absent(task: str, name: str, place: str) -> None:
    found = get_task(task)
    assert name in found.parameters_type.__struct_fields__ or name in found.unsupported
    assert parse(task, place, **{name: None}) == found.parameters_type()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", [task for task in served_tasks() if get_task(task).unsupported])
def test_what_is_not_supported_is_refused_by_name_unless_it_asks_for_nothing(task: str, place: str) -> None:
    for name, harmless in get_task(task).unsupported.items():
        assert name not in get_task(task).parameters_type.__struct_fields__
        for value in harmless:
            assert parse(task, place, **{name: value}) == get_task(task).parameters_type()
        for value in ({"a": "b"}, 0.3, "surely not this"):
            with pytest.raises(Unprocessable, match=f"{name} is not supported by this server: leave it out"):
                parse(task, place, **{name: value})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", served_tasks())
def test_every_parameter_may_be_null_and_other_names_are_refused(task: str, place: str) -> None:
    found = get_task(task)
    empty = dict.fromkeys(found.parameters_type.__struct_fields__)
    body = {"inputs": {"text": "a", "text_pair": "b"} if task == "next-sentence-prediction" else inputs_of(task)}
    if task == "multiple-choice":
        body = {"inputs": {"prompt": "a", "choices": ["b", "c"]}}
    read = parse_body(json.dumps(body | (empty if place == "beside" else {"parameters": empty})).encode(), found, 9)
    assert read.parameters == found.parameters_type()
    more = {"unheard": 1} if place == "beside" else {"parameters": {"unheard": 1}}
    with pytest.raises(Unprocessable, match="unknown field `unheard`"):
        parse_body(json.dumps(body | more).encode(), found, 9)


def bounds_of(kind: Any) -> Iterator[tuple[str, Any]]:
    """The whole numbers of a type of parameters, by field."""
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        waiting = [field.type]
        while waiting:
            each = waiting.pop()
            waiting += [*getattr(each, "types", ()), *getattr(each, "item_types", ())]
            waiting += [inner for inner in (getattr(each, "item_type", None),) if inner is not None]
            if isinstance(each, msgspec.inspect.IntType):
                yield field.name, each


@pytest.mark.parametrize("task", served_tasks())
def test_whole_numbers_of_requests_are_bounded(task: str) -> None:
    """A `top_k` of 2**63 fits msgpack and no tensor: it ended engines."""
    for name, number in bounds_of(get_task(task).parameters_type):
        assert number.le is not None or number.lt is not None, name
        assert number.ge is not None or number.gt is not None, name

"""JSON bodies to checked structs, and errors that name fields as the protocol's clients write them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeVar

import msgspec

from serving.errors import Malformed, ServingError, Unprocessable
from serving.front.asgi import JsonObject
from serving.processors.token_ids import TokenIds
from serving.tasks.base.body_values import check_values
from serving.tasks.base.fields import without_nulls
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

Form = TypeVar("Form")
OTHER_TASK = "ask it by POST /models/{name}, or choose another model"
"""What to do where a route is not for the model's task."""
_IDS = {"type": "array", "items": {"type": "integer"}}
Texts = Annotated[
    object,
    msgspec.Meta(
        extra_json_schema={
            "type": ["string", "array"],
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                _IDS,
                {"type": "array", "items": _IDS},
            ],
        }
    ),
]
"""A text or several, or their token ids. Only the document says so: `convert_texts` checks it for a better message."""
Ids = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**31)], ...], msgspec.Meta(min_length=1)]
_OWN_FIELD = re.compile(r"\bparameters\.(\w+)|\b(inputs)\b")
_OWN_HINT = re.compile(r'"parameters": \{("\w+": \w+)\}')


def read_json(body: bytes, max_rows: int = 0) -> JsonObject:
    """Decode a JSON object. max_rows: of a request. Raises Malformed for other JSON, TooLarge for too many values."""
    check_values(body, max_rows)
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cause = "it has a lone surrogate" if b"\\ud" in body.lower() else error
        raise Malformed(f"the body is not JSON ({cause}): send an object in UTF-8") from error
    if not isinstance(found, dict):
        raise Malformed(f"the body is JSON of type {type(found).__name__}: send an object")
    return found


def read_form(fields: Mapping[str, object], form: type[Form]) -> Form:
    """Convert to the struct `form`; null means absent. Raises Unprocessable, which has the field.

    Unknown fields are ignored, unless the struct forbids them.
    """
    try:
        return msgspec.convert(without_nulls(fields), form)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".").replace("[...]", "[]")
        missing = re.search(r"missing required field `(\w+)`", rule)
        message = f"{field}: {rule[:1].lower()}{rule[1:]}" if field else rule
        raise Unprocessable(message, field=field or (missing[1] if missing else "")) from error


def named_model(model: str | None) -> tuple[str, str | None]:
    """Split a body's `model`, `name[@alias]` or `name/version`, into name and version. Raises Unprocessable."""
    if not model:
        raise Unprocessable("model is missing: name one of GET /v1/models", field="model")
    name, _, version = model.partition("/")
    return name, version or None


def convert_texts(texts: object, parameters: JsonObject, task: AnyTask, max_rows: int, field: str) -> Request:
    """The request of a text or several, or of their token ids. field: that has them. Raises Unprocessable, TooLarge."""
    if not (isinstance(texts, list) and texts and isinstance(texts[0], int | list)):
        request = convert_request(texts, parameters, task, max_rows)
        if not all(isinstance(item, str) for item in request.items):
            raise Unprocessable(f"{field}: expected a text or a list of texts, or their token ids", field=field)
        return request
    listed = [texts] if isinstance(texts[0], int) else texts
    request = convert_request(["a text"] * len(listed), parameters, task, max_rows)
    try:
        found = msgspec.convert(listed, list[Ids])
    except msgspec.ValidationError as error:
        rule = str(error).partition(" - at `$")[0]
        raise Unprocessable(f"{field} holds other than lists of token ids: {rule}", field=field) from error
    return msgspec.structs.replace(request, items=[TokenIds(ids) for ids in found])


def pick_parameters(fields: Mapping[str, object], task: AnyTask) -> JsonObject:
    """The task's own parameters among a body's fields. null counts as absent."""
    return {name: fields[name] for name in task.parameters_type.__struct_fields__ if fields.get(name) is not None}


def refuse_unknown(fields: Mapping[str, object], form: type[msgspec.Struct], task: AnyTask, *more: str) -> None:
    """Raise Unprocessable for a field that is neither the form's nor a parameter of the task nor one of `more`."""
    known = {*form.__struct_fields__, *task.parameters_type.__struct_fields__, *more}
    unknown = next((name for name, value in fields.items() if name not in known and value is not None), None)
    if unknown is not None:
        raise Unprocessable(f"{unknown} is unknown here and to {task.name}: leave it out", field=unknown)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Context manager that renames the task's fields in errors. names: the task's → the client's, where they differ.

    `parameters.` is dropped, because these protocols have the parameters beside the other fields.
    """

    def rename(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return names.get(name, name)

    try:
        yield
    except ServingError as error:
        found = _OWN_FIELD.search(error.message)
        if found is not None and not error.field:
            error.field = rename(found)
        error.message = _OWN_HINT.sub(r"\1", _OWN_FIELD.sub(rename, error.message))
        raise

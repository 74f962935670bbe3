"""From a body to a checked request of one task, and from its items' answers to the answer. Front side."""

from collections.abc import Sequence
from functools import cache
from types import GenericAlias
from typing import Any

import msgspec

from serving.errors import Malformed, TooLarge, Unprocessable
from serving.tasks.base.body_values import check_values
from serving.tasks.base.fields import drop_unsupported, without_nulls
from serving.tasks.base.task import AnyTask


class Request(msgspec.Struct, frozen=True):
    """A parsed request: items in order, and whether the client sent a list."""

    items: list[Any]
    is_list: bool
    parameters: Any


@cache
def body_form(task: AnyTask, *, wide: bool = True) -> type[msgspec.Struct]:
    """The type of the task's body: `{"inputs": item or [item, …], "parameters": {…}}`.

    wide: parameters are accepted beside `inputs`, too, where the Hugging Face client has those of some tasks.
    """
    beside = [
        (field.encode_name, field.type | msgspec.UnsetType, msgspec.UNSET)
        for field in (msgspec.structs.fields(task.parameters_type) if wide else ())
    ]
    return msgspec.defstruct(
        task.name.title().replace("-", "") + "Body",
        [
            ("inputs", task.item_type | GenericAlias(list, (task.item_type,))),
            ("parameters", task.parameters_type | None, None),
            *beside,
        ],
        forbid_unknown_fields=True,
        frozen=True,
    )


@cache
def _decoder(task: AnyTask) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(body_form(task, wide=False))


def _convert(body: object, task: AnyTask) -> Any:
    """A decoded body in the wide form: null means absent. Raises ValidationError, Unprocessable."""
    body = without_nulls(body)
    if isinstance(body, dict):
        drop_unsupported(body, task.unsupported)
        if isinstance(body.get("parameters"), dict):
            drop_unsupported(body["parameters"], task.unsupported, "parameters.")
            names = task.parameters_type.__struct_fields__
            twice = next((name for name in names if name in body and name in body["parameters"]), None)
            if twice is not None:
                raise Unprocessable(f"parameters.{twice} is also beside parameters: send it once", field=twice)
    return msgspec.convert(body, body_form(task))


def parse_body(body: bytes, task: AnyTask, max_rows: int) -> Request:
    """The request in a JSON body, or in the body of a task that takes files.

    Raises Malformed (not JSON), Unprocessable (field and rule) or TooLarge.
    """
    if task.takes_files and body and body.lstrip()[:1] != b"{":
        return Request([body], False, task.parameters_type())
    check_values(body, max_rows)
    try:
        try:
            form = _decoder(task).decode(body)
        except msgspec.ValidationError as error:  # a rarer form, or an error that the wide form explains
            plain = _decode(body, error)
            if isinstance(plain, dict):
                _check_rows(plain.get("inputs"), max_rows)
            form = _convert(plain, task)
        return _checked(form, task, max_rows)
    except msgspec.ValidationError as error:
        raise Unprocessable(_explain(error, task)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cause = "or it has a lone surrogate" if b"\\ud" in body.lower() else error
        raise Malformed(
            f'the body is not JSON ({cause}): send {{"inputs": …, "parameters": {{…}}}} in UTF-8'
        ) from error


def _decode(body: bytes, error: msgspec.ValidationError) -> object:
    """The body as plain data. error: raised for one that is nested too deeply to be that."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise error from None


def convert_request(inputs: object, parameters: object, task: AnyTask, max_rows: int) -> Request:
    """The request in decoded JSON; raises Unprocessable or TooLarge."""
    _check_rows(inputs, max_rows)
    try:
        form = _convert({"inputs": inputs, "parameters": parameters}, task)
    except msgspec.ValidationError as error:
        raise Unprocessable(_explain(error, task)) from error
    request = _checked(form, task, max_rows)
    for item in request.items:
        _check_unicode(item)
    return request


def assemble(answers: Sequence[object], request: Request, task: AnyTask) -> object:
    """The items' answers in the form of the request: a list for a list."""
    return list(answers) if request.is_list or task.wraps_single_answer(request.items[0]) else answers[0]


def disassemble(answer: Any, request: Request, task: AnyTask) -> list[Any]:
    """The items' answers of what `assemble` made."""
    is_list = request.is_list or task.wraps_single_answer(request.items[0])
    return list(answer) if is_list else [answer]


def _checked(form: Any, task: AnyTask, max_rows: int) -> Request:
    is_list = isinstance(form.inputs, list)
    items = form.inputs if is_list else [form.inputs]
    if not items:
        raise Unprocessable("inputs is an empty list: it needs at least one input")
    _check_rows(items, max_rows)
    return Request(items, is_list, _parameters(form, task))


def _check_rows(inputs: object, max_rows: int) -> None:
    """Raise TooLarge for a list of too many inputs."""
    if isinstance(inputs, list) and len(inputs) > max_rows:
        raise TooLarge(
            f"inputs has {len(inputs):,} entries, a request may have {max_rows:,}: send them in several requests"
        )


def _parameters(form: Any, task: AnyTask) -> Any:
    parameters = form.parameters if form.parameters is not None else task.parameters_type()
    names = form.__struct_fields__[2:]
    if not names:
        return parameters
    beside = {name: value for name in names if (value := getattr(form, name)) is not msgspec.UNSET}
    try:
        return msgspec.structs.replace(parameters, **beside) if beside else parameters
    except ValueError as error:  # the rules that hold between parameters
        raise Unprocessable(str(error)) from error


def _check_unicode(item: object) -> None:
    """Raise Unprocessable for lone surrogates, which decoded JSON can hold and bodies cannot."""
    texts = (
        [item] if isinstance(item, str) else [getattr(item, name) for name in getattr(item, "__struct_fields__", ())]
    )
    for text in texts:
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Unprocessable(
                    f"inputs holds a lone surrogate at character {error.start}: send valid Unicode"
                ) from error


def _explain(error: Exception, task: AnyTask) -> str:
    """Msgspec's message with the path as users write it: `inputs[0]: expected str, got int`, and what to send."""
    rule, _, path = str(error).partition(" - at `$")
    rule = rule[:1].lower() + rule[1:]
    where = path.rstrip("`").lstrip(".").replace("[...]", "[…]")
    hint = f"; {task.item_hint}" if where.startswith("inputs") and "got `" in rule else ""
    return f"{where}: {rule}{hint}" if where else rule

"""The answers of `/predict`, BentoML's typed API: BentoML reads the body's form, and sends what is made here.

A refusal is an answer, too. BentoML would log a traceback for each exception, and leave out `Retry-After`.
"""

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import msgspec
from pydantic import ValidationError
from starlette.responses import Response

from serving.errors import ServingError, Unprocessable
from serving.front.asgi import JSON, Header, JsonObject, Scope, encode_answer, encode_json, refusal
from serving.front.disconnects import Disconnected
from serving.front.front import Front
from serving.front.protocols.base import as_error, headers_of
from serving.front.request_context import RequestContext
from serving.tasks.base.fields import Name
from serving.tasks.base.request import convert_request

current_disconnected: ContextVar[Disconnected | None] = ContextVar("headwaiter_disconnected", default=None)
"""Of the request that this task passes on to BentoML, which does not hand its connection to the API."""


class PredictForm(msgspec.Struct, frozen=True):
    """The body of `/predict`. inputs, parameters: as at `/models/{name}`."""

    model: Name
    inputs: Any
    parameters: dict[str, Any] | None = None
    version: Name | None = None


def check_fields(body: bytes) -> None:
    """Raise Unprocessable for a field that the form does not have: BentoML would leave it out without a word.

    What is no object of JSON is left to BentoML, which says so.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    known = PredictForm.__struct_fields__
    unknown = next((name for name, value in fields.items() if name not in known and bytes(value) != b"null"), None)
    if unknown is not None:
        raise Unprocessable(
            f"{unknown} is no field of this body, which has {', '.join(known)}: put the task's own in parameters",
            field=unknown,
        )


class InvalidForms(logging.Filter):
    """Drops the tracebacks of bodies that are not of the form, which BentoML answers with 400 and the rule."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))


def quiet_refusals() -> None:
    """Let BentoML log nothing for a body that is not of the form. To be called once in a process."""
    logging.getLogger("bentoml._internal.server.http_app").addFilter(InvalidForms())


def as_json(scope: Scope) -> Scope:
    """The request as one of JSON, whatever its content-type says, as on other routes.

    BentoML would read forms, and answer 500 to those that are broken.
    """
    others = [header for header in scope["headers"] if header[0] != b"content-type"]
    return {**scope, "headers": [*others, JSON]}


def describe(error: ServingError) -> JsonObject:
    """The body of an error."""
    return {"error": error.message}


async def predict(front: Front, form: PredictForm, headers: Iterable[Header]) -> Response:
    """The answer to a request, or its refusal. Never raises."""
    context, limit = RequestContext.read(headers), front.settings.max_rows
    try:
        answer = await front.answer(
            form.model,
            form.version,
            lambda task: convert_request(form.inputs, form.parameters, task, limit),
            protocol="bentoml",
            write=encode_answer,
            disconnected=current_disconnected.get(),
            context=context,
        )
    except Exception as raised:  # the edge, as for every protocol
        error = as_error(raised, context)
        status, body, found = refusal(error, context, encode_json(describe(error)))
    else:
        status, body, found = 200, answer.value, [JSON, *headers_of(answer), context.header]
    return Response(body, status, {name.decode(): value.decode() for name, value in found})

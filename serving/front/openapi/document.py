"""The OpenAPI 3.1 document of `GET /openapi.json`, made from `routes` and from the types that parse the bodies."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from headwaiter import __version__
from serving.front.asgi import encode_json
from serving.front.openapi.route import (
    JSON,
    Beside,
    Contents,
    Opaque,
    Route,
    Schema,
    Shaped,
    TaskAnswers,
    TaskBodies,
    Which,
)
from serving.front.openapi.routes import BENTOML, ROUTES
from serving.front.openapi.shapes import HuggingFaceError
from serving.front.protocols import openai_forms
from serving.tasks import get_task, served_tasks
from serving.tasks.base.request import body_form
from serving.tasks.base.task import AnyTask

Json = dict[str, Any]
REFERENCE = "#/components/schemas/"
MODULE = b"serving.tasks."
"""Part of the name of a type that is not the only one of its name."""
BY_ACCESS = {401, 403, 421, 429}
"""Statuses of the refusals of a server with keys or host names, on every route."""
BY_CONNECTION = {400, 408, 413, 431, 501, 503}
"""Statuses of the refusals of any connection; these have Hugging Face's form on every route."""
REASONS = {
    400: "The body is not of the protocol's form",
    401: "The key or the signature is missing or wrong",
    403: "The key is not for this",
    404: "No such model or version",
    408: "Headers or body did not come in time",
    413: "More than a request may come to",
    421: "The server is not known by this host name",
    422: "Wrong for the task; the message names the field and the rule",
    429: "The queue is full, or the key has had its share",
    431: "Too many headers",
    500: "The model failed on this input, or the server has a bug",
    501: "The body has a transfer coding other than chunked",
    503: "Not ready, or no room",
    504: "No answer before the deadline",
}
DESCRIPTION = (
    "Fine-tuned Hugging Face models from an MLflow registry. `null` counts as absent, for every field of every body. "
    "A path with a slash at its end is the same path. HEAD is answered wherever GET is."
)
HEADERS: Json = {
    "X-Request-Id": {"description": "The request's id", "schema": {"type": "string"}},
    "X-Model-Version": {"description": "The version that answered", "schema": {"type": "string"}},
    "Server-Timing": {"description": "Milliseconds in each stage", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds after which to try again",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
}
PAGE_HEADERS: Json = {
    "Content-Security-Policy": {"description": "Own files only, no inline scripts", "schema": {"type": "string"}},
    "X-Content-Type-Options": {"description": "The content type holds", "schema": {"const": "nosniff"}},
    "Referrer-Policy": {"description": "No address is passed on", "schema": {"const": "no-referrer"}},
    "Cross-Origin-Opener-Policy": {"description": "Apart from other sites", "schema": {"const": "same-origin"}},
}
"""Of the answers that are files of the page."""
CHALLENGE: Json = {"WWW-Authenticate": {"description": "How to authenticate", "schema": {"const": "Bearer"}}}
PARAMETERS: Json = {
    "name": {
        "description": "A model, or `name@alias` where the server follows several aliases",
        "schema": {"type": "string", "pattern": "^[^/]+$"},
    },
    "id": {"description": "As `name`", "schema": {"type": "string", "pattern": "^[^/]+$"}},
    "version": {"description": "A version of the model", "schema": {"type": "string", "pattern": "^[^/]+$"}},
    "path": {"description": "A file", "schema": {"type": "string", "pattern": "^[^/]+$"}},
    "file": {"description": "A file of the page", "schema": {"type": "string", "pattern": "^[^/]+$"}},
}


@cache
def document() -> bytes:
    """The document as JSON. Takes some tenths of a second the first time, because it imports every task."""
    return encode_json(describe())


def describe() -> Json:
    """The document as plain data."""
    schemas = Schemas(each for route in ROUTES for each in _types(route))
    paths: dict[str, Json] = {}
    refusals: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, _path(route))[route.method.lower()] = _operation(route, schemas)
        refusals |= {_refusal_name(route, status): _refusal(route, status, schemas) for status in _refusals(route)}
    return {
        "openapi": "3.1.1",
        "info": {"title": "Headwaiter", "version": __version__, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": HEADERS | PAGE_HEADERS,
            "responses": refusals,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


class Schemas:
    """The schemas of types. components: those that have names."""

    def __init__(self, types: Iterable[object]) -> None:
        members = list({repr(each): each for given in types for each in _members(given)}.values())
        made = msgspec.json.schema_components(members, schema_hook=_any, ref_template=REFERENCE + "{name}")
        found, components = msgspec.json.decode(encode_json(made).replace(MODULE, b""))
        self._by_type = {repr(member): schema for member, schema in zip(members, found, strict=True)}
        self.components: dict[str, Json] = components
        for task in _tasks("all"):
            self._add_unsupported(task)

    def of(self, *types: object) -> Json:
        """The schema of a value that has one of these types."""
        options = [self._by_type[repr(member)] for given in types for member in _members(given)]
        unique = list({encode_json(option): option for option in options}.values())
        return unique[0] if len(unique) == 1 else {"anyOf": unique}

    def beside(self, form: type[msgspec.Struct], which: Which) -> Json:
        """A form's schema with the parameters of some tasks among its fields, and the fields that have no effect."""
        own = self._component(form)
        fields = {name: {"enum": [*values, None]} for name, values in openai_forms.UNSUPPORTED.items()}
        fields |= {name: {} for name in openai_forms.WITHOUT_EFFECT}
        for task in _tasks(which):
            for name, schema in self._component(task.parameters_type)["properties"].items():
                known = fields.setdefault(name, schema)
                if known != schema:
                    fields[name] = {"anyOf": [known, schema]}
        return own | {"properties": fields | own["properties"], "additionalProperties": False}

    def _component(self, form: type[msgspec.Struct]) -> Json:
        return self.components[self._by_type[repr(form)]["$ref"].removeprefix(REFERENCE)]

    def _add_unsupported(self, task: AnyTask) -> None:
        """A task's body may have fields that ask for nothing, and `stream`."""
        nothing = {name: {"enum": [*values, None]} for name, values in task.unsupported.items()}
        body = self._component(body_form(task))
        body["properties"] |= nothing
        self._component(task.parameters_type)["properties"] |= nothing
        if task.generates:
            body["properties"]["stream"] = {"type": ["boolean", "null"]}


def _types(route: Route) -> Iterator[object]:
    """Every type that a route names."""
    yield HuggingFaceError
    yield route.protocol.error
    for schema in (*route.answer.values(), *(route.body or {}).values()):
        match schema:
            case Shaped(types):
                yield from types
            case TaskBodies():
                yield from map(body_form, _tasks("all"))
                yield from (task.parameters_type for task in _tasks("all"))
            case TaskAnswers():
                yield from map(_answer, _tasks("all"))
            case Beside(form, which):
                yield form
                yield from (task.parameters_type for task in _tasks(which))


def _tasks(which: Which) -> list[AnyTask]:
    tasks = [get_task(name) for name in served_tasks()]
    match which:
        case "all":
            return tasks
        case "files":
            return [task for task in tasks if task.takes_files]
        case "generates":
            return [task for task in tasks if task.generates]
        case "embeds":
            return [task for task in tasks if task.embeds]


def _answer(task: AnyTask) -> object:
    """The type of a task's answer to one input."""
    return get_type_hints(type(task).decode)["return"]


def _members(given: object) -> tuple[object, ...]:
    """Split a union into its members, because msgspec rejects a union of two list types."""
    return get_args(given) if get_origin(given) in (Union, UnionType) else (given,)


def _any(kind: type) -> Json:
    """The hook of msgspec for types that it does not know: `object` is any JSON."""
    if kind is not object:
        raise NotImplementedError
    return {"$comment": "any JSON"}


def _path(route: Route) -> Json:
    """The parameters of a path."""
    names = re.findall(r"\{(\w+)\}", route.path)
    return {"parameters": [{"name": name, "in": "path", "required": True} | PARAMETERS[name] for name in names]}


def _operation(route: Route, schemas: Schemas) -> Json:
    names = [*(name for name in HEADERS if name != "Retry-After"), *route.headers]
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    answer = {"description": route.summary, "headers": headers, "content": _content(route.answer, schemas)}
    answers = {str(route.status): answer}
    for status in _refusals(route):
        answers[str(status)] = {"$ref": f"#/components/responses/{_refusal_name(route, status)}"}
    operation: Json = {
        "operationId": route.operation,
        "tags": [route.protocol.name],
        "summary": route.summary,
        "responses": answers,
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, schemas)}
    return operation


def _refusals(route: Route) -> list[int]:
    return sorted({*route.refusals, *BY_ACCESS, *BY_CONNECTION})


def _refusal_name(route: Route, status: int) -> str:
    return f"{route.protocol.name.replace(' ', '')}{status}"


def _refusal(route: Route, status: int, schemas: Schemas) -> Json:
    error = route.protocol.error
    forms = (error, HuggingFaceError) if status in BY_CONNECTION else (error,)
    content: Json = {JSON: {"schema": schemas.of(*forms)}}
    if route.protocol == BENTOML:  # of its routes without a body
        content["text/plain"] = {"schema": {"type": "string"}}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS if name != "Server-Timing"}
    headers |= CHALLENGE if status == HTTPStatus.UNAUTHORIZED else {}
    return {"description": REASONS[status], "headers": headers, "content": content}


def _content(contents: Contents, schemas: Schemas) -> Json:
    return {media: {"schema": _schema(schema, schemas)} for media, schema in contents.items()}


def _schema(schema: Schema, schemas: Schemas) -> Json:
    match schema:
        case Shaped(types):
            return schemas.of(*types)
        case TaskBodies():
            return schemas.of(*map(body_form, _tasks("all")))
        case TaskAnswers():
            single = schemas.of(*map(_answer, _tasks("all")))
            return {"anyOf": [*single["anyOf"], {"type": "array", "items": single}]}
        case Beside(form, which):
            return schemas.beside(form, which)
        case Opaque(is_text):
            return {"type": "string"} if is_text else {}

"""Requests to a front's data plane, and whether they and their answers are as the OpenAPI document says."""

import asyncio
import json
import re
from typing import Any

import httpx
import jsonschema_rs

from serving.front.app import DataPlane
from serving.front.front import Front
from serving.front.openapi.document import describe
from serving.front.openapi.route import Route
from serving.front.openapi.routes import BENTOML, ROUTES

DOCUMENT = describe()
OWN = [route for route in ROUTES if route.protocol != BENTOML]
"""Those that BentoML does not answer."""
TEXT, GENERATES, EMBEDS = "text-classification", "text-generation", "feature-extraction"
"""Models: of each task there is one, of the same name."""
ELSEWHERE = 299
"""The status of BentoML's app here."""


class Inner:
    """Stands where BentoML's app does."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": ELSEWHERE, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def ask(front: Front, method: str, path: str, **given: Any) -> httpx.Response:
    """Send a request to the data plane."""

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(DataPlane(front, Inner()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **given)

    return asyncio.run(work())


def filled(route: Route, name: str = TEXT) -> str:
    """The route's path with a model that is there."""
    return re.sub(r"\{\w+\}", lambda found: {"{version}": "1", "{file}": "style.css"}.get(found[0], name), route.path)


def identify(route: Route) -> str:
    return f"{route.method} {route.path}"


def strict(components: Any) -> Any:
    """The components, in which no object may have a field that is not described."""
    schemas = {
        name: schema | ({"additionalProperties": False} if "properties" in schema else {})
        for name, schema in components["schemas"].items()
    }
    return components | {"schemas": schemas}


ADDRESS = "urn:document"
REGISTRY = jsonschema_rs.Registry([(ADDRESS, {"components": strict(DOCUMENT["components"])})])
"""The components, read once."""


def check(schema: Any, value: object) -> None:
    """Raise ValidationError for a value that breaks a schema of the document."""
    addressed = json.loads(json.dumps(schema).replace('"#/', f'"{ADDRESS}#/'))
    jsonschema_rs.validator_for(addressed, registry=REGISTRY).validate(value)


def described(method: str, path: str) -> Any:
    """The operation that answers a path. A route without parameters goes first."""
    for route in sorted(ROUTES, key=lambda route: route.path.count("{")):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        if route.method == method and re.fullmatch(pattern, path):
            return DOCUMENT["paths"][route.path][method.lower()]
    raise AssertionError(path)


def check_answer(answer: httpx.Response) -> None:
    """Check that an answer's status, content type, headers and body are those of the document."""
    operation = described(answer.request.method, answer.request.url.path)
    found = operation["responses"][str(answer.status_code)]
    found = DOCUMENT["components"]["responses"][found["$ref"].split("/")[-1]] if "$ref" in found else found
    kind = answer.headers["content-type"]
    (schema,) = (
        each["schema"] for media, each in found["content"].items() if media == kind or media == kind.split(";")[0]
    )
    check(schema, answer.json() if kind == "application/json" else answer.text)
    known = {name.lower() for name in found["headers"]} | {
        "content-type",
        "content-length",
        "cache-control",
        "x-accel-buffering",
    }
    assert set(answer.headers) <= known | {"inference-header-content-length"}


def check_body(path: str, body: object) -> None:
    """Check that the document allows a body that is answered."""
    check(described("POST", path)["requestBody"]["content"]["application/json"]["schema"], body)

"""Requests that schemathesis draws from a server's OpenAPI document, and what may not be answered to them.

The document says what every model takes. Here it is narrowed to the models that the server has, so that many of the
requests reach them. Half of the requests break a rule of the document.
"""

import copy
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Err
from schemathesis.specs.openapi import checks

from serving.front.ui_page import read_files

Json = dict[str, Any]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
"""A PNG of one pixel."""
Send = Callable[[requests.PreparedRequest], httpx.Response]
"""Sends a request and returns the answer."""

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
JSON = "application/json"
OF_NO_TASK = ("/v1/", "/rerank", "/tokenize", "/detokenize", "/admin/")
"""Parts of paths whose bodies are not those of a task."""
RANKS, EMBEDS = ("text-classification",), ("feature-extraction",)
WRITES = ("text-generation", "text2text-generation", "summarization", "translation")
MAX_NEW_TOKENS = 4
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3}]}
MESSAGE = {"properties": {"role": {"enum": ["user", "assistant"]}, "content": TEXT}, "required": ["role", "content"]}
MESSAGES = {"type": "array", "items": {"type": "object", **MESSAGE}, "minItems": 1, "maxItems": 3}
EXAMPLES: dict[str, Any] = {
    "fill-mask": "a [MASK]",
    "image-classification": b64encode(PIXEL).decode(),
    "question-answering": {"question": "who?", "context": "it is me"},
    "multiple-choice": {"prompt": "a", "choices": ["b", "c"]},
    "next-sentence-prediction": {"text": "a", "text_pair": "b"},
}
"""Inputs that models take, by task; where there is none, a text."""
EXAMPLE_PARAMETERS: dict[str, Json] = {"zero-shot-classification": {"candidate_labels": ["a", "b"]}}
BUSY = (503,)
"""Statuses of 500 and above that are honest if they say when to try again."""
TRACE = re.compile(r"Traceback \(most recent call last\)|File \"[^\"]+\", line \d+")


@dataclass
class Ledger:
    """What was answered: how often each route had each status; and what may not be, once of each kind."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def take(self, other: "Ledger") -> None:
        """Add what another one holds."""
        self.answers += other.answers
        self.faults = other.faults | self.faults

    @property
    def count(self) -> int:
        """How many were answered."""
        return self.answers.total()

    def note(self, case: Case[Any], sent: requests.PreparedRequest, answer: httpx.Response) -> None:
        """Count an answer, and remember what is wrong with it."""
        label, status = case.operation.label, answer.status_code
        self.answers[label, status] += 1
        if status >= 500 and not (status in BUSY and answer.headers.get("retry-after")):
            self.add(f"{label}: {status}", sent, answer.text)
        if TRACE.search(answer.text):
            self.add(f"{label}: a traceback", sent, answer.text)
        try:
            case.validate_response(answer, checks=CHECKS)
        except BaseExceptionGroup as found:
            self.add(f"{label}: {status} is not as described", sent, str(found.exceptions[0]))

    def add(self, kind: str, sent: requests.PreparedRequest, what: str) -> None:
        """Remember the first fault of a kind."""
        self.faults.setdefault(kind, f"{sent.method} {sent.url} {sent.body!r:.2000}\n{what:.2000}")


def fuzz(document: Json, models: Mapping[str, str], send: Send, count: int, seed: int = 0) -> Ledger:
    """Send `count` requests, the same ones each time for a seed. models: the server's, name → task."""
    schema = schemathesis.openapi.from_dict(narrow(document, models))
    operations = [_checked(found) for found in schema.get_all_operations()]
    ledger = Ledger()

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(_cases(operation) for operation in operations)))
    def run(case: Case[Any]) -> None:
        arguments = case.as_transport_kwargs(base_url="http://here")
        known = ("method", "url", "headers", "data", "json", "params")
        sent = requests.Request(**{name: arguments[name] for name in known if name in arguments}).prepare()
        ledger.note(case, sent, send(sent))

    run()
    return ledger


def _checked(found: Any) -> Any:
    if isinstance(found, Err):
        raise found.err()
    return found.ok()


def _cases(operation: Any) -> st.SearchStrategy[Case[Any]]:
    kept: st.SearchStrategy[Case[Any]] = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if operation.method == "get":
        return kept
    wrong: st.SearchStrategy[Case[Any]] = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    return kept | wrong


def narrow(document: Json, models: Mapping[str, str]) -> Json:
    """The document of a server with these models alone: their names, and on each path what its model takes."""
    found = copy.deepcopy(document)
    schemas = found["components"]["schemas"]
    _narrow_schemas(schemas, models)
    paths: dict[str, Json] = {}
    for path, item in found["paths"].items():
        expands = "post" in item and "{name}" in path and not any(each in path for each in OF_NO_TASK)
        for name in models if expands else [""]:
            own = copy.deepcopy(item)
            own["parameters"] = [
                each | {"schema": _values(each["name"], models)}
                for each in item["parameters"]
                if not (expands and each["name"] == "name")
            ]
            content = own.get("post", {}).get("requestBody", {}).get("content", {})
            if expands:
                content[JSON]["schema"] = _body_of(path, models[name], schemas)
            elif JSON in content:
                _bound(content[JSON]["schema"], models)
            paths[path.replace("{name}", name) if expands else path] = own
    return found | {"paths": paths}


def _values(parameter: str, models: Mapping[str, str]) -> Json:
    known: dict[str, Iterable[str]] = {"name": models, "id": models, "version": ["1"], "path": ["none"]}
    known["file"] = read_files()
    return {"enum": list(known[parameter])}


def _body_of(path: str, task: str, schemas: Json) -> Json:
    """The body of a route for one task, with inputs that the model takes and any parameters."""
    example, parameters = EXAMPLES.get(task), EXAMPLE_PARAMETERS.get(task)
    body: Json = schemas[f"{task.title().replace('-', '')}Body"]
    field = "parameters"
    inputs = TEXTS if example is None else {"enum": [example, [example, example]]}
    if path.startswith("/v2/"):
        body, inputs = schemas["InferenceForm"], {"enum": [_tensors(example or "a text")]}
    elif path.startswith("/invocations"):
        field = "params"
        body = {"type": "object", "properties": {field: body["properties"]["parameters"]}}
    answered = {"inputs": inputs} | ({field: {"enum": [parameters]}} if parameters else {})
    return body | {"properties": body["properties"] | answered, "required": list(answered)}


def _tensors(item: Any) -> list[Json]:
    """The tensors of one input."""
    parts = item if isinstance(item, dict) else {"text": item}
    return [
        {"name": name, "datatype": "BYTES"}
        | ({"shape": [1, len(part)], "data": part} if isinstance(part, list) else {"shape": [1], "data": [part]})
        for name, part in parts.items()
    ]


def _bound(schema: Json, models: Mapping[str, str]) -> None:
    """Let a body name a model that can answer it, and ask for few tokens. Changes the schema."""
    fields = schema.get("properties", {})
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens", "min_new_tokens"):
        if name in fields:
            fields[name] = {"type": "integer", "maximum": MAX_NEW_TOKENS}
    fields |= {name: TEXTS for name in ("prompt", "input") if name in fields and "model" in fields}
    if "messages" in fields:
        fields["messages"] = MESSAGES
    if "model" in fields:
        tasks = EMBEDS if "input" in fields else RANKS if "query" in fields else WRITES
        able = [name for name, task in models.items() if task in tasks] or [*models]
        fields["model"] = {"enum": [*able, *(f"{name}/1" for name in able)]}
        schema["required"] = [*{*schema.get("required", []), "model"}]


def _narrow_schemas(schemas: Json, models: Mapping[str, str]) -> None:
    """Bound what makes requests slow, and let a tensor have as many elements as its shape says."""
    for name, schema in schemas.items():
        if name.endswith(("Form", "Body", "Parameters")):  # the others are of answers
            _bound(schema, models)
    schemas["RequestedOutput"]["properties"]["name"] = {"const": "output"}
    names = ["text", "inputs", "question", "context", "prompt", "choices", "text_pair", "image", "candidate_labels"]
    tensor = schemas["Tensor"]
    sized = [
        {"shape": {"const": [count]}, "data": {"type": "array", "items": {"type": "string"}} | _exactly(count)}
        for count in (1, 2)
    ]
    tensor["properties"]["name"] = {"enum": names}
    tensor["properties"]["datatype"] = {"const": "BYTES"}
    schemas["Tensor"] = {"anyOf": [tensor | {"properties": tensor["properties"] | each} for each in sized]}


def _exactly(count: int) -> Json:
    return {"minItems": count, "maxItems": count}

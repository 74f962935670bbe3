"""`/invocations[/{name}]`, `/ping`, `/version`: MLflow's scoring protocol (3.17), as `mlflow models serve` has it.

A body has exactly one of `inputs`, `instances`, `dataframe_split` and `dataframe_records`, and may have `params`, which
are the task's parameters; or it is a table in CSV. The answer is `{"predictions": […]}`, one a row.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from typing import Any

import msgspec

from serving.errors import Malformed, NotReady, ServingError, UnknownModel, Unprocessable
from serving.front.asgi import JSON, encode_json
from serving.front.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.front.protocols.forms import read_form, read_json
from serving.tasks.base.columns import to_inputs
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

FORMATS = ("inputs", "instances", "dataframe_split", "dataframe_records")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
ERROR_CODES = {
    400: "BAD_REQUEST",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Split(msgspec.Struct, frozen=True):
    """A table as pandas' `to_dict(orient="split")` writes it."""

    columns: list[str]
    data: list[list[Any]]


class _SplitForm(msgspec.Struct, frozen=True):
    dataframe_split: Split


class Scoring(Protocol):
    """The scoring routes; without a name in the path they ask the one model that is served."""

    name = "mlflow"

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """By the whole path."""
        match parts:
            case ["ping"]:
                if not self.front.is_ready():
                    raise NotReady("the server is not ready: a model is still loading", retry_seconds=1.0)
                await exchange.respond(b"\n", TEXT)
            case ["version"]:
                await exchange.respond(installed("mlflow").encode(), TEXT)
            case ["invocations"]:
                await self._score(self._only_model(), exchange)
            case ["invocations", name]:
                await self._score(name, exchange)
            case _:
                raise no_route("POST /invocations/{name}, or /invocations where one model is served")

    def describe(self, error: ServingError) -> Any:
        """MLflow's own code words."""
        default = "INTERNAL_ERROR" if error.status >= 500 else "INVALID_PARAMETER_VALUE"
        return {"error_code": ERROR_CODES.get(error.status, default), "message": error.message}

    def _only_model(self) -> str:
        models = list(self.front.routes.table.models)
        if len(models) != 1:
            raise UnknownModel(f"name a model, /invocations/{{name}}; served: {', '.join(models) or 'none yet'}")
        return models[0]

    async def _score(self, name: str, exchange: Exchange) -> None:
        exchange.expect("POST")
        settings = self.front.settings
        body = await exchange.body(settings.max_body_bytes)
        kind = exchange.header(b"content-type").partition(";")[0].strip().lower()
        if kind == "application/octet-stream" or "parquet" in kind:
            raise Malformed(f"content-type {kind} is not read: send application/json or text/csv")
        found = {"csv": _read_csv(body)} if kind == "text/csv" else read_json(body)
        given = [name for name in ("csv", *FORMATS) if name in found]
        if len(given) != 1:
            raise Malformed(
                f"the body must have exactly one of {', '.join(FORMATS)}; it has {', '.join(found) or 'none'}"
            )

        def read(task: AnyTask) -> Request:
            inputs = _read_inputs(given[0], found[given[0]], task)
            return convert_request(inputs, found.get("params"), task, settings.max_rows)

        answer = await self.front.answer(
            name, None, read, protocol=self.name, write=_write, gone=exchange.gone, trail=exchange.trail
        )
        await exchange.respond(answer.value, JSON, *headers_of(answer))


def _write(answers: Any) -> bytes:
    return encode_json({"predictions": answers})


def _read_inputs(form: str, value: Any, task: AnyTask) -> list[Any]:
    match form:
        case "csv":
            return to_inputs(value, task)
        case "dataframe_split":
            split = read_form({form: value}, _SplitForm).dataframe_split
            if any(len(row) != len(split.columns) for row in split.data):
                raise Unprocessable(
                    f"dataframe_split: every row of data needs {len(split.columns)} values, one a column"
                )
            return to_inputs({name: [row[at] for row in split.data] for at, name in enumerate(split.columns)}, task)
        case "dataframe_records":
            return to_inputs(_columns(value, form), task)
        case _:
            return _plain(value, task)


def _plain(value: Any, task: AnyTask) -> list[Any]:
    """Inputs as the task has them: one, a list of them, or their columns."""
    if isinstance(value, Mapping):
        if value and all(isinstance(column, list) for column in value.values()):
            return to_inputs(value, task)
        return [value]
    return value if isinstance(value, list) else [value]


def _columns(records: Any, form: str) -> dict[str, list[Any]]:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise Unprocessable(f"{form}: expected a list of objects, one a row")
    names = records[0].keys() if records else ()
    if any(record.keys() != names for record in records):
        raise Unprocessable(f"{form}: every row needs the same columns as the first: {', '.join(names)}")
    return {name: [record[name] for record in records] for name in names}


def _read_csv(body: bytes) -> Mapping[str, Sequence[str]]:
    try:
        header, *rows = list(csv.reader(io.StringIO(body.decode()), strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Malformed(f"the body is not CSV in UTF-8 ({error})") from error
    rows = [row for row in rows if row]
    if not header or any(len(row) != len(header) for row in rows):
        raise Malformed(
            "the body is no table in CSV: it needs a line of column names, and a value for each in every row"
        )
    return {name: [row[at] for row in rows] for at, name in enumerate(header)}

"""`/invocations[/{name}]`, `/ping`, `/version`: MLflow's scoring protocol (3.17), as `mlflow models serve` has it.

A body is a table in CSV, or has exactly one of `inputs`, `instances`, `dataframe_split` and `dataframe_records`, and
may have `params`: the task's parameters. The answer is `{"predictions": […]}`, one per row.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version as installed
from itertools import islice
from typing import Annotated, Literal, assert_never, get_args

import msgspec

from serving.errors import Malformed, NotReady, ServingError, TooLarge, Unprocessable, mlflow_code
from serving.front.asgi import JSON, JsonObject, encode_answer
from serving.front.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.front.protocols.forms import read_form, read_json
from serving.settings import DEFAULT_BODY_BYTES
from serving.tasks.base.columns import check_names, to_inputs, unread_column
from serving.tasks.base.fields import Name
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

Format = Literal["inputs", "instances", "dataframe_split", "dataframe_records"]
FORMATS: tuple[Format, ...] = get_args(Format)
PARAMS = "params"
ReadInputs = Callable[[AnyTask], list[object]]
MAX_LINES = 1 << 16
"""Lines of a table in CSV, empty ones included. Untuned: they are read in 20 ms."""
MAX_COLUMNS = 64
"""Columns of a table in CSV. Untuned: as many as an Open Inference request may have tensors."""
MAX_FIELD = DEFAULT_BODY_BYTES
"""Characters of a field in CSV: a text or an image in base64, each of which has narrower bounds of its own. They are
copied at 4 bytes each while the field is read."""
csv.field_size_limit(MAX_FIELD)  # of the process, which reads no other CSV: once, because other threads may be reading
TEXT = (b"content-type", b"text/plain; charset=utf-8")


class SplitTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table as pandas' `to_dict(orient="split")` writes it. index: names the rows, which have their order."""

    columns: Annotated[list[Name], msgspec.Meta(max_length=MAX_COLUMNS)]
    data: list[list[object]]
    index: list[object] = []


class _SplitTableForm(msgspec.Struct, frozen=True):
    dataframe_split: SplitTable


class MLflowScoring(Protocol):
    """The scoring routes. Without a model name in the path, the only served model answers."""

    name = "mlflow"

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Dispatch by the whole path."""
        match parts:
            case ["ping"]:
                exchange.expect("GET")
                if not self.front.is_ready():
                    raise NotReady("the server is not ready: a model is still loading", retry_seconds=1.0)
                await exchange.respond(b"\n", TEXT)
            case ["version"]:
                exchange.expect("GET")
                await exchange.respond(installed("mlflow").encode(), TEXT)
            case ["invocations"]:
                exchange.expect("POST")
                await self._score(self.only_model("name a model, /invocations/{name}"), exchange)
            case ["invocations", name]:
                await self._score(name, exchange)
            case _:
                raise no_route("POST /invocations/{name}, or /invocations where one model is served")

    def describe(self, error: ServingError) -> JsonObject:
        """With MLflow's error codes."""
        return {"error_code": mlflow_code(error.status), "message": error.message}

    async def _score(self, name: str, exchange: Exchange) -> None:
        exchange.expect("POST")
        settings = self.front.settings
        body = await exchange.body(settings.max_body_bytes)
        kind = exchange.header(b"content-type").partition(";")[0].strip().lower()
        if kind == "application/octet-stream" or "parquet" in kind:
            raise Malformed(f"content-type {kind} is not read: send application/json or text/csv")
        read_body = _read_table if kind == "text/csv" else _read_object
        read_inputs, params = read_body(body, settings.max_rows)

        def read(task: AnyTask) -> Request:
            return convert_request(read_inputs(task), params, task, settings.max_rows)

        answer = await self.front.answer(
            name,
            None,
            read,
            protocol=self.name,
            write=_write,
            disconnected=exchange.disconnected,
            context=exchange.context,
        )
        await exchange.respond(answer.value, JSON, *headers_of(answer))


def _write(answers: object) -> bytes:
    return b'{"predictions":%b}' % encode_answer(answers)


def _read_table(body: bytes, max_rows: int) -> tuple[ReadInputs, object]:
    """A body in CSV: what makes the inputs, once the task is known."""
    return partial(_of_columns, _read_csv(body, max_rows)), None


def _read_object(body: bytes, max_rows: int) -> tuple[ReadInputs, object]:
    """A body in JSON: what makes the inputs, once the task is known, and the parameters. Raises Malformed."""
    found = {name: value for name, value in read_json(body, max_rows).items() if value is not None}
    given = [name for name in FORMATS if name in found]
    if len(given) != 1:
        raise Malformed(f"the body must have exactly one of {', '.join(FORMATS)}; it has {', '.join(found) or 'none'}")
    unknown = next((name for name in found if name not in (*given, PARAMS)), None)
    if unknown is not None:
        raise Unprocessable(
            f"{unknown} is no field of this body: put the model's parameters in {PARAMS}, and leave others out",
            field=unknown,
        )
    return partial(_read_inputs, given[0], found[given[0]], max_rows), found.get(PARAMS)


def _read_inputs(form: Format, value: object, max_rows: int, task: AnyTask) -> list[object]:
    match form:
        case "dataframe_split":
            _check_rows(value.get("data") if isinstance(value, dict) else None, max_rows)
            split = read_form({form: value}, _SplitTableForm).dataframe_split
            if any(len(row) != len(split.columns) for row in split.data):
                raise Unprocessable(
                    f"dataframe_split: every row of data needs {len(split.columns)} values, one a column"
                )
            check_names(split.columns)
            columns = {name: [row[at] for row in split.data] for at, name in enumerate(split.columns)}
            inputs = _of_columns(columns, task)
        case "dataframe_records":
            _check_rows(value, max_rows)
            inputs = _of_columns(_columns(value, form), task)
        case "inputs" | "instances":
            inputs = _plain(value, task)
        case _:
            assert_never(form)
    return inputs


def _plain(value: object, task: AnyTask) -> list[object]:
    """The inputs of a body in the task's own form: one input, a list of inputs, or their columns."""
    if isinstance(value, Mapping):
        if value and all(isinstance(column, list) for column in value.values()):
            return _of_columns(value, task)
        return [value]
    return value if isinstance(value, list) else [value]


def _of_columns(columns: Mapping[str, Sequence[object]], task: AnyTask) -> list[object]:
    """The inputs of a table. Raises Unprocessable for a column that is not read."""
    unread = unread_column(columns, task)
    if unread is not None:
        is_parameter = unread in task.parameters_type.__struct_fields__
        way_out = (
            f"parameters hold for all rows, so put it in {PARAMS} of a body in JSON" if is_parameter else "leave it out"
        )
        raise Unprocessable(f"column {unread!r} is unknown to {task.name} beside the others: {way_out}", field=unread)
    return to_inputs(columns, task)


def _columns(records: object, form: str) -> dict[str, list[object]]:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise Unprocessable(f"{form}: expected a list of objects, one a row")
    names = records[0].keys() if records else ()
    if any(record.keys() != names for record in records):
        raise Unprocessable(f"{form}: every row needs the same columns as the first: {', '.join(names)}")
    return {name: [record[name] for record in records] for name in names}


def _check_rows(rows: object, max_rows: int) -> None:
    """Raise TooLarge for a table of too many rows."""
    if isinstance(rows, list) and len(rows) > max_rows:
        raise TooLarge(f"the table has more than {max_rows:,} rows: send it in several requests")


def _read_csv(body: bytes, max_rows: int) -> Mapping[str, Sequence[str]]:
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        header = next(lines, [])
        rows = list(islice(filter(None, islice(lines, MAX_LINES)), max_rows + 1))
        has_more = len(rows) <= max_rows and next(lines, None) is not None
    except (UnicodeDecodeError, csv.Error) as error:
        if "field limit" in str(error):
            raise TooLarge(
                f"the table has a field of more than {MAX_FIELD:,} characters: send less, or send JSON"
            ) from error
        raise Malformed(
            f"the body is not CSV in UTF-8 ({error}): send a line of column names, and then the rows"
        ) from error
    _check_rows(rows, max_rows)
    if has_more or len(header) > MAX_COLUMNS:
        raise TooLarge(f"the table has more than {MAX_LINES:,} lines or {MAX_COLUMNS} columns: send less at a time")
    if not header or any(len(row) != len(header) for row in rows):
        raise Malformed(
            "the body is no table in CSV: it needs a line of column names, and a value for each in every row"
        )
    check_names(header)
    index = 1 if len(header) > 1 and not header[0] else 0  # pandas' `to_csv` names the rows in a first column
    return {name: [row[at] for row in rows] for at, name in enumerate(header) if at >= index}

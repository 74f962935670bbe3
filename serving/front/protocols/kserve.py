"""`/v2…`: the Open Inference Protocol v2, as KServe and Triton speak it.

An input is a BYTES tensor of text with one element per row: `text` or `inputs`, or one tensor for each part of the
task's inputs, such as `question` and `context`. The request's `parameters` are the task's. The one output tensor is
`output`: vectors as FP32, other answers as JSON in BYTES.
"""

import base64
from functools import cache

import msgspec

from headwaiter import __version__
from serving.errors import Malformed, NotReady, ServingError, Unprocessable
from serving.front.asgi import JSON, JsonObject, encode_json
from serving.front.loaded_version import LoadedVersion
from serving.front.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.front.protocols.forms import read_form, read_json
from serving.front.protocols.kserve_tensors import Tensor, output_form, read_columns, split_body, write_output
from serving.tasks.base.columns import parts_of, takes_text, to_inputs
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

HEADER_LENGTH = b"inference-header-content-length"
RESERVED = ("binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout")
"""Request parameters of the protocol and of Triton, which are not passed to the task."""


class Wanted(msgspec.Struct, frozen=True):
    """A requested output."""

    name: str
    parameters: JsonObject = {}


class InferenceForm(msgspec.Struct, frozen=True):
    """An inference request."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: JsonObject = {}
    outputs: list[Wanted] = []


class KServe(Protocol):
    """Health, metadata and inference."""

    name = "kserve"

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Dispatch by the segments after `v2`."""
        match parts[1:]:
            case []:
                exchange.expect("GET")
                await exchange.respond_json(_server())
            case ["health", "live"]:
                await self._tell(exchange, "live", self.front.is_alive())
            case ["health", "ready"]:
                await self._tell(exchange, "ready", self.front.is_ready())
            case ["models", name, *rest]:
                version = None
                if rest[:1] == ["versions"] and len(rest) > 1:
                    version, rest = rest[1], rest[2:]
                await self._model(name, version, rest, exchange)
            case _:
                raise no_route(
                    "/v2, /v2/health/live, /v2/health/ready, /v2/models/{name}[/versions/{v}][/ready|/infer]"
                )

    def describe(self, error: ServingError) -> JsonObject:
        """An object with the one field `error`."""
        return {"error": error.message}

    async def _model(self, name: str, version: str | None, rest: list[str], exchange: Exchange) -> None:
        if not rest:
            exchange.expect("GET")
            await exchange.respond_json(_metadata(self.front.find(name, version), list(self._versions(name))))
        elif rest == ["ready"]:
            exchange.expect("GET")
            loaded = self.front.find(name, version)
            loaded.choose_link()
            await exchange.respond_json({"name": name, "ready": True})
        elif rest == ["infer"]:
            exchange.expect("POST")
            await self._infer(name, version, exchange)
        else:
            raise no_route("of a model there are /ready and /infer")

    def _versions(self, name: str) -> list[str]:
        return list(self.front.models()[name.partition("@")[0]].versions)

    async def _tell(self, exchange: Exchange, word: str, is_so: bool) -> None:
        exchange.expect("GET")
        if not is_so:
            raise NotReady(f"the server is not {word}", retry_seconds=1.0)
        await exchange.respond_json({word: True})

    async def _infer(self, name: str, version: str | None, exchange: Exchange) -> None:
        settings = self.front.settings
        body = await exchange.body(settings.max_body_bytes)
        head, binary = split_body(body, exchange.header(HEADER_LENGTH))
        form = read_form(read_json(head), InferenceForm)
        unknown = [wanted.name for wanted in form.outputs if wanted.name != "output"]
        if unknown:
            raise Unprocessable(f"outputs names {unknown[0]!r}: there is one output, 'output'")
        if not form.inputs:
            raise Malformed("inputs is an empty list: it needs at least one tensor")
        parameters = {name: value for name, value in form.parameters.items() if name not in RESERVED}
        as_binary = bool(form.parameters.get("binary_data_output"))
        for wanted in form.outputs:
            as_binary = bool(wanted.parameters.get("binary_data", as_binary))

        def read(task: AnyTask) -> Request:
            inputs = to_inputs(read_columns(form.inputs, binary), task)
            if task.takes_files:
                inputs = [base64.b64encode(entry).decode() if isinstance(entry, bytes) else entry for entry in inputs]
            return convert_request(inputs, parameters, task, settings.max_rows)

        answer = await self.front.answer(
            name,
            version,
            read,
            protocol=self.name,
            write=lambda answers: write_output(answers, binary=as_binary),
            disconnected=exchange.disconnected,
            context=exchange.context,
        )
        output, data = answer.value
        told = {"model_name": name, "model_version": answer.version, "outputs": [output]}
        content = encode_json(told if form.id is None else told | {"id": form.id})
        headers = [*headers_of(answer), JSON]
        if as_binary:
            headers[-1] = (b"content-type", b"application/octet-stream")
            headers.append((HEADER_LENGTH, b"%d" % len(content)))
        await exchange.respond(content + data, *headers)


@cache
def _server() -> JsonObject:
    return {"name": "headwaiter", "version": __version__, "extensions": ["binary_tensor_data"]}


def _metadata(loaded: LoadedVersion, versions: list[str]) -> JsonObject:
    example = loaded.contract.example
    parts = {"text": False} if takes_text(loaded.task) else parts_of(loaded.task)
    return {
        "name": loaded.model,
        "versions": versions,
        "platform": f"headwaiter_{loaded.contract.task}",
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [-1, -1] if is_list else [-1]}
            for name, is_list in parts.items()
        ],
        "outputs": [output_form(example.output if example else None)],
    }

"""`/v2…`: the Open Inference Protocol v2, as KServe and Triton speak it.

An input is a BYTES tensor of text with one element per row: `text` or `inputs`, or one tensor for each part of the
task's inputs, such as `question` and `context`. The request's `parameters` are the task's; one that is a list of texts,
such as `candidate_labels`, may be a tensor. The one output tensor is `output`: vectors as FP32, other answers as JSON
in BYTES. Of Triton's extensions there are the binary tensor data, the model configuration, statistics and the index of
the repository.
"""

import base64
from contextlib import suppress
from functools import cache
from typing import Annotated

import msgspec

from headwaiter import __version__
from serving.errors import Malformed, NotLoaded, NotReady, ServingError, Unprocessable
from serving.front.asgi import JSON, JsonObject, encode_json
from serving.front.front import Front
from serving.front.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.front.protocols.forms import read_form, read_json
from serving.front.protocols.kserve_descriptions import (
    EXTENSIONS,
    Statistics,
    configuration,
    metadata,
    repository_index,
)
from serving.front.protocols.kserve_tensors import Tensor, read_columns, split_body, take_inputs, write_output
from serving.tasks.base.fields import drop_unsupported
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

HEADER_LENGTH = b"inference-header-content-length"
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "sequence_id": (0, ""),
    "sequence_start": (False,),
    "sequence_end": (False,),
    "priority": (0,),
}
"""Triton's parameters of a request that are refused, with the values that ask for nothing."""
UNSUPPORTED_OF_OUTPUTS: dict[str, tuple[object, ...]] = {"classification": (0,)}
MAX_TENSORS = 64
"""Of a request. Untuned: tasks have up to five inputs, and a parameter may be one."""
MAX_ID = 1024
"""Characters of a request's id, which the answer repeats. Untuned."""
Microseconds = Annotated[int, msgspec.Meta(ge=0)]


class WantedParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """binary_data: instead of the request's `binary_data_output`."""

    binary_data: bool | None = None


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A requested output."""

    name: str
    parameters: JsonObject = {}


class OwnParameters(msgspec.Struct, frozen=True):
    """The parameters of a request that are the protocol's. timeout: 0 for the server's own."""

    binary_data_output: bool = False
    timeout: Microseconds = 0


class OwnForm(msgspec.Struct, frozen=True):
    """Names the parameters in errors as clients write them."""

    parameters: OwnParameters


class IndexForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for the index. ready: whether only versions that are ready are listed."""

    ready: bool = False


class InferenceForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An inference request."""

    inputs: Annotated[list[Tensor], msgspec.Meta(max_length=MAX_TENSORS)]
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID)] | None = None
    parameters: JsonObject = {}
    outputs: Annotated[list[Wanted], msgspec.Meta(max_length=MAX_TENSORS)] = []


class KServe(Protocol):
    """Health, metadata and inference."""

    name = "kserve"

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._statistics = Statistics()

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
            case ["repository", "index"]:
                exchange.expect("POST")
                form = read_form(read_json(await exchange.body(4096) or b"{}"), IndexForm)
                index = repository_index(
                    self.front.models(),
                    self.front.routing.answers,
                    ready_only=form.ready,
                    gives_reasons=self.front.access.caller().admin,
                )
                await exchange.respond_json(index)
            case ["repository", "models", _, "load" | "unload"]:
                raise no_route("versions are loaded as the registry's aliases name them: move one with `promote`")
            case ["models", "stats"] if "stats" not in self.front.models():
                await self._tell_statistics(exchange)
            case ["models", name, *rest]:
                version = None
                if rest[:1] == ["versions"] and len(rest) > 1:
                    version, rest = rest[1], rest[2:]
                await self._model(name, version, rest, exchange)
            case _:
                raise no_route(
                    "/v2, /v2/health/live, /v2/health/ready, /v2/models/stats, /v2/repository/index, "
                    "/v2/models/{name}[/versions/{v}][/ready|/infer|/config|/stats]"
                )

    def describe(self, error: ServingError) -> JsonObject:
        """An object with the one field `error`."""
        return {"error": error.message}

    async def _model(self, name: str, version: str | None, rest: list[str], exchange: Exchange) -> None:
        entry = self.front.models().get(name.partition("@")[0])
        if not rest:
            exchange.expect("GET")
            loaded = await self.front.loaded(name, version)
            await exchange.respond_json(metadata(loaded, list(entry.versions if entry else ())))
        elif rest == ["config"]:
            exchange.expect("GET")
            loaded = await self.front.loaded(name, version)
            engines = entry.versions[loaded.version].engines if entry else ()
            await exchange.respond_json(configuration(loaded, engines))
        elif rest == ["stats"]:
            exchange.expect("GET")
            loaded = await self.front.loaded(name, version)
            await self._tell_statistics(exchange, loaded.model, version)
        elif rest == ["ready"]:
            exchange.expect("GET")
            with suppress(NotLoaded):
                self.front.find(name, version).choose_link()
            await exchange.respond_json({"name": name, "ready": True})
        elif rest == ["infer"]:
            exchange.expect("POST")
            await self._infer(name, version, exchange)
        else:
            raise no_route("of a model there are /ready, /infer, /config and /stats")

    async def _tell_statistics(self, exchange: Exchange, model: str | None = None, version: str | None = None) -> None:
        """Of all models, or of one, or of one version."""
        exchange.expect("GET")
        asked = [
            (name, each)
            for name, entry in self.front.models().items()
            for each in entry.versions
            if model in (None, name) and version in (None, each)
        ]
        await exchange.respond_json(await self._statistics.read(asked))

    async def _tell(self, exchange: Exchange, word: str, is_so: bool) -> None:
        exchange.expect("GET")
        if not is_so:
            raise NotReady(f"the server is not {word}", retry_seconds=1.0)
        await exchange.respond_json({word: True})

    async def _infer(self, name: str, version: str | None, exchange: Exchange) -> None:
        settings = self.front.settings
        body = await exchange.body(settings.max_body_bytes)
        head, binary = split_body(body, exchange.header(HEADER_LENGTH))
        form = read_form(read_json(head, settings.max_rows), InferenceForm)
        unknown = [wanted.name for wanted in form.outputs if wanted.name != "output"]
        if unknown:
            raise Unprocessable(f"outputs names {unknown[0]!r}: there is one output, 'output'")
        if not form.inputs:
            raise Malformed("inputs is an empty list: it needs at least one tensor")
        parameters = dict(form.parameters)
        drop_unsupported(parameters, UNSUPPORTED, "parameters.")
        own = read_form({"parameters": parameters}, OwnForm).parameters
        parameters = {name: value for name, value in parameters.items() if name not in own.__struct_fields__}
        as_binary = own.binary_data_output
        for wanted in form.outputs:
            drop_unsupported(wanted.parameters, UNSUPPORTED_OF_OUTPUTS, "outputs[].parameters.")
            asked = read_form(wanted.parameters, WantedParameters)
            as_binary = as_binary if asked.binary_data is None else asked.binary_data

        def read(task: AnyTask) -> Request:
            inputs, more = take_inputs(read_columns(form.inputs, binary), task)
            if task.takes_files:
                inputs = [base64.b64encode(entry).decode() if isinstance(entry, bytes) else entry for entry in inputs]
            return convert_request(inputs, parameters | more, task, settings.max_rows)

        answer = await self.front.answer(
            name,
            version,
            read,
            protocol=self.name,
            write=lambda answers: write_output(answers, binary=as_binary),
            disconnected=exchange.disconnected,
            context=exchange.context,
            timeout_seconds=own.timeout / 1e6 or None,
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
    return {"name": "headwaiter", "version": __version__, "extensions": list(EXTENSIONS)}

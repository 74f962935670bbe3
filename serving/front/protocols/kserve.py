"""`/v2…`: the Open Inference Protocol v2, as KServe and Triton speak it over HTTP.

`kserve_inference` says what a request may ask. The one output tensor is `output`: vectors as FP32, other answers as
JSON in BYTES. Of Triton's extensions there are the binary tensor data, the model configuration, statistics and the
index of the repository. `front.rpc` speaks the protocol over gRPC.
"""

from contextlib import suppress
from functools import cache, partial

import msgspec

from headwaiter import __version__
from serving.errors import NotLoaded, NotReady, ServingError
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
from serving.front.protocols.kserve_inference import InferenceForm, InferenceRequest
from serving.front.protocols.kserve_tensors import split_body, write_output

HEADER_LENGTH = b"inference-header-content-length"


class IndexForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for the index. ready: whether only versions that are ready are listed."""

    ready: bool = False


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
                    self.front.models.all(),
                    self.front.models.answers,
                    ready_only=form.ready,
                    gives_reasons=self.front.access.caller().admin,
                )
                await exchange.respond_json(index)
            case ["repository", "models", _, "load" | "unload"]:
                raise no_route("versions are loaded as the registry's aliases name them: move one with `promote`")
            case ["models", "stats"] if "stats" not in self.front.models.all():
                exchange.expect("GET")
                self.front.access.check_admin("/v2/models/stats")
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
        entry = self.front.models.all().get(name.partition("@")[0])
        if not rest:
            exchange.expect("GET")
            known = self.front.models.known(name, version)
            await exchange.respond_json(metadata(known, list(entry.versions if entry else ())))
        elif rest == ["config"]:
            exchange.expect("GET")
            known = self.front.models.known(name, version)
            engines = entry.versions[known.version].engines if entry else ()
            is_operator = self.front.access.caller().admin
            await exchange.respond_json(configuration(known, engines if is_operator else None))
        elif rest == ["stats"]:
            exchange.expect("GET")
            self.front.access.check_model(name)
            self.front.access.check_admin("/v2/models/{name}/stats")
            with suppress(NotLoaded):
                self.front.models.find(name, version)
            await self._tell_statistics(exchange, name.partition("@")[0], version)
        elif rest == ["ready"]:
            exchange.expect("GET")
            with suppress(NotLoaded):
                self.front.models.find(name, version).choose_link()
            await exchange.respond_json({"name": name, "ready": True})
        elif rest == ["infer"]:
            exchange.expect("POST")
            await self._infer(name, version, exchange)
        else:
            raise no_route("of a model there are /ready, /infer, /config and /stats")

    async def _tell_statistics(self, exchange: Exchange, model: str | None = None, version: str | None = None) -> None:
        """Of all models, or of one, or of one version: the requests of all clients, so for operators."""
        asked = [
            (name, each)
            for name, entry in self.front.models.all().items()
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
        form.check_path(name, version)
        inference = InferenceRequest(form, binary, settings.max_rows)
        answer = await self.front.answer(
            name,
            version,
            inference.read,
            protocol=self.name,
            write=partial(write_output, binary=inference.as_binary),
            disconnected=exchange.disconnected,
            context=exchange.context,
            timeout_seconds=inference.timeout_seconds,
        )
        output, data = answer.value
        told = {"model_name": name, "model_version": answer.version, "outputs": [output]}
        content = encode_json(told if form.id is None else told | {"id": form.id})
        headers = [*headers_of(answer), JSON]
        if inference.as_binary:
            headers[-1] = (b"content-type", b"application/octet-stream")
            headers.append((HEADER_LENGTH, b"%d" % len(content)))
        await exchange.respond(content + data, *headers)


@cache
def _server() -> JsonObject:
    return {"name": "headwaiter", "version": __version__, "extensions": list(EXTENSIONS)}

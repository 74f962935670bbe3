"""The service `inference.GRPCInferenceService`: the Open Inference Protocol v2, answered as `/v2…` is over HTTP.

Where a request has raw tensors, the answer has them, too; else both have typed contents, as with MLServer.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from google.protobuf.message import DecodeError, Message

from headwaiter import __version__
from serving.errors import Malformed, NotLoaded, NotReady, TooLarge, UnknownModel
from serving.front.asgi import JsonObject
from serving.front.fair_pool import QueueKey, queue_key
from serving.front.front import Front
from serving.front.protocols.base import headers_of
from serving.front.protocols.forms import read_form
from serving.front.protocols.kserve_descriptions import metadata
from serving.front.protocols.kserve_inference import MAX_TENSORS, InferenceForm, InferenceRequest
from serving.front.protocols.kserve_tensors import MAX_DIMENSIONS, pack, to_output, to_text
from serving.front.rpc.calls import RpcAnswer, RpcCall, RpcWork
from serving.front.rpc.field_count import check_fields
from serving.front.rpc.messages import CHOICE, message_class
from serving.front.turns import TEXTS, Turns
from serving.front.waiter import deadline_in
from serving.tasks.base.body_values import max_values

SERVICE = "inference.GRPCInferenceService"
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype → the field that has a tensor's elements."""
MAX_PARAMETERS = 256
"""Of a request, and of each tensor. Untuned: the tasks have up to thirty."""
LARGE_BYTES = 1 << 16
"""A thread reads longer messages. Untuned: at most some ten thousand fields, which take some ten milliseconds."""
_ModelInferResponse = message_class("ModelInferResponse")


class InferenceService:
    """The methods of one front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.methods: Mapping[str, RpcWork] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    async def _server_live(self, message: bytes, call: RpcCall) -> RpcAnswer:
        return RpcAnswer(message_class("ServerLiveResponse")(live=self._front.is_alive()))

    async def _server_ready(self, message: bytes, call: RpcCall) -> RpcAnswer:
        return RpcAnswer(message_class("ServerReadyResponse")(ready=self._front.is_ready()))

    async def _model_ready(self, message: bytes, call: RpcCall) -> RpcAnswer:
        """As Triton, it says of a model that is not here that it is not ready."""
        asked = parse("ModelReadyRequest", message)
        try:
            with suppress(NotLoaded):
                self._front.models.find(asked.name, asked.version or None).choose_link()
        except (NotReady, UnknownModel):
            return RpcAnswer(message_class("ModelReadyResponse")())
        return RpcAnswer(message_class("ModelReadyResponse")(ready=True))

    async def _server_metadata(self, message: bytes, call: RpcCall) -> RpcAnswer:
        return RpcAnswer(message_class("ServerMetadataResponse")(name="headwaiter", version=__version__))

    async def _model_metadata(self, message: bytes, call: RpcCall) -> RpcAnswer:
        asked = parse("ModelMetadataRequest", message)
        entry = self._front.models.all().get(asked.name.partition("@")[0])
        known = self._front.models.known(asked.name, asked.version or None)
        told = metadata(known, list(entry.versions if entry else ()))
        del told["parameters"]  # this message has no place for them
        return RpcAnswer(message_class("ModelMetadataResponse")(**told))

    async def _infer(self, message: bytes, call: RpcCall) -> RpcAnswer:
        max_rows = self._front.settings.max_rows
        if len(message) > LARGE_BYTES:
            queue_key.set(QueueKey(caller=self._front.access.caller().name))  # which model is in the message
            limit = self._front.settings.timeout_seconds
            given = limit if call.timeout_seconds is None else call.timeout_seconds
            with Turns(deadline_in(min(given, limit)), None) as turns:
                request, form = await turns.hand_over(TEXTS, _read, message, max_rows)
        else:
            request, form = _read(message, max_rows)
        inference = InferenceRequest(form, b"", max_rows)
        limits = [each for each in (inference.timeout_seconds, call.timeout_seconds) if each is not None]
        answer = await self._front.answer(
            request.model_name,
            request.model_version or None,
            inference.read,
            protocol="grpc",
            write=partial(to_response, is_raw=bool(request.raw_input_contents) or inference.as_binary),
            context=call.context,
            timeout_seconds=min(limits, default=None),
        )
        response = answer.value
        response.model_name, response.model_version, response.id = request.model_name, answer.version, request.id
        return RpcAnswer(response, headers_of(answer))


def _read(message: bytes, max_rows: int) -> tuple[Message, InferenceForm]:
    request = parse("ModelInferRequest", message, max_rows)
    return request, to_form(request, max_rows)


def parse(name: str, message: bytes, max_rows: int = 0) -> Message:
    """The message of this name. max_rows: of a request. Raises Malformed, TooLarge."""
    check_fields(message, name, max_values(max_rows))
    try:
        return message_class(name).FromString(message)
    except DecodeError as error:
        raise Malformed(f"the message is not a valid {name} ({error}): send one as the protocol declares it") from error


def to_form(request: Message, max_rows: int) -> InferenceForm:
    """A ModelInferRequest in the form that it would have as JSON. Raises Malformed, Unprocessable, TooLarge."""
    for name, given in (("inputs", request.inputs), ("outputs", request.outputs)):
        if len(given) > MAX_TENSORS:
            raise TooLarge(f"{name} has {len(given):,} tensors, a request may have {MAX_TENSORS}: send fewer at a time")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Malformed(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs: send one entry for each input"
        )
    inputs = []
    for place, tensor in enumerate(request.inputs):
        if raw and tensor.HasField("contents"):
            raise Malformed(f"inputs {tensor.name!r} has contents beside raw_input_contents: send one of them")
        inputs.append(
            {
                "name": tensor.name,
                "shape": list(tensor.shape[: MAX_DIMENSIONS + 1]),  # one too many is enough to be refused
                "datatype": tensor.datatype,
                "parameters": _plain(tensor.parameters),
                "data": raw[place] if raw else _elements(tensor, max_values(max_rows)),
            }
        )
    outputs = [{"name": output.name, "parameters": _plain(output.parameters)} for output in request.outputs]
    return read_form(
        {"inputs": inputs, "id": request.id, "parameters": _plain(request.parameters), "outputs": outputs},
        InferenceForm,
    )


def to_response(answers: Sequence[object], *, is_raw: bool) -> Message:
    """The ModelInferResponse of the answers, without the names of model and version."""
    head, values = to_output(answers)
    if is_raw:
        return _ModelInferResponse(outputs=[head], raw_output_contents=[pack(values)])
    contents = values if isinstance(values, list) else values.ravel()
    return _ModelInferResponse(outputs=[head | {"contents": {CONTENTS[str(head["datatype"])]: contents}}])


def _elements(tensor: Message, limit: int) -> list[object]:
    """The contents of a tensor that has them beside it; none of an unknown type."""
    contents = getattr(tensor.contents, CONTENTS.get(tensor.datatype, ""), ())
    if len(contents) > limit:
        raise TooLarge(f"inputs have more than {limit:,} elements: send less at a time")
    return [to_text(element) if isinstance(element, bytes) else element for element in contents]


def _plain(parameters: Mapping[str, Message]) -> JsonObject:
    """Parameters as plain data; one without a value is None. Raises TooLarge for too many."""
    if len(parameters) > MAX_PARAMETERS:
        raise TooLarge(f"parameters has {len(parameters):,} entries, there may be {MAX_PARAMETERS}: leave some out")
    found: JsonObject = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof(CHOICE)
        found[name] = None if choice is None else getattr(parameter, choice)
    return found

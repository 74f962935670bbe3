"""The messages of the Open Inference Protocol v2 over gRPC, and those of gRPC's health protocol.

Their classes are made here from a table. Modules that protoc generates would register the messages for the whole
process, where those of Triton's and KServe's clients have the same names, and would bind releases of protobuf.
Sources: open_inference_grpc.proto of kserve/open-inference-protocol, health.proto of grpc/grpc-proto.
"""

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_PARAMETERS = "map parameters"
MESSAGES: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": "string name, string* versions, string platform, "
    "ModelMetadataResponse.TensorMetadata* inputs, ModelMetadataResponse.TensorMetadata* outputs",
    "ModelMetadataResponse.TensorMetadata": "string name, string datatype, int64* shape",
    "ModelInferRequest": f"string model_name, string model_version, string id, {_PARAMETERS}, "
    "ModelInferRequest.InferInputTensor* inputs, ModelInferRequest.InferRequestedOutputTensor* outputs, "
    "bytes* raw_input_contents",
    "ModelInferRequest.InferInputTensor": f"string name, string datatype, int64* shape, {_PARAMETERS}, "
    "InferTensorContents contents",
    "ModelInferRequest.InferRequestedOutputTensor": f"string name, {_PARAMETERS}",
    "ModelInferResponse": f"string model_name, string model_version, string id, {_PARAMETERS}, "
    "ModelInferResponse.InferOutputTensor* outputs, bytes* raw_output_contents",
    "ModelInferResponse.InferOutputTensor": f"string name, string datatype, int64* shape, {_PARAMETERS}, "
    "InferTensorContents contents",
    "InferParameter": "bool|bool_param, int64|int64_param, string|string_param, double|double_param, "
    "uint64|uint64_param",
    "InferTensorContents": "bool* bool_contents, int32* int_contents, int64* int64_contents, uint32* uint_contents, "
    "uint64* uint64_contents, float* fp32_contents, double* fp64_contents, bytes* bytes_contents",
    "HealthCheckRequest": "string service",
    "HealthCheckResponse": "int32 status",
}
"""Message → its fields, numbered from 1. `*`: repeated; `|`: of the one oneof; `map`: from text to InferParameter. A
message with a dot in its name lies in another one, which comes before it. An enum is an int32 on the wire."""
CHOICE = "parameter_choice"
PACKAGE = "headwaiter"
"""Names of messages are not sent."""

_Field = descriptor_pb2.FieldDescriptorProto


def _make() -> descriptor_pb2.FileDescriptorProto:
    """The file that declares the messages."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in MESSAGES.items():
        outer, _, own = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
        for number, text in enumerate(filter(None, fields.split(", ")), start=1):
            _add_field(made[name], name, number, text)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, owner: str, number: int, text: str) -> None:
    """Declare one field. owner: the message's name. text: the field, as in `MESSAGES`."""
    is_choice = "|" in text
    kind, name = text.replace("|", " ").split(" ")
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if is_choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name=CHOICE)
        field.oneof_index = 0
    if kind == "map":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, owner, 1, "string key")
        _add_field(entry, owner, 2, "InferParameter value")
        kind = f"{owner}.{entry.name}*"
    if kind.endswith("*"):
        kind, field.label = kind[:-1], _Field.LABEL_REPEATED
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_make())


def message_class(name: str) -> type[Message]:
    """The class of a message of `MESSAGES`."""
    found: type[Message] = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
    return found

"""The messages that are made from a table are those of the protocol, as Triton's and gRPC's own modules have them."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from serving.front.rpc.messages import CHOICE, MESSAGES, message_class

HEALTH = ("HealthCheckRequest", "HealthCheckResponse")


def published(name: str) -> Any:
    found: Any = health_pb2 if name in HEALTH else service_pb2
    for part in name.split("."):
        found = getattr(found, part)
    return found.DESCRIPTOR


def shape_of(descriptor: Any) -> dict[str, Any]:
    """Field → number, type on the wire, and whether it is repeated, one of several, or a map."""
    found = {}
    for field in descriptor.fields:
        kind = field.TYPE_INT32 if field.type == field.TYPE_ENUM else field.type  # a varint both
        nested = field.message_type
        is_map = nested is not None and nested.GetOptions().map_entry
        within = shape_of(nested) if is_map else nested.name if nested is not None else None
        choice = field.containing_oneof.name if field.containing_oneof else None
        found[field.name] = (field.number, kind, field.is_repeated, choice, within)
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_that_of_the_protocol(name: str) -> None:
    assert shape_of(message_class(name).DESCRIPTOR) == shape_of(published(name))


def test_each_value_of_a_parameter_is_read_as_clients_write_it() -> None:
    given = service_pb2.ModelInferRequest(id="seven")
    for choice, value in {
        "bool_param": True,
        "int64_param": -(2**40),
        "string_param": "é",
        "double_param": 0.5,
        "uint64_param": 2**63,
    }.items():
        setattr(given.parameters[choice], choice, value)
    read = message_class("ModelInferRequest").FromString(given.SerializeToString())
    assert read.id == "seven"
    for name, parameter in given.parameters.items():
        assert read.parameters[name].WhichOneof(CHOICE) == name
        assert getattr(read.parameters[name], name) == getattr(parameter, name)

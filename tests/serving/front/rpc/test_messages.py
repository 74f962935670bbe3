"""The messages that are made from a table are those of the protocol, as Triton's and gRPC's own modules have them."""

from contextlib import suppress
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.errors import TooLarge
from serving.front.rpc.field_count import check_fields
from serving.front.rpc.messages import CHOICE, MESSAGES, message_class
from serving.tasks.base.body_values import MAX_VALUES

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
    asked = service_pb2.ModelInferRequest(id="seven")
    for choice, value in {
        "bool_param": True,
        "int64_param": -(2**40),
        "string_param": "é",
        "double_param": 0.5,
        "uint64_param": 2**63,
    }.items():
        setattr(asked.parameters[choice], choice, value)
    read = message_class("ModelInferRequest").FromString(asked.SerializeToString())
    assert read.id == "seven"
    for name, parameter in asked.parameters.items():
        assert read.parameters[name].WhichOneof(CHOICE) == name
        assert getattr(read.parameters[name], name) == getattr(parameter, name)


@pytest.mark.parametrize(
    "request_",
    [
        service_pb2.ModelInferRequest(inputs=[{}] * 40_000),
        service_pb2.ModelInferRequest(raw_input_contents=[b""] * 40_000),
        service_pb2.ModelInferRequest(inputs=[{"contents": {"bytes_contents": [b""] * 40_000}}]),
        service_pb2.ModelInferRequest(parameters={str(at): {"bool_param": True} for at in range(10_000)}),
        service_pb2.ModelInferRequest(inputs=[{"parameters": {str(at): {} for at in range(20_000)}}]),
        service_pb2.ModelInferRequest(inputs=[{"shape": [1] * 80_000}]),
        service_pb2.ModelInferRequest(inputs=[{"contents": {"int64_contents": [-1] * 40_000}}]),
        service_pb2.ModelInferRequest(inputs=[{"contents": {"fp32_contents": [0.5] * 40_000}}]),
        service_pb2.ModelInferRequest(inputs=[{"contents": {"fp64_contents": [0.5] * 40_000}}]),
        service_pb2.ModelInferRequest(inputs=[{"contents": {"bool_contents": [True] * 80_000}}]),
    ],
    ids=[
        *("inputs", "raw", "contents", "parameters", "parameters of an input"),
        *("shape", "whole numbers", "numbers", "long numbers", "truths"),
    ],
)
def test_messages_of_too_many_fields_are_refused_unparsed(request_: Any) -> None:
    message = request_.SerializeToString()
    check_fields(message, "ModelInferRequest", 90_000)
    with pytest.raises(TooLarge, match="30,000 fields"):
        check_fields(message, "ModelInferRequest", 30_000)


def test_a_long_text_is_one_field() -> None:
    asked = service_pb2.ModelInferRequest(model_name="m", inputs=[{"shape": [1]}])
    asked.raw_input_contents.append(bytes(1_000_000))
    check_fields(asked.SerializeToString(), "ModelInferRequest", 4)
    with pytest.raises(TooLarge):
        check_fields(asked.SerializeToString(), "ModelInferRequest", 3)


@given(st.binary(min_size=1, max_size=40))
def test_any_bytes_are_counted_to_an_end(data: bytes) -> None:
    with suppress(TooLarge):
        check_fields(data * (1 + MAX_VALUES // len(data)), "ModelInferRequest", 1000)

"""Every public method and parameter of Triton's gRPC client, called on a real server whose fronts share the port."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.alike import assert_alike
from tests.e2e.client_table import Method, public, read_table
from tests.e2e.server import Server
from tests.serving.front.rpc.served import answers, tensor

pytestmark = pytest.mark.processor

INFER = Method(
    "sentiment",
    {"model_name": "sentiment", "inputs": [tensor("text", ["good", "bad"])]},
    {
        "model_version": "1",
        "outputs": [triton.InferRequestedOutput("output")],
        "request_id": "seven",
        "timeout": 200_000_000,
        "client_timeout": 200.0,
        "headers": {"x-request-id": "mine"},
        "parameters": {"top_k": 2},
    },
    {
        "outputs": [triton.InferRequestedOutput("output", class_count=2)],
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": True,
        "priority": 1,
        "compression_algorithm": "gzip",
    },
    {"sequence_start": {"sequence_id": 7}, "sequence_end": {"sequence_id": 7}},
)
SAYS = {"outputs": "classification", "compression_algorithm": "[Cc]ompression"}
WORKS: dict[str, dict[str, Any]] = {
    "is_server_live": {},
    "is_server_ready": {},
    "is_model_ready": {"model_name": "sentiment"},
    "get_server_metadata": {},
    "get_model_metadata": {"model_name": "sentiment"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "get_model_config": {"model_name": "sentiment"},
    "get_model_repository_index": {},
    "get_inference_statistics": {},
    "load_model": {"model_name": "sentiment"},
    "unload_model": {"model_name": "sentiment"},
    "get_trace_settings": {},
    "update_trace_settings": {"settings": {"trace_rate": "1"}},
    "get_log_settings": {},
    "update_log_settings": {"settings": {"log_info": False}},
    "get_system_shared_memory_status": {},
    "register_system_shared_memory": {"name": "a", "key": "/a", "byte_size": 8},
    "unregister_system_shared_memory": {},
    "get_cuda_shared_memory_status": {},
    "register_cuda_shared_memory": {"name": "a", "raw_handle": b"aaaa", "device_id": 0, "byte_size": 8},
    "unregister_cuda_shared_memory": {},
}
STREAMS = {"start_stream", "stop_stream", "async_stream_infer"}
LOCAL = {"close", "plugin", "register_plugin", "unregister_plugin"}


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as made:
        yield made


def test_the_table_of_tritons_client_has_every_method() -> None:
    table = read_table("tritonclient.grpc.InferenceServerClient")
    assert table.keys() == public(triton.InferenceServerClient) | {"plugin", "register_plugin", "unregister_plugin"}
    assert {name for name, row in table.items() if row.is_refused} == REFUSED.keys() | STREAMS
    assert {name for name, row in table.items() if not row.is_refused} == {*WORKS, *LOCAL, "infer", "async_infer"}
    assert table["infer"].refused == table["async_infer"].refused == INFER.refused.keys()


def test_tritons_client_infers_with_each_parameter(server: Server, client: triton.InferenceServerClient) -> None:
    assert_alike(answers(client.infer(**INFER.given)), server.ask("sentiment", ["good", "bad"]))
    known = INFER.given.keys() | INFER.values.keys() | INFER.refused.keys()
    assert inspect.signature(client.infer).parameters.keys() == known
    for parameter, value in INFER.values.items():
        assert len(answers(client.infer(**INFER.given, **{parameter: value}))) == 2
    for parameter, value in INFER.refused.items():
        with pytest.raises(InferenceServerException, match=SAYS.get(parameter, "sequence_id|priority")):
            client.infer(**INFER.given, **INFER.more.get(parameter, {}), **{parameter: value})
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer(**INFER.given, timeout=1)


def test_tritons_client_infers_without_waiting(server: Server, client: triton.InferenceServerClient) -> None:
    from queue import Queue

    from tests.waiting import WAIT_SECONDS

    got: Queue[tuple[Any, Any]] = Queue()
    client.async_infer(**INFER.given, callback=lambda result, error: got.put((result, error)))
    result, error = got.get(timeout=WAIT_SECONDS)
    assert error is None
    assert_alike(answers(result), server.ask("sentiment", ["good", "bad"]))


def test_vectors_are_those_of_http(server: Server, client: triton.InferenceServerClient) -> None:
    texts = ["the quick fox", "ein naïver Text 🙂"]
    found = client.infer("embedder", [tensor("text", texts)]).as_numpy("output")
    assert_alike(found, server.ask("embedder", texts))


def test_tritons_client_is_told_about_server_and_models(client: triton.InferenceServerClient) -> None:
    for name, given in WORKS.items():
        assert getattr(client, name)(**given)


@pytest.mark.parametrize("name", REFUSED)
def test_what_tritons_client_has_beyond_is_refused(client: triton.InferenceServerClient, name: str) -> None:
    with pytest.raises(InferenceServerException, match="Method not found") as caught:
        getattr(client, name)(**REFUSED[name])
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_calls_are_counted_by_their_protocol(server: Server, client: triton.InferenceServerClient) -> None:
    labels = {"model": "stars", "protocol": "grpc", "status": "200"}
    before = server.sample("request_duration_seconds_count", **labels)
    client.infer("stars", [tensor("text", ["good"])])
    assert server.sample("request_duration_seconds_count", **labels) == before + 1

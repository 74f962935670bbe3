"""Every public method and parameter of Triton's client, called on a real server."""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.alike import assert_alike
from tests.e2e.client_table import Method, public, read_table
from tests.e2e.server import Server
from tests.e2e.test_kserve import answers, tensor
from tests.e2e.test_tasks import picture

pytestmark = pytest.mark.processor


INFER = Method(
    "sentiment",
    {"model_name": "sentiment", "inputs": [tensor("text", ["good", "bad"])]},
    {
        "model_version": "1",
        "outputs": [triton.InferRequestedOutput("output", binary_data=False)],
        "request_id": "seven",
        "timeout": 200_000_000,
        "headers": {"x-request-id": "mine"},
        "query_params": {"a": "b"},
        "response_compression_algorithm": "gzip",
        "parameters": {"top_k": 2},
    },
    {
        "outputs": [triton.InferRequestedOutput("output", class_count=2)],
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": True,
        "priority": 1,
        "request_compression_algorithm": "gzip",
    },
    {"sequence_start": {"sequence_id": 7}, "sequence_end": {"sequence_id": 7}},
)
SAYS = {"outputs": "classification", "request_compression_algorithm": "content-encoding"}
"""What the refusal names, where the client's argument has another name than the field that it is sent in."""
TRITON = {
    "is_server_live": {},
    "is_server_ready": {},
    "is_model_ready": {"model_name": "sentiment"},
    "get_server_metadata": {},
    "get_model_metadata": {"model_name": "sentiment"},
    "get_model_config": {"model_name": "sentiment"},
    "get_model_repository_index": {},
    "get_inference_statistics": {"model_name": "sentiment", "model_version": "1"},
}
TRITON_REFUSED: dict[str, dict[str, Any]] = {
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
    "register_cuda_shared_memory": {"name": "a", "raw_handle": b"a", "device_id": 0, "byte_size": 8},
    "unregister_cuda_shared_memory": {},
}
TRITON_LOCAL = {
    "close",
    "generate_request_body",
    "parse_response_body",
    "plugin",
    "register_plugin",
    "unregister_plugin",
}
"""They send nothing by themselves."""


@pytest.fixture
def triton_client(server: Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def test_the_table_of_tritons_client_has_every_method() -> None:
    table = read_table("tritonclient.http.InferenceServerClient")
    plugin = {"plugin", "register_plugin", "unregister_plugin"}
    assert table.keys() == public(triton.InferenceServerClient) | plugin
    assert {name for name, row in table.items() if row.is_refused} == TRITON_REFUSED.keys()
    assert {name for name, row in table.items() if not row.is_refused} == {
        *TRITON,
        *TRITON_LOCAL,
        "infer",
        "async_infer",
    }
    assert table["infer"].refused == table["async_infer"].refused == INFER.refused.keys()


@pytest.mark.parametrize("name", ["infer", "async_infer"])
def test_tritons_client_infers_with_each_parameter(
    server: Server, triton_client: triton.InferenceServerClient, name: str
) -> None:
    method = getattr(triton_client, name)

    def call(**given: Any) -> Any:
        result = method(**given)
        return result.get_result() if name == "async_infer" else result

    plain = call(**INFER.given)
    assert_alike(answers(plain), server.ask("sentiment", ["good", "bad"]))
    assert (
        inspect.signature(method).parameters.keys() == INFER.given.keys() | INFER.values.keys() | INFER.refused.keys()
    )
    for parameter, value in INFER.values.items():
        assert len(answers(call(**INFER.given, **{parameter: value}))) == 2
    for parameter, value in INFER.refused.items():
        with pytest.raises(InferenceServerException, match=SAYS.get(parameter, "sequence_id|priority")):
            call(**INFER.given, **INFER.more.get(parameter, {}), **{parameter: value})
    with pytest.raises(InferenceServerException, match="deadline"):
        call(**INFER.given, timeout=1)


def test_tritons_client_is_told_about_server_and_models(triton_client: triton.InferenceServerClient) -> None:
    for name, given in TRITON.items():
        assert getattr(triton_client, name)(**given)
    config = triton_client.get_model_config("multiple-choice", "1")
    assert config["input"] == [
        {"name": "prompt", "data_type": "TYPE_STRING", "dims": [-1]},
        {"name": "choices", "data_type": "TYPE_STRING", "dims": [-1, -1]},
    ]
    assert config["version_policy"] == {"specific": {"versions": [1]}}
    assert config["instance_group"] == [{"name": "cpu", "kind": "KIND_CPU", "count": 1, "gpus": []}]
    assert triton_client.get_model_config("embedder")["output"] == [
        {"name": "output", "data_type": "TYPE_FP32", "dims": [-1, -1]}
    ]
    index = triton_client.get_model_repository_index()
    assert {"name": "sentiment", "version": "1", "state": "READY", "reason": ""} in index
    body, size = triton_client.generate_request_body(INFER.given["inputs"])
    assert size is not None
    assert b"binary_data_output" in body


def test_tritons_statistics_count_what_was_asked(triton_client: triton.InferenceServerClient) -> None:
    def read() -> Any:
        (found,) = triton_client.get_inference_statistics("topics")["model_stats"]
        assert (found["name"], found["version"]) == ("topics", "1")
        return found

    before = read()
    triton_client.infer("topics", [tensor("text", ["a", "b", "c"])])
    with pytest.raises(InferenceServerException):
        triton_client.infer("topics", [tensor("text", [""])])
    after = read()
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["execution_count"] > before["execution_count"]
    for kind in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][kind]["count"] == before["inference_stats"][kind]["count"] + 1, kind
        assert after["inference_stats"][kind]["ns"] > before["inference_stats"][kind]["ns"], kind
    everything = triton_client.get_inference_statistics()["model_stats"]
    assert {"topics", "sentiment", "chat"} <= {found["name"] for found in everything}


@pytest.mark.parametrize("name", TRITON_REFUSED)
def test_what_tritons_client_has_beyond_is_refused(triton_client: triton.InferenceServerClient, name: str) -> None:
    with pytest.raises(InferenceServerException, match="no such route") as caught:
        getattr(triton_client, name)(**TRITON_REFUSED[name])
    assert caught.value.status() == "404"


def test_a_request_made_from_the_metadata_alone_is_answered(
    server: Server, triton_client: triton.InferenceServerClient
) -> None:
    for model in server.http.get("/v1/models").json()["data"]:
        described = triton_client.get_model_metadata(model["id"])
        text = f"the quick {described['parameters'].get('mask_token', 'fox')}"
        for width in (1, 2):
            inputs = []
            for each in described["inputs"]:
                shape = [
                    {0: 1 if each["name"] != "candidate_labels" else width, 1: 2}[at]
                    for at in range(len(each["shape"]))
                ]
                value = picture() if each["name"] == "image" else text
                inputs.append(tensor(each["name"], numpy.full(shape, value, dtype=numpy.object_)))
            result = triton_client.infer(model["id"], inputs)
            (output,) = described["outputs"]
            found = result.get_output("output")
            assert (found["datatype"], len(found["shape"])) == (output["datatype"], len(output["shape"])), model["id"]


def test_labels_are_a_tensor_or_a_parameter(server: Server, triton_client: triton.InferenceServerClient) -> None:
    texts, labels = ["A late goal", "A vote"], ["sports", "politics"]
    expected = server.ask("zero-shot-classification", texts, candidate_labels=labels)
    ask = partial(triton_client.infer, "zero-shot-classification")
    text = tensor("text", texts)
    for shaped in (labels, [labels, labels]):
        assert_alike(answers(ask([text, tensor("candidate_labels", shaped)])), expected)
    for given in (labels, "sports,politics"):
        assert_alike(answers(ask([text], parameters={"candidate_labels": given})), expected)
    for tensors, words in (
        ([text], "candidate_labels needs at least one label"),
        ([text, tensor("candidate_labels", [labels, labels[::-1]])], "differs between rows"),
        ([text, tensor("labels", labels)], "'labels' is unknown"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            ask(tensors)

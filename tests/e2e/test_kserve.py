"""The Open Inference Protocol, with Triton's own client, unchanged."""

import json
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.alike import assert_alike
from tests.e2e.server import Server
from tests.e2e.test_tasks import picture

pytestmark = pytest.mark.processor


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def tensor(name: str, values: Any, *, binary: bool = True) -> triton.InferInput:
    array = numpy.asarray(values, dtype=numpy.object_)
    found = triton.InferInput(name, list(array.shape), "BYTES")
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def answers(result: triton.InferResult) -> list[Any]:
    return [json.loads(text) for text in result.as_numpy("output")]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sentiment")
    assert client.is_model_ready("sentiment", "1")
    assert not client.is_model_ready("sentiment", "9")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "headwaiter"
    vectors = client.get_model_metadata("embedder")
    assert (vectors["name"], vectors["versions"]) == ("embedder", ["1"])
    assert vectors["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert vectors["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, -1]}]
    choices = client.get_model_metadata("multiple-choice", "1")
    assert {entry["name"]: len(entry["shape"]) for entry in choices["inputs"]} == {"prompt": 1, "choices": 2}
    assert choices["outputs"] == [{"name": "output", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize("binary", [True, False])
def test_texts_give_vectors_in_one_tensor(server: Server, client: triton.InferenceServerClient, binary: bool) -> None:
    texts = ["the quick fox", "ein naïver Text 🙂"]
    outputs = [triton.InferRequestedOutput("output", binary_data=binary)]
    result = client.infer("embedder", [tensor("text", texts, binary=binary)], outputs=outputs, request_id="seven")
    found = result.as_numpy("output")
    assert (found.shape, found.dtype) == ((2, 32), numpy.float32)
    assert_alike(found, server.ask("embedder", texts))
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("seven", "embedder", "1")


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_texts_give_answers_as_json_with_the_tasks_parameters(
    server: Server, client: triton.InferenceServerClient, shape: tuple[int, ...]
) -> None:
    texts = ["good", "bad"]
    result = client.infer("sentiment", [tensor("text", numpy.reshape(texts, shape))], parameters={"top_k": 2})
    assert_alike(answers(result), server.ask("sentiment", texts, top_k=2))
    versioned = client.infer("sentiment", [tensor("anything", texts)], model_version="1")
    assert_alike(answers(versioned), server.ask("sentiment", texts))


def test_the_parts_of_an_input_are_tensors_of_their_own(server: Server, client: triton.InferenceServerClient) -> None:
    context = "Ada lives in Paris."
    result = client.infer("question-answering", [tensor("question", ["Where?"]), tensor("context", [context])])
    assert_alike(answers(result), server.ask("question-answering", [{"question": "Where?", "context": context}]))
    choices = ["an umbrella", "a kite", "tea"]
    result = client.infer("multiple-choice", [tensor("prompt", ["It rains"]), tensor("choices", [choices])])
    assert_alike(answers(result), server.ask("multiple-choice", [{"prompt": "It rains", "choices": choices}]))
    pairs = client.infer("sentiment", [tensor("text", ["a"]), tensor("text_pair", ["b"])])
    assert_alike(answers(pairs), server.ask("sentiment", [{"text": "a", "text_pair": "b"}]))


def test_an_image_is_the_bytes_of_its_file(server: Server, client: triton.InferenceServerClient) -> None:
    result = client.infer("image-classification", [tensor("image", [picture(), picture(kind="JPEG")])])
    expected = server.post("image-classification", picture()).json()
    assert_alike(answers(result)[0], expected)  # they shared a batch


@pytest.mark.parametrize(
    ("model", "inputs", "status", "words"),
    [
        ("nobody", [tensor("text", ["a"])], "404", "no model 'nobody'"),
        ("sentiment", [tensor("text", [""])], "422", "empty text"),
        ("sentiment", [tensor("text", [b"\xff\xfe"])], "422", "expected"),
        ("question-answering", [tensor("question", ["Where?"])], "422", "missing required field `context`"),
        ("question-answering", [tensor("question", ["a", "b"]), tensor("context", ["c"])], "422", "differ in length"),
        ("sentiment", [tensor("a", ["x"]), tensor("b", ["y"])], "422", "no column says what to read"),
    ],
)
def test_a_wrong_request_gets_its_error(
    client: triton.InferenceServerClient, model: str, inputs: Any, status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer(model, inputs)
    assert caught.value.status() == status


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("infer", b"{", {}, 400, "not JSON"),
        ("infer", {"inputs": []}, {}, 400, "at least one tensor"),
        ("infer", {"inputs": [], "model_name": "topics"}, {}, 422, "model_name is 'topics'"),
        ("infer", {"inputs": [], "model_version": "1"}, {}, 422, "the path asks the live version"),
        ("infer", {"inputs": [], "model_name": "sentiment"}, {}, 400, "at least one tensor"),
        ("infer", {}, {}, 422, "missing required field `inputs`"),
        ("infer", {"inputs": [{"name": "text", "shape": [1], "datatype": "INT64", "data": [1]}]}, {}, 422, "BYTES"),
        ("infer", {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}, {}, 400, "1 elem"),
        ("infer", {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, {}, 400, "neither data nor"),
        ("infer", b"{}", {"inference-header-content-length": "99"}, 400, "the body has 2 bytes"),
        ("explain", {}, {}, 404, "no such route"),
        ("ready", {}, {}, 405, "takes GET"),
    ],
)
def test_a_malformed_request_gets_its_error(
    server: Server, path: str, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = server.http.post(f"/v2/models/sentiment/{path}", headers=headers, **content)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert words in answer.json()["error"]


def test_requests_are_counted_under_the_protocol(server: Server, client: triton.InferenceServerClient) -> None:
    before = server.sample("request_duration_seconds_count", model="sentiment", protocol="kserve", status="200")
    client.infer("sentiment", [tensor("text", ["a"])])
    assert server.sample("request_duration_seconds_count", model="sentiment", protocol="kserve", status="200") > before

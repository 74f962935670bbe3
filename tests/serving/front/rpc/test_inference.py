"""The Open Inference Protocol over gRPC, by Triton's client: what it answers is what HTTP does."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from headwaiter import __version__
from serving.errors import ServingError, TooLarge, Unprocessable
from serving.front.front import Front
from serving.front.protocols.kserve_inference import MAX_TENSORS, InferenceRequest
from serving.front.rpc import inference as module
from serving.front.rpc.inference import CONTENTS, parse, to_form
from serving.tasks import get_task
from tests.serving.front.local_front import MakeFront
from tests.serving.front.rpc.served import TEXT, VECTORS, Port, answers, infer, on_port, tensor
from tests.serving.front.task_fronts import TASKS, png, post, serve_tasks


def by_http(front: Front, model: str, body: Mapping[str, Any]) -> Any:
    """The only output of a request over HTTP."""
    found = post(front, f"/v2/models/{model}/infer", msgspec.json.encode(body)).json()
    return found["outputs"][0]


def texts_of(*texts: str, name: str = "text") -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    made = make_front()
    serve_tasks(made, TASKS)
    return made


def test_answers_are_those_of_http(front: Front) -> None:
    texts = ["the quick fox", "the slow foxes"]  # of as many tokens each
    expected = {model: by_http(front, model, {"inputs": [texts_of(*texts)]}) for model in (TEXT, VECTORS)}
    image = [png(8, 8)]

    async def work(port: Port) -> None:
        vectors = await port.ask(infer(VECTORS, texts, request_id="seven"))
        found = vectors.as_numpy("output")
        assert (list(found.shape), found.dtype) == (expected[VECTORS]["shape"], numpy.float32)
        assert numpy.allclose(found.ravel(), expected[VECTORS]["data"])
        told = vectors.get_response()
        assert (told.id, told.model_name, told.model_version) == ("seven", VECTORS, "1")
        assert not told.outputs[0].HasField("contents")
        labels = await port.ask(infer(TEXT, texts, model_version="1", parameters={"top_k": 2}))
        assert [len(each) for each in answers(labels)] == [2, 2]
        whole = await port.ask(infer(TEXT, texts))
        assert [msgspec.json.decode(text) for text in expected[TEXT]["data"]] == answers(whole)
        picture = await port.ask(lambda client: client.infer("image-classification", [tensor("image", image)]))
        assert len(answers(picture)) == 1

    on_port(front, work)


def test_typed_contents_are_answered_by_typed_contents(front: Front) -> None:
    expected = by_http(front, VECTORS, {"inputs": [texts_of("a", "é")]})
    asked = service_pb2.ModelInferRequest(model_name=VECTORS)
    given = asked.inputs.add(name="text", datatype="BYTES", shape=[2])
    given.contents.bytes_contents.extend([b"a", "é".encode()])

    async def work(port: Port) -> None:
        code, body = await port.call("inference.GRPCInferenceService/ModelInfer", asked.SerializeToString())
        assert code.name == "OK", body
        found = service_pb2.ModelInferResponse.FromString(body)
        assert not found.raw_output_contents
        assert numpy.allclose(found.outputs[0].contents.fp32_contents, expected["data"])
        assert list(found.outputs[0].shape) == expected["shape"]
        asked.model_name = TEXT
        _, body = await port.call("inference.GRPCInferenceService/ModelInfer", asked.SerializeToString())
        (output,) = service_pb2.ModelInferResponse.FromString(body).outputs
        assert (output.datatype, list(output.shape), len(output.contents.bytes_contents)) == ("BYTES", [2], 2)

    on_port(front, work)


NUMBERS = {
    "INT8": numpy.int8,
    "INT32": numpy.int32,
    "INT64": numpy.int64,
    "UINT16": numpy.uint16,
    "UINT64": numpy.uint64,
    "FP32": numpy.float32,
    "FP64": numpy.float64,
}


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("is_raw", [True, False])
def test_a_parameter_may_be_a_tensor_of_numbers(front: Front, datatype: str, is_raw: bool) -> None:
    value = NUMBERS[datatype](2)
    asked = service_pb2.ModelInferRequest(model_name=TEXT)
    asked.inputs.add(name="text", datatype="BYTES", shape=[1])
    asked.inputs.add(name="top_k", datatype=datatype, shape=[1])
    if is_raw:
        asked.raw_input_contents.extend([b"\1\0\0\0a", value.tobytes()])
    else:
        asked.inputs[0].contents.bytes_contents.append(b"a")
        getattr(asked.inputs[1].contents, CONTENTS[datatype]).append(value.item())

    form = to_form(parse("ModelInferRequest", asked.SerializeToString()), max_rows=8)
    if datatype.startswith("FP"):
        with pytest.raises(Unprocessable, match="top_k: expected `int"):
            InferenceRequest(form, b"", 8).read(get_task(TEXT))
    else:
        assert InferenceRequest(form, b"", 8).read(get_task(TEXT)).parameters.top_k == 2


@pytest.mark.parametrize(
    ("name", "datatype", "data", "words"),
    [
        ("top_k", "INT64", b"\1", "has 1 bytes, its shape and datatype need 8"),
        ("input_ids", "INT64", bytes(8), "'input_ids' has numbers, and is no parameter of text-classification"),
        ("top_k", "BF16", bytes(2), "has datatype 'BF16': send text as BYTES"),
    ],
)
def test_numbers_that_are_no_parameter_are_refused(name: str, datatype: str, data: bytes, words: str) -> None:
    asked = service_pb2.ModelInferRequest(raw_input_contents=[b"\1\0\0\0a", data])
    asked.inputs.add(name="text", datatype="BYTES", shape=[1])
    asked.inputs.add(name=name, datatype=datatype, shape=[1])
    form = to_form(parse("ModelInferRequest", asked.SerializeToString()), max_rows=8)
    with pytest.raises(ServingError, match=words):
        InferenceRequest(form, b"", 8).read(get_task(TEXT))


def test_server_and_models_are_described_as_over_http(front: Front) -> None:
    async def work(port: Port) -> None:
        def look(client: triton.InferenceServerClient) -> None:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(TEXT)
            assert client.is_model_ready(TEXT, "1")
            assert not client.is_model_ready(TEXT, "9")
            assert not client.is_model_ready("nobody")
            server = client.get_server_metadata(as_json=True)
            assert server == {"name": "headwaiter", "version": __version__}
            for model in TASKS:
                told = client.get_model_metadata(model)
                described = expected[model]
                assert (told.name, list(told.versions), told.platform) == (model, ["1"], described["platform"])
                for field in ("inputs", "outputs"):
                    tensors = [
                        {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
                        for each in getattr(told, field)
                    ]
                    assert tensors == described[field]

        await port.ask(look)
        code, text = await port.refused(lambda client: client.get_model_metadata("nobody"))
        assert (code, "no model 'nobody'" in text) == ("NOT_FOUND", True)

    expected = {model: _described(front, model) for model in TASKS}
    on_port(front, work)


def _described(front: Front, model: str) -> Any:
    from serving.front.protocols.kserve_descriptions import metadata

    return metadata(asyncio.run(front.models.loaded(model, None)), ["1"])


@pytest.mark.parametrize(
    ("model", "inputs", "code", "words"),
    [
        ("nobody", [tensor("text", ["a"])], "NOT_FOUND", "no model 'nobody'"),
        (TEXT, [tensor("text", [""])], "INVALID_ARGUMENT", "empty text"),
        (TEXT, [tensor("text", [b"\xff\xfe"])], "INVALID_ARGUMENT", "expected"),
        (TEXT, [], "INVALID_ARGUMENT", "at least one tensor"),
        ("question-answering", [tensor("question", ["Where?"])], "INVALID_ARGUMENT", "missing required field"),
        (TEXT, [tensor("a", ["x"]), tensor("b", ["y"])], "INVALID_ARGUMENT", "no column says what to read"),
        (TEXT, [tensor("text", ["a"] * 1025)], "INVALID_ARGUMENT", "a request may have 1,024"),
    ],
)
def test_a_wrong_request_gets_its_code(front: Front, model: str, inputs: Any, code: str, words: str) -> None:
    async def work(port: Port) -> None:
        found, text = await port.refused(lambda client: client.infer(model, inputs))
        assert (found, words in text) == (code, True), text

    on_port(front, work)


def test_what_the_client_asks_for_beyond_is_refused_by_its_name(front: Front) -> None:
    more: dict[str, dict[str, Any]] = {
        "classification": {"outputs": [triton.InferRequestedOutput("output", class_count=2)]},
        "sequence_id": {"sequence_id": 7},
        "priority": {"priority": 1},
        "outputs names 'other'": {"outputs": [triton.InferRequestedOutput("other")]},
    }

    async def work(port: Port) -> None:
        for word, options in more.items():
            code, text = await port.refused(infer(**options))
            assert (code, word in text) == ("INVALID_ARGUMENT", True), text
        code, _ = await port.refused(infer(compression_algorithm="gzip"))
        assert code == "UNIMPLEMENTED"

    on_port(front, work)


_names = st.sampled_from(["text", "inputs", "text_pair", "question", "candidate_labels", "a", ""])
_tensors = st.builds(
    lambda name, kind, shape, contents, typed: service_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=kind, shape=shape, contents=contents if typed else None
    ),
    _names,
    st.sampled_from(["BYTES", "INT32", "INT64", "FP32", "BOOL", "FP16", "", "é"]),
    st.lists(st.integers(-(2**62), 2**62) | st.integers(-1, 4), max_size=4),
    st.builds(
        service_pb2.InferTensorContents,
        bytes_contents=st.lists(st.binary(max_size=4), max_size=4),
        int64_contents=st.lists(st.integers(-5, 5), max_size=4),
        fp32_contents=st.lists(st.floats(width=32), max_size=4),
        bool_contents=st.lists(st.booleans(), max_size=4),
    ),
    st.booleans(),
)
_parameters = st.dictionaries(
    st.sampled_from(["top_k", "timeout", "binary_data_output", "truncate", "x"]),
    st.sampled_from(
        [
            service_pb2.InferParameter(),
            service_pb2.InferParameter(bool_param=True),
            service_pb2.InferParameter(int64_param=-1),
            service_pb2.InferParameter(double_param=float("nan")),
            service_pb2.InferParameter(string_param="a"),
            service_pb2.InferParameter(uint64_param=2**64 - 1),
        ]
    ),
    max_size=3,
)


@pytest.mark.slow
@given(
    st.lists(_tensors, max_size=3),
    st.lists(st.binary(max_size=20), max_size=3),
    _parameters,
    st.sampled_from([TEXT, "zero-shot-classification", "question-answering", "image-classification"]),
)
def test_any_request_is_read_or_refused(tensors: Any, raw: Any, parameters: Any, task: str) -> None:
    request = service_pb2.ModelInferRequest(inputs=tensors, raw_input_contents=raw, parameters=parameters)
    try:
        form = to_form(parse("ModelInferRequest", request.SerializeToString()), max_rows=8)
        InferenceRequest(form, b"", 8).read(get_task(task))
    except ServingError as error:
        assert error.status in (400, 413, 422)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        to_form(parse("ModelInferRequest", data), max_rows=8)
    except ServingError as error:
        assert error.status in (400, 413, 422)


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_too_many_tensors_are_refused_before_one_is_looked_at(field: str) -> None:
    """65,000 empty ones have 130 KB, and took the event loop more than a second."""
    given: Any = {field: [{}] * (MAX_TENSORS + 1)}
    with pytest.raises(TooLarge, match=f"{field} has 65 tensors, a request may have 64"):
        to_form(service_pb2.ModelInferRequest(**given), max_rows=8)


def test_too_many_parameters_are_refused() -> None:
    given = {str(place): {"bool_param": True} for place in range(257)}
    for request in (
        service_pb2.ModelInferRequest(parameters=given),
        service_pb2.ModelInferRequest(inputs=[{"parameters": given}]),
    ):
        with pytest.raises(TooLarge, match="parameters has 257 entries, there may be 256"):
            to_form(request, max_rows=8)


def test_large_messages_are_read_by_the_threads_that_callers_share_fairly(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    monkeypatch.setattr(
        module, "to_form", lambda *given: threads.append(threading.current_thread().name) or to_form(*given)
    )

    async def work(port: Port) -> None:
        for length in (10, 70_000):
            await port.ask(infer(TEXT, ["x " * length], parameters={"truncate": True}))

    on_port(front, work)
    assert [name.startswith("headwaiter-texts") for name in threads] == [False, True]
    assert threads[0] == "MainThread"

"""Tensors of the Open Inference Protocol: written tensors are read back unchanged, and malformed ones are refused."""

import json
import struct
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Malformed, ServingError, Unprocessable
from serving.front import asgi
from serving.front.protocols import kserve_tensors
from serving.front.protocols.forms import read_form
from serving.front.protocols.kserve_inference import InferenceForm, InferenceRequest
from serving.front.protocols.kserve_tensors import (
    Tensor,
    output_form,
    read_columns,
    split_body,
    take_inputs,
    write_output,
)
from serving.tasks import get_task


def packed(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@given(st.lists(st.lists(st.text(), max_size=5), min_size=1, max_size=3))
def test_binary_and_json_give_the_same_columns(columns: list[list[str]]) -> None:
    data = [packed([text.encode() for text in column]) for column in columns]
    binary = [
        Tensor(f"c{at}", [len(column)], "BYTES", parameters={"binary_data_size": len(part)})
        for at, (column, part) in enumerate(zip(columns, data, strict=True))
    ]
    plain = [Tensor(f"c{at}", [len(column)], "BYTES", data=column) for at, column in enumerate(columns)]
    assert read_columns(binary, b"".join(data)) == read_columns(plain, b"")
    assert list(read_columns(plain, b"").values()) == columns


@given(st.binary(max_size=60), st.integers(-1, 70), st.lists(st.integers(-1, 5), max_size=3))
def test_any_bytes_give_columns_or_a_serving_error(data: bytes, size: int, shape: list[int]) -> None:
    try:
        read_columns([Tensor("text", shape, "BYTES", parameters={"binary_data_size": size})], data)
    except ServingError as error:
        assert error.status in (400, 422)


def test_a_second_dimension_is_a_list_a_row() -> None:
    flat = Tensor("choices", [2, 3], "BYTES", data=list("abcdef"))
    nested = Tensor("choices", [2, 3], "BYTES", data=[list("abc"), list("def")])
    for tensor in (flat, nested):
        assert read_columns([tensor], b"") == {"choices": [["a", "b", "c"], ["d", "e", "f"]]}
    single = Tensor("choices", [2, 1], "BYTES", data=["a", "b"])
    assert read_columns([single], b"") == {"choices": [["a"], ["b"]]}


@pytest.mark.parametrize("rows", [[[0.5, 1.5]], [[[1.0], [2.0]], [[3.0], [4.0]]]])
def test_vectors_are_one_tensor_of_numbers(rows: Any) -> None:
    head, data = write_output(rows, binary=True)
    shape = list(numpy.shape(rows))
    assert (head["datatype"], head["shape"], head["parameters"]["binary_data_size"]) == ("FP32", shape, len(data))
    numpy.testing.assert_array_equal(numpy.frombuffer(data, dtype="<f4").reshape(shape), rows)
    head, data = write_output(rows, binary=False)
    assert (numpy.reshape(json.loads(bytes(head["data"])), shape).tolist(), data) == (rows, b"")


def test_any_other_answer_is_json() -> None:
    answers = [{"answer": "naïf"}, [{"label": "a"}], []]
    head, _ = write_output(answers, binary=False)
    assert (head["datatype"], head["shape"]) == ("BYTES", [3])
    texts = json.loads(bytes(head["data"]))
    assert [json.loads(text) for text in texts] == answers
    assert write_output(answers, binary=True)[1] == packed([text.encode() for text in texts])


@pytest.mark.parametrize("answers", [[[0.5] * 100] * 50, [[{"label": "a" * 100}]] * 50], ids=["numbers", "texts"])
def test_no_more_than_an_answer_is_encoded_at_a_time(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def encode(value: Any) -> bytes:
        found = json.dumps(value).encode()
        sizes.append(len(found))
        return found

    for module in (asgi, kserve_tensors):
        monkeypatch.setattr(module, "encode_json", encode)
    head, _ = write_output(answers, binary=False)
    assert len(json.loads(bytes(head["data"]))) in (50, 5000)
    assert len(sizes) >= 50
    assert max(sizes) < 1000


def test_vectors_of_different_lengths_make_no_tensor() -> None:
    with pytest.raises(Unprocessable, match="differ in shape"):
        write_output([[[1.0]], [[1.0], [2.0]]], binary=True)


@pytest.mark.parametrize(
    ("example", "datatype", "shape"),
    [
        ([[0.1, 0.2], [0.3, 0.4]], "FP32", [-1, -1]),
        ([[[0.1]], [[0.2]]], "FP32", [-1, -1, -1]),
        ([[{"label": "a"}]], "BYTES", [-1]),
        ({"answer": "a"}, "BYTES", [-1]),
        (None, "BYTES", [-1]),
    ],
)
def test_the_output_is_declared_from_the_contracts_example(example: Any, datatype: str, shape: list[int]) -> None:
    assert output_form(example) == {"name": "output", "datatype": datatype, "shape": shape}


@pytest.mark.parametrize("shape", [[], [-1], [0, 0], [10**12, 0], [1, -1], [3]])
def test_a_shape_that_does_not_fit_is_refused(shape: list[int]) -> None:
    with pytest.raises(Malformed, match="has shape"):
        read_columns([Tensor("text", shape, "BYTES", data=[])], b"")


def test_the_header_splits_json_from_what_follows() -> None:
    assert split_body(b"{}rest", "2") == (b"{}", b"rest")
    assert split_body(b"{}", "") == (b"{}", b"")
    assert split_body(b"{}rest", 5000 * "0" + "2") == (b"{}", b"rest")
    for length in ("7", "-1", "x", "²", "٣", 5000 * "1"):
        with pytest.raises(Malformed, match="Inference-Header-Content-Length is"):
            split_body(b"{}", length)


def test_a_parameter_that_is_a_list_of_texts_may_be_a_tensor() -> None:
    task = get_task("zero-shot-classification")
    for labels in (["x", "y"], [["x", "y"]], [["x", "y"], ["x", "y"]]):
        columns: dict[str, list[object]] = {"text": ["a", "b"], "candidate_labels": list(labels)}
        assert take_inputs(columns, task) == (["a", "b"], {"candidate_labels": ["x", "y"]})
    with pytest.raises(Unprocessable, match="'candidate_labels' differs between rows: .* give every row the same"):
        take_inputs({"text": ["a", "b"], "candidate_labels": [["x", "y"], ["y", "x"]]}, task)


def taken(task: str, *tensors: Tensor) -> Any:
    return take_inputs(read_columns(tensors, b""), get_task(task))


@pytest.mark.parametrize("shape", [[2], [2, 1], [2, 1, 1]])
def test_a_row_of_one_element_is_that_element_where_no_list_is_wanted(shape: list[int]) -> None:
    text = Tensor("text", shape, "BYTES", data=["a", "b"])
    top_k = Tensor("top_k", shape, "INT64", data=[3, 3])
    assert taken("text-classification", text, top_k) == (["a", "b"], {"top_k": 3})


def test_a_row_of_one_element_is_a_list_where_one_is_wanted() -> None:
    task, text = "zero-shot-classification", Tensor("text", [2], "BYTES", data=["a", "b"])

    def labels(*values: str) -> Tensor:
        return Tensor("candidate_labels", [len(values), 1], "BYTES", data=list(values))

    for equal in (labels("x"), labels("x", "x")):
        assert taken(task, text, equal) == (["a", "b"], {"candidate_labels": ["x"]})
    with pytest.raises(Unprocessable, match="'candidate_labels' differs between rows"):
        taken(task, text, labels("x", "y"))
    prompts, choices = (Tensor(name, [2, 1], "BYTES", data=["a", "b"]) for name in ("prompt", "choices"))
    assert taken("multiple-choice", prompts, choices)[0] == [
        {"prompt": "a", "choices": ["a"]},
        {"prompt": "b", "choices": ["b"]},
    ]


@pytest.mark.parametrize(("name", "known"), [("text-classification", "text"), ("question-answering", "question")])
def test_a_tensor_that_the_task_does_not_know_is_refused_by_name(name: str, known: str) -> None:
    with pytest.raises(Unprocessable, match=f"inputs 'unheard' is unknown to {name}"):
        take_inputs({known: ["a"], "unheard": ["b"]}, get_task(name))
    assert take_inputs({"any name": ["a"]}, get_task("text-classification")) == (["a"], {})


def test_tensors_in_shared_memory_are_refused_by_name() -> None:
    with pytest.raises(Unprocessable, match="'text' parameters.shared_memory_region is not supported"):
        read_columns([Tensor("text", [1], "BYTES", parameters={"shared_memory_region": "a"})], b"")


@pytest.mark.parametrize("timeout", [10**19, 10**400, -1])
def test_a_timeout_of_more_than_64_bits_is_refused(timeout: int) -> None:
    form = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}
    with pytest.raises(ServingError, match="timeout"):
        InferenceRequest(read_form(form | {"parameters": {"timeout": timeout}}, InferenceForm), b"", 10)


def test_binary_data_that_belong_to_no_tensor_are_refused() -> None:
    tensor = Tensor("text", [1], "BYTES", parameters={"binary_data_size": 5})
    assert read_columns([tensor], b"\1\0\0\0a") == {"text": ["a"]}
    with pytest.raises(Malformed, match=r"3 bytes .* after the last tensor"):
        read_columns([tensor], b"\1\0\0\0abcd")
    with pytest.raises(Malformed, match="1 bytes"):
        read_columns([Tensor("text", [1], "BYTES", data=["a"])], b"a")


def test_a_tensor_with_data_twice_is_refused() -> None:
    both = Tensor("text", [1], "BYTES", data=["a"], parameters={"binary_data_size": 5})
    with pytest.raises(Malformed, match="'text' has data and binary_data_size: give one of them"):
        read_columns([both], b"\1\0\0\0b")
    raw = b"\1\0\0\0a"  # of gRPC, where KServe's client gives their size, too
    assert read_columns([Tensor("text", [1], "BYTES", data=raw, parameters={"binary_data_size": 5})], b"")
    with pytest.raises(Malformed, match="give one of them"):
        read_columns([Tensor("text", [1], "BYTES", data=raw, parameters={"binary_data_size": 4})], b"")


@pytest.mark.parametrize(
    ("datatype", "value", "words"),
    [
        ("UINT8", 300, "whole numbers from 0 to 255"),
        ("UINT8", -1, "whole numbers from 0 to 255"),
        ("INT64", 2**63, "whole numbers from -9223372036854775808"),
        ("INT64", 10**400, "whole numbers"),
        ("INT32", 1.0, "whole numbers"),
        ("INT32", True, "whole numbers"),
        ("BOOL", 1, "true or false"),
        ("FP32", "1", "numbers from -3.40"),
        ("FP32", False, "numbers"),
        ("FP32", 1e300, "numbers"),
        ("FP64", None, "numbers"),
        ("BYTES", 1, "texts"),
        ("BYTES", {}, "texts"),
    ],
)
def test_data_that_are_not_of_their_datatype_are_refused(datatype: str, value: Any, words: str) -> None:
    with pytest.raises(Malformed, match=f"inputs 'x' has datatype '?{datatype}'?.* {words}"):
        read_columns([Tensor("x", [2], datatype, data=[value, value])], b"")


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT8", [0, 255]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [2**64 - 1]),
        ("BYTES", ["a", None]),
        ("BOOL", [True, False]),
        ("FP32", [1, -3.4028234663852886e38]),
        ("FP64", [1e300]),
        ("BYTES", ["a", b"\xff"]),
    ],
)
def test_data_of_their_datatype_are_read(datatype: str, values: list[Any]) -> None:
    assert read_columns([Tensor("x", [len(values)], datatype, data=values)], b"") == {"x": values}


@pytest.mark.parametrize("given", [1, 2])
def test_a_parameter_that_comes_as_a_tensor_and_in_parameters_is_refused(given: int) -> None:
    form = InferenceForm(
        [Tensor("text", [1], "BYTES", data=["a"]), Tensor("top_k", [1], "INT64", data=[2])], parameters={"top_k": given}
    )
    with pytest.raises(Malformed, match="'top_k' is in parameters, too: send it once"):
        InferenceRequest(form, b"", 10).read(get_task("text-classification"))


def test_an_unknown_parameter_of_a_tensor_is_refused_by_name() -> None:
    text = Tensor("text", [1], "BYTES", data=["a"], parameters={"content_type": "str"})  # as MLServer's clients say it
    assert read_columns([text], b"") == {"text": ["a"]}
    for name, value in (("top_k", 1), ("content_type", "base64")):
        with pytest.raises(Unprocessable, match=f"'text' parameters.{name} is"):
            read_columns([Tensor("text", [1], "BYTES", data=["a"], parameters={name: value})], b"")

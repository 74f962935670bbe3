"""Every public method and parameter of the clients that are said to work unchanged, called on a real server."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bentoml
import huggingface_hub
import numpy
import openai
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, TextGenerationError
from huggingface_hub.inference._generated.types import BaseInferenceType
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.exceptions import MlflowException
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tritonclient.utils import InferenceServerException

from tests.alike import assert_alike
from tests.e2e import test_deployments
from tests.e2e.client_table import misfits, read_table
from tests.e2e.server import Server
from tests.e2e.test_kserve import answers, tensor
from tests.e2e.test_tasks import form, picture

pytestmark = pytest.mark.processor


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's client calls nothing while the hub is switched off, as it is for all other tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def public(kind: type) -> set[str]:
    """The public methods and properties of a client."""
    found = {**dict(inspect.getmembers(kind, inspect.isfunction))}
    found |= dict(inspect.getmembers(kind, lambda member: isinstance(member, property)))
    return {name for name in found if not name.startswith("_")}


@dataclass(frozen=True)
class Method:
    """How a method that works is called. given: arguments that every call has. values: parameter → a value that is
    applied. refused: parameter → a value that is refused by name. more: parameter → what its value needs beside it.
    says: parameter → what the refusal names, where that may be another one.
    """

    model: str
    given: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)


def sweep(call: Callable[..., Any], method: Method, ignored: set[str], refusals: Any) -> list[Any]:
    """The results of a call without parameters, with all of them None, and with each of them applied.

    Each refused value must be refused with its parameter's name.
    """
    known = set(inspect.signature(call).parameters) - method.given.keys() - ignored
    assert known == method.values.keys() | method.refused.keys()
    plain = call(**method.given)
    nothing = call(**method.given, **dict.fromkeys(known))
    assert form(plain) == form(nothing)
    for name, value in method.refused.items():
        with pytest.raises(refusals, match=method.says.get(name, name)):
            call(**method.given, **method.more.get(name, {}), **{name: value})
    applied = (
        call(**method.given, **method.more.get(name, {}), **{name: value}) for name, value in method.values.items()
    )
    return [plain, *applied]


# huggingface_hub

SENTENCE = "the quick brown fox"
GENERATION = {"max_new_tokens": 5}
MESSAGES = [{"role": "user", "content": SENTENCE, "name": None, "tool_calls": None}]
HUGGING_FACE = {
    "text_classification": Method("sentiment", {"text": "good"}, {"top_k": 99, "function_to_apply": "sigmoid"}),
    "token_classification": Method(
        "names",
        {"text": "Ada went to Paris"},
        {"aggregation_strategy": "first", "ignore_labels": ["O"], "stride": 8},
    ),
    "zero_shot_classification": Method(
        "zero-shot-classification",
        {"text": "A late goal", "candidate_labels": ["sports", "politics"]},
        {"multi_label": True, "hypothesis_template": "It is about {}."},
    ),
    "question_answering": Method(
        "question-answering",
        {"question": "Where?", "context": "Ada lives in Paris. " * 9},
        {
            "align_to_words": False,
            "doc_stride": 8,
            "handle_impossible_answer": True,
            "max_answer_len": 3,
            "max_question_len": 9,
            "max_seq_len": 32,
            "top_k": 2,
        },
    ),
    "fill_mask": Method(
        "fill-mask", {"text": "Paris is the [MASK] of France."}, {"targets": ["capital", "centre"], "top_k": 2}
    ),
    "summarization": Method(
        "summarization",
        {"text": SENTENCE},
        {
            "clean_up_tokenization_spaces": False,
            "generate_parameters": {"max_length": 20, "min_length": 5},
            "truncation": "longest_first",
        },
        {"clean_up_tokenization_spaces": True},
    ),
    "translation": Method(
        "translation",
        {"text": SENTENCE},
        {
            "clean_up_tokenization_spaces": False,
            "generate_parameters": {"max_length": 20, "min_length": 5},
            "truncation": "longest_first",
        },
        {"clean_up_tokenization_spaces": True, "src_lang": "en", "tgt_lang": "fr"},
        {"src_lang": {"tgt_lang": "fr"}, "tgt_lang": {"src_lang": "en"}},
        dict.fromkeys(("src_lang", "tgt_lang"), "(src|tgt)_lang"),
    ),
    "feature_extraction": Method(
        "embedder",
        {"text": SENTENCE},
        {
            "normalize": True,
            "truncate": True,
            "truncation_direction": "left",
            "dimensions": 5,
            "encoding_format": "float",
        },
        {"encoding_format": "base64", "prompt_name": "no such prompt"},
    ),
    "sentence_similarity": Method("embedder", {"sentence": SENTENCE, "other_sentences": ["a fox", "a parcel"]}),
    "image_classification": Method(
        "image-classification", {"image": picture()}, {"function_to_apply": "sigmoid", "top_k": 99}
    ),
    "text_generation": Method(
        "text-generation",
        {"prompt": SENTENCE},
        {
            "best_of": 1,
            "decoder_input_details": False,
            "details": True,
            "do_sample": True,
            "frequency_penalty": 0.0,
            "max_new_tokens": 5,
            "repetition_penalty": 1.2,
            "return_full_text": True,
            "seed": 3,
            "stop": ["fox"],
            "stream": True,
            "temperature": 0.7,
            "top_k": 5,
            "top_n_tokens": 2,
            "top_p": 0.9,
            "truncate": 100,
            "typical_p": 1.0,
            "watermark": False,
        },
        {
            "adapter_id": "another",
            "best_of": 2,
            "decoder_input_details": True,
            "frequency_penalty": 0.5,
            "grammar": {"type": "regex", "value": "a*"},
            "typical_p": 0.9,
            "watermark": True,
        },
        {"stream": {"details": True}, "top_n_tokens": {"details": True}, "decoder_input_details": {"details": True}},
    ),
    "chat_completion": Method(
        "chat",
        {"messages": MESSAGES},
        {
            "extra_body": {"top_k": 3},
            "frequency_penalty": 0.0,
            "logprobs": True,
            "max_tokens": 5,
            "n": 2,
            "presence_penalty": 0.0,
            "seed": 3,
            "stop": ["fox"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.7,
            "top_logprobs": 2,
            "top_p": 0.9,
        },
        {
            "frequency_penalty": 0.5,
            "logit_bias": [1.0],
            "presence_penalty": 0.5,
            "response_format": {"type": "json_object"},
            "tool_choice": "required",
            "tool_prompt": "Use these:",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        },
        {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}, "stream": {"max_tokens": 5}},
    ),
    "health_check": Method("sentiment"),
    "get_endpoint_info": Method("sentiment"),
}
OTHER_TASKS: dict[str, dict[str, Any]] = {
    "audio_classification": {"audio": b"x"},
    "audio_to_audio": {"audio": b"x"},
    "automatic_speech_recognition": {"audio": b"x"},
    "document_question_answering": {"image": b"x", "question": "a"},
    "image_segmentation": {"image": b"x"},
    "image_to_image": {"image": b"x"},
    "image_to_text": {"image": b"x"},
    "image_to_video": {"image": b"x"},
    "object_detection": {"image": b"x"},
    "table_question_answering": {"table": {"a": ["b"]}, "query": "a"},
    "tabular_classification": {"table": {"a": ["b"]}},
    "tabular_regression": {"table": {"a": ["b"]}},
    "text_to_image": {"prompt": "a"},
    "text_to_speech": {"text": "a"},
    "text_to_video": {"prompt": "a"},
    "visual_question_answering": {"image": b"x", "question": "a"},
    "zero_shot_image_classification": {"image": b"x", "candidate_labels": ["a", "b"]},
}
UNSENT = {"image_to_video", "tabular_regression", "text_to_video"}
"""The client itself refuses them for any URL."""


def hugging_face(server: Server, model: str) -> InferenceClient:
    return InferenceClient(model=f"{server.url}/models/{model}", provider="hf-inference")


def assert_fits(answer: Any) -> None:
    """Every answer of a published type has its fields. A chat's later deltas have no role, as OpenAI's have none."""
    for each in answer if isinstance(answer, list) else [answer]:
        if isinstance(each, BaseInferenceType):
            wrong = [found for found in misfits(each, type(each)) if "delta.role" not in found]
            assert wrong == [], each


def test_the_table_of_hugging_faces_client_has_every_method() -> None:
    table = read_table("huggingface_hub.InferenceClient")
    assert table.keys() == public(InferenceClient)
    assert {name for name, row in table.items() if row.is_refused} == OTHER_TASKS.keys()
    assert {name for name in table if name not in OTHER_TASKS} == HUGGING_FACE.keys() | {"chat", "close"}
    for name, method in HUGGING_FACE.items():
        assert table[name].refused == method.refused.keys(), name


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_method_of_hugging_faces_client_with_each_parameter(server: Server, name: str) -> None:
    method = HUGGING_FACE[name]
    call = getattr(hugging_face(server, method.model), name)
    for answer in sweep(call, method, {"model"}, (HfHubHTTPError, TextGenerationError)):
        assert_fits(list(answer) if isinstance(answer, Iterator) else answer)


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_a_method_of_a_task_that_is_not_served_is_refused(server: Server, name: str) -> None:
    call = getattr(hugging_face(server, "multiple-choice"), name)
    if name in UNSENT:
        with pytest.raises(ValueError, match="not supported for provider"):
            call(**OTHER_TASKS[name])
        return
    with pytest.raises(HfHubHTTPError) as caught:
        call(**OTHER_TASKS[name])
    assert caught.value.response is not None
    assert caught.value.response.status_code in (400, 422)


def test_what_hugging_faces_client_gets(server: Server) -> None:
    assert len(hugging_face(server, "sentiment").text_classification("x", top_k=99)) == 4
    short = {"max_length": 6, "min_length": 6}
    assert server.ask("summarization", SENTENCE, generate_parameters=short, details=True)[0]["details"][
        "generated_tokens"
    ] == (6 - 1)
    others = ["the quick fox", "a parcel came late"]
    source, *vectors = numpy.asarray(server.ask("embedder", [SENTENCE, *others], normalize=True))
    found = hugging_face(server, "embedder").sentence_similarity(SENTENCE, others)
    assert_alike(found, [float(vector @ source) for vector in vectors])
    client = hugging_face(server, "text-generation")
    cut = [client.text_generation(f"{head} brown fox", truncate=2, **GENERATION) for head in ("the", "a lazy dog " * 9)]
    assert cut[0] == cut[1], "the beginning is cut off"
    assert not hugging_face(server, "nobody").health_check()
    assert hugging_face(server, "names").get_endpoint_info()["model_pipeline_tag"] == "token-classification"
    chat = hugging_face(server, "chat")
    answer = chat.chat.completions.create(messages=MESSAGES, max_tokens=5, temperature=0)
    assert (
        answer.choices[0].message.content
        == chat.chat_completion(MESSAGES, max_tokens=5, temperature=0).choices[0]["message"]["content"]
    )
    chat.close()


# openai

CHAT = Method(
    "chat",
    {"model": "chat", "messages": MESSAGES},
    {
        "frequency_penalty": 0,
        "logprobs": True,
        "max_completion_tokens": 5,
        "max_tokens": 5,
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "n": 2,
        "parallel_tool_calls": False,
        "presence_penalty": 0,
        "prompt_cache_key": "a",
        "prompt_cache_options": {},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "none",
        "response_format": {"type": "text"},
        "safety_identifier": "a",
        "seed": 3,
        "service_tier": "auto",
        "stop": "fox",
        "store": False,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "temperature": 0.7,
        "tool_choice": "none",
        "tools": [],
        "top_logprobs": 2,
        "top_p": 0.9,
        "user": "a",
    },
    {
        "audio": {"voice": "alloy", "format": "mp3"},
        "frequency_penalty": 0.5,
        "function_call": {"name": "f"},
        "functions": [{"name": "f"}],
        "logit_bias": {"1": 2},
        "modalities": ["audio"],
        "moderation": {"model": "a"},
        "prediction": {"type": "content", "content": "a"},
        "presence_penalty": 0.5,
        "reasoning_effort": "high",
        "response_format": {"type": "json_object"},
        "service_tier": "flex",
        "store": True,
        "stream_options": {"include_obfuscation": True},
        "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "verbosity": "low",
        "web_search_options": {},
    },
    {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}},
)
COMPLETIONS = Method(
    "text-generation",
    {"model": "text-generation", "prompt": SENTENCE},
    {
        "best_of": 1,
        "echo": True,
        "frequency_penalty": 0,
        "logprobs": 2,
        "max_tokens": 5,
        "n": 2,
        "presence_penalty": 0,
        "seed": 3,
        "stop": ["fox"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "user": "a",
    },
    {
        "best_of": 2,
        "frequency_penalty": 0.5,
        "logit_bias": {"1": 2},
        "presence_penalty": 0.5,
        "stream_options": {"include_obfuscation": True},
        "suffix": "end",
    },
    {"stream_options": {"stream": True}},
)
EMBEDDINGS = Method(
    "embedder", {"model": "embedder", "input": SENTENCE}, {"dimensions": 5, "encoding_format": "base64", "user": "a"}
)
OPENAI = {
    "chat.completions.create": CHAT,
    "completions.create": COMPLETIONS,
    "embeddings.create": EMBEDDINGS,
    "models.list": Method(""),
    "models.retrieve": Method("", {"model": "chat"}),
}
TRANSPORT = {"extra_headers", "extra_query", "extra_body", "timeout"}
"""Parameters of every method that are about the call and not the request."""


@pytest.fixture
def openai_client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", admin_api_key="none", max_retries=0) as client:
        yield client


def reach(client: Any, path: str) -> Any:
    for name in path.split("."):
        client = getattr(client, name)
    return client


def resources(owner: Any) -> dict[str, Any]:
    """The resources that an object of openai has."""
    names = [name for name in dir(type(owner)) if not name.startswith("_") and not name.startswith("with_")]
    found = {name: getattr(owner, name) for name in names}
    return {name: each for name, each in found.items() if hasattr(each, "_client") and not inspect.ismethod(each)}


def methods(owner: Any) -> dict[str, Callable[..., Any]]:
    """The methods of a resource of openai."""
    return {
        name: method
        for name, method in inspect.getmembers(owner, inspect.ismethod)
        if not name.startswith(("_", "with_"))
    }


def any_call(owner: Any) -> Callable[..., Any] | None:
    """A method of a resource, or of one below it, that is one request; with something for each required argument."""
    for name in ("list", "create", "generate", "retrieve"):
        call = methods(owner).get(name)
        if call is not None:
            needed = [each for each in inspect.signature(call).parameters.values() if each.default is each.empty]
            given = {
                each.name: b"x" if each.name == "file" else "x" for each in needed if each.kind != each.VAR_KEYWORD
            }
            return partial(call, **given)
    return next((found for each in resources(owner).values() if (found := any_call(each)) is not None), None)


def test_the_table_of_openais_client_has_every_resource_and_method() -> None:
    table = read_table("openai.OpenAI")
    with openai.OpenAI(api_key="none") as client:
        served = {"chat.completions", "completions", "embeddings", "models"}
        expected = {f"{name}.{method}" for name in served for method in methods(reach(client, name))}
        expected |= {f"{name}.{below}" for name in served for below in resources(reach(client, name))}
        expected |= resources(client).keys() - {"chat", "completions", "embeddings", "models"}
        assert resources(client.chat).keys() == {"completions"}
    assert table.keys() == expected
    for name, method in OPENAI.items():
        assert table[name].refused == method.refused.keys(), name
    tested = OPENAI.keys() | {"chat.completions.parse", "chat.completions.stream"}
    assert {name for name, row in table.items() if not row.is_refused} == tested


@pytest.mark.parametrize("name", OPENAI)
def test_a_method_of_openais_client_with_each_parameter(openai_client: openai.OpenAI, name: str) -> None:
    answers = sweep(reach(openai_client, name), OPENAI[name], TRANSPORT, openai.UnprocessableEntityError)
    for answer in answers:
        for each in answer if isinstance(answer, openai.Stream) else [answer]:
            assert isinstance(
                each, (ChatCompletion, ChatCompletionChunk, Completion, CreateEmbeddingResponse, Model)
            ) or (name == "models.list")
            is_part = isinstance(each, Completion) and isinstance(
                answer, openai.Stream
            )  # OpenAI's have no reason, either
            if not isinstance(each, CreateEmbeddingResponse) and not is_part:  # the client decodes vectors
                type(each).model_validate(each.model_dump(), strict=True)


def test_null_means_absent_in_openais_bodies(server: Server) -> None:
    for route, method in (("chat/completions", CHAT), ("completions", COMPLETIONS), ("embeddings", EMBEDDINGS)):
        empty = dict.fromkeys({*method.values, *method.refused, "unheard"})
        found = server.http.post(f"/v1/{route}", json=empty | method.given)
        assert found.status_code == 200, found.text
        unheard = server.http.post(f"/v1/{route}", json={**method.given, "unheard": 1})
        assert (unheard.status_code, unheard.json()["error"]["param"]) == (422, "unheard")


def test_a_chats_message_says_that_it_is_no_refusal(openai_client: openai.OpenAI) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(**CHAT.given, n=2, max_tokens=3)
    choices = raw.http_response.json()["choices"]
    assert [sorted(choice["message"]) for choice in choices] == [["content", "refusal", "role"]] * 2
    assert [choice["message"]["refusal"] for choice in choices] == [None, None]
    answer = openai_client.chat.completions.parse(**CHAT.given, max_tokens=30, temperature=0, stop=["e"])
    again = [*MESSAGES, answer.choices[0].message.model_dump(), {"role": "user", "content": "more"}]
    assert openai_client.chat.completions.create(**{**CHAT.given, "messages": again}, max_tokens=3).choices


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name, row in read_table("openai.OpenAI").items() if row.is_refused])
def test_what_openais_client_has_beyond_is_not_there(openai_client: openai.OpenAI, name: str) -> None:
    found = reach(openai_client, name)
    if inspect.ismethod(found):
        needed = [each for each in inspect.signature(found).parameters.values() if each.default is each.empty]
        call: Any = partial(found, **{each.name: "x" for each in needed if each.kind != each.VAR_KEYWORD})
    else:
        call = any_call(found)
    assert call is not None
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code in (404, 405)


# tritonclient

INFER = Method(
    "sentiment",
    {"model_name": "sentiment", "inputs": [tensor("text", ["good", "bad"])]},
    {
        "model_version": "1",
        "outputs": [triton.InferRequestedOutput("output", binary_data=False)],
        "request_id": "seven",
        "timeout": 20_000_000,
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


# bentoml

BENTOML = {"predict", "call", "close", "default_temp_dir", "is_ready", "request", "wait_until_server_ready"}


def test_the_table_of_bentomls_client_has_every_method() -> None:
    table = read_table("bentoml.SyncHTTPClient")
    assert table.keys() == public(bentoml.SyncHTTPClient) | {"predict"} == BENTOML
    assert not any(row.is_refused or row.refused for row in table.values())


def test_every_method_of_bentomls_client(server: Server) -> None:
    expected = server.ask("sentiment", "good", top_k=1)
    with bentoml.SyncHTTPClient(server.url) as client:
        assert set(client.endpoints) == {"predict"}
        assert client.is_ready()
        client.wait_until_server_ready(timeout=20)
        given: dict[str, Any] = {"model": "sentiment", "inputs": "good", "parameters": {"top_k": 1, "truncate": None}}
        assert_alike(client.predict(**given), expected)
        assert_alike(client.predict(**given, version=None), expected)
        assert_alike(client.call("predict", **given), expected)
        assert_alike(client.request("POST", "/models/sentiment", json={"inputs": "good", "top_k": 1}).json(), expected)
        with pytest.raises(bentoml.exceptions.BentoMLException, match="unknown field `unheard`"):
            client.predict(model="sentiment", inputs="x", parameters={"unheard": 1})


# MLflow's deployment client

MLFLOW = {"list_deployments", "get_deployment", "predict"}
OF_DEPLOYMENTS = {"create_deployment", "update_deployment", "delete_deployment"}
"""Called in test_deployments, where the server follows deployments."""
MLFLOW_REFUSED: dict[str, dict[str, Any]] = {
    "explain": {"deployment_name": "sentiment"},
    "predict_stream": {"deployment_name": "sentiment"},
    "create_endpoint": {"name": "a"},
    "update_endpoint": {"endpoint": "a"},
    "delete_endpoint": {"endpoint": "a"},
    "list_endpoints": {},
    "get_endpoint": {"endpoint": "a"},
}


def test_the_table_of_mlflows_client_has_every_method() -> None:
    table = read_table("mlflow.deployments.get_deploy_client")
    assert table.keys() == public(BaseDeploymentClient)
    assert {name for name, row in table.items() if row.is_refused} == MLFLOW_REFUSED.keys()
    assert {name for name, row in table.items() if not row.is_refused} == MLFLOW | OF_DEPLOYMENTS
    source = inspect.getsource(test_deployments)
    assert all(f"client.{name}(" in source for name in OF_DEPLOYMENTS)


def test_every_method_of_mlflows_client(server: Server) -> None:
    client = get_deploy_client(f"headwaiter:{server.url}")
    assert {"sentiment", "chat"} <= {found["name"] for found in client.list_deployments()}
    assert client.get_deployment("sentiment", endpoint=None)["live"] == "1"
    expected = server.ask("sentiment", ["good", "bad"], top_k=1)
    request = {"inputs": ["good", "bad"], "parameters": {"top_k": 1, "truncate": None}}
    assert_alike(client.predict("sentiment", request, endpoint=None)["predictions"], expected)
    assert_alike(client.predict(inputs=request, endpoint="sentiment")["predictions"], expected)
    for name, given in MLFLOW_REFUSED.items():
        with pytest.raises((MlflowException, NotImplementedError)):
            getattr(client, name)(**given)

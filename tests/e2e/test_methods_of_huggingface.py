"""Every public method and parameter of Hugging Face's client, called on a real server."""

from collections.abc import Iterator
from typing import Any

import huggingface_hub
import numpy
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, TextGenerationError
from huggingface_hub.inference._generated.types import BaseInferenceType

from tests.alike import assert_alike
from tests.e2e.client_table import MESSAGES, SENTENCE, Method, misfits, public, read_table, sweep
from tests.e2e.server import Server
from tests.e2e.test_tasks import picture

pytestmark = pytest.mark.processor


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's client calls nothing while the hub is switched off, as it is for all other tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


GENERATION = {"max_new_tokens": 5}
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

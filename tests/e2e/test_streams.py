"""Texts in the Hugging Face shape, whole and streamed, with its own client; and streams whose client leaves."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import TextGenerationError

from tests.alike import assert_alike
from tests.e2e.overlap import has_answer, held_amid_texts, sent
from tests.e2e.server import Server, wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.surroundings

MESSAGES = [{"role": "user", "content": "the quick fox"}]
PROMPT = "the quick"


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], InferenceClient]:
    """A client of one model; it calls nothing while the hub is switched off, as it is for all other tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return lambda name: InferenceClient(model=f"{server.url}/models/{name}")


def events_of(answer: httpx.Response) -> list[Any]:
    parts = answer.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_text_generation_with_and_without_details_and_stream(client: Callable[[str], InferenceClient]) -> None:
    ask = client("text-generation").text_generation
    settings: Any = {"max_new_tokens": 8, "do_sample": False}
    whole = ask(PROMPT, **settings)
    detailed = ask(PROMPT, details=True, **settings)
    assert detailed.generated_text == whole
    assert (detailed.details.finish_reason, detailed.details.generated_tokens) == ("length", 8)
    assert len(detailed.details.tokens) == 8
    assert "".join(ask(PROMPT, stream=True, **settings)) == whole
    events = list(ask(PROMPT, stream=True, details=True, **settings))
    assert "".join(event.token.text for event in events) == whole
    assert [event.token.id for event in events] == [token.id for token in detailed.details.tokens]
    assert_alike([event.token.logprob for event in events], [token.logprob for token in detailed.details.tokens])
    assert [event.index for event in events] == list(range(1, 9))
    assert events[-1].generated_text == whole
    assert (events[-1].details.finish_reason, events[-1].details.generated_tokens) == ("length", 8)
    assert {event.generated_text for event in events[:-1]} == {None}


def test_every_setting_that_the_client_has_a_name_for(client: Callable[[str], InferenceClient]) -> None:
    ask = client("text-generation").text_generation
    settings: Any = {"max_new_tokens": 8, "seed": 3, "temperature": 0.9, "top_p": 0.9, "top_k": 50}
    assert ask(PROMPT, repetition_penalty=1.2, **settings) == ask(PROMPT, repetition_penalty=1.2, **settings)
    full = "".join(ask(PROMPT, stream=True, return_full_text=True, **settings))
    assert full == PROMPT + ask(PROMPT, **settings)
    greedy = ask(PROMPT, max_new_tokens=8, do_sample=False)
    stop = greedy[3:6]
    kept = greedy[: greedy.index(stop)]
    assert ask(PROMPT, max_new_tokens=8, do_sample=False, stop=[stop]) == kept
    last = list(ask(PROMPT, max_new_tokens=8, do_sample=False, stop=[stop], stream=True, details=True))[-1]
    assert (last.generated_text, last.details.finish_reason) == (kept, "stop_sequence")


def test_chat_completion_with_and_without_stream(client: Callable[[str], InferenceClient], server: Server) -> None:
    settings: Any = {"max_tokens": 8, "temperature": 0}
    chat = client("chat")  # a client that nobody holds closes its streams
    whole = chat.chat_completion(MESSAGES, **settings)
    assert (whole.choices[0].message.role, whole.choices[0].finish_reason) == ("assistant", "length")
    text = whole.choices[0].message.content
    assert whole.usage.completion_tokens == 8
    chunks = list(chat.chat_completion(MESSAGES, stream=True, logprobs=True, top_logprobs=2, **settings))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == "length"
    other = InferenceClient(base_url=f"{server.url}/v1").chat_completion(MESSAGES, model="chat", **settings)
    assert other.choices[0].message.content == text


def test_summarization_and_translation_are_whole_texts_and_stream_too(
    client: Callable[[str], InferenceClient], server: Server
) -> None:
    generate_parameters = {"max_new_tokens": 8, "do_sample": False}
    summary = client("summarization").summarization("the quick fox", generate_parameters=generate_parameters)
    body = {"inputs": "the quick fox", "parameters": generate_parameters, "stream": True}
    assert events_of(server.post("summarization", body))[-1]["generated_text"] == summary.summary_text
    assert len(server.ask("summarization", "the quick fox", **generate_parameters)[0]["summary_text"]) > 0
    long = "the quick brown fox " * 200
    assert client("translation").translation(long, truncation="longest_first").translation_text is not None
    refused = server.post("translation", {"inputs": "a", "parameters": {"generate_parameters": {"top_k": 0}}})
    assert (refused.status_code, "generate_parameters: Expected `int` >= 1" in refused.text) == (422, True)


def test_a_stream_has_the_headers_of_events_and_no_end_mark_of_openai(server: Server) -> None:
    answer = server.post("text-generation", {"inputs": PROMPT, "stream": True, "parameters": {"max_new_tokens": 3}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-model-version"]) == ("no-cache", "1")
    events = events_of(answer)
    assert [event["index"] for event in events] == [1, 2, 3]
    assert events[-1]["details"]["input_length"] > 0


@pytest.mark.parametrize(
    ("model", "body", "status", "words"),
    [
        ("sentiment", {"inputs": "a", "stream": True}, 422, "only tasks that write texts can stream"),
        ("text-generation", {"inputs": ["a", "b"], "stream": True}, 422, "one input"),
        ("text-generation", {"inputs": "a", "stream": True, "parameters": {"n": 2}}, 422, "one text"),
        ("text-generation", {"inputs": "a", "stream": 1}, 422, "stream: expected true or false"),
        ("text-generation", {"inputs": "", "stream": True}, 422, "empty text"),
        ("nobody", {"inputs": "a", "stream": True}, 404, "no model"),
    ],
)
def test_a_stream_that_cannot_begin_is_a_plain_error(
    server: Server, model: str, body: Any, status: int, words: str
) -> None:
    answer = server.post(model, body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]


def test_a_body_may_say_that_it_wants_no_stream(server: Server) -> None:
    assert_alike(server.post("sentiment", {"inputs": "a", "stream": False}).json(), server.ask("sentiment", "a"))
    text = 'I like "stream" a lot'
    assert_alike(server.ask("sentiment", text), server.ask("sentiment", [text]))
    whole = server.post("text-generation", {"inputs": PROMPT, "parameters": {"do_sample": False}, "stream": None})
    assert whole.status_code == 200


def test_the_clients_error_tells_what_was_wrong(client: Callable[[str], InferenceClient]) -> None:
    with pytest.raises(TextGenerationError, match="max_new_tokens is 1,000,000"):
        client("text-generation").text_generation(PROMPT, max_new_tokens=10**6)


LONG = {"max_new_tokens": 280, "do_sample": False}


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/models/text-generation", {"inputs": PROMPT, "parameters": LONG, "stream": True}),
        ("/v1/completions", {"model": "text-generation", "prompt": [PROMPT] * 4, "max_tokens": 280, "stream": True}),
        ("/v1/completions", {"model": "text-generation", "prompt": [PROMPT] * 4, "max_tokens": 280}),
    ],
    ids=["huggingface", "openai", "openai-whole"],
)
def test_a_client_that_leaves_frees_its_place(server: Server, path: str, body: Any) -> None:
    def left() -> float:
        return server.sample("rejected_total", model="text-generation", reason="client_gone")

    def in_progress() -> float:
        return server.sample("requests_in_progress", model="text-generation")

    client = ExitStack()

    def begin() -> None:
        client.close()
        wait_until(lambda: in_progress() == 0, "what was tried before has been counted")
        connection = client.enter_context(sent(server, path, body))
        if body.get("stream"):
            wait_until(lambda: has_answer(connection), "its first token has come")

    with client, held_amid_texts(server, "text-generation", begin=begin):
        before = left()
        client.close()
        wait_until(lambda: left() > before, "the request is counted as left")
    assert left() == before + 1
    for gauge in ("requests_in_progress", "running_rows", "queue_tokens"):
        wait_until(lambda gauge=gauge: server.sample(gauge, model="text-generation") == 0, f"{gauge} is 0")


def test_an_engine_that_dies_ends_its_streams_with_an_error_in_each_protocols_shape(server: Server) -> None:
    def stream(path: str, body: Any) -> list[Any]:
        """Its events, while the engine is killed amid them."""
        client, answers = ExitStack(), list[httpx.Response]()

        def begin() -> None:
            client.close()
            answers.append(client.enter_context(server.http.stream("POST", path, json=body)))
            assert answers[-1].status_code == 200

        with client:
            with held_amid_texts(server, "text-generation", begin=begin) as engine:
                engine.kill()
            found = [json.loads(line.removeprefix("data: ")) for line in answers[-1].iter_lines() if line]
        wait_until(lambda: server.post("text-generation", {"inputs": "a"}).status_code == 200, "another engine answers")
        return found

    events = stream("/models/text-generation", {"inputs": PROMPT, "parameters": LONG, "stream": True})
    assert (events[-1]["error_type"], events[-1].get("token")) == ("not_ready", None)
    body = {"model": "text-generation", "prompt": PROMPT, "max_tokens": 280, "temperature": 0, "stream": True}
    events = stream("/v1/completions", body)
    assert events[-1]["error"]["type"] == "server_error"
    assert "engine stopped" in events[-1]["error"]["message"]


@pytest.mark.long
def test_a_text_whose_front_is_killed_ends(home: Path) -> None:
    body = {"inputs": PROMPT, "parameters": LONG, "stream": True}
    with Server(home, ("text-generation",), options=("--workers", "1")) as server, ExitStack() as client:
        before = 0.0

        def written() -> float:
            return server.sample("generated_tokens_total", model="text-generation")

        def begin() -> None:
            nonlocal before
            client.close()
            wait_until(lambda: server.sample("running_rows", model="text-generation") == 0, "no other text is written")
            before = written()
            connection = client.enter_context(sent(server, "/models/text-generation", body))
            wait_until(lambda: has_answer(connection), "its first token has come")

        def is_early() -> bool:
            """Whether enough of the text is left that the engine notices the front's end before it has written all."""
            return written() - before < LONG["max_new_tokens"] / 2

        with held_amid_texts(server, "text-generation", begin=begin, is_early=is_early):
            workers = server.processes("worker.service")
            (front,) = [each for each in workers if "headwaiter_manager" not in " ".join(each.cmdline())]
            front.kill()
            front.wait(WAIT_SECONDS)
        wait_until(lambda: "a front has ended, its rows are freed: 1" in server.log.read_text(), "its row is freed")
        wait_until(lambda: server.sample("running_rows", model="text-generation") == 0, "no row runs")
        wait_until(server.is_ready, "another front answers")
        assert server.post("text-generation", {"inputs": PROMPT}).status_code == 200

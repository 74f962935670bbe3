"""A stream, put together, says the same as the complete answer to the same request, in every protocol that streams."""

import json
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
from tokenizers import Tokenizer

from serving.front.front import Front
from serving.front.waiter import Waiter
from serving.processors.detokenizer import TextReader
from serving.wire.messages import EncodedRow, SamplingSettings, TokenDelta
from tests.serving.front.local_front import MakeFront
from tests.serving.front.task_fronts import TaskLink, context_of, post, serve_tasks
from tests.small_models import vocabulary

pytestmark = pytest.mark.processor

MODEL = "text-generation"
WORDS = [
    ["the", "quick", "brown", "fox", "jump", "##s", "!", "[SEP]"],
    ["a", "dog", ",", "sl", "##ee", "##ps", "[SEP]"],
]


class Writer:
    """An engine that writes `WORDS`, token by token where it is asked to, and ends at stop strings."""

    def __init__(self) -> None:
        self.encoder: Any = context_of(MODEL).tokenizer
        tokenizer = Tokenizer.from_file(str(vocabulary() / "tokenizer.json"))
        self.ids = [[tokenizer.token_to_id(word) for word in words] for words in WORDS]

    def submit(self, rows: Sequence[EncodedRow], waiter: Waiter) -> None:
        """Write all rows, in turns."""
        parts = [self.parts(row, self.ids[index % 2]) for index, row in enumerate(rows)]
        for step in range(max(map(len, parts))):
            for index, each in enumerate(parts):
                if step < len(each):
                    waiter.take(index, each[step])

    def parts(self, row: EncodedRow, ids: list[int]) -> list[TokenDelta]:
        """The messages of a row."""
        settings = SamplingSettings.unpack(row.payload)
        reader = TextReader(self.encoder, settings.stop)
        count, finish = min(len(ids), row.new_tokens), "eos_token" if row.new_tokens >= len(ids) else "length"
        for place, token in enumerate(ids[:count], start=1):
            reader.push([token])
            if reader.has_stopped:
                count, finish = place, "stop_sequence"
                break
        steps = [(at, at + 1) for at in range(count)] if row.streams else [(0, count)]
        return [self.delta(ids, *step, settings.top, finish if step[1] == count else "") for step in steps]

    @staticmethod
    def delta(ids: list[int], start: int, stop: int, top: int | None, finish: Any) -> TokenDelta:
        """The message of some tokens."""
        part = TokenDelta(0, numpy.asarray(ids[start:stop], numpy.int32).tobytes(), finish, stop, reused=1)
        if top is not None:
            part.logprobs = (-numpy.arange(start + 1, stop + 1, dtype=numpy.float32)).tobytes()
            likeliest = [[ids[at], 1037, 1996][:top] for at in range(start, stop)]
            part.top_ids = numpy.asarray(likeliest, numpy.int32).tobytes()
            part.top_logprobs = numpy.asarray([[-1, -2, -3][:top]] * (stop - start), numpy.float32).tobytes()
        return part


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    front = make_front()
    link: TaskLink = serve_tasks(front, [MODEL])[MODEL]
    link.submit = Writer().submit  # type: ignore[method-assign]
    return front


def ask(front: Front, path: str, body: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The complete answer, and the events of the same request's stream."""
    whole = post(front, path, json.dumps(body).encode())
    assert whole.status_code == 200, whole.text
    stream = post(front, path, json.dumps(body | {"stream": True}).encode()).text
    events = [part.removeprefix("data: ") for part in stream.split("\n\n") if part]
    return whole.json(), [json.loads(event) for event in events if event != "[DONE]"]


def joined(one: Any, other: Any) -> Any:
    """Two parts of a choice, put together: texts and lists grow, objects field by field, other values are replaced."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: joined(one.get(name), value) for name, value in other.items()}
    if isinstance(one, str) and isinstance(other, str):
        return one + other
    if isinstance(one, list) and isinstance(other, list):
        return one + other
    return one if other is None else other


def assembled(chunks: list[Any]) -> Any:
    """The complete answer that chunks of OpenAI's routes come to."""
    *parts, last = chunks
    assert last["choices"] == []
    choices: dict[int, Any] = {}
    for chunk in parts:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        index = choice.pop("index")
        choices[index] = joined(choices.get(index, {}), choice)
    found = [{"index": index, **choices[index]} for index in sorted(choices)]
    return {**last, "choices": [shaped(choice) for choice in found]}


def shaped(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice whose deltas are its message."""
    if "delta" in choice:
        choice["message"] = choice.pop("delta") | {"refusal": None}
    return choice


SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 4},
    {"n": 2},
    {"stop": ["quick bro", "zz"]},
    {"stop": ["wn fox"]},
    {"stop": ["brown cat", "sleeps"], "n": 2},
    {"stop": ["the"]},
    {"stop": ["!"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("has_scores", [False, True], ids=["plain", "scores"])
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_openais_chunks_are_the_complete_answer(
    front: Front, route: str, settings: dict[str, Any], has_scores: bool
) -> None:
    body: dict[str, Any] = {"model": MODEL, "stream_options": {"include_usage": True}, **settings}
    if route == "completions":
        body |= {"prompt": ["a", "b"]} | ({"logprobs": 3} if has_scores else {"echo": True})
    else:
        body |= {"messages": [{"role": "user", "content": "a"}]}
        body |= {"logprobs": True, "top_logprobs": 2} if has_scores else {}
    whole, chunks = ask(front, f"/v1/{route}", body)
    found = assembled(chunks)
    for answer in (whole, found):
        for name in ("id", "created", "object"):
            answer.pop(name)
    assert found == whole
    for choice in whole["choices"]:
        assert choice["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("settings", [each for each in SETTINGS if "n" not in each], ids=repr)
@pytest.mark.parametrize("more", [{}, {"top_n_tokens": 2}, {"return_full_text": True}, {"seed": 7}], ids=repr)
def test_the_events_of_text_generation_inference_are_the_complete_answer(
    front: Front, settings: dict[str, Any], more: dict[str, Any]
) -> None:
    parameters = {"details": True, **more, **settings}
    parameters |= {"max_new_tokens": parameters.pop("max_tokens", 20)}
    ((whole,), events) = ask(front, f"/models/{MODEL}", {"inputs": "a", "parameters": parameters})
    details = whole["details"]
    assert "".join(event["token"]["text"] for event in events) == whole["generated_text"]
    assert events[-1]["generated_text"] == whole["generated_text"]
    assert {event["generated_text"] for event in events[:-1]} <= {None}
    assert [event["index"] for event in events] == list(range(1, details["generated_tokens"] + 1))
    for event, token in zip(events, details["tokens"], strict=True):
        assert event["token"] | {"text": ""} == token | {"text": ""}
    assert [event.get("top_tokens") for event in events] == details.get("top_tokens", [None] * len(events))
    for name in ("finish_reason", "generated_tokens", "seed"):
        assert events[-1]["details"][name] == details[name]

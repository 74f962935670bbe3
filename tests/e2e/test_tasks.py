"""Every task on a real server, asked by the Hugging Face client; and the documented table of tasks, kept true."""

import base64
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from tests.alike import assert_alike
from tests.e2e.conftest import LOGGED, OF_TASKS, ask_together
from tests.e2e.server import Server
from tests.families import LABELS, texts_of

pytestmark = pytest.mark.processor

TASKS_PAGE = Path(__file__).resolve().parents[2] / "docs/tasks.md"
ROW = re.compile(r"\| ([\w-]+) \| `(\{.*?\})` \| `(.*?)` \|")
NAMES = {task: name for name, _, task, _ in reversed(LOGGED)} | {task: task for task, _ in OF_TASKS}
"""The model that shows each task."""


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], InferenceClient]:
    """A client of one model; it calls nothing while the hub is switched off, as it is for all other tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return lambda name: InferenceClient(model=f"{server.url}/models/{name}")


def picture(width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, kind)
    return file.getvalue()


def form(value: Any) -> Any:
    """The shape of an answer: keys, and text, number or truth; of a list its first entry's."""
    if isinstance(value, dict):
        return {key: form(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_tasks_page_shows_every_task_with_a_request_and_its_answer(server: Server) -> None:
    rows = ROW.findall(TASKS_PAGE.read_text(encoding="utf-8"))
    assert {task for task, _, _ in rows} == set(NAMES)
    for task, request, answer in rows:
        name = "stars" if "texts" in request else NAMES[task]
        response = server.post(name, json.loads(request))
        assert response.status_code == 200, (task, response.text)
        assert form(response.json()) == form(json.loads(answer)), task


def test_zero_shot_classification(client: Callable[[str], InferenceClient]) -> None:
    ask = client("zero-shot-classification").zero_shot_classification
    one = ask("A late goal decided the match", ["sports", "politics"], hypothesis_template="It is about {}.")
    assert_alike(sum(entry.score for entry in one), 1.0)
    many = ask("A late goal decided the match", ["sports", "politics"], multi_label=True)
    assert {entry.label for entry in many} == {"sports", "politics"}
    assert [entry.score for entry in many] == sorted((entry.score for entry in many), reverse=True)


def test_question_answering(server: Server, client: Callable[[str], InferenceClient]) -> None:
    context = "Ada counts twelve parcels near Paris. " * 60
    answer: Any = client("question-answering").question_answering("Where?", context, max_answer_len=5)
    assert context[answer.start : answer.end] == answer.answer
    best = server.ask("question-answering", {"question": "Where?", "context": context}, top_k=3, max_answer_len=5)
    assert [entry["score"] for entry in best] == sorted((entry["score"] for entry in best), reverse=True)
    assert_alike(best[0]["score"], answer.score)
    nothing = server.ask(
        "question-answering", {"question": "Where?", "context": "x"}, handle_impossible_answer=True, top_k=9
    )
    assert "" in {entry["answer"] for entry in nothing}


def test_fill_mask(server: Server, client: Callable[[str], InferenceClient]) -> None:
    best = client("fill-mask").fill_mask("Paris is the [MASK] of France.", top_k=2)
    assert len(best) == 2
    assert best[0].sequence.startswith("paris is the")
    only = client("fill-mask").fill_mask("Paris is the [MASK] of France.", targets=["capital", "centre"])
    assert {entry.token_str for entry in only} == {"capital", "centre"}
    assert [len(found) for found in server.ask("fill-mask", "[MASK] is [MASK].", top_k=4)] == [4, 4]


def test_text_generation(client: Callable[[str], InferenceClient]) -> None:
    ask = client("text-generation").text_generation
    assert ask("the quick", max_new_tokens=5, seed=3) == ask("the quick", max_new_tokens=5, seed=3)
    assert ask("the quick", max_new_tokens=5, return_full_text=True).startswith("the quick")


def test_summarization_and_translation(client: Callable[[str], InferenceClient], server: Server) -> None:
    text = "the quick brown fox"
    assert isinstance(client("summarization").summarization(text).summary_text, str)
    assert isinstance(client("translation").translation(text).translation_text, str)
    with pytest.raises(HfHubHTTPError, match="tgt_lang is 'fr', but this model's tokenizer has no languages"):
        client("translation").translation(text, src_lang="en", tgt_lang="fr")
    beams = server.ask("text2text-generation", text, num_beams=3, max_new_tokens=5)
    assert list(beams[0]) == ["generated_text"]


def test_a_cross_encoder_ranks(server: Server) -> None:
    texts = texts_of(7, 5, 8)
    ranked = server.ask("stars", {"query": "the fox", "texts": texts}, return_text=True)
    alone = [server.ask("stars", {"text": "the fox", "text_pair": text})[0][0]["score"] for text in texts]
    assert sorted(entry["index"] for entry in ranked) == list(range(7))
    assert_alike([alone[entry["index"]] for entry in ranked], sorted(alone, reverse=True))
    assert [entry["text"] for entry in ranked] == [texts[entry["index"]] for entry in ranked]
    refused = server.post("sentiment", {"inputs": {"query": "a", "texts": ["b"]}})
    assert (refused.status_code, "one label" in refused.text) == (422, True)


def test_image_classification(server: Server, client: Callable[[str], InferenceClient]) -> None:
    found = client("image-classification").image_classification(picture())
    assert {entry.label for entry in found} == set(LABELS)
    assert len(client("image-classification").image_classification(picture(), top_k=2)) == 2
    plain = base64.b64encode(picture()).decode()
    expected = server.ask("image-classification", plain)
    assert_alike(server.ask("image-classification", f"data:image/png;base64,{plain}"), expected)
    for kind in ("JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        answer = server.post("image-classification", picture(kind=kind))
        assert answer.status_code == 200, kind
        encoded = base64.b64encode(picture(kind=kind)).decode()
        assert_alike(server.ask("image-classification", encoded), answer.json())


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 900 million pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + bytes(8)
    parts = (struct.pack(">I", 13), chunk, struct.pack(">I", zlib.crc32(chunk)), struct.pack(">I", 8), data, bytes(4))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (bomb(), 413, "at most 50,000,000 are read"),
        (picture()[:60], 422, "broken"),
        (picture(kind="JPEG")[:300], 422, ""),
        (b"GIF89a nonsense", 422, "no image"),
        (b"%PDF-1.4", 422, "no image"),
        ({"inputs": "not base64!"}, 422, "base64"),
        ({"inputs": "data:image/png,raw"}, 422, "data URL"),
        ({"inputs": "https://example.org/cat.png"}, 422, "fetches nothing"),
        ({"inputs": "/etc/passwd"}, 422, "fetches nothing"),
        ({"inputs": [[[0.5, 0.5], [0.5, 0.5]]]}, 422, "send the image file's bytes"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_bad_image_is_refused(server: Server, body: Any, status: int, words: str) -> None:
    answer = server.post("image-classification", body)
    assert answer.status_code == status, answer.text
    assert words in answer.text


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("sentiment", {"inputs": [[101, 2023, 102], [101, 102]]}, "send text; the server tokenizes"),
        ("sentiment", {"inputs": [101, 2023, 102]}, "send text; the server tokenizes"),
        ("question-answering", {"inputs": "who?"}, 'send {"question": …'),
        ("question-answering", {"inputs": {"question": "who?", "context": ""}}, "empty text"),
        ("question-answering", {"inputs": {"question": "who " * 400, "context": "x"}}, "shorten the question"),
        ("fill-mask", {"inputs": "no mask"}, "has no [MASK]"),
        ("zero-shot-classification", {"inputs": "a"}, "candidate_labels"),
        ("zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": []}}, "candidate_labels"),
        ("multiple-choice", {"inputs": {"prompt": "a", "choices": ["b"]}}, "length >= 2"),
        ("text-generation", {"inputs": "a", "parameters": {"max_new_tokens": 10**6}}, "at most 2,048"),
        ("text-generation", {"inputs": "a", "parameters": {"temperature": 0}}, "temperature"),
        ("text-generation", {"inputs": "a", "parameters": {"top_p": 0.5, "do_sample": False}}, "do_sample"),
        ("embedder", {"inputs": "a", "parameters": {"dimensions": 99}}, "this model has 32"),
    ],
)
def test_a_request_that_breaks_a_rule_of_its_task(server: Server, name: str, body: Any, words: str) -> None:
    answer = server.post(name, body)
    assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text


def test_a_long_text_is_cut_into_windows_and_every_entity_keeps_its_place(server: Server) -> None:
    text = "Ada went to Paris, and " * 120
    found = server.ask("names", text, aggregation_strategy="none", ignore_labels=[])
    places = [(entry["start"], entry["end"]) for entry in found]
    assert places == sorted(set(places))
    assert "".join(text[start:end] for start, end in places) == text.replace(" ", "")


def test_requests_of_all_tasks_at_once_get_their_own_answers(server: Server) -> None:
    rows = [
        (NAMES[task], json.loads(request)) for task, request, _ in ROW.findall(TASKS_PAGE.read_text(encoding="utf-8"))
    ]
    rows = [("stars", body) if "texts" in str(body) else (name, body) for name, body in rows]
    alone = [server.post(name, body).json() for name, body in rows]
    together = ask_together(server, rows * 8)
    assert {response.status_code for response in together} == {200}
    for index, response in enumerate(together):
        assert_alike(response.json(), alone[index % len(rows)])

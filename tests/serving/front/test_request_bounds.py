"""Small bodies that ask for much are refused before anything of it is built, on every route that leads there."""

import base64
import dataclasses
import json
import threading
from typing import Any

import msgspec
import pytest

from serving.errors import MAX_MESSAGE, Unprocessable
from serving.front import loaded_version, text_stream
from serving.processors.chat_template import ChatTemplate
from serving.processors.tokenizer import TextEncoder
from serving.tasks import get_task
from serving.tasks.base.bounds import ROWS_PER_INPUT
from tests.serving.front.local_front import MakeFront
from tests.serving.front.task_fronts import TASKS, TaskLink, context_of, png, post, serve_tasks

IMAGE = base64.b64encode(png(16, 16)).decode()


class Asked:
    """Sends bodies to a front of all tasks. built: the texts that were tokenized, in characters."""

    def __init__(self, make_front: MakeFront, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self._front = make_front(**settings)
        self.links: dict[str, TaskLink] = serve_tasks(self._front, TASKS)
        self.built = 0
        tokenize = TextEncoder._tokenize

        def counted(tokenizer: Any, text: str, pair: str | None = None, *, special: bool = True) -> Any:
            self.built += len(text) + len(pair or "")
            return tokenize(tokenizer, text, pair, special=special)

        monkeypatch.setattr(TextEncoder, "_tokenize", staticmethod(counted))

    def __call__(self, path: str, body: Any) -> tuple[int, str]:
        """Status and text of the answer."""
        found = post(self._front, path, body if isinstance(body, bytes) else json.dumps(body).encode())
        return found.status_code, found.text

    @property
    def sent(self) -> int:
        """Rows that engines got."""
        return sum(len(link.rows) for link in self.links.values())


@pytest.fixture
def ask(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(make_front, monkeypatch)


def test_a_template_that_repeats_a_long_label_is_refused_unbuilt(ask: Asked) -> None:
    parameters = {"candidate_labels": ["x" * 50_000], "hypothesis_template": "{}" * 40_000}
    bodies = {
        "/models/zero-shot-classification": {"inputs": "a", "parameters": parameters},
        "/invocations/zero-shot-classification": {"inputs": ["a"], "params": parameters},
        "/v2/models/zero-shot-classification/infer": {
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
            "parameters": parameters,
        },
    }
    for path, body in bodies.items():
        status, text = ask(path, body)
        assert (status, "2,000,000,001 characters" in text, ask.built) == (413, True, 0), path


@pytest.mark.parametrize(
    ("task", "item"),
    [
        ("text-classification", {"query": "x" * 20_000, "texts": ["a"] * 1000}),
        ("multiple-choice", {"prompt": "x" * 80_000, "choices": ["a"] * 250}),
        ("feature-extraction", {"source_sentence": "a", "sentences": ["a"] * 20_000}),
    ],
)
def test_inputs_that_expand_are_refused_unbuilt(ask: Asked, task: str, item: Any) -> None:
    status, text = ask(f"/models/{task}", {"inputs": item})
    assert (status, "a request may have" in text, ask.built, ask.sent) == (413, True, 0, 0)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("a," * 100_000, "length <= 65536"),
        ("," * 60_000, "more labels than the 512 that may be given: give fewer"),
        ("a," * 512 + "a", "more labels than the 512"),
        (" ,, ", "needs at least one label"),
    ],
)
def test_labels_in_one_text_are_bounded(ask: Asked, labels: str, words: str) -> None:
    status, text = ask("/models/zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": labels}})
    assert (status, words in text, ask.built) == (422, True, 0), text[:200]
    status, _ = ask("/models/zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": "a,b"}})
    assert status == 200


def test_rows_are_counted_after_they_expand(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(make_front, monkeypatch, max_rows=2)
    for labels, status in ((ROWS_PER_INPUT, 200), (ROWS_PER_INPUT + 1, 413)):
        body = {"inputs": ["a", "b"], "parameters": {"candidate_labels": [f"label {n}" for n in range(labels)]}}
        assert ask("/models/zero-shot-classification", body)[0] == status
    assert ask.sent == 2 * ROWS_PER_INPUT


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1)])
def test_a_narrow_image_is_not_resized_to_a_huge_one(ask: Asked, width: int, height: int) -> None:
    file = png(width, height)
    assert len(file) < 100
    for body in (file, {"inputs": base64.b64encode(file).decode()}):
        status, text = ask("/models/image-classification", body)
        assert (status, f"{width} x {height} pixels" in text, ask.sent) == (413, True, 0)


def test_images_are_bounded_by_their_pixels_in_all(ask: Asked) -> None:
    assert ask("/models/image-classification", {"inputs": [IMAGE] * 2})[0] == 200
    status, text = ask("/models/image-classification", {"inputs": [IMAGE] * 300})
    assert (status, "bytes of pixels" in text, ask.sent) == (413, True, 2)


def test_candidates_that_repeat_a_text_for_many_masks_are_refused(ask: Asked) -> None:
    status, text = ask("/models/fill-mask", {"inputs": "[MASK] " * 250, "parameters": {"top_k": 100}})
    assert (status, "answer would take" in text, ask.sent) == (413, True, 0)
    assert ask("/models/fill-mask", {"inputs": "[MASK] " * 250})[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("feature-extraction", {"inputs": ["a " * 400] * 10}),
        ("feature-extraction", {"inputs": ["a"] * 1000, "parameters": {"pooling": ["mean", "cls", "last"]}}),
        ("token-classification", {"inputs": ["a " * 2000] * 200}),
        ("text-generation", {"inputs": "a", "parameters": {"n": 16, "max_new_tokens": 500, "top_n_tokens": 20}}),
        (
            "image-classification",
            {"inputs": [base64.b64encode(png(9, 9)).decode()] * 200, "parameters": {"top_k": 1000}},
        ),
        ("question-answering", {"inputs": [{"question": "q " * 490, "context": "a " * 1000}] * 20}),
        (
            "zero-shot-classification",
            {"inputs": ["a"] * 30, "parameters": {"candidate_labels": ["x" * 200] * 512, "truncate": True}},
        ),
    ],
)
def test_a_large_answer_is_refused_before_the_model_runs(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch, task: str, body: Any
) -> None:
    ask = Asked(make_front, monkeypatch, max_answer_bytes=2**24)
    if task == "question-answering":
        body["parameters"] = {"max_seq_len": 512}
    status, text = ask(f"/models/{task}", body)
    assert (status, "HEADWAITER_MAX_ANSWER_BYTES" in text, ask.sent) == (413, True, 0)


def test_a_shape_of_large_numbers_is_not_multiplied(ask: Asked) -> None:
    tensor = {"name": "text", "shape": [2**63 - 1] * 60_000, "datatype": "BYTES", "data": ["a"]}
    status, text = ask("/v2/models/text-classification/infer", {"inputs": [tensor]})
    assert (status, len(text) < 500, ask.sent) == (422, True, 0)
    nested: Any = ["a"] * 1000
    for _ in range(400):
        nested = [nested]
    tensor = {"name": "text", "shape": [1000], "datatype": "BYTES", "data": nested}
    status, text = ask("/v2/models/text-classification/infer", {"inputs": [tensor]})
    assert (status, "more than 8 dimensions" in text, ask.sent) == (400, True, 0)


@pytest.mark.parametrize(
    ("task", "parameters", "rule"),
    [
        ("feature-extraction", {"pooling": ["mean"] * 1000}, "length <= 6"),
        ("token-classification", {"ignore_labels": ["x"] * 60_000}, "length <= 1024"),
        ("fill-mask", {"targets": ["x"] * 1001}, "length <= 1000"),
        ("fill-mask", {"targets": ["x" * 17] * 1000}, "17,000 characters, at most 16,000"),
        ("question-answering", {"max_answer_len": 10**9}, "<= 512"),
        ("text-generation", {"stop": ["x"] * 17}, "length <= 16"),
    ],
)
def test_parameters_have_lengths(ask: Asked, task: str, parameters: Any, rule: str) -> None:
    item = {"question": "a", "context": "b"} if task == "question-answering" else "a [MASK]"
    status, text = ask(f"/models/{task}", {"inputs": item, "parameters": parameters})
    assert (status, rule in text, ask.sent) == (422, True, 0)


def test_a_table_of_too_many_rows_is_not_read_to_its_end(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Asked(make_front, monkeypatch, max_rows=3)
    found = post(ask._front, "/invocations/text-classification", b"text\n" + b"a\n" * 4, **{"content-type": "text/csv"})
    assert (found.status_code, "more than 3 rows" in found.text, ask.sent) == (413, True, 0)


@pytest.mark.parametrize(
    "table",
    [b"text\n" + b"\n" * 10**6, b"text\na\n" + b'""\n' * 10**6, b"," * 100 + b"\n", b'a"' + b"\n\n" * 10**5],
    ids=["empty lines", "empty texts", "columns", "empty lines after a quote"],
)
def test_a_table_of_many_lines_or_columns_is_not_read_to_its_end(ask: Asked, table: bytes) -> None:
    found = post(ask._front, "/invocations/text-classification", table, **{"content-type": "text/csv"})
    assert (found.status_code, "the table has more than" in found.text, ask.sent) == (413, True, 0)


MANY = json.dumps([[]] * 40_000).encode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/models/text-classification", b'{"inputs": %b}'),
        ("/models/text-generation", b'{"inputs": "a", "stream": true, "x": %b}'),
        ("/models/image-classification", b'{"inputs": "a", "x": %b}'),
        ("/v1/embeddings", b'{"model": "feature-extraction", "input": %b}'),
        ("/v1/completions", b'{"model": "text-generation", "prompt": %b}'),
        ("/v1/chat/completions", b'{"model": "text-generation", "messages": %b}'),
        ("/v2/models/text-classification/infer", b'{"inputs": %b}'),
        ("/invocations/text-classification", b'{"inputs": %b}'),
        ("/predict", b'{"model": "text-classification", "inputs": %b}'),
    ],
)
def test_a_body_of_many_values_is_refused_unbuilt_on_every_route(ask: Asked, path: str, body: bytes) -> None:
    status, text = ask(path, body % MANY)
    assert (status, "more than 65,536 values" in text, ask.sent) == (413, True, 0)


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_own_example_is_far_from_every_bound(ask: Asked, task: str) -> None:
    version, found = context_of(task), get_task(task)
    body = {"inputs": found.make_example(version), "parameters": found.make_example_parameters(version.contract)}
    assert ask(f"/models/{task}", body)[0] == 200


def test_a_chat_is_rendered_in_a_thread_and_its_prompt_is_bounded(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    render = ChatTemplate.render

    def watched(template: ChatTemplate, *args: Any, **given: Any) -> str:
        threads.append(threading.current_thread())
        return render(template, *args, **given)

    monkeypatch.setattr(ChatTemplate, "render", watched)
    body = {"model": "text-generation", "messages": [{"role": "user", "content": "hi"}]}
    assert ask("/v1/chat/completions", body)[0] == 200
    assert threads
    assert threading.main_thread() not in threads
    status, text = ask("/v1/chat/completions", body | {"messages": body["messages"] * 10_001})
    assert (status, "length <= 10000" in text, len(threads)) == (422, True, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("token-classification", {"inputs": ["a " * 250] * 9, "parameters": {"ignore_labels": []}}),
        ("feature-extraction", {"inputs": "a " * 500}),
        ("feature-extraction", {"inputs": ["a " * 250] * 2}),
        ("text-generation", {"inputs": "a", "parameters": {"max_new_tokens": 99, "top_n_tokens": 20}}),
        ("question-answering", {"inputs": {"question": "a", "context": "a " * 3000}, "parameters": {"top_k": 99}}),
    ],
)
def test_large_answers_are_made_in_threads_and_are_the_same(
    ask: Asked, monkeypatch: pytest.MonkeyPatch, task: str, body: Any
) -> None:
    answers = []
    for large in (1 << 40, 0):
        monkeypatch.setattr(loaded_version, "LARGE_ANSWER_BYTES", large)
        names: set[str] = set()
        found = get_task(task)
        decode = type(found).decode

        def watched(*args: Any, names: set[str] = names, decode: Any = decode) -> Any:
            names.add(threading.current_thread().name.partition("_")[0])
            return decode(*args)

        with monkeypatch.context() as patched:
            patched.setattr(type(found), "decode", watched)
            answers.append(ask(f"/models/{task}", body))
        assert names == {"MainThread" if large else "headwaiter-answers"}
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


def test_the_scores_of_whole_texts_are_the_same_in_threads(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"model": "text-generation", "prompt": "a", "n": 3, "max_tokens": 40, "logprobs": 5}
    answers = []
    for large in (1 << 40, 0):
        monkeypatch.setattr(text_stream, "LARGE_DELTA_TOKENS", large)
        answers.append(json.loads(ask("/v1/completions", body)[1])["choices"])
    assert answers[0] == answers[1]
    assert len(answers[0][2]["logprobs"]["tokens"]) == 40


def test_an_error_quotes_no_more_than_some_of_a_long_value(ask: Asked) -> None:
    body = {"inputs": "a", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "\x01" * 100_000}}
    status, text = ask("/models/zero-shot-classification", body)
    assert status == 422
    assert len(json.loads(text)["error"]) == MAX_MESSAGE + 3
    assert "has no {} where the label goes: write it as 'This example is {}.'" in text


def test_more_labels_than_an_answer_holds_are_refused() -> None:
    """Of a head with many labels only the best ones leave the device, so the rest cannot be answered."""
    task, few = get_task("text-classification"), context_of("text-classification")
    contract = msgspec.structs.replace(few.contract, labels=tuple(f"label {index}" for index in range(700)))
    many = dataclasses.replace(few, contract=contract)
    with pytest.raises(Unprocessable, match="top_k is 600, at most 512 of this model's 700 labels"):
        task.encode("a", task.parameters_type(top_k=600), many)
    for top_k, context in ((512, many), (None, many), (600, few)):
        assert task.encode("a", task.parameters_type(top_k=top_k), context).rows

"""Bad input gets a clear error of its own, never a 500 or a traceback, and harms no neighbour."""

from typing import Any

import pytest

from tests.alike import assert_alike
from tests.e2e.conftest import ask_together
from tests.e2e.server import Server

MEGABYTE = "a very long story " * 60_000


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"not json", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b'{"inputs": "\xff\xfe"}', 400, "not JSON"),
        (b'{"inputs": "\\ud800 alone"}', 400, "lone surrogate"),
        (b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 422, "expected"),
        ({"inputs": 7}, 422, "inputs: expected"),
        ({"inputs": None}, 422, "missing required field `inputs`"),
        ({"inputs": ["a", ["b"]]}, 422, "inputs"),
        ({"input": "a"}, 422, "unknown field `input`"),
        ({"inputs": ""}, 422, "empty text"),
        ({"inputs": []}, 422, "empty list"),
        ({"inputs": ["a", ""]}, 422, "inputs[1] holds an empty text"),
        ({"inputs": "a", "parameters": {"temperature": 1}}, 422, "unknown field `temperature`"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, 422, "parameters.top_k: expected `int` >= 1"),
        ({"inputs": "a", "parameters": {"top_k": 9.5}}, 422, "parameters.top_k: expected `int | null`"),
        ({"inputs": "word " * 300}, 422, "this model takes at most 256 tokens"),
        ({"inputs": ["a", "word " * 300]}, 422, "inputs[1] has 302 tokens"),
        ({"inputs": MEGABYTE}, 422, "this model takes at most 256 tokens"),
        ({"inputs": ["a"] * 1025}, 413, "a request may have 1,024"),
        (b'{"inputs": "' + b"a" * (9 * 2**20) + b'"}', 413, "more than 8,388,608 bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_bad_request_is_told_field_and_rule(server: Server, body: Any, status: int, words: str) -> None:
    answer = server.post("sentiment", body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert words in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert server.post("sentiment", {"inputs": "still here"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/models/nobody", 404),
        ("POST", "/models/sentiment/versions/7", 404),
        ("POST", "/models/sentiment/versions/x/y", 404),
        ("POST", "/models/sentiment@canary", 404),
        ("GET", "/models/nobody", 404),
        ("PUT", "/models/sentiment", 405),
        ("GET", "/models/sentiment/versions/1", 405),
        ("DELETE", "/models", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/modelsx", 404),
    ],
)
def test_an_unknown_route_model_or_version(server: Server, method: str, path: str, status: int) -> None:
    answer = server.http.request(method, path, content=b'{"inputs": "a"}' if method != "GET" else None)
    assert answer.status_code == status
    if path.startswith("/models/"):
        assert answer.json()["error"]


@pytest.mark.parametrize("text", ["\x00", "\x07\x1b[31m", "\u200b\ufeff", "a\x00b\x7f", "🙂" * 50, " ", "\U0010ffff"])
def test_control_characters_and_odd_unicode_are_answered(server: Server, text: str) -> None:
    for model in ("sentiment", "names", "embedder"):
        assert server.post(model, {"inputs": text}).status_code == 200


def test_an_over_long_text_is_cut_where_the_request_allows(server: Server) -> None:
    (cut,) = server.ask("sentiment", MEGABYTE, truncate=True)
    assert len(cut) == 4
    (left,) = server.ask("sentiment", "start " + "word " * 400, truncate=True, truncation_direction="left")
    (right,) = server.ask("sentiment", "start " + "word " * 400, truncate=True)
    assert left != right
    assert len(server.ask("names", MEGABYTE, truncate=True, aggregation_strategy="none", ignore_labels=[])) == 254


def test_a_huge_text_does_not_hold_up_its_neighbours(server: Server) -> None:
    requests = [("sentiment", {"inputs": MEGABYTE if index % 10 == 0 else f"text {index}"}) for index in range(100)]
    statuses = [response.status_code for response in ask_together(server, requests)]
    assert statuses == [422 if index % 10 == 0 else 200 for index in range(100)]


def test_bad_and_good_requests_together_each_get_their_own(server: Server) -> None:
    bodies = [
        {"inputs": f"good text {index}"} if index % 3 else {"inputs": "" if index % 2 else "word " * 300}
        for index in range(90)
    ]
    responses = ask_together(server, [("sentiment", body) for body in bodies])
    for index, response in enumerate(responses):
        assert response.status_code == (200 if index % 3 else 422)
        if index % 3:
            expected = server.ask("sentiment", bodies[index]["inputs"])[0]
            assert_alike(response.json()[0], expected)


def test_a_compressed_body_is_refused_clearly(server: Server) -> None:
    answer = server.http.post("/models/sentiment", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "gzip" in answer.json()["error"]


def test_the_predict_route_has_the_same_errors_and_logs_none(server: Server) -> None:
    logged = len(server.log.read_text())
    for body, status in (
        ({"model": "sentiment", "inputs": ""}, 422),
        ({"model": "sentiment", "inputs": "word " * 300}, 422),
        ({"model": "nobody", "inputs": "a"}, 404),
        ({"inputs": "a"}, 400),
    ):
        answer = server.http.post("/predict", json=body)
        assert answer.status_code == status, answer.text
        assert "Traceback" not in answer.text
    answer = server.http.post("/predict", json={"model": "stars", "inputs": "a"})
    assert answer.json() == server.ask("stars", "a")
    assert answer.headers["x-model-version"] == "1"
    assert "Traceback" not in server.log.read_text()[logged:]

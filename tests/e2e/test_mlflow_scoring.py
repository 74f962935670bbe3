"""MLflow's scoring protocol, with the client that MLflow asks its own servers with."""

from importlib.metadata import version
from typing import Any

import pandas
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from tests.alike import assert_alike
from tests.e2e.server import Server

pytestmark = pytest.mark.processor

TEXTS = ["good", "bad, but not too bad"]


def score(server: Server, model: str, body: Any, **headers: str) -> Any:
    content = {"content": body} if isinstance(body, str | bytes) else {"json": body}
    return server.http.post(f"/invocations/{model}", headers=headers, **content)


def test_ping_and_version(server: Server) -> None:
    client = ScoringServerClient("127.0.0.1", server.http.base_url.port)
    client.ping()
    assert client.get_version() == version("mlflow")


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": TEXTS},
        {"inputs": {"text": TEXTS}},
        {"instances": TEXTS},
        {"dataframe_split": pandas.DataFrame({"text": TEXTS}).to_dict(orient="split")},
        {"dataframe_split": {"columns": ["inputs"], "index": [1, 2], "data": [[TEXTS[0]], [TEXTS[1]]]}},
        {"dataframe_records": pandas.DataFrame({"text": TEXTS}).to_dict(orient="records")},
    ],
    ids=lambda body: repr(body)[:30],
)
def test_every_form_of_a_body_gives_one_prediction_a_row(server: Server, body: dict[str, Any]) -> None:
    answer = score(server, "sentiment", body | {"params": {"top_k": 2}})
    assert answer.status_code == 200, answer.text
    assert_alike(answer.json(), {"predictions": server.ask("sentiment", TEXTS, top_k=2)})
    assert answer.headers["x-model-version"] == "1"


def test_a_table_in_csv(server: Server) -> None:
    table = pandas.DataFrame({"text": TEXTS}).to_csv(index=False)
    answer = score(server, "sentiment", table, **{"content-type": "text/csv; charset=utf-8"})
    assert_alike(answer.json(), {"predictions": server.ask("sentiment", TEXTS)})


def test_columns_named_like_the_parts_of_an_input_make_it(server: Server) -> None:
    rows = [{"question": "Where?", "context": "Ada lives in Paris."}, {"question": "Who?", "context": "Ada did."}]
    expected = {"predictions": server.ask("question-answering", rows)}
    for body in (
        {"dataframe_records": rows},
        {"instances": rows},
        {"inputs": pandas.DataFrame(rows).to_dict(orient="list")},
        {"dataframe_split": pandas.DataFrame(rows).to_dict(orient="split")},
    ):
        assert_alike(score(server, "question-answering", body).json(), expected)
    alone = score(server, "question-answering", {"inputs": rows[0]}).json()
    assert_alike(alone, {"predictions": expected["predictions"][:1]})


@pytest.mark.parametrize(
    ("model", "body", "status", "code", "words"),
    [
        ("nobody", {"inputs": "a"}, 404, "RESOURCE_DOES_NOT_EXIST", "no model 'nobody'"),
        ("sentiment", b"{", 400, "BAD_REQUEST", "not JSON"),
        ("sentiment", {}, 400, "BAD_REQUEST", "exactly one of inputs, instances"),
        ("sentiment", {"inputs": "a", "instances": "b"}, 400, "BAD_REQUEST", "exactly one of"),
        ("sentiment", {"inputs": ""}, 422, "INVALID_PARAMETER_VALUE", "empty text"),
        ("sentiment", {"inputs": "a", "params": {"top": 1}}, 422, "INVALID_PARAMETER_VALUE", "unknown field `top`"),
        ("sentiment", {"inputs": "a", "top_k": 1}, 422, "INVALID_PARAMETER_VALUE", "top_k is no field of this body"),
        ("sentiment", {"dataframe_split": {"columns": ["a"]}}, 422, "INVALID_PARAMETER_VALUE", "data"),
        ("sentiment", {"dataframe_split": {"columns": ["a"], "data": [[]]}}, 422, "INVALID_PARAMETER_VALUE", "1 value"),
        ("sentiment", {"dataframe_records": ["a"]}, 422, "INVALID_PARAMETER_VALUE", "list of objects"),
        ("sentiment", {"dataframe_records": []}, 422, "INVALID_PARAMETER_VALUE", "no column says"),
        ("sentiment", {"inputs": ["a"] * 1025}, 413, "INVALID_PARAMETER_VALUE", "a request may have 1,024"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_error_has_mlflows_shape(server: Server, model: str, body: Any, status: int, code: str, words: str) -> None:
    answer = score(server, model, body)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code), answer.text
    assert words in answer.json()["message"]


def test_without_a_name_a_server_of_several_models_asks_for_one(server: Server) -> None:
    answer = server.http.post("/invocations", json={"inputs": "a"})
    assert answer.status_code == 404
    assert "name a model" in answer.json()["message"]


def test_a_broken_table_in_csv_is_refused(server: Server) -> None:
    for body in ("", "text\na,b\n", b"text\n\xff\n"):
        answer = score(server, "sentiment", body, **{"content-type": "text/csv"})
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST"), body

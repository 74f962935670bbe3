"""Nothing answers without a key where there are keys; and a key opens what it is for, and no more."""

import asyncio
from pathlib import Path
from typing import Any

from _bentoml_sdk import Service
from starlette.routing import Mount

from serving.front.app import DataPlane
from serving.runtime.key_file import KeyFile
from tests.serving.front.closed_front import Asked, Closed, ask, bearer
from tests.serving.front.local_front import MakeFront, answer, engines
from tests.serving.front.task_fronts import serve_tasks
from tests.test_docs import ROUTES
from tests.waiting import WAIT_SECONDS

METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")


def bentoml_paths() -> list[str]:
    """The routes of BentoML's own app."""
    from serving.service import Headwaiter

    app: Any = Service.to_asgi(Headwaiter)
    paths = [f"{route.path}/a-file" if isinstance(route, Mount) else route.path for route in app.routes]
    assert {"/predict", "/livez", "/readyz", "/docs.json", "/"} <= set(paths)
    return paths


def all_paths(app: DataPlane) -> list[str]:
    """Of the app's own tables, of the documentation, and what lies beside them; without the page, which is public."""
    openai: Any = app._handlers["v1"]
    own = [f"/{first}" for first in app._handlers if first != "ui"]
    below = [f"/models/m{base}/{name}" for base in ("", "/v1") for name in ("", "health", "info", *openai._routes)]
    documented = [
        route.replace("{name}", "m").replace("{version}", "1") for _, route in ROUTES if not route.startswith("/ui")
    ]
    strange = [
        "",
        "//",
        "/models//",
        "/%2e%2e/metrics",
        "/METRICS",
        "/metrics/",
        "/nothing",
        "/static_content/../predict",
    ]
    return [*own, *(f"/v1/{name}" for name in openai._routes), *below, *documented, *bentoml_paths(), *strange]


def test_no_route_answers_without_a_key_or_with_a_wrong_one(closed: Closed) -> None:
    paths = all_paths(closed.app)
    assert len(paths) > 60
    wrong: list[list[tuple[str, str]]] = [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer ")],
        [bearer("hw_wrong")],
        [("Authorization", closed.operator[1].removeprefix("Bearer "))],
        [("Authorization", closed.operator[1].replace("Bearer", "Basic"))],
        [bearer("hw_wrong"), closed.operator],
        [("X-Api-Key", closed.operator[1])],
    ]
    for path in paths:
        for method in METHODS:
            for headers in wrong if path in ("/models/m", "/predict") else wrong[:1]:
                asked = closed.ask(method, path, *headers)
                assert asked.status == 401, (method, path, headers)
                assert asked.headers["www-authenticate"] == "Bearer"
                assert asked.headers["x-request-id"]
                assert not asked.has_read, "the body of a stranger is not read"
    assert closed.inner == []


def test_the_same_routes_answer_with_a_key(closed: Closed) -> None:
    engines(closed.front, "1", *[answer("an answer")] * 99)
    for path in all_paths(closed.app):
        assert closed.ask("GET", path, closed.operator).status not in (401, 403), path
    assert "/predict" in closed.inner


def test_no_other_kind_of_connection_gets_in(closed: Closed) -> None:
    assert ask(closed.app, "GET", "/predict", kind="websocket").status == 0
    assert closed.inner == []


def test_each_protocol_refuses_in_its_own_form(closed: Closed) -> None:
    message = "this server asks for a key: send the header Authorization: Bearer KEY"
    openai = {"message": message, "type": "authentication_error", "param": None, "code": "invalid_api_key"}
    bodies = {
        "/models/m": {"error": message, "error_type": "unauthorized"},
        "/v1/completions": {"error": openai},
        "/models/m/v1/completions": {"error": openai},
        "/v2/models/m/infer": {"error": message},
        "/invocations": {"error_code": "UNAUTHENTICATED", "message": message},
        "/predict": {"error": message},
        "/hooks/mlflow": {"error": message, "error_type": "unauthorized"},
    }
    for path, body in bodies.items():
        assert closed.ask("POST", path).json == body, path


def test_a_key_asks_the_models_that_it_is_for(closed: Closed) -> None:
    engines(closed.front, "1", *[answer("an answer")] * 9)
    assert closed.ask("POST", "/models/m", closed.somebody).json == "an answer"
    assert closed.ask("POST", "/models/m@alias", closed.somebody).status == 404
    refused = closed.ask("POST", "/models/secret", closed.somebody)
    assert (refused.status, refused.json["error_type"]) == (403, "forbidden")
    why = "this key may not ask for the model 'secret': choose one of GET /models, or get a key that may"
    assert refused.json["error"] == why
    for path in ("/models/secret@x", "/models/secret/versions/1", "/invocations/secret", "/models/nobody"):
        assert closed.ask("POST", path, closed.somebody).status == 403, "whether or not it is there"
    for path in (
        "/models/secret",
        "/models/secret/info",
        "/v1/models/secret",
        "/v2/models/secret",
        "/models/secret/health",
    ):
        assert closed.ask("GET", path, closed.somebody).status == 403
    for path in ("/v2/models/secret/ready", "/v2/models/secret/stats", "/v2/models/secret/config"):
        assert closed.ask("GET", path, closed.somebody).status == 403
    absent = closed.ask("POST", "/models/absent", closed.somebody)
    assert absent.status == 404
    assert "secret" not in absent.json["error"]
    assert closed.ask("POST", "/invocations", closed.somebody).status != 404, "m is the only model that it sees"


def test_what_a_key_cannot_ask_it_does_not_see(closed: Closed) -> None:
    lists = [("GET", "/models"), ("GET", "/v1/models"), ("POST", "/v2/repository/index")]
    for method, path in lists:
        seen, known = (closed.ask(method, path, key).body for key in (closed.somebody, closed.operator))
        assert b"secret" not in seen, path
        assert b'"m"' in seen, path
        assert b"secret" in known


def test_what_is_for_operators_is_shown_to_nobody_else(closed: Closed) -> None:
    for path in ("/models", "/models/m"):
        shown = closed.ask("GET", path, closed.somebody).json
        model = shown["models"][0] if path == "/models" else shown
        assert model == {"name": "m", "live": "1", "aliases": {}, "versions": {"1": {"state": "ready"}}}
        assert path != "/models" or shown.keys() == {"models"}
    assert {"machine", "registry_error"} <= closed.ask("GET", "/models", closed.operator).json.keys()
    assert "engines" in closed.ask("GET", "/models/m", closed.operator).json["versions"]["1"]
    asked = closed.ask("GET", "/metrics", closed.somebody)
    assert (asked.status, asked.json) == (403, {"error": "/metrics takes a key that was made with --admin"})
    assert closed.ask("GET", "/metrics", closed.operator).status == 200
    for path in ("/v2/models/stats", "/v2/models/m/stats", "/v2/models/m/versions/1/stats"):
        asked = closed.ask("GET", path, closed.somebody)
        named = "/v2/models/stats" if path == "/v2/models/stats" else "/v2/models/{name}/stats"
        assert (asked.status, asked.json) == (403, {"error": f"{named} takes a key that was made with --admin"})
        assert closed.ask("GET", path, closed.operator).json["model_stats"][0]["name"] == "m"
    everything = bearer(closed.file.add("all-models"))
    closed.front.access._reload()
    index = closed.ask("POST", "/v2/repository/index", everything).json
    assert {entry["reason"] for entry in index} == {""}
    index = closed.ask("POST", "/v2/repository/index", closed.operator).json
    assert "the reason in words" in {entry["reason"] for entry in index}


def test_a_models_configuration_shows_its_devices_and_class_to_operators_only(closed: Closed) -> None:
    serve_tasks(closed.front, ("text-classification",))
    everything = bearer(closed.file.add("all-models"))
    closed.front.access._reload()
    for version in ("", "/versions/1"):
        path = f"/v2/models/text-classification{version}/config"
        told, known = (closed.ask("GET", path, key).json for key in (everything, closed.operator))
        assert known.keys() - told.keys() == {"instance_group"}
        assert known["parameters"].keys() - told["parameters"].keys() == {"model_class"}


def test_a_key_with_a_rate_is_told_when_to_come_again(closed: Closed) -> None:
    slow = bearer(closed.file.add("slow", rate=0.001))
    closed.front.access._reload()
    engines(closed.front, "1", *[answer("an answer")] * 9)
    assert closed.ask("POST", "/models/m", slow).status == 200
    for path, reason in (
        ("/models/m", ("error_type", "key_limit")),
        ("/invocations", ("error_code", "REQUEST_LIMIT_EXCEEDED")),
    ):
        asked = closed.ask("POST", path, slow)
        assert (asked.status, asked.json[reason[0]], asked.has_read) == (429, reason[1], False)
        assert 900 < int(asked.headers["retry-after"]) <= 1000
    refused = closed.ask("POST", "/v1/embeddings", slow)
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert closed.ask("POST", "/models/m", closed.somebody).status == 200


def test_requests_of_a_key_in_progress_are_bounded(closed: Closed) -> None:
    one = bearer(closed.file.add("one", concurrency=1))
    closed.front.access._reload()
    link = engines(closed.front, "1")
    link.on_submit = lambda waiter: None

    async def work() -> None:
        first, second = Asked(), Asked()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/models/m",
            "headers": [(b"authorization", one[1].encode())],
        }
        asking = asyncio.create_task(closed.app(dict(scope), first.receive, first.send))
        while not link.waiters:
            await asyncio.sleep(0)
        await closed.app(dict(scope), second.receive, second.send)
        assert second.status == 429
        link.waiters[0].put(0, ["an answer"], 0.1)  # type: ignore[list-item]
        await asking
        assert first.status == 200
        link.on_submit = answer("another")
        await closed.app(dict(scope), second.receive, second.send)
        assert second.status == 200

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_a_signed_hook_needs_no_key_and_an_unsigned_one_is_not_read(tmp_path: Path, make_front: MakeFront) -> None:
    KeyFile(tmp_path / "keys.json").add("first")
    app = DataPlane(make_front(keys_file=tmp_path / "keys.json", webhook_secret="s" * 20), None)  # type: ignore[arg-type]
    asked = ask(app, "POST", "/hooks/mlflow")
    assert (asked.status, asked.has_read) == (401, False)
    assert b"X-MLflow-Signature" in asked.body
    asked = ask(app, "POST", "/hooks/mlflow", ("X-MLflow-Signature", "v1,wrong"))
    assert (asked.status, asked.has_read) == (401, True)
    assert ask(app, "POST", "/hookss").status == 401

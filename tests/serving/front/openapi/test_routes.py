"""The declared routes are those that the app answers, and those of docs/http.md."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.front.front import Front
from serving.front.openapi.route import Route
from serving.front.openapi.routes import BENTOML, ROUTES
from tests.serving.front.openapi.surface import ELSEWHERE, OWN, TEXT, ask, filled, identify

ROOT = Path(__file__).resolve().parents[4]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def test_the_declared_routes_are_those_of_the_documentation() -> None:
    lines = (ROOT / "docs/http.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip(" `") for cell in line.split("|")[1:4]] for line in lines if re.match(r"\| `(GET|POST)` ", line)
    ]
    declared = [[route.method, route.path, route.protocol.name] for route in ROUTES]
    assert sorted(cells) == sorted(declared)


def test_no_route_is_declared_twice() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert len({route.operation for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("path", sorted({route.path for route in OWN}))
def test_a_declared_route_is_answered_and_takes_no_other_method(path: str, front: Front) -> None:
    routes = [route for route in OWN if route.path == path]
    declared = {route.method for route in routes}
    for method in METHODS:
        answer = ask(front, method, filled(routes[0]))
        if method in declared:
            assert answer.status_code != 405
            assert b"no such route" not in answer.content
        else:
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == declared


@pytest.mark.parametrize("route", [route for route in OWN if route.method == "GET"], ids=identify)
def test_head_is_answered_where_get_is(route: Route, front: Front) -> None:
    assert ask(front, "HEAD", filled(route)).status_code == ask(front, "GET", filled(route)).status_code


WORDS = sorted({word for route in ROUTES for word in route.path.split("/") if word and "{" not in word})
segments = st.sampled_from([*WORDS, "no-such-word", TEXT, "1"])


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Draw a path of words of the routes, or a route's path with a segment changed, added or left out."""
    if draw(st.booleans()):
        return "/" + "/".join(draw(st.lists(segments, max_size=6)))
    parts = filled(draw(st.sampled_from(ROUTES))).split("/")[1:]
    place = draw(st.integers(0, len(parts)))
    return "/" + "/".join(
        [*parts[:place], *draw(st.lists(segments, max_size=1)), *parts[place + draw(st.booleans()) :]]
    )


def is_declared(path: str) -> bool:
    patterns = [re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path)) for route in ROUTES]
    return any(re.fullmatch(pattern, path.rstrip("/") or "/") for pattern in patterns)


@pytest.mark.slow
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=paths())
def test_nothing_else_is_routed(path: str, front: Front) -> None:
    answer = ask(front, "GET", path)
    if not is_declared(path):
        assert answer.status_code == ELSEWHERE or b"no such route" in answer.content
    elif answer.status_code == ELSEWHERE:
        own = {route.path for route in ROUTES if route.protocol == BENTOML}
        assert (path.rstrip("/") or "/") in own or path.startswith("/static_content/")


def test_bentoml_answers_what_is_declared_as_its_own() -> None:
    from _bentoml_sdk import Service

    from serving.service import Headwaiter

    found = set()
    for route in Service.to_asgi(Headwaiter).routes:
        methods = getattr(route, "methods", None)
        path = route.path if methods else f"{route.path}/{{path}}"  # a folder
        found |= {(method, path) for method in methods or {"GET"}}
    declared = {(route.method, route.path) for route in ROUTES if route.protocol == BENTOML}
    assert {entry for entry in found if entry[0] != "HEAD"} == declared

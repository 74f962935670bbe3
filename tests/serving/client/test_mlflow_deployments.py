"""A server that tells something odd is an error of MLflow's with a reason."""

from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from serving.client.mlflow_deployments import HeadwaiterDeploymentClient
from serving.client.server_client import Remote

pytestmark = pytest.mark.slow


MODEL = {"name": "m", "live": "1", "aliases": {"champion": "1"}, "error": None, "versions": {"1": {"state": "ready"}}}
STATUS = {"registry_error": None, "named": [], "deployments": True, "models": [MODEL]}


class Odd(Remote):
    """A server whose every answer is `answer`."""

    answer: Any = None

    def _ask(self, path: str, body: bytes | None, seconds: float) -> object:
        return self.answer


def client(answer: Any) -> HeadwaiterDeploymentClient:
    made = HeadwaiterDeploymentClient("headwaiter:http://127.0.0.1:1")
    made._server = Odd("http://127.0.0.1:1", "")
    made._server.answer = answer
    return made


def changed(**given: Any) -> dict[str, Any]:
    return {**STATUS, "models": [{**MODEL, **given}]}


def without(key: str) -> dict[str, Any]:
    model = {name: value for name, value in MODEL.items() if name != key}
    return {**{name: value for name, value in STATUS.items() if name != key}, "models": [model]}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        *map(without, ("live", "aliases", "error", "versions", "named", "deployments")),
        {**STATUS, "named": 3},
        {**STATUS, "named": [None]},
        changed(aliases=[]),
        changed(versions=None),
        changed(versions={"1": "ready"}),
        changed(versions={"1": {}}),
    ],
)
def test_a_state_of_another_form_is_told(answer: Any) -> None:
    asked = client(answer)
    for ask in (asked.list_deployments, lambda: asked.get_deployment("m")):
        with pytest.raises(MlflowException, match="in a form that is not known|is no Headwaiter"):
            ask()


def test_a_state_of_this_form_is_read_with_whatever_else_it_has() -> None:
    assert client({**STATUS, "later": 1}).get_deployment("m")["live"] == "1"
    assert client(changed(later=1)).list_deployments()[0]["versions"] == {"1": "ready"}


def test_inputs_that_are_not_json_are_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    for inputs in (b"bytes", {1, 2}, circle):
        with pytest.raises(MlflowException, match="the inputs are not JSON") as caught:
            client(None).predict("m", inputs)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"

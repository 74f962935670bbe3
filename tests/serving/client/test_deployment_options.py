from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

from registry.deployments import DEPLOYED
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.client.deployment_options import mlflow_errors, read_config, read_uri, to_body
from serving.errors import (
    MLFLOW_CODES,
    DeadlineExceeded,
    Malformed,
    QueueFull,
    RemoteError,
    ServingError,
    TooLarge,
    Unprocessable,
    mlflow_code,
)
from serving.front.protocols.mlflow import MLflowScoring
from tests.e2e.server import free_port


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("models:/m/3", Reference("m", version="3")),
        ("models:/m@canary", Reference("m", alias="canary")),
        ("models:///m/3", Reference("m", version="3")),
    ],
)
def test_a_registered_models_uri_is_read(uri: str, expected: Reference) -> None:
    assert read_uri("m", uri, None) == expected


@pytest.mark.parametrize(
    ("uri", "flavor", "rule"),
    [
        ("models:/m", None, "VERSION"),
        ("models:/n/3", None, "registered model"),
        ("models:/m/latest", None, "whole number"),
        ("runs:/abc/model", None, "models:/m/VERSION"),
        ("/tmp/model", None, "models:/m/VERSION"),
        ("models:/m/3", "sklearn", "leave it out"),
    ],
)
def test_what_cannot_be_deployed_is_refused_with_what_can(uri: str, flavor: str | None, rule: str) -> None:
    with pytest.raises(MlflowException, match=rule) as caught, mlflow_errors():
        read_uri("m", uri, flavor)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_config_is_read_and_its_mistakes_are_named() -> None:
    assert read_config({"wait_seconds": "1.5", "why": "x"}, ("why", "wait_seconds")) == {
        "wait_seconds": 1.5,
        "why": "x",
    }
    assert read_config(None, ()) == {}
    with pytest.raises(MlflowException, match="'alais' is unknown: give some of alias"):
        read_config({"alais": "x"}, ("alias",))
    for seconds in ("soon", "nan", "-1", None):
        with pytest.raises(MlflowException, match="is no number of seconds"):
            read_config({"wait_seconds": seconds}, ("wait_seconds",))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("a", "a"),
        (["a", "b"], ["a", "b"]),
        ({"question": "q", "context": "c"}, {"question": "q", "context": "c"}),
        (numpy.array(["a", "b"]), ["a", "b"]),
        (pandas.Series(["a", "b"]), ["a", "b"]),
        (pandas.DataFrame({"anything": ["a", "b"]}), ["a", "b"]),
        (pandas.DataFrame({"id": [1, 2], "text": ["a", "b"]}), ["a", "b"]),
        (pandas.DataFrame({"inputs": ["a"], "other": [1]}), ["a"]),
        (pandas.DataFrame({"text": ["a"], "text_pair": ["b"]}), [{"text": "a", "text_pair": "b"}]),
        (pandas.DataFrame({"question": ["q"], "context": ["c"]}), [{"question": "q", "context": "c"}]),
    ],
)
def test_inputs_of_every_form_become_a_request(inputs: Any, expected: Any) -> None:
    assert to_body(inputs) == {"inputs": expected}


def test_a_whole_request_is_sent_as_it_is() -> None:
    request = {"inputs": "a", "parameters": {"top_k": 1}}
    assert to_body(request) == request


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0, "TEMPORARILY_UNAVAILABLE"),
        (400, "BAD_REQUEST"),
        (404, "RESOURCE_DOES_NOT_EXIST"),
        (422, "INVALID_PARAMETER_VALUE"),
        (429, "REQUEST_LIMIT_EXCEEDED"),
        (500, "INTERNAL_ERROR"),
        (503, "TEMPORARILY_UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_servers_refusal_keeps_its_meaning(status: int, code: str) -> None:
    with pytest.raises(MlflowException, match="its own words") as caught, mlflow_errors():
        raise RemoteError("its own words", status)
    assert caught.value.error_code == code


@pytest.mark.parametrize("status", [*MLFLOW_CODES, 500])
def test_mlflow_itself_has_that_status_for_the_code(status: int) -> None:
    assert ERROR_CODE_TO_HTTP_STATUS[mlflow_code(status)] == status


@pytest.mark.parametrize("kind", [DeadlineExceeded, Malformed, QueueFull, TooLarge, Unprocessable])
def test_the_scoring_route_and_the_deployments_client_say_the_same(kind: type[ServingError]) -> None:
    said = MLflowScoring.describe(None, kind("no"))["error_code"]  # type: ignore[arg-type]
    with pytest.raises(MlflowException) as caught, mlflow_errors():
        raise RemoteError("no", kind.status)
    assert caught.value.error_code == said


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    client = get_deploy_client(f"headwaiter:http://127.0.0.1:{free_port()}")
    for call in (client.list_deployments, lambda: client.get_deployment("m"), lambda: client.predict("m", "x")):
        with pytest.raises(MlflowException, match="no Headwaiter answers") as caught:
            call()
        assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"
    with pytest.raises(MlflowException, match="no http:// or https:// address"):
        get_deploy_client("headwaiter:/nowhere")


def test_marks_are_found_and_taken_away_and_a_bad_one_hides_no_other(tmp_path: Path) -> None:
    versions = Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(tmp_path)}))
    for name in ("a", "b", "c"):
        versions._client.create_registered_model(name)
    assert versions.deployed() == []
    versions.deploy("a")
    versions.deploy("b", "canary")
    versions._client.set_registered_model_tag("c", DEPLOYED, "")
    assert sorted(map(str, versions.deployed())) == ["a@champion", "b@canary"]
    versions.undeploy("a")
    versions.undeploy("a")
    assert list(map(str, versions.deployed())) == ["b@canary"]

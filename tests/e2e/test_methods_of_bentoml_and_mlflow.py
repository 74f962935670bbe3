"""Every public method of BentoML's client and of MLflow's deployment client, called on a real server."""

import inspect
from typing import Any

import bentoml
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.exceptions import MlflowException

from tests.alike import assert_alike
from tests.e2e import test_deployments
from tests.e2e.client_table import public, read_table
from tests.e2e.server import Server
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.processor


BENTOML = {"predict", "call", "close", "default_temp_dir", "is_ready", "request", "wait_until_server_ready"}


def test_the_table_of_bentomls_client_has_every_method() -> None:
    table = read_table("bentoml.SyncHTTPClient")
    assert table.keys() == public(bentoml.SyncHTTPClient) | {"predict"} == BENTOML
    assert not any(row.is_refused or row.refused for row in table.values())


def test_every_method_of_bentomls_client(server: Server) -> None:
    expected = server.ask("sentiment", "good", top_k=1)
    with bentoml.SyncHTTPClient(server.url) as client:
        assert set(client.endpoints) == {"predict"}
        assert client.is_ready()
        client.wait_until_server_ready(timeout=WAIT_SECONDS)
        given: dict[str, Any] = {"model": "sentiment", "inputs": "good", "parameters": {"top_k": 1, "truncate": None}}
        assert_alike(client.predict(**given), expected)
        assert_alike(client.predict(**given, version=None), expected)
        assert_alike(client.call("predict", **given), expected)
        assert_alike(client.request("POST", "/models/sentiment", json={"inputs": "good", "top_k": 1}).json(), expected)
        with pytest.raises(bentoml.exceptions.BentoMLException, match="unknown field `unheard`"):
            client.predict(model="sentiment", inputs="x", parameters={"unheard": 1})


MLFLOW = {"list_deployments", "get_deployment", "predict"}
OF_DEPLOYMENTS = {"create_deployment", "update_deployment", "delete_deployment"}
"""Called in test_deployments, where the server follows deployments."""
MLFLOW_REFUSED: dict[str, dict[str, Any]] = {
    "explain": {"deployment_name": "sentiment"},
    "predict_stream": {"deployment_name": "sentiment"},
    "create_endpoint": {"name": "a"},
    "update_endpoint": {"endpoint": "a"},
    "delete_endpoint": {"endpoint": "a"},
    "list_endpoints": {},
    "get_endpoint": {"endpoint": "a"},
}


def test_the_table_of_mlflows_client_has_every_method() -> None:
    table = read_table("mlflow.deployments.get_deploy_client")
    assert table.keys() == public(BaseDeploymentClient)
    assert {name for name, row in table.items() if row.is_refused} == MLFLOW_REFUSED.keys()
    assert {name for name, row in table.items() if not row.is_refused} == MLFLOW | OF_DEPLOYMENTS
    source = inspect.getsource(test_deployments)
    assert all(f"client.{name}(" in source for name in OF_DEPLOYMENTS)


def test_every_method_of_mlflows_client(server: Server) -> None:
    client = get_deploy_client(f"headwaiter:{server.url}")
    assert {"sentiment", "chat"} <= {found["name"] for found in client.list_deployments()}
    assert client.get_deployment("sentiment", endpoint=None)["live"] == "1"
    expected = server.ask("sentiment", ["good", "bad"], top_k=1)
    request = {"inputs": ["good", "bad"], "parameters": {"top_k": 1, "truncate": None}}
    assert_alike(client.predict("sentiment", request, endpoint=None)["predictions"], expected)
    assert_alike(client.predict(inputs=request, endpoint="sentiment")["predictions"], expected)
    for name, given in MLFLOW_REFUSED.items():
        with pytest.raises((MlflowException, NotImplementedError)):
            getattr(client, name)(**given)

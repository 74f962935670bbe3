"""The `mlflow.deployments` target: MLflow's own command line and client, unchanged, on real servers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas
import psutil
import pytest
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from registry.deployments import DEPLOYED
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from registry.versions import Versions
from tests.alike import assert_alike
from tests.conftest import forget_tracking
from tests.e2e.conftest import copy_of
from tests.e2e.load import Load
from tests.e2e.server import Server, free_port, inherited, run_cli, wait_until
from tests.waiting import WAIT_SECONDS


def run_mlflow(*arguments: str) -> str:
    """What `mlflow deployments …` prints; it must succeed. In this process, as MLflow's import takes seconds."""
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Path:
    """The registry of the tests that share a server, like a `small_home`."""
    return copy_of(small_template, tmp_path_factory)


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Server]:
    """A server of whatever is deployed."""
    with Server(home, ("--deployments",)) as server:
        yield server


@pytest.fixture
def server(running: Server, home: Path, versions: Versions, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same for one test: nothing is deployed yet, and version 1 of `m` is its champion."""
    monkeypatch.setenv("HEADWAITER_HOME", str(home))
    if versions.current("m") != "1":
        versions.promote("m", "1", why="start")
    assert running.http.get("/models").json()["models"] == []
    return running


@pytest.fixture
def versions(home: Path) -> Iterator[Versions]:
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    connect_mlflow(settings)
    yield Versions(settings)
    forget_tracking()


def test_the_command_line_creates_updates_and_deletes_a_deployment(
    home: Path, server: Server, versions: Versions
) -> None:
    target = ("-t", f"headwaiter:{server.url}")
    assert "List of all deployments:\n[]" in run_mlflow("list", *target)
    created = run_mlflow("create", *target, "--name", "m", "-m", "models:/m/1", "-C", "why=first release")
    assert "headwaiter deployment m is created" in created
    assert server.live("m") == "1"
    assert "'name': 'm', 'live': '1'" in run_mlflow("list", *target)

    texts = home / "texts.json"
    texts.write_text(json.dumps([{"text": "good"}, {"text": "bad"}]))
    printed = run_mlflow("predict", *target, "--name", "m", "-I", str(texts))
    assert_alike(json.loads(printed), {"predictions": server.ask("m", ["good", "bad"])}, server.dtype("m", "1"))

    updated = run_mlflow("update", *target, "--name", "m", "-m", "models:/m/2", "-C", "why=better")
    assert "Deployment m is updated (with flavor headwaiter)" in updated
    assert server.post("m", {"inputs": "x"}).headers["x-model-version"] == "2"
    assert "live: 2" in run_mlflow("get", *target, "--name", "m")

    assert "m is deleted" in run_mlflow("delete", *target, "--name", "m")
    assert server.http.get("/models").json()["models"] == []
    assert server.post("m", {"inputs": "x"}).status_code == 404
    assert server.is_ready()
    assert versions.current("m") == "2"
    assert versions.history("m")[-1].why == "better"


def refused(code: str, call: Any, *arguments: Any, **options: Any) -> str:
    """The message of the MlflowException with this code that the call must raise."""
    with pytest.raises(MlflowException) as caught:
        call(*arguments, **options)
    assert caught.value.error_code == code, caught.value
    return str(caught.value)


def test_the_client_deploys_predicts_and_says_what_is_wrong(home: Path, server: Server, versions: Versions) -> None:
    client = get_deploy_client(f"headwaiter:{server.url}")
    assert "no m@canary" in refused("RESOURCE_DOES_NOT_EXIST", client.create_deployment, "m", "models:/m@canary")
    assert "m/9" in refused("RESOURCE_DOES_NOT_EXIST", client.create_deployment, "m", "models:/m/9")
    assert "create it" in refused("RESOURCE_DOES_NOT_EXIST", client.update_deployment, "m", "models:/m/2")
    assert "'m'" in refused("RESOURCE_DOES_NOT_EXIST", client.predict, "m", ["x"])
    created = client.create_deployment("m", "models:/m/2", config={"alias": "canary"})
    assert (created["name"], created["flavor"], created["version"]) == ("m", "headwaiter", "2")
    assert (created["live"], created["aliases"]) == ("2", {"canary": "2"})
    assert "already" in refused("RESOURCE_ALREADY_EXISTS", client.create_deployment, "m", "models:/m/2")
    assert client.list_deployments() == [{key: created[key] for key in created if key != "version"}]

    expected = server.ask("m", ["good", "bad"], top_k=1)
    request = {"inputs": ["good", "bad"], "parameters": {"top_k": 1}}
    assert_alike(client.predict("m", request)["predictions"], expected, server.dtype("m", "2"))
    answers = server.ask("m", ["good", "bad"])
    for inputs in (["good", "bad"], pandas.DataFrame({"text": ["good", "bad"], "id": [1, 2]})):
        assert_alike(client.predict("m", inputs)["predictions"], answers, server.dtype("m", "2"))
    assert client.predict("m", "good").get_predictions().shape[0] == 1
    assert "top" in refused("INVALID_PARAMETER_VALUE", client.predict, "m", {"inputs": "x", "parameters": {"top": 1}})

    weights = sorted(home.glob("artifacts/**/model.safetensors"), key=lambda path: path.stat().st_mtime)[2]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "sha256" in refused("INVALID_STATE", client.update_deployment, "m", "models:/m/3")
    assert server.post("m", {"inputs": "x"}).headers["x-model-version"] == "2"
    with Load(server, "/models/m", 16) as load:  # another alias from now on: the model goes on answering
        updated = client.update_deployment("m", "models:/m@champion")
    assert (load.failures(), load.lost) == ([], [])
    assert set(load.answers()) <= {"1", "2"}
    assert (updated["live"], updated["aliases"]) == ("1", {"champion": "1"})
    assert client.get_deployment("m")["versions"]["1"]["state"] == "ready"
    printed = run_cli(home, "status", server.url).stdout
    (engine,) = server.describe("m")["versions"]["1"]["engines"]
    row = rf"^  1 +ready +champion +[1-9][0-9,]* MiB +0 +{engine['pid']} +cpu +(float32|bfloat16) +text-classification$"
    assert re.search(row, printed, re.MULTILINE), printed
    assert re.search(r" UTC +.+  m@canary +none → 2 +success ", printed), printed
    assert [found.alias for found in versions.deployed()] == ["champion"]

    for _ in range(2):
        client.delete_deployment("m")
    client.delete_deployment("never there")
    assert client.list_deployments() == []
    refused("RESOURCE_DOES_NOT_EXIST", client.get_deployment, "m")


def test_a_model_that_is_undeployed_answers_what_it_has_accepted(server: Server, versions: Versions) -> None:
    versions.deploy("m")
    wait_until(lambda: server.live("m") == "1", "it is served")
    (served,) = server.describe("m")["versions"]["1"]["engines"]
    engine = psutil.Process(served["pid"])
    engine.suspend()
    asking = server.ask_aside("m")
    versions.undeploy("m")
    wait_until(lambda: not server.describe("m")["aliases"], "it serves no more")
    assert server.post("m", {"inputs": "x"}).status_code == 404
    assert server.post("m", {"inputs": "x"}, version="1").status_code == 404
    assert server.is_ready()
    engine.resume()
    assert asking.result(WAIT_SECONDS).status_code == 200
    assert not psutil.wait_procs([engine], timeout=WAIT_SECONDS)[1]
    wait_until(lambda: server.http.get("/models").json()["models"] == [], "nothing of it is left")


def test_a_deployment_and_its_trouble_leave_the_server_ready(server: Server, versions: Versions) -> None:
    seen = set()

    def is_live() -> bool:
        seen.add(server.http.get("/readyz").status_code)
        return server.live("m") == "1"

    versions.deploy("m")
    wait_until(is_live, "it is served")
    assert seen == {200}
    versions._client.set_registered_model_tag("m", DEPLOYED, "no alias!")
    wait_until(lambda: "no alias!" in (server.describe("m")["error"] or ""), "it is shown")
    assert server.post("m", {"inputs": "x"}).status_code == 200
    assert server.http.get("/v2/models/m/ready").status_code == 200
    assert server.sample("model_live", model="m") == 1
    assert server.is_ready()
    versions.undeploy("m")
    wait_until(lambda: server.http.get("/models").json()["models"] == [], "nothing of it is left")
    assert server.http.get("/v2/models/m/ready").status_code == 404


@pytest.mark.long
def test_run_local_serves_until_it_is_asked_to_end(small_home: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "deployments", "run-local", "-t", "headwaiter", "--name", "m"]
    with (small_home / "local.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-m", "models:/m/2", "-C", f"port={port}"],
            env={**inherited(), "HEADWAITER_HOME": str(small_home)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        everyone: list[psutil.Process] = []
        try:
            wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, "ready: ", log=small_home / "local.log")
            answer = httpx.post(f"{url}/models/m", json={"inputs": "x"}, timeout=WAIT_SECONDS)
            assert answer.headers["x-model-version"] == "2"
            client = get_deploy_client(f"headwaiter:{url}")
            message = refused("INVALID_STATE", client.create_deployment, "other", "models:/other/1")
            assert "headwaiter serve --deployments" in message
            everyone = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)
    assert everyone
    assert not psutil.wait_procs(everyone, timeout=WAIT_SECONDS)[1]

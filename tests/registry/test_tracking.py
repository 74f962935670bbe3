"""MLflow's own settings mean what they mean to MLflow's client, and logging leaves the process as it was."""

import os
import tempfile
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from registry.cache import fetch, peek
from registry.flavor import log_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.tracking import connect
from registry.versions import Versions
from tests.conftest import forget_tracking
from tests.forks import FORKS
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """MLflow's variables are unset, and the working folder, where MLflow's defaults lie, is the test's own."""
    for variable in ("TRACKING_URI", "REGISTRY_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID"):
        monkeypatch.delenv(f"MLFLOW_{variable}", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.undo()
    forget_tracking()


def log(folder: Path, settings: RegistrySettings | None = None) -> str:
    return log_model(folder, task="text-classification", name="m", settings=settings).version


def test_a_registry_beside_the_tracking_store_has_the_versions(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, registry = f"sqlite:///{tmp_path}/tracking.db", f"sqlite:///{tmp_path}/registry.db"
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    assert log(models["single"]) == "1"
    assert MlflowClient(tracking, registry).get_model_version("m", "1").tags["headwaiter.task"] == "text-classification"
    assert [model.name for model in MlflowClient().search_registered_models()] == ["m"]
    assert MlflowClient(tracking, tracking).search_registered_models() == []
    versions = Versions()
    versions.promote("m", "1", why="first")
    found = versions.resolve(Reference.parse("m"))
    assert peek(found, versions.settings).task == "text-classification"
    root, _ = fetch(found, versions.settings)
    assert root.parent == tmp_path / "home" / "cache"
    assert mlflow.pyfunc.load_model("models:/m@champion", suppress_warnings=True).predict(["a fox"])


def test_logging_leaves_mlflows_state_as_it_was(tmp_path: Path, models: dict[str, Path]) -> None:
    def state() -> tuple[object, ...]:
        variables = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")
        return mlflow.get_tracking_uri(), mlflow.get_registry_uri(), *map(os.environ.get, variables)

    embedded = RegistrySettings.from_environment({"HEADWAITER_HOME": str(tmp_path / "home")})
    other = RegistrySettings(tmp_path, f"sqlite:///{tmp_path}/other.db")
    untouched = state()
    log(models["single"], embedded)
    assert state() == untouched
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    mlflow.set_experiment("mine")
    mine = state()
    for settings in (embedded, other):
        log(models["single"], settings)
        assert state() == mine
    assert MlflowClient().search_registered_models() == []


def experiment_of(version: str, settings: RegistrySettings) -> str:
    client = connect(settings)
    source = client.get_model_version("m", version).source
    return client.get_experiment(client.get_logged_model(source.removeprefix("models:/")).experiment_id).name


@pytest.mark.parametrize("address", ["", "sqlite:///{}/other.db"], ids=["embedded", "other"])
def test_the_experiment_that_the_environment_names_is_logged_to(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(tmp_path))
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path / "home"))
    settings = RegistrySettings.from_environment()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by-name")
    assert experiment_of(log(models["single"]), settings) == "by-name"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", connect(settings).create_experiment("by-id"))
    assert experiment_of(log(models["single"]), settings) == "by-id"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    assert experiment_of(log(models["single"]), settings) == ("Default" if address else "headwaiter")


def test_a_run_that_is_open_gets_the_model(tmp_path: Path, models: dict[str, Path]) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    mlflow.set_experiment("mine")
    with mlflow.start_run() as run:
        version = log(models["single"])
    settings = RegistrySettings.from_environment()
    assert experiment_of(version, settings) == "mine"
    assert connect(settings).get_model_version("m", version).run_id == run.info.run_id


def ask_from(temporary: Path, home: Path, ready: Barrier) -> None:
    """Ask the embedded registry in `home`, with a temporary folder of this process' own, when all others do."""
    os.environ.update({"HEADWAITER_HOME": str(home), "TMPDIR": str(temporary)})
    tempfile.tempdir = None
    assert Path(tempfile.gettempdir()) == temporary
    settings = RegistrySettings.from_environment()
    ready.wait(WAIT_SECONDS)
    connect(settings).search_registered_models()


@pytest.mark.server
def test_processes_with_temporary_folders_of_their_own_make_one_database(tmp_path: Path) -> None:
    ready, folders = FORKS.Barrier(3), [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    started = [FORKS.Process(target=ask_from, args=(folder, tmp_path / "home", ready)) for folder in folders]
    for process in started:
        process.start()
    for process in started:
        process.join(WAIT_SECONDS)
    assert [process.exitcode for process in started] == [0] * 3

"""Processes import no module of a working directory, and get no credentials."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.child_process import child_environ, module_command, python_path
from registry.settings import RegistrySettings
from registry.transformers_flavor import add_contract

SECRETS = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN"),
    *("HEADWAITER_WEBHOOK_SECRET", "HEADWAITER_API_KEY", "HTTPS_PROXY", "DATABASE_URL", "KUBECONFIG", "MY_OWN_THING"),
    *("TORCH_HUB_TOKEN", "PYTHON_API_KEY", "MLFLOW_TRACKING_URI", "OTEL_EXPORTER_OTLP_HEADERS", "SSH_AUTH_SOCK"),
)
KEPT = (
    *("PATH", "HOME", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HEADWAITER_HOME"),
    *("PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_CACHE_DIR", "PYTHONHASHSEED"),
)


def test_what_is_not_known_to_matter_is_not_inherited() -> None:
    found = child_environ(dict.fromkeys((*SECRETS, *KEPT), "a value"))
    assert found.keys() == {*KEPT, "PYTHONPATH", "PYTHONSAFEPATH"}


def test_places_of_modules_are_absolute() -> None:
    source = str(Path(__file__).resolve().parents[2])
    assert python_path({}) == source
    assert python_path({"PYTHONPATH": ":.:/opt/own:relative/place:"}) == f"{source}:/opt/own"
    assert python_path({"PYTHONPATH": f"/opt/own:{source}"}) == f"/opt/own:{source}"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that any module of the working directory writes when it is imported."""
    sprung = tmp_path / "sprung"
    for name in ("msgspec", "psutil", "zmq", "json", "serving", "registry", "mlflow", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(sprung)!r}, 'a').write({name!r})\nraise ImportError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    return sprung


def test_a_module_in_the_working_directory_is_not_imported(trap: Path) -> None:
    command = module_command("serving.commands.main", "keys", "list")
    environ = child_environ() | {"HEADWAITER_KEYS_FILE": os.devnull}
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    assert "HEADWAITER_KEYS_FILE=/dev/null is no file" in done.stderr
    assert not trap.exists()
    subprocess.run(
        [sys.executable, *command[2:]], env=environ | {"PYTHONSAFEPATH": ""}, check=False, capture_output=True
    )
    assert trap.exists(), "the trap works"


@pytest.mark.server
def test_a_contract_is_derived_in_a_process_without_credentials(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import registry.transformers_flavor as flavor

    (tmp_path / "places").mkdir()
    told = tmp_path / "told.json"
    spy = f"import json, os; json.dump([dict(os.environ), os.getcwd()], open({str(told)!r}, 'w'))"
    (tmp_path / "places" / "sitecustomize.py").write_text(spy)
    monkeypatch.setenv("PYTHONPATH", f".:{tmp_path / 'places'}")
    for name in SECRETS:
        monkeypatch.setenv(name, "a secret")
    with pytest.raises(flavor.ContractError):
        add_contract(tmp_path / "no artifact")
    environ, folder = json.loads(told.read_text())
    assert not environ.keys() & set(SECRETS)
    assert folder == os.sep
    assert not trap.exists()


def test_a_relative_database_is_the_same_file_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, expected in (
        ("sqlite:///own.db", f"sqlite:///{tmp_path}/own.db"),
        ("sqlite:////srv/own.db", "sqlite:////srv/own.db"),
        ("sqlite://", "sqlite://"),
        ("http://mlflow:5000", "http://mlflow:5000"),
    ):
        settings = RegistrySettings.from_environment({"MLFLOW_TRACKING_URI": given, "MLFLOW_REGISTRY_URI": given})
        assert (settings.tracking_uri, settings.registry_uri) == (expected, expected)

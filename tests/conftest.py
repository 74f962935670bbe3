"""What every test may use: a home of its own, small real models, and no network."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
)

import hypothesis
import pytest

from registry.settings import RegistrySettings
from serving.runtime.machine import describe_machine
from tests.header import torch_capability
from tests.small_models import build_model

pytest_plugins = ["tests.parallel", "tests.quick"]

hypothesis.settings.register_profile(
    "untimed",
    hypothesis.settings.default,
    deadline=None,  # of an example: on a busy machine any of them may stand still for longer
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that save_pretrained wrote, one a kind of head, built once. Only to be read."""
    from tests.quick import made_once  # a plugin, to be imported by pytest

    kinds = ("single", "multi", "regression", "tokens", "base", "masked")
    root = made_once(tmp_path_factory, "models", lambda root: [build_model(root / kind, kind) for kind in kinds])
    return {kind: root / kind for kind in kinds}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistrySettings]:
    """An embedded registry (sqlite) in a folder of the test's own."""
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    yield RegistrySettings.from_environment()
    monkeypatch.undo()
    forget_tracking()


def forget_tracking() -> None:
    """Undo `connect_mlflow`, and what a test sets in MLflow's process-wide state."""
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    mlflow.tracking.fluent._active_experiment_id = None


def pytest_report_header(config: pytest.Config) -> str:
    """The machine, so that a report from elsewhere can be read."""
    return describe_machine(torch_capability(config))

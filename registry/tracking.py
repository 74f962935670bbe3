"""The way to MLflow: one client per settings, and an experiment whose artifacts lie under home when embedded."""

import os
from typing import TYPE_CHECKING

from registry.imports import without_collector
from registry.settings import RegistrySettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "headwaiter"
_embedded_experiment: str | None = None
"""The id of the experiment that this process logs to because an embedded registry wanted it."""


def connect(settings: RegistrySettings) -> "MlflowClient":
    """A client of the registry; the first call on a fresh sqlite file creates its tables. Blocks."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if settings.is_embedded:
        settings.home.mkdir(parents=True, exist_ok=True)
    with without_collector():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=settings.tracking_uri, registry_uri=settings.tracking_uri)


def use_tracking(settings: RegistrySettings) -> None:
    """Point MLflow's process-wide state at the settings, for `Model.log`, which takes no client.

    An embedded registry gets an experiment of its own, whose artifacts lie under home and not in the working
    directory; another registry that follows it in the same process does not know that experiment, and gets the one that
    MLFLOW_EXPERIMENT_NAME names, or MLflow's default. A run that the caller has opened is kept.
    """
    global _embedded_experiment
    import mlflow

    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.tracking_uri)
    if mlflow.active_run() is not None:
        return
    if settings.is_embedded:
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=settings.artifacts.as_uri())
        _embedded_experiment = mlflow.set_experiment(EXPERIMENT).experiment_id
    elif _embedded_experiment and os.environ.get("MLFLOW_EXPERIMENT_ID") == _embedded_experiment:  # as MLflow keeps it
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default")
        _embedded_experiment = None

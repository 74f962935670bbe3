"""Processes that need MLflow, as forks of one that has imported it: each would import it for 3 s of processor time."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mlflow.server.fastapi_app", "mlflow.store.model_registry.sqlalchemy_store"])

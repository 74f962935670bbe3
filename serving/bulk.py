"""Many inputs on other engines: a registered model on Ray Data and on Spark, one function each.

Both resolve the reference once, verify the artifact as a server does, and answer in batches by a `LocalEngine` in each
process. They need the extra `ray` or `spark`.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from registry.cache import fetch, fetch_for_loading
from registry.cache_folder import hold
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from registry.versions import Versions

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession
    from ray.data import Dataset

BATCH_ROWS = 4096
"""Rows that Ray hands over at a time: several full batches. Untuned."""


def answer_with_ray(
    dataset: "Dataset",
    model: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    output: str = "answer",
    actors: int | None = None,
    batch_rows: int = BATCH_ROWS,
    settings: RegistrySettings | None = None,
) -> "Dataset":
    """The dataset with a column `output` of the model's answers, computed when it is consumed.

    dataset: its columns are read as MLflow's scoring protocol reads a table: `inputs` or `text`, the only column, or
    the fields of an input. model: `NAME`, `NAME@ALIAS` or `NAME/VERSION`. parameters: of each request. actors: each
    loads the model once; where the cluster has GPUs, each takes one. Default: as many as there are GPUs, else one.
    An actor without a GPU uses all cores of its node. settings: of the registry, as every node reaches it; default: the
    environment's.

    Raises NotFound, RegistryUnavailable or InvalidSetting. A row that is refused fails its batch, with an error that
    says which.
    """
    import ray
    from ray.data import ActorPoolStrategy

    settings = settings or RegistrySettings.from_environment()
    version = Versions(settings).resolve(Reference.parse(model))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    answered: Dataset = dataset.map_batches(
        _Actor,
        fn_constructor_args=(version, settings, dict(parameters or {}), output, not gpus),
        batch_size=batch_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors or max(1, gpus)),
        num_gpus=1 if gpus else None,
    )
    return answered


class _Actor:
    """A model in a process of Ray."""

    def __init__(
        self,
        version: ResolvedVersion,
        settings: RegistrySettings,
        parameters: dict[str, Any],
        output: str,
        uses_cores: bool,
    ) -> None:
        import torch

        from serving.engine.local_engine import LocalEngine

        if uses_cores:  # Ray gives an actor one thread
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._held, _ = fetch_for_loading(version, settings)
        self._engine = LocalEngine(self._held.root)
        self._parameters, self._output = parameters, output

    def __call__(self, table: Any) -> Any:
        """table: a `pyarrow.Table`; returns it with the answers."""
        import pyarrow

        from serving.tasks.base.columns import check_names, to_inputs

        check_names(table.column_names)
        inputs = to_inputs(table.to_pydict(), self._engine.loaded.model.task)
        answers = pyarrow.array(self._engine.answer(inputs, self._parameters))
        return table.append_column(self._output, answers)


def spark_udf(
    spark: "SparkSession",
    model: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    settings: RegistrySettings | None = None,
) -> "Callable[..., Column]":
    """A function from columns to the column of the model's answers: `mlflow.pyfunc.spark_udf` of the verified artifact.

    model, parameters, settings: as of `answer_with_ray`; the driver alone reaches the registry, and Spark sends the
    files to the executors, which need Headwaiter installed. The columns are those of the model's signature, in its
    order, and the result has the type of its output. Each Python worker of Spark loads the model, and uses
    `spark.task.cpus` threads.

    Raises NotFound, RegistryUnavailable, ArtifactError or InvalidSetting. A row that is refused fails its task.
    """
    import mlflow
    from pyspark.sql.functions import filter as keep
    from pyspark.sql.types import ArrayType, StructType

    settings = settings or RegistrySettings.from_environment()
    root, _ = fetch(Versions(settings).resolve(Reference.parse(model)), settings)
    hold(root)  # Python workers of this machine read it when they begin
    answer: Callable[..., Column] = mlflow.pyfunc.spark_udf(
        spark, str(root), env_manager="local", params=dict(parameters or {})
    )
    kind = answer.returnType  # type: ignore[attr-defined]  # of Spark's functions
    if not isinstance(kind, ArrayType) or not isinstance(kind.elementType, StructType):
        return answer
    # MLflow (3.17) fills such lists up with nulls to the longest of a batch
    return lambda *columns: keep(answer(*columns), lambda each: each.isNotNull())

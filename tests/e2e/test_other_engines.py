"""The same artifact on Ray Data and on Spark, the real ones, gives the answers of the server."""

import sys
from pathlib import Path
from typing import Any

import pytest

from headwaiter import answer_with_ray, spark_udf
from registry.settings import RegistrySettings
from tests.abilities import require
from tests.alike import assert_alike
from tests.e2e.server import Server

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
TEXTS = [f"Ada met Bob in London {'again ' * (index % 17)}{index}" for index in range(60)]
ROWS = {
    # model → inputs, one column for each field: answers are a list, a list of any length, and an object
    "sentiment": [{"text": text} for text in TEXTS],
    "names": [{"text": text} for text in TEXTS],
    "question-answering": [{"question": "Whom?", "context": text} for text in TEXTS],
}
PARAMETERS: dict[str, dict[str, Any]] = {"sentiment": {"top_k": 2}, "names": {}, "question-answering": {}}
MODELS = pytest.mark.parametrize("model", ROWS)


@pytest.fixture(scope="module")
def settings(home: Path) -> RegistrySettings:
    """Of the session's registry."""
    return RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})


def expected(server: Server, model: str) -> Any:
    """The server's answers to the model's rows."""
    inputs = [row.get("text", row) for row in ROWS[model]]
    return server.ask(model, inputs, **PARAMETERS[model])


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Any:
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    require("Java")
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "512m",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("spark")),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        with sql.SparkSession.builder.master("local[1]").config(map=options).getOrCreate() as session:
            yield session


@MODELS
def test_spark(settings: RegistrySettings, server: Server, spark: Any, model: str) -> None:
    columns = list(ROWS[model][0])
    numbered = [(index, *row.values()) for index, row in enumerate(ROWS[model])]
    table = spark.createDataFrame(numbered, ["id", *columns]).repartition(2)
    answer = spark_udf(spark, f"{model}@champion", parameters=PARAMETERS[model], settings=settings)
    found = table.select("id", answer(*columns).alias("answer")).orderBy("id").collect()
    assert_alike([row.asDict(recursive=True)["answer"] for row in found], expected(server, model))


@pytest.fixture(scope="module")
def ray() -> Any:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    yield ray
    ray.shutdown()


@MODELS
def test_ray(settings: RegistrySettings, server: Server, ray: Any, model: str) -> None:
    dataset = ray.data.from_items([{"id": index, **row} for index, row in enumerate(ROWS[model])])
    answered = answer_with_ray(dataset, model, parameters=PARAMETERS[model], batch_rows=25, settings=settings)
    found = sorted(answered.take_all(), key=lambda row: row["id"])
    assert [{name: row[name] for name in ROWS[model][0]} for row in found] == ROWS[model]
    assert_alike([row["answer"] for row in found], expected(server, model))

"""Benchmark: rows/s of `headwaiter.spark_udf` beside the plain `mlflow.pyfunc.spark_udf` of `mlflow.transformers`.

Needs the extra `spark` and a Java runtime. Both classify the same texts with the same MiniLM on the same Spark, which
has a Python worker for each core. In Spark's local mode MLflow loads the model for each partition, which a cluster's
workers do once: what one row in each partition takes is left out of both rates. Beside them, `headwaiter batch` with a
server on this machine.
"""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.batch import batch_seconds
from bench.headwaiter_server import headwaiter, log_versions
from bench.models import encoder_folder, minilm_classifier
from bench.processes import BenchError
from bench.report import rate, table
from bench.texts import MIXED, SHORT, describe_lengths, make_texts, read_words
from registry.settings import RegistrySettings

ROUNDS = 2
"""How often each of the two is measured, by turns."""
ROWS = (500, 50)
"""Of ours and of the plain one, for each core and second: the plain one gets fewer, so that both take seconds."""
MIXES = (SHORT, MIXED)
HEADER = ["texts", "headwaiter.spark_udf, rows/s", "mlflow.transformers, rows/s", "times", "headwaiter batch, rows/s"]


def run(seconds: float) -> str:
    """The section of the report. seconds: the rows grow with it, see `ROWS`."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise BenchError("pyspark is missing: pip install 'pyspark>=4,<5', and a Java runtime") from error
    cores = len(os.sched_getaffinity(0))
    words = read_words(encoder_folder() / "vocab.txt")
    tables = {mix.name: [_rows(make_texts(mix, words), count * cores * seconds) for count in ROWS] for mix in MIXES}
    with headwaiter(minilm_classifier()) as (server, _):
        batches = {name: len(ours) / batch_seconds(server, ours) for name, (ours, _) in tables.items()}
    os.environ["PYSPARK_PYTHON"] = sys.executable
    options = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.driver.memory": "512m"}
    rows = []
    builder = SparkSession.builder.master(f"local[{cores}]").config(map=options)
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as name, builder.getOrCreate() as spark:
        udfs = _ours(spark, Path(name)), _plain(spark, Path(name))
        loads = [min(_seconds(spark, udf, words[:cores], cores) for _ in range(ROUNDS)) for udf in udfs]
        for mix in MIXES:
            took = [0.0, 0.0]
            for _ in range(ROUNDS):
                for which, udf in enumerate(udfs):
                    took[which] += _seconds(spark, udf, tables[mix.name][which], cores) - loads[which]
            ours, plain = (ROUNDS * len(tables[mix.name][which]) / took[which] for which in range(2))
            rates = (rate(ours), rate(plain), f"{ours / plain:.1f}", rate(batches[mix.name]))
            rows.append([f"{mix.name}: {describe_lengths(mix)}", *rates])
    return "\n".join([f"## Spark: MiniLM sequence classification, local[{cores}]", "", table(HEADER, rows)])


def _rows(texts: Sequence[str], count: float) -> list[str]:
    return list(itertools.islice(itertools.cycle(texts), int(count)))


def _ours(spark: Any, home: Path) -> Callable[..., Any]:
    from serving.bulk import spark_udf

    log_versions(home, "bench", "text-classification", [minilm_classifier()])
    return spark_udf(spark, "bench", settings=RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))


def _plain(spark: Any, home: Path) -> Callable[..., Any]:
    """As MLflow's documentation shows it."""
    import mlflow
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, saved = minilm_classifier(), home / "plain"
    components = {
        "model": AutoModelForSequenceClassification.from_pretrained(folder),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
    }
    mlflow.transformers.save_model(
        components, str(saved), task="text-classification", pip_requirements=["transformers"]
    )
    udf: Callable[..., Any] = mlflow.pyfunc.spark_udf(spark, str(saved), result_type="string", env_manager="local")
    return udf


def _seconds(spark: Any, udf: Callable[..., Any], texts: Sequence[str], cores: int) -> float:
    """How long the texts take, with loading the model in each of as many partitions as there are cores."""
    data = spark.createDataFrame([(text,) for text in texts], ["text"]).repartition(cores).cache()
    data.count()
    began = time.perf_counter()
    data.select(udf("text")).write.format("noop").mode("overwrite").save()
    took = time.perf_counter() - began
    data.unpersist()
    return took

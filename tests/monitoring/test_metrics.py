import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import METRICS, Instruments, StatusCollector, VersionStatus

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("m", "1", "text-classification")
STATUS = VersionStatus("m", "1", "text-classification", "ready", ("champion", "canary"), "BertX", "bfloat16", "cpu")


def test_every_declaration_has_an_instrument_that_counts() -> None:
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    instruments.request_duration_seconds.labels(*LABELS, "huggingface", "200").observe(0.004)
    instruments.tokens_total.labels(*LABELS, "real").inc(12)
    names = dict(zip(("model", "version", "task"), LABELS, strict=True))
    assert registry.get_sample_value("headwaiter_tokens_total", {**names, "kind": "real"}) == 12
    assert (
        registry.get_sample_value(
            "headwaiter_request_duration_seconds_bucket",
            {**names, "protocol": "huggingface", "status": "200", "le": "0.005"},
        )
        == 1
    )
    for name, metric in METRICS.items():
        assert hasattr(instruments, name) == (metric.kind != "snapshot")


def test_declarations_keep_prometheus_rules() -> None:
    for name, metric in METRICS.items():
        assert (metric.kind == "counter") == name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert (metric.kind == "gauge") == bool(metric.mode)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.help.endswith(".")
        assert not {"path", "id", "text", "le", "quantile"} & set(metric.labels)
    assert METRICS["request_duration_seconds"].buckets[0] < 0.001


def test_the_state_of_versions_is_computed_at_the_scrape() -> None:
    registry = CollectorRegistry()
    registry.register(StatusCollector([STATUS]))
    found = {
        (name, *(sample.labels.get("alias") or sample.labels.get("state") for sample in [sample]))
        for family in registry.collect()
        for name, sample in [(sample.name, sample) for sample in family.samples]
    }
    assert found == {
        ("headwaiter_model_info", "champion"),
        ("headwaiter_model_info", "canary"),
        ("headwaiter_model_state", "ready"),
    }


COUNT = """
from monitoring.metrics import Instruments
import os, sys
instruments = Instruments()
instruments.tokens_total.labels("m", "1", "t", "real").inc(5)
instruments.batch_rows.labels("m", "1", "t").observe(3)
instruments.queue_tokens.labels("m", "1", "t").set(7)
print(os.getpid())
"""
RENDER = "from monitoring.metrics import render; print(render([]).decode())"


@pytest.fixture
def run(tmp_path: Path):  # type: ignore[no-untyped-def]
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return run


def samples(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_processes_count_together_and_the_gauges_of_dead_ones_leave(run) -> None:  # type: ignore[no-untyped-def]
    pids = [run(COUNT), run(COUNT)]
    found = samples(run(RENDER))
    assert found["headwaiter_tokens_total"] == 10
    assert (found["headwaiter_batch_rows_sum"], found["headwaiter_batch_rows_count"]) == (6, 2)
    assert found["headwaiter_queue_tokens"] == 14
    run(f"from prometheus_client.multiprocess import mark_process_dead; mark_process_dead({pids[0]})")
    found = samples(run(RENDER))
    assert found["headwaiter_tokens_total"] == 10
    assert found["headwaiter_queue_tokens"] == 7

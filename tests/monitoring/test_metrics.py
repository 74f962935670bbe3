import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import CONTENT_TYPE, METRICS, Instruments, StatusCollector, VersionStatus

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


def test_every_attribute_is_declared_with_its_kind() -> None:
    kinds = {name: kind.strip('"').lower() for name, kind in Instruments.__annotations__.items()}
    assert kinds == {name: metric.kind for name, metric in METRICS.items() if metric.kind != "snapshot"}


def test_the_content_type_is_that_of_the_text() -> None:
    assert prometheus_client.CONTENT_TYPE_LATEST == CONTENT_TYPE


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


def test_a_version_without_an_alias_is_one_series_with_an_empty_one() -> None:
    registry = CollectorRegistry()
    registry.register(StatusCollector([replace(STATUS, aliases=(), state="draining")]))
    names = dict(zip(("model", "version", "task"), LABELS, strict=True))
    info = {**names, "alias": "", "head": "BertX", "dtype": "bfloat16", "device": "cpu"}
    assert registry.get_sample_value("headwaiter_model_info", info) == 1
    assert registry.get_sample_value("headwaiter_model_state", {**names, "state": "draining"}) == 1
    assert registry.get_sample_value("headwaiter_model_state", {**names, "state": "ready"}) is None


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


def test_the_text_holds_each_family_once_and_histograms_in_order(run) -> None:  # type: ignore[no-untyped-def]
    run(COUNT)
    run(COUNT)
    status = f"VersionStatus(**{vars(STATUS)!r})"
    text = run(f"from monitoring.metrics import VersionStatus, render; print(render([{status}]).decode())")
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert families[:-2] == sorted(families[:-2])
    assert families[-2:] == ["headwaiter_model_info", "headwaiter_model_state"]
    series = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    rows = [sample for sample in series if sample.name.startswith("headwaiter_batch_rows")]
    bounds = [float(sample.labels["le"]) for sample in rows[:-2]]
    assert bounds == [*METRICS["batch_rows"].buckets, float("inf")]
    assert [sample.name for sample in rows[-2:]] == ["headwaiter_batch_rows_count", "headwaiter_batch_rows_sum"]
    counts = [sample.value for sample in rows[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 2


def test_one_process_without_a_folder_renders_its_own_counts(run) -> None:  # type: ignore[no-untyped-def]
    found = run("import os; del os.environ['PROMETHEUS_MULTIPROC_DIR']" + COUNT + RENDER)
    assert samples(found.partition("\n")[2])["headwaiter_queue_tokens"] == 7

from pathlib import Path

from monitoring.instruments import Instruments
from monitoring.metrics import METRICS


def test_declarations_keep_prometheus_rules() -> None:
    for name, metric in METRICS.items():
        assert (metric.kind == "counter") == name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.help.endswith(".")
        assert metric.unit
        assert not {"path", "id", "text", "le", "quantile"} & set(metric.labels)
    assert METRICS["request_duration_seconds"].buckets[0] < 0.001


def test_a_version_stands_first_in_the_labels() -> None:
    for metric in METRICS.values():
        if "version" in metric.labels:
            assert metric.labels[:3] == ("model", "version", "task"), metric.name
        elif "model" in metric.labels:
            assert metric.labels[0] == "model", metric.name


def test_every_declaration_has_an_instrument_of_its_kind(tmp_path: Path) -> None:
    instruments = Instruments(tmp_path)
    kinds = {
        name: str(kind).rpartition(".")[2].rstrip("]").lower() for name, kind in Instruments.__annotations__.items()
    }
    assert kinds == {name: metric.kind for name, metric in METRICS.items() if metric.kind != "snapshot"}
    for name in kinds:
        assert hasattr(instruments, name)
    instruments.store.close()


def test_the_same_labels_are_the_same_series(tmp_path: Path) -> None:
    instruments = Instruments(tmp_path)
    assert instruments.queue_tokens.labels("m", "1", "t") is instruments.queue_tokens.labels("m", "1", "t")
    assert instruments.queue_tokens.labels("m", "1", "t") is not instruments.queue_tokens.labels("m", "2", "t")
    instruments.store.close()

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from monitoring.exposition import BaselineShares, Exposition, ServerStatus, VersionStatus
from monitoring.instruments import Instruments
from monitoring.metrics import METRICS

LABELS = ("m", "1", "text-classification")
VERSION = VersionStatus("m", "1", "text-classification", "ready", ("champion", "canary"), "BertX", "bfloat16", "cpu", 9)
STATUS = ServerStatus((VERSION,), {"m": True}, True, 0.5)


@pytest.fixture
def instruments(tmp_path: Path):  # type: ignore[no-untyped-def]
    found = Instruments(tmp_path)
    yield found
    found.store.close()


def scrape(instruments: Instruments, status: ServerStatus = STATUS) -> list[Sample]:
    text = Exposition(instruments.store.folder).render(status).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return [sample for family in families for sample in family.samples]


def find(samples: list[Sample], name: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(sample.labels), sample.value) for sample in samples if sample.name == f"headwaiter_{name}"]


def test_a_histogram_is_cumulative_and_in_order(instruments: Instruments) -> None:
    for rows in (1, 3, 3, 10_000):
        instruments.batch_rows.labels(*LABELS).observe(rows)
    samples = scrape(instruments)
    buckets = find(samples, "batch_rows_bucket")
    assert [labels["le"] for labels, _ in buckets] == [*(str(bound) for bound in METRICS["batch_rows"].buckets), "+Inf"]
    assert [value for _, value in buckets] == [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert find(samples, "batch_rows_count")[0][1] == 4
    assert find(samples, "batch_rows_sum")[0][1] == 10_007


def test_totals_are_a_histograms_sum_and_count(instruments: Instruments) -> None:
    for rows in (1, 3, 10_000):
        instruments.batch_rows.labels(*LABELS).observe(rows)
    instruments.rejected_total.labels(*LABELS, "failed").inc()
    (total,) = Exposition(instruments.store.folder).totals()
    labels = dict(zip(("model", "version", "task"), LABELS, strict=True))
    assert (total.name, total.labels, total.sum, total.count) == ("batch_rows", labels, 10_004, 3)


def test_the_state_of_versions_is_computed_at_the_scrape(instruments: Instruments) -> None:
    samples = scrape(instruments)
    assert [labels["alias"] for labels, _ in find(samples, "model_info")] == ["canary", "champion"]
    assert [labels["state"] for labels, _ in find(samples, "model_state")] == ["ready"]
    assert find(samples, "model_live") == [({"model": "m"}, 1.0)]
    assert find(samples, "queue_limit_tokens")[0][1] == 9
    assert find(samples, "registry_up") == [({}, 1.0)]
    gone = ServerStatus((replace(VERSION, aliases=()),), {"m": False}, False, float("inf"))
    samples = scrape(instruments, gone)
    assert [labels["alias"] for labels, _ in find(samples, "model_info")] == [""]
    assert find(samples, "model_live") == [({"model": "m"}, 0.0)]
    assert find(samples, "registry_up") == [({}, 0.0)]
    assert find(samples, "manager_silence_seconds") == [({}, float("inf"))]


def test_what_is_not_served_is_not_shown(instruments: Instruments) -> None:
    for version in ("1", "2", ""):
        instruments.rejected_total.labels("m", version, "t", "failed").inc()
    for model in ("m", "other"):
        instruments.swap_total.labels(model, "success").inc()
    instruments.rejected_total.labels("", "", "", "unknown_model").inc()
    samples = scrape(instruments)
    shown = {(labels["model"], labels["version"]) for labels, _ in find(samples, "rejected_total")}
    assert shown == {("m", "1"), ("m", ""), ("", "")}
    assert [labels["model"] for labels, _ in find(samples, "swap_total")] == ["m"]


def test_labels_survive_quotes_backslashes_and_line_breaks(instruments: Instruments) -> None:
    odd = {'say "no"', "back\\slash", "two\nlines", "ümlaut 🙂"}
    for label in odd:
        instruments.predictions_total.labels(*LABELS, label).inc()
    assert {labels["label"] for labels, _ in find(scrape(instruments), "predictions_total")} == odd


def test_a_baseline_is_shown_in_the_metrics_own_buckets_or_not_at_all(instruments: Instruments) -> None:
    shares = dict.fromkeys(METRICS["confidence"].bounds, 0.0) | {"+Inf": 1.0}
    baseline = BaselineShares({"good": 0.25, "bad": 0.75}, shares, {"of": 0.5, "another release": 0.5})
    samples = scrape(instruments, replace(STATUS, versions=(replace(VERSION, baseline=baseline),)))
    assert {labels["label"]: value for labels, value in find(samples, "baseline_label_share")} == baseline.labels
    assert {labels["bin"]: value for labels, value in find(samples, "baseline_confidence_share")} == shares
    assert not find(samples, "baseline_row_tokens_share")


def test_an_empty_table_keeps_what_was_counted(instruments: Instruments, tmp_path: Path) -> None:
    other = Instruments(tmp_path)
    other.tokens_total.labels(*LABELS, "real").inc(3)
    other.store.close()
    scrape(instruments, ServerStatus((), {}, True, 0.0))
    assert find(scrape(instruments), "tokens_total")[0][1] == 3

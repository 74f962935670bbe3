from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from monitoring.exemplars import SLOTS, Exemplar, Exemplars, read_exemplars
from monitoring.exposition import BaselineShares, Exposition, ServerStatus, VersionStatus
from monitoring.instruments import Instruments
from monitoring.metrics import METRICS
from monitoring.text_formats import OPEN_METRICS, TEXT, choose_format

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


TRACES = (0xFEDCBA98765432100123456789ABCDEF, 0x00000000000000000000000000000001)


def open_metrics(instruments: Instruments) -> list[Metric]:
    """The exposition as the reference parser reads it, which refuses what the specification does."""
    text = Exposition(instruments.store.folder).render(STATUS, OPEN_METRICS).decode()
    return list(read_open_metrics(text))


def exemplars(instruments: Instruments) -> dict[str, tuple[str, float, float]]:
    """Bucket → trace, seconds and time of the requests' exemplars."""
    (family,) = (each for each in open_metrics(instruments) if each.name == "headwaiter_request_duration_seconds")
    return {
        sample.labels["le"]: (
            sample.exemplar.labels["trace_id"],
            sample.exemplar.value,
            float(sample.exemplar.timestamp),
        )
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_both_formats_say_the_same(instruments: Instruments) -> None:
    for name in ("rejected_total", "predictions_total"):
        getattr(instruments, name).labels(*LABELS, "x").inc()
    instruments.queue_tokens.labels(*LABELS).set(float("inf"))
    instruments.batch_rows.labels(*LABELS).observe(3)
    found = [sample for family in open_metrics(instruments) for sample in family.samples]
    assert {(each.name, *sorted(each.labels.items()), each.value) for each in found} == {
        (each.name, *sorted(each.labels.items()), each.value) for each in scrape(instruments)
    }


def test_a_bucket_leads_to_the_trace_of_the_request_that_fell_into_it_last(instruments: Instruments) -> None:
    labels = (*LABELS, "huggingface", "200")
    requests, own = instruments.request_duration_seconds.labels(*labels), instruments.request_exemplars.labels(*labels)
    for seconds, trace_id, at in ((0.004, TRACES[1], 1.0), (0.0045, TRACES[0], 2.0), (99.0, TRACES[1], 3.5)):
        requests.observe(seconds)
        own.note(seconds, trace_id, at)
    assert exemplars(instruments) == {
        "0.005": (f"{TRACES[0]:032x}", 0.0045, 2.0),
        "+Inf": (f"{TRACES[1]:032x}", 99.0, 3.5),
    }
    assert "trace_id" not in Exposition(instruments.store.folder).render(STATUS).decode(), "the format has none"


def test_the_exemplars_of_all_processes_are_shown_the_youngest_of_a_bucket(
    instruments: Instruments, tmp_path: Path
) -> None:
    other = Instruments(tmp_path)
    labels = (*LABELS, "huggingface", "200")
    for each, trace_id, at in ((instruments, TRACES[0], 2.0), (other, TRACES[1], 1.0)):
        each.request_duration_seconds.labels(*labels).observe(0.1)
        each.request_exemplars.labels(*labels).note(0.1, trace_id, at)
    assert exemplars(instruments) == {"0.1": (f"{TRACES[0]:032x}", 0.1, 2.0)}
    other.request_exemplars.labels(*labels).note(0.1, TRACES[1], 3.0)
    assert exemplars(instruments) == {"0.1": (f"{TRACES[1]:032x}", 0.1, 3.0)}
    other.store.close()
    instruments.forget("m", "1")
    instruments.request_duration_seconds.labels(*labels).observe(0.1)
    assert exemplars(instruments) == {}


NOTED = st.tuples(st.integers(0, 1), st.floats(0.0001, 200.0), st.integers(1, 2**128 - 1))
"""Of a request: its process, its seconds and its trace."""


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(NOTED, max_size=40))
def test_any_requests_are_counted_alike_in_both_formats_and_the_youngest_of_a_bucket_is_shown(
    noted: list[tuple[int, float, int]],
) -> None:
    labels, bounds = (*LABELS, "huggingface", "200"), METRICS["request_duration_seconds"].buckets
    with TemporaryDirectory() as folder:
        processes = [Instruments(Path(folder)) for _ in range(2)]
        expected = {}
        for at, (place, seconds, trace) in enumerate(noted, start=1):
            processes[place].request_duration_seconds.labels(*labels).observe(seconds)
            processes[place].request_exemplars.labels(*labels).note(seconds, trace, float(at))
            bucket = str(next((bound for bound in bounds if seconds <= bound), "+Inf"))
            expected[bucket] = (f"{trace:032x}", seconds, float(at))
        shown = exemplars(processes[0]) if noted else {}
        counted = [sample for family in open_metrics(processes[0]) for sample in family.samples]
        plain = scrape(processes[0])
        for each in processes:
            each.store.close()
    assert shown == expected
    assert [each._replace(exemplar=None) for each in counted] == plain


@pytest.mark.parametrize("written", range(SLOTS))
def test_an_exemplar_that_is_being_written_is_none(written: int) -> None:
    """A reader copies slots in their order, so it gets the new ones behind the old, or the old ones behind the new."""
    slots = memoryview(bytearray(8 * SLOTS)).cast("d")
    found = []
    for trace_id, at in zip(TRACES, (1.0, 2.0), strict=True):
        Exemplars(slots, 0, ()).note(at, trace_id, at)
        found.append(slots.tolist())
    before, after = found
    assert read_exemplars(before) == [Exemplar(f"{TRACES[0]:032x}", 1.0, 1.0)]
    whole = [Exemplar(f"{TRACES[0]:032x}", 1.0, 1.0), Exemplar(f"{TRACES[1]:032x}", 2.0, 2.0)]
    for mixed in (before[:written] + after[written:], after[:written] + before[written:]):
        assert read_exemplars(mixed)[0] in (None, *whole)


def test_the_format_is_the_one_that_the_client_names() -> None:
    prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4"
    assert choose_format(prometheus) == OPEN_METRICS
    for other in ("", "*/*", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "text/plain"):
        assert choose_format(other) == TEXT

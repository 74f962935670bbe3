"""What a span says of a request, as a collector gets it; the e2e test of monitoring has the spans of a real server."""

import time

import pytest

from serving.front.request_context import StageTimes
from serving.front.tracing import Tracer
from tests.e2e.watcher import Collector

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("side", ["stable", "candidate", ""])
def test_a_span_has_the_side_of_a_request_that_takes_part_in_a_rollout(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.perf_counter()
    stages = StageTimes(began=now - 0.004, sent=now - 0.003, received=now - 0.001, ended=now, side=side)
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracer = Tracer()
        tracer.record(None, {"model": "m", "version": "2"}, "huggingface", 200, "", stages)
        tracer.close()
    (span,) = (span for span in collector.spans if span.name == "predict m")
    found = {each.key: each.value.string_value for each in span.attributes}
    assert found.get("headwaiter.rollout.side", "") == side
    assert found["headwaiter.version"] == "2"

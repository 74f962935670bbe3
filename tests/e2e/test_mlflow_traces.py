"""Spans of requests in a real MLflow server: OTLP with the two variables that docs/monitoring.md names."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from serving.front.meter import FrontMeter
from serving.front.request_context import RequestContext, StageTimes
from serving.front.request_log import RequestLog
from tests.e2e.registries import MlflowServer
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.long
def test_spans_land_in_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MlflowServer(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as mlflow:
        client = MlflowClient(mlflow.url)
        experiment = client.create_experiment("served")
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": mlflow.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-mlflow-experiment-id={experiment}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": f"{WAIT_SECONDS:g}",  # MLflow imports what reads traces at the first ones
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        log = RequestLog(10.0, log_inputs=False, environ=environ)
        now = time.perf_counter()
        stages = StageTimes(began=now - 0.4, sent=now - 0.3, received=now - 0.1, ended=now, forward_seconds=0.15)
        context = RequestContext("id-1", f"00-{TRACE}-{PARENT}-01")
        log.record(context, FrontMeter("reviews", "3", "text-classification"), "huggingface", 200, "", stages)
        log.record(None, FrontMeter("reviews", "3", "text-classification"), "openai", 503, "not_ready", stages)
        asyncio.run(log.close())

        def traces() -> list[Any]:
            return list(client.search_traces(locations=[experiment], include_spans=True))

        found = wait_until(lambda: len(traces()) == 2 and traces(), "both traces are there")
        spans = {trace.info.trace_id: {span.name: span for span in trace.data.spans} for trace in found}
        (own,) = (each for name, each in spans.items() if TRACE in name)
        assert set(own) == {"predict reviews", "encode", "queue", "forward", "decode"}
        root = own["predict reviews"]
        assert {span.parent_id for name, span in own.items() if span is not root} == {root.span_id}
        assert root.attributes["headwaiter.version"] == "3"
        assert root.attributes["headwaiter.request_id"] == "id-1"
        (failed,) = (each for name, each in spans.items() if TRACE not in name)
        assert failed["predict reviews"].attributes["error.type"] == "not_ready"
        assert failed["predict reviews"].status.status_code == "ERROR"

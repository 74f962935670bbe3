"""What is kept of a request: its id and stages, a log line where it was slow or failed, labels that stay few."""

import json
import logging
import re

import pytest

from monitoring.metrics import MAX_LABELS, OTHER
from registry.settings import InvalidSetting
from serving.engine.meter import GenerationMeter
from serving.front.meter import FrontMeter
from serving.front.request_context import RequestContext, StageTimes
from serving.front.request_log import RequestLog
from serving.runtime.instruments import FREE_LABELS, LabelNames, instruments
from serving.runtime.logs import JsonFormatter, RateLimit

TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given", [b"abc", b"A-b_c.d:e/f+g=", b"x" * 128])
def test_a_sane_request_id_is_kept(given: bytes) -> None:
    context = RequestContext.read([(b"x-request-id", given)])
    assert context.request_id == given.decode()
    assert context.header == (b"x-request-id", given)


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", b'a"b', b"a\nb", b"\xff", b"a\x1b[31m"])
def test_any_other_is_replaced(given: bytes) -> None:
    first, second = (RequestContext.read([(b"x-request-id", given)]).request_id for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize(
    ("given", "trace"),
    [
        (TRACEPARENT, "4bf92f3577b34da6a3ce929d0e0e4736"),
        (TRACEPARENT.replace(b"00-4", b"ff-4"), ""),
        (TRACEPARENT.upper(), ""),
        (b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", ""),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01", ""),
        (b"nonsense", ""),
    ],
)
def test_a_traceparent_is_kept_if_it_is_the_w3cs(given: bytes, trace: str) -> None:
    assert RequestContext.read([(b"traceparent", given)]).trace_id == trace


@pytest.mark.parametrize(
    ("sent", "received", "forward", "seconds"),
    [
        (1.0, 4.0, 2.0, (1, 1, 2, 6)),
        (1.0, 4.0, 5.0, (1, 0, 3, 6)),  # a forward pass cannot have taken longer than the wait for it
        (1.0, 0.0, 0.0, (1, 9, 0, 0)),  # failed while it waited
        (0.0, 0.0, 0.0, (10, 0, 0, 0)),  # failed while it was encoded
    ],
)
def test_stages_add_up_to_the_request(sent: float, received: float, forward: float, seconds: tuple[float, ...]) -> None:
    stages = StageTimes(began=100.0, ended=110.0, forward_seconds=forward)
    stages.sent, stages.received = (at and 100.0 + at for at in (sent, received))
    assert stages.seconds() == seconds
    assert sum(stages.seconds()) == 10


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("headwaiter"), "propagate", True)
    caplog.set_level(logging.INFO, "headwaiter")
    return caplog


@pytest.mark.parametrize(
    ("status", "seconds", "level"), [(200, 0.1, None), (200, 2.0, "warning"), (422, 0.1, None), (503, 0.1, "error")]
)
def test_slow_and_failed_requests_are_logged(
    logged: pytest.LogCaptureFixture, status: int, seconds: float, level: str | None
) -> None:
    stages = StageTimes(began=1.0, sent=1.05, ended=1.0 + seconds)
    reason = "" if status == 200 else "not_ready"
    request_log = RequestLog(1.0, log_inputs=False, environ={})
    request_log.record(RequestContext("id", ""), FrontMeter("m", "1", "t"), "huggingface", status, reason, stages)
    lines = [json.loads(JsonFormatter().format(record)) for record in logged.records]
    assert [line["level"] for line in lines] == ([level] if level else [])
    if level:
        shown = {key: lines[0][key] for key in ("request_id", "model", "version", "task", "status", "reason")}
        assert shown == {
            "request_id": "id", "model": "m", "version": "1", "task": "t", "status": status, "reason": reason
        }  # fmt: skip
        assert set(lines[0]["stages"]) == {"encode", "queue", "forward", "decode"}


@pytest.mark.parametrize("log_inputs", [False, True])
def test_inputs_are_logged_only_when_asked_for(logged: pytest.LogCaptureFixture, log_inputs: bool) -> None:
    stages = StageTimes(began=1.0, ended=3.0, items=["my secret " + "x" * 5000])
    RequestLog(1.0, log_inputs, {}).record(None, FrontMeter("m", "1", "t"), "huggingface", 200, "", stages)
    line = JsonFormatter().format(logged.records[0])
    assert ("my secret" in line) == log_inputs
    assert len(line) < 3000


def test_traces_without_the_exporter_are_refused_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidSetting, match="install the extra tracing"):
        RequestLog(1.0, False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})


def test_a_line_is_one_line_whatever_it_holds() -> None:
    record = logging.LogRecord("headwaiter.x", logging.ERROR, "", 0, "two\nlines %s", ("of \u2028 text",), None)
    record.fields = {"reason": 'a "quote"\n'}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["reason"] == 'a "quote"\n'


def test_a_flood_of_lines_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0] * 5 + [1.0])
    monkeypatch.setattr("serving.runtime.logs.time.monotonic", lambda: next(clock))
    limit = RateLimit(3)
    records = [logging.LogRecord("x", logging.ERROR, "", 0, "m", (), None) for _ in range(6)]
    assert [limit.filter(record) for record in records] == [True, True, True, False, False, True]
    assert records[5].fields == {"dropped_before": 2}


def test_labels_that_are_counted_by_name_are_few() -> None:
    names = LabelNames(["O", "B-PER", "I-PER"])
    assert [names.bounded(label) for label in ("B-PER", "PER", "O", "client's own")] == ["B-PER", "PER", "O", OTHER]
    many = LabelNames([f"label {number}" for number in range(10_000)])
    assert len({many.bounded(f"label {number}") for number in range(10_000)}) == MAX_LABELS + 1
    free = LabelNames([])
    assert len({free.bounded(f"label {number}") for number in range(10_000)}) == FREE_LABELS + 1


def test_generation_is_counted() -> None:
    from monitoring.merge import Merge

    meter = GenerationMeter("g", "1", "text-generation")
    meter.observe_prompt(7, 3)
    meter.observe_first_token(0.03)
    meter.observe_tokens(5)
    meter.observe_end(4, 0.2)
    meter.observe_batch(running=2, waiting=3, cache_used=100, cache_limit=400)
    meter.observe_preemption()
    found = Merge(instruments().store.folder).read()
    labels = ("g", "1", "text-generation")
    assert found["prompt_tokens_total", labels] == [7]
    assert found["reused_prompt_tokens_total", labels] == [3]
    assert found["generated_tokens_total", labels] == [5]
    assert found["time_per_output_token_seconds", labels][0] == pytest.approx(0.05)
    assert found["time_to_first_token_seconds", labels][0] == pytest.approx(0.03)
    assert [found[name, labels][0] for name in ("running_rows", "waiting_rows")] == [2, 3]
    assert [found[name, labels][0] for name in ("cache_used_tokens", "cache_limit_tokens")] == [100, 400]
    assert found["preemptions_total", labels] == [1]
